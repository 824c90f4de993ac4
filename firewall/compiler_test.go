package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
)

type groupsByID map[ec2.GroupID]*ec2.Group

func (g groupsByID) Group(id ec2.GroupID) (*ec2.Group, bool) { group, ok := g[id]; return group, ok }

// TestGroupNumbersAreReleased creates and deletes ten thousand groups, each with a rule
// that names another group. One Set stays in use all the time. The numbers of its groups
// must not change, and no number may be given twice.
func TestGroupNumbersAreReleased(t *testing.T) {
	view := groupsByID{"kept": {ID: "kept", VPC: "vpc-1", Rules: []ec2.Rule{{Serial: 1, Protocol: ec2.TCP, To: 65535, Source: ec2.Source{Group: ec2.GroupRef{ID: "named"}}}}}}
	c := NewCompiler()
	kept := c.Acquire(view, []ec2.GroupID{"kept"}, 1)
	was, named := c.Number("kept"), c.Number("named") // only a rule of kept has named; the view does not
	seen := map[GroupNumber]ec2.GroupID{}
	for i := range 10_000 {
		id, source := ec2.GroupID(fmt.Sprint("sg-", i)), ec2.GroupID(fmt.Sprint("source-", i))
		view[id] = &ec2.Group{ID: id, VPC: "vpc-1", Rules: []ec2.Rule{{Serial: uint64(i + 2), Protocol: ec2.TCP, To: 65535, Source: ec2.Source{Group: ec2.GroupRef{ID: source}}}}}
		set := c.Acquire(view, []ec2.GroupID{id}, uint64(i+2))
		for _, id := range []ec2.GroupID{id, source} {
			n := c.Number(id)
			if other, ok := seen[n]; ok || n == was || n == named {
				t.Fatalf("groups %s and %s have the same number %d", id, other, n)
			}
			seen[n] = id
		}
		c.Release(set)
		delete(view, id)
		c.Update(view, []ec2.GroupID{id}, uint64(i+2))
	}
	if n := len(c.numbers); n > minNumbers+2 {
		t.Errorf("%d numbers are kept, want at most %d", n, minNumbers+2)
	}
	if len(c.sets) != 1 || len(c.errs) != 1 {
		t.Errorf("%d sets and %d lists of errors are kept, want 1 of each", len(c.sets), len(c.errs))
	}
	member := Source{Groups: []GroupNumber{c.Number("named")}, Addr: netip.MustParseAddr("10.0.0.4")}
	if c.Number("kept") != was || c.Number("named") != named || !c.Current(kept).Ingress.Match(6, 22, member).Allowed {
		t.Errorf("group numbers in use: %d and %d, want %d and %d as before, and a rule that still admits its source", c.Number("kept"), c.Number("named"), was, named)
	}
}

// A bad rule is reported once while it exists, although several sets contain it and other
// changes compile it again. It is reported again after it was removed and added.
func TestNewErrorsReportsABadRuleOnce(t *testing.T) {
	bad := &ec2.Group{ID: "bad", Rules: []ec2.Rule{{ID: "sgr-1", Protocol: ec2.TCP, From: 1, To: 2}}}
	view := groupsByID{"bad": bad, "good": {ID: "good"}}
	c := NewCompiler()
	texts := func() (all []string) {
		for _, err := range c.NewErrors() {
			all = append(all, err.Error())
		}
		return all
	}
	const want = "rule sgr-1 of group bad: must have exactly one source"
	c.Acquire(view, []ec2.GroupID{"bad"}, 1)
	c.Acquire(view, []ec2.GroupID{"bad", "good"}, 1)
	if got := texts(); !slices.Equal(got, []string{want}) {
		t.Errorf("new errors %q, want %q once", got, want)
	}
	c.Update(view, []ec2.GroupID{"bad"}, 2)
	if got := texts(); got != nil || len(c.Errors()) != 1 {
		t.Errorf("after another change: new errors %q of all errors %v, want no new one and one in all", got, c.Errors())
	}
	view["bad"] = &ec2.Group{ID: "bad"}
	c.Update(view, []ec2.GroupID{"bad"}, 3)
	if got := texts(); got != nil || c.Errors() != nil {
		t.Errorf("after the rule is removed: new errors %q of all errors %v, want none", got, c.Errors())
	}
	view["bad"] = bad
	c.Update(view, []ec2.GroupID{"bad"}, 4)
	if got := texts(); !slices.Equal(got, []string{want}) {
		t.Errorf("after the rule is added again: new errors %q, want %q", got, want)
	}
}
