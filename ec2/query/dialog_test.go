package query_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A dialog is a file of requests, each followed by its expected answer, element by element:
//
//	dev> CreateVpc CidrBlock=10.0.0.0/16
//	<vpc>
//	  <vpcId>vpc-1</vpcId>
//	…
//
// The first line names the account, the Action and its parameters. Below it are the elements
// of the answer except requestId, or the code and the text of the error. Ids are numbered
// by kind in the order of their first appearance; times are replaced by zeros. At a line
// "node> …" the node reports all instances and interfaces as done. With -update the file
// is written from the answers.
type dialog struct {
	world *world
	names map[string]string // by id: "vpc-1"
	ids   map[string]string // by name
	kinds map[string]int
}

// dialog plays the dialog of a file. known has the ids of resources that exist before the
// dialog; they get the first numbers.
func (w *world) dialog(t *testing.T, name string, known ...string) {
	t.Helper()
	path := filepath.Join("testdata", "dialogs", name)
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &dialog{world: w, names: make(map[string]string), ids: make(map[string]string), kinds: make(map[string]int)}
	d.named(strings.Join(known, " "))
	var got strings.Builder
	for line := range strings.Lines(string(kept)) {
		account, request, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "> ")
		switch {
		case strings.HasPrefix(line, "#"):
			got.WriteString(line)
		case account == "node":
			w.report(t)
			got.WriteString(line)
		case ok && !strings.HasPrefix(line, "<") && !strings.HasPrefix(line, " "):
			got.WriteString(line + d.say(t, account, request))
		case line == "\n":
			got.WriteString(line)
		}
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(kept), got.String()); diff != "" {
		t.Errorf("the answers differ from %s (-want +got):\n%s", path, diff)
	}
}

// say sends a request and returns its answer, one element a line.
func (d *dialog) say(t *testing.T, account, request string) string {
	t.Helper()
	for name, id := range d.ids {
		request = regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).ReplaceAllLiteralString(request, id)
	}
	words := strings.Fields(request)
	form := "Version=2016-11-15&Action=" + words[0]
	for _, parameter := range words[1:] {
		form += "&" + strings.NewReplacer("/", "%2F", ":", "%3A", "*", "%2A", "_", "%20").Replace(parameter)
	}
	body := d.world.body(t, account, form)
	text, err := lines(body)
	if err != nil {
		t.Fatalf("reading the answer to %s: %v\n%s", request, err, body)
	}
	return d.named(text)
}

var anyID = regexp.MustCompile(`\b(acl|pcx|aclassoc|dopt|eipalloc|eipassoc|eni-attach|eni|igw|i|lt|pg|pl|r|rtb|rtbassoc|sg|sgr|subnet|vol|vpc|vpc-cidr-assoc)-(0[0-9a-f]{16}|[0-9a-f]{8})\b`)

var anyTime = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\b`)

func (d *dialog) named(text string) string {
	text = anyTime.ReplaceAllString(text, "0000-00-00T00:00:00.000Z")
	return anyID.ReplaceAllStringFunc(text, func(id string) string {
		if d.names[id] == "" {
			kind := id[:strings.LastIndex(id, "-")]
			if strings.Trim(id[len(kind)+1:], "0") == "" || strings.HasSuffix(id, "0a1b2c3d") {
				return id // an id that the dialog made up
			}
			d.kinds[kind]++
			d.names[id] = fmt.Sprintf("%s-%d", kind, d.kinds[kind])
			d.ids[d.names[id]] = id
		}
		return d.names[id]
	})
}

// signedForm returns a POST request with the form, signed by the account.
func (w *world) signedForm(t testing.TB, account, form string) *http.Request {
	t.Helper()
	r := httpRequest(t, http.MethodPost, w.url, form)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sign(t, r, form, account, "ec2", time.Now())
	return r
}

// body sends the form, signed by the account, and returns the answer.
func (w *world) body(t testing.TB, account, form string) []byte {
	t.Helper()
	res := do(t, w.signedForm(t, account, form))
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode >= 500 {
		t.Errorf("%s: got status %s, want no server error", form, res.Status)
	}
	return data
}

// An xmlElement is an element of an answer.
type xmlElement struct {
	XMLName  xml.Name
	Text     string       `xml:",chardata"`
	Children []xmlElement `xml:",any"`
}

// lines returns the elements of an answer, or its error, as lines.
func lines(answer []byte) (string, error) {
	var root xmlElement
	if err := xml.Unmarshal(answer, &root); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if root.XMLName.Local == "Response" {
		if len(root.Children) == 0 || len(root.Children[0].Children) == 0 || len(root.Children[0].Children[0].Children) != 2 {
			return "", errors.New("the error document has an unexpected form")
		}
		e := root.Children[0].Children[0].Children
		return "! " + e[0].Text + ": " + e[1].Text + "\n", nil
	}
	for _, e := range root.Children {
		if e.XMLName.Local != "requestId" {
			e.write(&b, "")
		}
	}
	return b.String(), nil
}

func (e xmlElement) write(b *bytes.Buffer, indent string) {
	name := e.XMLName.Local
	switch {
	case len(e.Children) > 0:
		fmt.Fprintf(b, "%s<%s>\n", indent, name)
		for _, c := range e.Children {
			c.write(b, indent+"  ")
		}
		fmt.Fprintf(b, "%s</%s>\n", indent, name)
	case e.Text == "":
		fmt.Fprintf(b, "%s<%s/>\n", indent, name)
	default:
		fmt.Fprintf(b, "%s<%s>%s</%s>\n", indent, name, e.Text, name)
	}
}

func TestGroupAnswersMatchDialogs(t *testing.T) {
	for _, name := range []string{"groups.txt", "rules.txt", "rules_describe.txt", "rules_ipv6.txt"} {
		t.Run(name, func(t *testing.T) { newWorld(t).dialog(t, name) })
	}
}
