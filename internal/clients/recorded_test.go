package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// recordedCalls is what Terraform asked in one run of its test, and what was answered: a
// call a line.
const recordedCalls = "testdata/terraform.calls"

// A call is one request and its answer, as they were. Which service it is for stands in
// the signature.
type call struct {
	Service string
	Form    string
	Status  int
	Answer  string
}

func (c call) action() string {
	form, _ := url.ParseQuery(c.Form)
	return form.Get("Action")
}

// A recorder stands between a client and the lab, and takes down each call. What it hands
// on is what it got: the signature is of the host that the client knows.
type recorder struct {
	url   string
	mu    sync.Mutex
	calls []call
}

var scopeService = regexp.MustCompile(`Credential=[^/]+/[0-9]+/[^/]+/([^/]+)/`)

func newRecorder(t *testing.T, endpoint string) *recorder {
	r := new(recorder)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out, err := http.NewRequestWithContext(in.Context(), in.Method, endpoint+in.URL.String(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		out.Header, out.Host = in.Header.Clone(), in.Host
		answer, err := http.DefaultClient.Do(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Error(err)
			return
		}
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		w.Write(data)
		c := call{Form: string(body), Status: answer.StatusCode, Answer: string(data)}
		if m := scopeService.FindStringSubmatch(in.Header.Get("Authorization")); m != nil {
			c.Service = m[1]
		}
		r.mu.Lock()
		r.calls = append(r.calls, c)
		r.mu.Unlock()
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// requestID differs from answer to answer.
var requestID = regexp.MustCompile(`<request(Id|ID)>[^<]*</request(Id|ID)>`)

// write keeps the calls, but for questions that were asked and answered so before and
// since the last change, and of those that were asked until something was so the last.
func (r *recorder) write(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var kept bytes.Buffer
	out := json.NewEncoder(&kept)
	out.SetEscapeHTML(false)
	answered, n := map[string]string{}, 0
	for i, c := range r.calls {
		c.Answer = requestID.ReplaceAllString(c.Answer, "")
		question := strings.HasPrefix(c.action(), "Describe") || strings.HasPrefix(c.action(), "Get")
		again := slices.ContainsFunc(r.calls[i+1:min(i+4, len(r.calls))], func(next call) bool { return next.Form == c.Form })
		if question && (again || answered[c.Form] == c.Answer) {
			continue
		}
		if question {
			answered[c.Form] = c.Answer
		} else {
			clear(answered)
		}
		check(t, out.Encode(c))
		n++
	}
	check(t, os.WriteFile(recordedCalls, kept.Bytes(), 0o644))
	t.Logf("%d calls, %d kept, %d bytes in %s", len(r.calls), n, kept.Len(), filepath.Base(recordedCalls))
}

// testRecordedCalls sends what Terraform sent, signed anew, to a lab that knows nothing of
// it: each answer must have the status, the error code and every element that it had when
// Terraform was content with it. Identifiers differ, so those of the record are replaced
// by those that the same call got here.
func testRecordedCalls(t *testing.T, l *labtest.Lab) {
	file, err := os.Open(recordedCalls)
	check(t, err)
	defer file.Close()
	var calls []call
	for lines := json.NewDecoder(file); ; {
		var c call
		if err := lines.Decode(&c); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	if len(calls) < 50 {
		t.Fatalf("%d calls are not what Terraform makes", len(calls))
	}
	p := &replay{lab: l, account: newAccount(t, l, "recorded"), ids: map[string]string{}}
	for n, c := range calls {
		if err := p.play(t, c); err != nil {
			t.Fatalf("line %d, %s: %v", n+1, c.Form, err)
		}
	}
}

type replay struct {
	lab     *labtest.Lab
	account lab.Account
	ids     map[string]string // by what it was in the record
}

// identifier is what the service made up: it differs from lab to lab, and so do addresses
// that it chose.
var identifier = regexp.MustCompile(`\b(vpc|subnet|igw|rtb|rtbassoc|sg|sgr|i|r|eni|eni-attach|eipalloc|eipassoc|acl|aclassoc|dopt|key|vol)-[0-9a-f]{8,17}\b`)

// play makes one call again, and if its answer is another, as of an instance that does not
// run yet, again for a while.
func (p *replay) play(t *testing.T, c call) error {
	form := identifier.ReplaceAllStringFunc(c.Form, func(id string) string {
		if now, ok := p.ids[id]; ok {
			return now
		}
		return id
	})
	want, err := parse(c.Answer)
	if err != nil {
		return fmt.Errorf("the record: %w", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		status, answer, err := post(t.Context(), p.lab, p.account, c.Service, form)
		if err != nil {
			return err
		}
		got, err := parse(answer)
		if err != nil {
			return err
		}
		if status == c.Status {
			learned := map[string]string{}
			if err = p.compare(want, got, learned); err == nil {
				maps.Copy(p.ids, learned)
				return nil
			}
		} else {
			err = fmt.Errorf("status %d, want %d: %s", status, c.Status, answer)
		}
		if time.Now().After(deadline) || !strings.HasPrefix(c.action(), "Describe") {
			return err
		}
		<-time.After(200 * time.Millisecond)
	}
}

// post sends one request, signed, and returns the answer's status and body.
func post(ctx context.Context, l *labtest.Lab, a lab.Account, service, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Endpoint+"/", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: a.AccessKey, SecretAccessKey: a.SecretKey}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(sum[:]), service, lab.Region, time.Now()); err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// An element is one of an answer, with the text of one that has no others.
type element struct {
	name     string
	text     string
	children []*element
}

func parse(document string) (*element, error) {
	root := new(element)
	open := []*element{root}
	for d := xml.NewDecoder(strings.NewReader(document)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return root, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w in %s", err, document)
		}
		top := open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			child := &element{name: token.Name.Local}
			top.children = append(top.children, child)
			open = append(open, child)
		case xml.CharData:
			top.text += strings.TrimSpace(string(token))
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
}

// deciding are the elements by whose text a client decides what it does next.
var deciding = []string{"Code", "name", "state", "status", "return", "ipProtocol", "fromPort", "toPort", "cidrIp", "cidrIpv4", "cidrBlock", "key", "isEgress"}

// compare says what of want is missing in got: every element, and the texts that decide.
// The items of a list may be in any order, for some are sorted by their identifiers, which
// are others in every lab. It adds to learned what the identifiers of the record are here.
func (p *replay) compare(want, got *element, learned map[string]string) error {
	was, now := identifier.FindString(want.text), identifier.FindString(got.text)
	switch known := p.ids[was]; {
	case was != "" && now != "" && known != "" && known != now:
		return fmt.Errorf("%s is %s, want %s", want.name, now, known)
	case was != "" && now != "":
		learned[was] = now
	case slices.Contains(deciding, want.name) && want.text != got.text:
		return fmt.Errorf("%s is %q, want %q", want.name, got.text, want.text)
	}
	rest := slices.Clone(got.children)
	for _, child := range want.children {
		err := fmt.Errorf("%s has no %s (it was %q)", want.name, child.name, child.text)
		n := slices.IndexFunc(rest, func(candidate *element) bool {
			if candidate.name != child.name {
				return false
			}
			found := map[string]string{}
			if why := p.compare(child, candidate, found); why != nil {
				err = fmt.Errorf("%s/%w", want.name, why)
				return false
			}
			maps.Copy(learned, found)
			return true
		})
		if n < 0 {
			return err
		}
		rest = slices.Delete(rest, n, n+1)
	}
	return nil
}
