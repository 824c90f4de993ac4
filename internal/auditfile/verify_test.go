package auditfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

const (
	albert ec2.AccountID = "598916040194"
	mary   ec2.AccountID = "495219933132"
)

// A recorder is the state machine of a cluster that keeps few records.
type recorder struct {
	t     testing.TB
	state *state.State
	calls int
}

func newRecorder(t testing.TB, seed string, keep int) *recorder {
	t.Helper()
	r := &recorder{t: t, state: state.NewState()}
	r.apply(nil, &state.Batch{Requests: []state.Request{
		&state.Bootstrap{Seed: seed, Settings: ec2.Settings{AuditRecords: keep}},
		&state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}},
		&state.PutNetwork{Network: ec2.Network{
			VNI: 1, Region: "us-east-1", Prefix: netip.MustParsePrefix("10.0.0.0/8"), Pools: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
		}},
		&state.CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "x"},
	}})
	return r
}

func (r *recorder) apply(by *ec2.Audit, request state.Request) {
	r.t.Helper()
	cmd := state.Command{Time: time.Unix(int64(1_700_000_000+r.state.Index()), 5000), Request: request, Audit: by}
	if _, err := r.state.Apply(r.state.Index()+1, cmd); err != nil {
		r.t.Fatal(err)
	}
}

// change makes changes of the accounts and the operators in turn.
func (r *recorder) change(times int) {
	r.t.Helper()
	for range times {
		r.calls++
		name := fmt.Sprintf("group %d", r.calls)
		by := &ec2.Audit{
			Account: []ec2.AccountID{albert, mary, "", albert}[r.calls%4], AccessKey: "AKID", Region: "us-east-1", Source: "192.0.2.1", Via: "node2",
			UserAgent: "aws-cli <\u2028&", RequestID: fmt.Sprint("request ", r.calls), Action: "CreateSecurityGroup", Parameters: map[string]string{"GroupName": name, "GroupDescription": "x"},
		}
		r.apply(by, &state.CreateSecurityGroup{Account: albert, Region: "us-east-1", Name: name, Description: "x"})
	}
}

func (r *recorder) export() []byte {
	r.t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r.state.View()); err != nil {
		r.t.Fatal(err)
	}
	return b.Bytes()
}

func (r *recorder) chain() Chain { return ChainOf(r.state.View()) }

// verify verifies files that are named 1, 2 and so on.
func verify(chain Chain, older bool, contents ...[]byte) (Summary, error) {
	var files []Export
	for i, c := range contents {
		files = append(files, Export{fmt.Sprint(i + 1), bytes.NewReader(c)})
	}
	return Verify(files, chain, older)
}

// lineOf returns the line of a finding, or 0 if err is none.
func lineOf(err error) int {
	if f, ok := errors.AsType[*Finding](err); ok {
		return f.Line
	}
	return 0
}

func TestExportIsVerified(t *testing.T) {
	for _, calls := range []int{1, 2, 5, 30, 100} { // a ring has 20 records
		r := newRecorder(t, "seed", 20)
		r.change(calls)
		s, err := verify(r.chain(), false, r.export())
		kept := 0
		for range r.state.View().AuditRecords() {
			kept++
		}
		if err != nil || s.Records != kept || kept == 0 {
			t.Errorf("after %d changes: %d records verified, error %v, want all %d", calls, s.Records, err, kept)
		}
	}
}

// Exports that overlap or follow each other are verified as one log, also when the cluster no longer
// has what the first of them have.
func TestExportsOneAfterTheOtherAreVerified(t *testing.T) {
	r := newRecorder(t, "seed", 20)
	var files [][]byte
	for range 8 {
		r.change(18)
		files = append(files, r.export())
	}
	s, err := verify(r.chain(), false, files...)
	if err != nil || s.Records != 8*18 {
		t.Fatalf("%d records verified, error %v; want all %d", s.Records, err, 8*18)
	}
	for i := range files {
		without := slices.Delete(slices.Clone(files), i, i+1)
		_, err := verify(r.chain(), false, without...)
		switch last := i == len(files)-1; {
		case last && err == nil:
			t.Error("without the last export the log was verified")
		case !last && err != nil: // the exports overlap: each ring keeps two turns
			t.Errorf("without export %d: %v", i+1, err)
		}
	}
	if _, err := verify(r.chain(), false, files[0], files[7]); err == nil || !strings.Contains(err.Error(), "in no file") {
		t.Errorf("with a gap between two exports: %v, want an error that names the records in no file", err)
	}
	if _, err := verify(r.chain(), false, files[7], files[6]); err == nil {
		t.Error("exports in the wrong order were verified")
	}
	if _, err := verify(r.chain(), true, files[0]); err == nil || !strings.Contains(err.Error(), "no longer has") {
		t.Errorf("an export whose end the cluster no longer has: %v, want an error that says so", err)
	}
}

// What was changed in an export that the cluster no longer has is found by the exports after it.
func TestChangeInOldExportIsFound(t *testing.T) {
	r := newRecorder(t, "seed", 20)
	var files [][]byte
	for range 8 {
		r.change(18)
		files = append(files, r.export())
	}
	first := bytes.Replace(files[0], []byte("request 3"), []byte("request 4"), 1)
	if _, err := verify(r.chain(), false, append([][]byte{first}, files[1:]...)...); lineOf(err) == 0 {
		t.Errorf("a changed record in an old export: %v, want a finding", err)
	}
	// A whole old export that is consistent in itself, but was made up.
	other := newRecorder(t, "seed", 20)
	other.calls = 1000
	other.change(18)
	if _, err := verify(r.chain(), false, append([][]byte{other.export()}, files[1:]...)...); lineOf(err) == 0 {
		t.Errorf("a made-up old export: %v, want a finding", err)
	}
}

// An export that ends before the chain may be cut off: it is accepted only if the caller says so, and
// even then not if it cannot be a beginning of the chain.
func TestExportThatEndsBeforeTheChainIsRefused(t *testing.T) {
	r := newRecorder(t, "seed", 50)
	r.change(20)
	before := r.export()
	r.change(1)
	if _, err := verify(r.chain(), false, before); err == nil || !strings.Contains(err.Error(), "cut off, or") {
		t.Errorf("an export with a change less than the cluster: %v, want an error", err)
	}
	s, err := verify(r.chain(), true, before)
	newer := uint64(0)
	for _, ring := range s.Rings {
		newer += ring.Newer
	}
	if err != nil || s.Records != 20 || newer != 1 {
		t.Errorf("an older export, which is accepted: %+v, error %v; want 20 records and 1 that is newer", s, err)
	}
	again := newRecorder(t, "another seed", 50)
	again.change(21)
	if _, err := verify(again.chain(), true, before); lineOf(err) != 1 {
		t.Errorf("an export of another cluster: %v, want a finding in line 1", err)
	}
	again = newRecorder(t, "seed", 50) // restored from a backup of its beginning
	again.change(10)
	if _, err := verify(again.chain(), true, before); lineOf(err) != 1 {
		t.Errorf("an export with more than the cluster has: %v, want a finding in line 1", err)
	}
}

// An attacker who knows the format computes the hashes again. The cluster's chain still finds the line.
func TestRewrittenChainIsFound(t *testing.T) {
	r := newRecorder(t, "seed", 50)
	r.change(30)
	forger := newRecorder(t, "seed", 50)
	forger.change(9)
	forger.calls += 1000 // the tenth change is another
	forger.change(1)
	forger.calls = 10
	forger.change(20)
	_, err := verify(r.chain(), true, forger.export())
	if lineOf(err) != 1 { // the header has the ends of the rings
		t.Errorf("a rewritten log: %v, want a finding in line 1", err)
	}
	lines := bytes.SplitAfter(forger.export(), []byte("\n"))
	good := bytes.SplitAfter(r.export(), []byte("\n"))
	lines[0] = good[0]
	if _, err := verify(r.chain(), false, bytes.Join(lines, nil)); lineOf(err) != 11 {
		t.Errorf("a rewritten log with the true first line: %v, want a finding in line 11", err)
	}
}

// A manipulation changes the lines of an export. It returns the first line that is no longer what it was,
// counted from 1.
type manipulation func(lines [][]byte, rng *rand.Rand) ([][]byte, int)

var manipulations = map[string]manipulation{
	"a byte changed": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines))
		lines[i] = slices.Clone(lines[i])
		lines[i][rng.IntN(len(lines[i]))] ^= byte(1 + rng.IntN(255))
		return lines, i + 1
	},
	"a byte removed": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines))
		at := rng.IntN(len(lines[i]))
		lines[i] = slices.Delete(slices.Clone(lines[i]), at, at+1)
		return lines, i + 1
	},
	"a byte inserted": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines))
		lines[i] = slices.Insert(slices.Clone(lines[i]), rng.IntN(len(lines[i])+1), byte(rng.IntN(256)))
		return lines, i + 1
	},
	"a line removed": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines))
		return slices.Delete(lines, i, i+1), i + 1
	},
	"a line repeated": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i, at := rng.IntN(len(lines)), rng.IntN(len(lines)+1)
		return slices.Insert(lines, at, lines[i]), at + 1
	},
	"two lines exchanged": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines) - 1)
		j := i + 1 + rng.IntN(len(lines)-1-i)
		lines[i], lines[j] = lines[j], lines[i]
		return lines, i + 1
	},
	"the end cut off": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := rng.IntN(len(lines))
		lines[i] = lines[i][:rng.IntN(len(lines[i]))]
		return lines[:i+1], i + 1
	},
	"a field twice": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := 1 + rng.IntN(len(lines)-1)
		lines[i] = bytes.Replace(lines[i], []byte(`"action":`), []byte(`"action":"Other","action":`), 1)
		return lines, i + 1
	},
	"a value of another record": func(lines [][]byte, rng *rand.Rand) ([][]byte, int) {
		i := 1 + rng.IntN(len(lines)-1)
		lines[i] = bytes.Replace(lines[i], []byte(`"source":"192.0.2.1"`), []byte(`"source":"192.0.2.2"`), 1)
		return lines, i + 1
	},
}

// Whatever is changed in an export is found, and the finding names the first line that is not as it was,
// the one after it, or the next of the ring.
func TestEveryManipulationIsFound(t *testing.T) {
	r := newRecorder(t, "seed", 20)
	r.change(40)
	first := r.export()
	r.change(25)
	second := r.export()
	for what, manipulate := range manipulations {
		for seed := range uint64(200) {
			rng := rand.New(rand.NewPCG(seed, 1))
			files := [][]byte{first, second}
			at := rng.IntN(2)
			lines := bytes.SplitAfter(bytes.TrimSuffix(files[at], []byte("\n")), []byte("\n"))
			lines[len(lines)-1] = append(slices.Clone(lines[len(lines)-1]), '\n')
			changed, line := manipulate(slices.Clone(lines), rng)
			good := files[at]
			files[at] = bytes.Join(changed, nil)
			if bytes.Equal(files[at], good) {
				continue // an insertion beside an equal byte, say
			}
			_, err := verify(r.chain(), false, files...)
			f, ok := errors.AsType[*Finding](err)
			if !ok {
				t.Fatalf("%s (seed %d) in file %d, line %d: %v, want a finding", what, seed, at+1, line, err)
			}
			late := 1
			if what == "a line removed" { // the next record of its ring shows it
				late = 4
			}
			if f.File != fmt.Sprint(at+1) || f.Line < line || f.Line > line+late {
				t.Errorf("%s (seed %d) in file %d, line %d was found as: %v", what, seed, at+1, line, f)
			}
		}
	}
}

// Nothing that is not an export is verified, and Verify never panics.
func FuzzVerify(f *testing.F) {
	r := newRecorder(f, "seed", 5)
	r.change(10)
	good, chain := r.export(), r.chain()
	f.Add(good)
	f.Add([]byte("{}\n"))
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := verify(chain, false, data); (err == nil) != bytes.Equal(data, good) {
			t.Errorf("%q was verified with error %v, want success for the export alone", data, err)
		}
	})
}
