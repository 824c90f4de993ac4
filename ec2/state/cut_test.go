package state

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"palisade/ec2"
)

// operatorSamples returns one request of each type of operatorRequests, with all fields set.
func operatorSamples() []Request {
	return []Request{
		&SetTracking{"vpc-0a1b2c3d", east, ec2.TrackStrict},
		&CutConnections{"sgr-0a1b2c3d4e5f60718", []ec2.End{{VNI: 7, Prefix: cidr("10.0.1.4/32")}}, []ec2.End{{Prefix: cidr("203.0.113.0/24")}}},
	}
}

func TestTrackingModeIsSetPerNetwork(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	mode := func(vni ec2.VNI) ec2.TrackingMode {
		n, _ := r.state.View().Network(vni)
		return n.Mode
	}
	r.must(&SetTracking{VPC: vpc.ID, Mode: ec2.TrackStrict})
	if n, _ := r.state.View().Network(vpc.VNI); n.Mode != ec2.TrackStrict || n.ModeSet != r.state.Index() || n.Prefix != vpc.CIDR || n.VPC != vpc.ID {
		t.Errorf("the network is %+v, want that of %s with mode strict", n, vpc.ID)
	}
	r.must(&SetTracking{VPC: vpc.ID, Mode: ec2.TrackStrict})
	if n, _ := r.state.View().Network(vpc.VNI); n.ModeSet != r.state.Index()-1 {
		t.Errorf("the mode was set at index %d, want %d: it did not change again", n.ModeSet, r.state.Index()-1)
	}
	classic, _ := r.state.View().ClassicNetwork(east)
	if mode(other.VNI) != ec2.TrackAWS || classic.Mode != ec2.TrackAWS {
		t.Errorf("another VPC has mode %s and EC2-Classic %s, want aws", mode(other.VNI), classic.Mode)
	}
	r.must(&SetTracking{Region: east, Mode: ec2.TrackStrict})
	r.must(&SetTracking{VPC: vpc.ID, Mode: ec2.TrackAWS})
	if now, _ := r.state.View().ClassicNetwork(east); now.Mode != ec2.TrackStrict || !slices.Equal(now.Pools, classic.Pools) || mode(vpc.VNI) != ec2.TrackAWS {
		t.Errorf("EC2-Classic is %+v and the VPC has mode %s, want mode strict with the pools as before, and mode aws", now, mode(vpc.VNI))
	}
	r.refused(&SetTracking{VPC: vpc.ID, Mode: 2}, "InvalidParameterValue")
	r.refused(&SetTracking{VPC: "vpc-0a1b2c3d", Mode: ec2.TrackStrict}, "InvalidVpcID.NotFound")
	r.refused(&SetTracking{Region: "eu-west-1", Mode: ec2.TrackStrict}, "UnsupportedOperation")
}

// A rule is found by its id after it was modified, which gives it a new serial, and after it was
// revoked.
func TestSerialsOfARuleAreFoundByItsID(t *testing.T) {
	r := newReplay(t)
	group := r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web"}).Group
	spec := RuleSpec{Protocol: ec2.TCP, From: 22, To: 22, Prefix: cidr("203.0.113.0/24")}
	rule := r.must(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{ID: group.ID}, Rules: []RuleSpec{spec}}).Rules[0]
	want := func(what string, serials ...uint64) {
		t.Helper()
		if got, err := r.state.View().RuleSerials(rule.ID); err != nil || !slices.Equal(got, serials) {
			t.Errorf("%s: the serials of %s are %v, %v; want %v", what, rule.ID, got, err, serials)
		}
	}
	want("a rule in force", rule.Serial)
	spec.Prefix = cidr("198.51.100.0/24")
	r.must(&ModifyRules{Account: albert, Region: east, Group: group.ID, Rules: []RuleChange{{rule.ID, spec}}})
	now, _ := r.state.View().Group(group.ID)
	want("a modified rule", now.Rules[0].Serial, rule.Serial)
	r.must(&RevokeRules{Account: albert, Region: east, Group: GroupSelector{ID: group.ID}, Rules: []RuleSpec{spec}})
	want("a revoked rule", rule.Serial)

	for id, code := range map[ec2.RuleID]string{
		"sgr-0a1b2c3d4e5f60718": "InvalidSecurityGroupRuleId.NotFound", "sgr-0a1b": "InvalidSecurityGroupRuleId.NotFound",
		"sg-0a1b": "InvalidSecurityGroupRuleId.Malformed", "sgr-": "InvalidSecurityGroupRuleId.Malformed",
	} {
		r.refused(&CutConnections{Rule: id}, code)
	}
}

func TestEverySerialIsFoundByTheIDMadeOfIt(t *testing.T) {
	m := &meta{Seed: "seed", Serial: 5000}
	for serial := range m.Serial + 1 {
		if got, ok := m.serialOf("sgr", m.longID("sgr", serial)); !ok || got != serial {
			t.Fatalf("the serial of the id made of %d is %d, %v", serial, got, ok)
		}
	}
	for _, id := range []string{m.longID("sgr", 5001), m.longID("sg", 1), "sgr-", "sgr-0", "sgr-0123456789abcdef0", "sgr-0" + fmt.Sprintf("%017x", 1)} {
		if got, ok := m.serialOf("sgr", id); ok {
			t.Errorf("%s has serial %d, want none", id, got)
		}
	}
}

func TestCutsAreKeptForNodesThatAreAway(t *testing.T) {
	r := newReplay(t)
	a, b := []ec2.End{{VNI: 1, Prefix: cidr("10.10.1.44/32")}}, []ec2.End{{Prefix: cidr("203.0.113.25/32")}}
	before := r.state.View()
	r.must(&CutConnections{From: a, To: b})
	first := r.state.Index()
	want := []ec2.Cut{{Index: first, CutSelection: ec2.CutSelection{From: a, To: b}}}
	if got := r.state.View().CutsAfter(before.Index()); !reflect.DeepEqual(got, want) {
		t.Errorf("cuts %+v, want %+v", got, want)
	}
	if got := r.state.View().CutsAfter(first); len(got)+len(before.CutsAfter(0)) != 0 {
		t.Errorf("after the cut there are cuts %+v, and before it %+v; want none", got, before.CutsAfter(0))
	}
	for range keptCuts {
		r.must(&CutConnections{From: b, To: a})
	}
	if got := r.state.View().CutsAfter(0); len(got) != keptCuts || got[0].Index != first+1 {
		t.Errorf("%d cuts from index %d on are kept, want %d from index %d on", len(got), got[0].Index, keptCuts, first+1)
	}
	if again, err := Restore(bytes.NewReader(r.snapshot())); err != nil || !reflect.DeepEqual(again.View().CutsAfter(0), r.state.View().CutsAfter(0)) {
		t.Errorf("a snapshot restores other cuts, error %v", err)
	}
	many := make([]ec2.End, maxCutEnds-1)
	for i := range many {
		many[i] = ec2.End{VNI: 1, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}
	}
	for range 5 {
		r.must(&CutConnections{From: many, To: a})
	}
	if got := r.state.View().CutsAfter(0); len(got) != keptCutEnds/maxCutEnds {
		t.Errorf("%d large cuts are kept, want %d", len(got), keptCutEnds/maxCutEnds)
	}
	if s, err := EncodeCommand(Command{Request: &CutConnections{From: many, To: a}}); err != nil || len(s) > 1<<20 {
		t.Errorf("the largest cut is an entry of %d bytes, %v; want less than 1 MiB", len(s), err)
	}
	r.refused(&CutConnections{From: many, To: slices.Concat(a, b)}, "InvalidParameterValue")
	r.refused(&CutConnections{}, "MissingParameter")
	r.refused(&CutConnections{From: a}, "MissingParameter")
	r.refused(&CutConnections{Rule: "sgr-0a1b", From: a, To: b}, "InvalidParameterCombination")
	r.refused(&CutConnections{From: []ec2.End{{Prefix: netip.MustParsePrefix("10.10.1.44/8")}}, To: b}, "InvalidParameterValue")
	r.refused(&CutConnections{From: []ec2.End{{}}, To: b}, "InvalidParameterValue")
}
