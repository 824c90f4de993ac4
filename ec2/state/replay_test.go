package state

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

const (
	albert = ec2.AccountID("598916040194")
	mary   = ec2.AccountID("495219933132")
	east   = ec2.Region("us-east-1")
)

var epoch0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A replay applies commands to a State, one after the other, with a clock that the test sets.
type replay struct {
	t     testing.TB
	state *State
	now   time.Time
	log   []Command // applied so far
}

// newReplay returns a State with one node, an EC2-Classic network, and the accounts of Albert and
// Mary.
func newReplay(t testing.TB) *replay {
	r := &replay{t: t, state: NewState(), now: epoch0}
	for _, req := range firstRequests() {
		r.must(req)
	}
	return r
}

func firstRequests() []Request {
	return []Request{
		&Bootstrap{Seed: "a seed of the domain's tests"},
		&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a"}},
		&CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "a"},
		&PutNetwork{ec2.Network{
			VNI:         1,
			Region:      east,
			Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
			Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.1.44/32"), netip.MustParsePrefix("10.10.2.0/28")},
			PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		}},
		&CreateAccount{ID: mary, Name: "mary", Platform: ec2.Classic, AccessKey: "AKIDMARY", Secret: "m"},
	}
}

func (r *replay) do(req Request) (Result, error) {
	cmd := Command{Time: r.now, Request: req}
	r.log = append(r.log, cmd)
	return r.state.Apply(r.state.Index()+1, cmd)
}

func (r *replay) must(req Request) Result {
	r.t.Helper()
	result, err := r.do(req)
	if err != nil {
		r.t.Fatalf("%T was refused: %v", req, err)
	}
	return result
}

// refused checks that a request is refused with an error code and changes nothing.
func (r *replay) refused(req Request, code string) {
	r.t.Helper()
	before := r.snapshot()
	_, err := r.do(req)
	if e, ok := err.(*ec2.Error); !ok || e.Code != code {
		r.t.Errorf("%T: got %v, want %s", req, err, code)
	}
	if after := r.snapshot(); !bytes.Equal(withoutIndex(before), withoutIndex(after)) {
		r.t.Errorf("%T was refused but changed the state:\n%s", req, cmp.Diff(string(before), string(after)))
	}
}

func (r *replay) snapshot() []byte { return snapshotOf(r.t, r.state) }

func snapshotOf(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.View().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withoutIndex returns a snapshot without the index in its meta row, because every command changes
// the index.
func withoutIndex(snapshot []byte) []byte {
	lines := bytes.Split(snapshot, []byte("\n"))
	_, lines[1], _ = bytes.Cut(lines[1], []byte(`"Time"`))
	return bytes.Join(lines, []byte("\n"))
}

func (r *replay) run(n int) []*ec2.Instance {
	r.t.Helper()
	var made []*ec2.Instance
	for _, c := range r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: n, MaxCount: n}).Instances {
		made = append(made, c.After)
	}
	return made
}

func (r *replay) lease(i ec2.InstanceID) *ec2.Interface {
	r.t.Helper()
	v := r.state.View()
	instance, ok := v.Instance(i)
	if !ok {
		r.t.Fatalf("instance %s does not exist", i)
	}
	eni, ok := v.Interface(instance.Interface)
	if !ok {
		r.t.Fatalf("instance %s is %s and has no interface, want one", i, instance.State)
	}
	return eni
}

func (r *replay) report(i ec2.InstanceID, s ec2.InstanceState) {
	r.t.Helper()
	r.must(&ReportInstance{Instance: i, InterfaceEpoch: r.lease(i).Epoch, State: s})
}
