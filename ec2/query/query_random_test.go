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

// mutants is how many requests TestMutants sends, and seed what they are made of: the
// same ones each time.
const (
	mutants = 10_000
	seed    = 2016_11_15
)

// TestMutants sends requests that are nearly right to a real server over a real State:
// each Action with parameters of its own, mutated in names, indices, values, encodings,
// signatures, methods and bodies. The mistake is never the server's, and what is refused
// has changed nothing.
func TestMutants(t *testing.T) {
	w := newMutatedWorld(t)
	m := &mutator{r: rand.New(rand.NewPCG(seed, 1)), w: w, t: t}
	m.settle()
	done, refused, judged := 0, 0, 0
	codes := make(map[string]int)
	rows, rowsAt := "", uint64(0) // of the state at an index
	for i := range mutants {
		if i%100 == 0 {
			m.learn()
		}
		before := w.cluster.View()
		request, text := m.request()
		res, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("mutant %d has no answer: %v\n%s", i, err, text)
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
			t.Fatalf("mutant %d: %d %s\n%s", i, status, code, text)
		case status < 300:
			done++
			continue
		}
		refused++
		after := w.cluster.View()
		if after.Index() == before.Index() {
			continue
		}
		judged++
		if after.Index() > before.Index()+1 {
			continue // the cluster did something of its own meanwhile
		}
		if rowsAt != before.Index() {
			rows = rowsOf(t, before)
		}
		is := rowsOf(t, after)
		if rows != is {
			t.Fatalf("mutant %d was refused with %s and changed the state:\n%s\n%s", i, code, cmp.Diff(rows, is), text)
		}
		rowsAt = after.Index()
	}
	t.Logf("%d done, %d refused, %d of them by the state; %v", done, refused, judged, codes)
	if done < mutants/10 || judged < mutants/50 || len(codes) < 30 {
		t.Errorf("of %d mutants %d were done and %d reached the state, with %d codes: these are no mutants but noise", mutants, done, judged, len(codes))
	}
}

// answer reads status and code of either service's document.
func (m *mutator) answer(res *http.Response, text string) (int, string) {
	data, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		m.t.Fatalf("%v\n%s", err, text)
	}
	if found := stsCode.FindSubmatch(data); found != nil {
		return res.StatusCode, string(found[1])
	}
	res.Body = io.NopCloser(bytes.NewReader(data))
	status, code := answer(m.t, res)
	if (code == "") != (status < 300) {
		m.t.Fatalf("%d with code %q: %s\n%s", status, code, data, text)
	}
	return status, code
}

var stsCode = regexp.MustCompile(`<ErrorResponse .*<Code>(\w+)</Code>`)

// rowsOf is the State but for what each command changes: its index, and the record of it.
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

// A dry run of any Action changes nothing and is never answered as if it had: it is
// refused for what the request would be, or else with DryRunOperation.
func TestDryRunOfEveryAction(t *testing.T) {
	w := newMutatedWorld(t)
	m := &mutator{r: rand.New(rand.NewPCG(seed, 2)), w: w, t: t, kind: true}
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
			r := m.sign(pick(m.r, accountsOfTheWorld), http.MethodPost, form+"&DryRun=true", time.Now())
			status, code := m.answer(do(t, r), form)
			if status < 400 || status >= 500 || (code == "DryRunOperation") != (status == http.StatusPreconditionFailed) {
				t.Errorf("%s: %d %s\n%s", action, status, code, form)
			}
			if code == "DryRunOperation" {
				passed[action] = true
				break
			}
		}
	}
	if now := w.cluster.View().Index(); now != index {
		t.Errorf("dry runs moved the state from index %d to %d", index, now)
	}
	if n := len(query.ActionNames()); len(passed) < n/3 {
		t.Errorf("of %d actions %d would have succeeded: %v", n, len(passed), passed)
	}
}
