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

// recordedCalls is the file with the calls that Terraform made in one run of testTerraform, and
// their answers, one call on each line.
const recordedCalls = "testdata/terraform.calls"

// A call is one request and its answer. Service is the AWS service that the signature of the
// request names.
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

// A recorder is a proxy between a client and the lab that records each call. It forwards requests
// unchanged, with the host's name that the client sent, because their signature covers it. mu
// guards calls.
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

// requestID matches the request id, which differs in every answer.
var requestID = regexp.MustCompile(`<request(Id|ID)>[^<]*</request(Id|ID)>`)

// The method write writes the calls to the file recordedCalls. It omits a read call if an equal
// one after the last change had the same answer. Of a read call that was repeated until its
// answer changed, it writes only the last.
func (r *recorder) write(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var file bytes.Buffer
	out := json.NewEncoder(&file)
	out.SetEscapeHTML(false)
	answered, n := map[string]string{}, 0
	for i, c := range r.calls {
		c.Answer = requestID.ReplaceAllString(c.Answer, "")
		reads := strings.HasPrefix(c.action(), "Describe") || strings.HasPrefix(c.action(), "Get")
		repeated := slices.ContainsFunc(r.calls[i+1:min(i+4, len(r.calls))], func(next call) bool { return next.Form == c.Form })
		if reads && (repeated || answered[c.Form] == c.Answer) {
			continue
		}
		if reads {
			answered[c.Form] = c.Answer
		} else {
			clear(answered)
		}
		check(t, out.Encode(c))
		n++
	}
	check(t, os.WriteFile(recordedCalls, file.Bytes(), 0o644))
	t.Logf("recorded %d calls, wrote %d of them, %d bytes, to %s", len(r.calls), n, file.Len(), filepath.Base(recordedCalls))
}

// testRecordedCalls signs Terraform's recorded requests again and sends them with the key of a
// new account. Each answer must have the status, the error code and every element of the recorded
// answer, which Terraform accepted. It replaces the identifiers in a recorded request by those
// that this lab returned in their place.
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
		t.Fatalf("the file of recorded calls has %d calls, want at least 50", len(calls))
	}
	p := &replay{lab: l, account: newAccount(t, l, "recorded"), ids: map[string]string{}}
	for n, c := range calls {
		if err := p.repeat(t, c); err != nil {
			t.Fatalf("recorded call on line %d, %s: %v", n+1, c.Form, err)
		}
	}
}

type replay struct {
	lab     *labtest.Lab
	account lab.Account
	ids     map[string]string // this lab's ids, by the recorded ids
}

// identifier matches the ids that the service chooses, which differ between labs.
var identifier = regexp.MustCompile(`\b(vpc|subnet|igw|rtb|rtbassoc|sg|sgr|i|r|eni|eni-attach|eipalloc|eipassoc|acl|aclassoc|dopt|key|vol)-[0-9a-f]{8,17}\b`)

// repeat sends one recorded request and returns an error if the answer differs from the recorded
// one. It repeats a Describe call for up to 20 s until the answers agree, because an instance may
// not run yet.
func (p *replay) repeat(t *testing.T, c call) error {
	form := identifier.ReplaceAllStringFunc(c.Form, func(id string) string {
		if current, ok := p.ids[id]; ok {
			return current
		}
		return id
	})
	want, err := parse(c.Answer)
	if err != nil {
		return fmt.Errorf("parse the recorded answer: %w", err)
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
			err = fmt.Errorf("the answer has status %d, want %d: %s", status, c.Status, answer)
		}
		if time.Now().After(deadline) || !strings.HasPrefix(c.action(), "Describe") {
			return err
		}
		<-time.After(200 * time.Millisecond)
	}
}

// post sends one signed request and returns the status and body of the answer.
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

// An element is an XML element of an answer. It has a text only if it has no children.
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

// comparedElements are the elements whose text must equal the recorded text, because clients
// depend on it.
var comparedElements = []string{"Code", "name", "state", "status", "return", "ipProtocol", "fromPort", "toPort", "cidrIp", "cidrIpv4", "cidrBlock", "key", "isEgress"}

// compare returns an error unless got has every element of want and the same texts of
// comparedElements. Items of a list may be in any order, because some lists are sorted by
// identifiers, which differ. It adds to learned the identifiers of this lab, by the recorded
// identifiers.
func (p *replay) compare(want, got *element, learned map[string]string) error {
	recorded, current := identifier.FindString(want.text), identifier.FindString(got.text)
	switch known := p.ids[recorded]; {
	case recorded != "" && current != "" && known != "" && known != current:
		return fmt.Errorf("element %s has the id %s, want %s as in earlier answers", want.name, current, known)
	case recorded != "" && current != "":
		learned[recorded] = current
	case slices.Contains(comparedElements, want.name) && want.text != got.text:
		return fmt.Errorf("element %s has the text %q, want %q", want.name, got.text, want.text)
	}
	candidates := slices.Clone(got.children)
	for _, child := range want.children {
		err := fmt.Errorf("element %s has no child %s; the recorded one has the text %q", want.name, child.name, child.text)
		n := slices.IndexFunc(candidates, func(candidate *element) bool {
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
		candidates = slices.Delete(candidates, n, n+1)
	}
	return nil
}
