package query_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2/query"
	"palisade/ec2/state"
)

// randomRequests is the number of requests that TestNearlyValidRequestsNeverFailTheServer
// sends. seed makes them the same in each run.
const (
	randomRequests = 10_000
	seed           = 2016_11_15
)

// TestNearlyValidRequestsNeverFailTheServer sends requests that are nearly valid: Actions
// with their own parameters, changed in names, indices, values, encodings, signatures,
// methods and bodies. None may cause a server error, and a refused one may change nothing.
func TestNearlyValidRequestsNeverFailTheServer(t *testing.T) {
	w := newGeneratorWorld(t)
	m := &requestGenerator{r: rand.New(rand.NewPCG(seed, 1)), w: w, t: t}
	m.settle()
	done, refused, judged := 0, 0, 0
	codes := make(map[string]int)
	rows, rowsAt := "", uint64(0) // of the state at an index
	for i := range randomRequests {
		if i%100 == 0 {
			m.learn()
		}
		before := w.cluster.View()
		request, text := m.request()
		res, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("request %d got no answer: %v\n%s", i, err, text)
		}
		status, code := 0, ""
		if request.Method == http.MethodHead {
			status, code = res.StatusCode, "no body"
			res.Body.Close()
		} else {
			status, code = m.answer(res, text)
		}
		codes[code]++
		switch {
		case status >= 500:
			t.Fatalf("request %d: got %d %s, want no server error\n%s", i, status, code, text)
		case status < 300:
			done++
			continue
		}
		refused++
		if res.Header.Get(query.IndexHeader) != "" {
			judged++ // the state refused the change
		}
		after := w.cluster.View()
		if after.Index() == before.Index() {
			continue
		}
		if after.Index() > before.Index()+1 {
			continue // the cluster applied a command of its own meanwhile
		}
		if rowsAt != before.Index() {
			rows = rowsOf(t, before)
		}
		is := rowsOf(t, after)
		if rows != is {
			t.Fatalf("request %d was refused with %s but changed the state:\n%s\n%s", i, code, cmp.Diff(rows, is), text)
		}
		rowsAt = after.Index()
	}
	t.Logf("%d succeeded, %d were refused, %d of them by the state; codes %v", done, refused, judged, codes)
	if done < randomRequests/10 || judged < randomRequests/50 || len(codes) < 30 {
		t.Errorf("of %d requests %d succeeded and %d were refused by the state, with %d codes: too few requests are nearly valid", randomRequests, done, judged, len(codes))
	}
}

// answer returns the status and the error code of an answer of EC2 or STS.
func (m *requestGenerator) answer(res *http.Response, text string) (int, string) {
	data, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		m.t.Fatalf("reading the answer: %v\n%s", err, text)
	}
	if found := stsCode.FindSubmatch(data); found != nil {
		return res.StatusCode, string(found[1])
	}
	res.Body = io.NopCloser(bytes.NewReader(data))
	status, code := answer(m.t, res)
	if (code == "") != (status < 300) {
		m.t.Fatalf("got status %d with code %q, want a code with each status but 200: %s\n%s", status, code, data, text)
	}
	return status, code
}

var stsCode = regexp.MustCompile(`<ErrorResponse .*<Code>(\w+)</Code>`)

// rowsOf returns the state as text, without the index and the audit records, which every
// command changes.
func rowsOf(t *testing.T, v *state.View) string {
	t.Helper()
	var b strings.Builder
	if err := v.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, `{"table":"audit"`) && !strings.Contains(line, `{"table":"end"`) && !strings.Contains(line, `{"table":"meta"`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// A dry run of any Action changes nothing. Its answer is the error that the request itself
// would get, or DryRunOperation.
func TestDryRunChangesNothing(t *testing.T) {
	w := newGeneratorWorld(t)
	m := &requestGenerator{r: rand.New(rand.NewPCG(seed, 2)), w: w, t: t, valid: true}
	m.settle()
	m.learn()
	index := w.cluster.View().Index()
	passed := make(map[string]bool)
	for _, action := range query.ActionNames() {
		for range 60 {
			form := m.form(action)
			if strings.Contains(form, "DryRun=") {
				continue
			}
			r := m.sign(pick(m.r, accounts), http.MethodPost, form+"&DryRun=true", time.Now())
			status, code := m.answer(do(t, r), form)
			if status < 400 || status >= 500 || (code == "DryRunOperation") != (status == http.StatusPreconditionFailed) {
				t.Errorf("the dry run of %s got %d %s, want 412 DryRunOperation or another client error\n%s", action, status, code, form)
			}
			if code == "DryRunOperation" {
				passed[action] = true
				break
			}
		}
	}
	if now := w.cluster.View().Index(); now != index {
		t.Errorf("dry runs changed the index of the state from %d to %d", index, now)
	}
	if n := len(query.ActionNames()); len(passed) < n/3 {
		t.Errorf("of %d actions only %d got DryRunOperation, want a third: %v", n, len(passed), passed)
	}
}
