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
	view["idle"] = &ec2.Group{ID: "idle"}             // interfaces may have its number, although no Set has it
	idle := c.Number("idle")
	delete(view, "kept") // the Set stays in use
	seen := map[GroupNumber]ec2.GroupID{}
	for i := range 10_000 {
		id, source := ec2.GroupID(fmt.Sprint("sg-", i)), ec2.GroupID(fmt.Sprint("source-", i))
		view[id] = &ec2.Group{ID: id, VPC: "vpc-1", Rules: []ec2.Rule{{Serial: uint64(i + 2), Protocol: ec2.TCP, To: 65535, Source: ec2.Source{Group: ec2.GroupRef{ID: source}}}}}
		set := c.Acquire(view, []ec2.GroupID{id}, uint64(i+2))
		for _, id := range []ec2.GroupID{id, source} {
			n := c.Number(id)
			if other, ok := seen[n]; ok || n == was || n == named || n == idle {
				t.Fatalf("groups %s and %s have the same number %d", id, other, n)
			}
			seen[n] = id
		}
		c.Release(set)
		delete(view, id)
		c.Update(view, []ec2.GroupID{id}, uint64(i+2))
	}
	if n := len(c.numbers); n > minNumbers+3 {
		t.Errorf("%d numbers are kept, want at most %d", n, minNumbers+3)
	}
	if len(c.sets) != 1 || len(c.errs) != 1 {
		t.Errorf("%d sets and %d lists of errors are kept, want 1 of each", len(c.sets), len(c.errs))
	}
	member := Source{Groups: []GroupNumber{c.Number("named")}, Addr: netip.MustParseAddr("10.0.0.4")}
	if c.Number("kept") != was || c.Number("named") != named || c.Number("idle") != idle || !c.Current(kept).Ingress.Match(6, 22, member).Allowed {
		t.Errorf("group numbers in use: %d and %d, want %d and %d as before, and a rule that still admits its source", c.Number("kept"), c.Number("named"), was, named)
	}
}

// Groups whose slots collide are found, also over the end of the slots, and absent ones are not.
func TestSelectorsOfGroupsWithEqualSlotsAreFound(t *testing.T) {
	for n := range 200 {
		groups := map[GroupNumber]uint32{}
		first := GroupNumber(0) // with as many colliding groups as possible
		x := newSelectorIndex(map[GroupNumber]uint32{0: 0})
		for len(groups) < n {
			if len(groups)%2 == 0 || x.slot(first) == x.slot(0) {
				groups[first] = uint32(len(groups) + 7)
			}
			first++
		}
		index := newSelectorIndex(groups)
		if len(index.slots) > max(0, 4*n) {
			t.Fatalf("%d groups have %d slots", n, len(index.slots))
		}
		for g := range first + 1000 {
			selector, ok := index.find(g)
			if want, exists := groups[g]; ok != exists || selector != want {
				t.Fatalf("of %d groups, group %d has selector %d, found: %v; want %d, %v", n, g, selector, ok, want, exists)
			}
		}
	}
}

// A Set has its groups in order and once, and leaves the caller's list as it is.
func TestAcquireKeepsTheListOfItsCaller(t *testing.T) {
	view := groupsByID{"a": {ID: "a"}, "b": {ID: "b"}}
	c := NewCompiler()
	ids := []ec2.GroupID{"b", "a", "b"}
	set := c.Acquire(view, ids, 1)
	if !slices.Equal(ids, []ec2.GroupID{"b", "a", "b"}) || !slices.Equal(set.Groups, []ec2.GroupID{"a", "b"}) {
		t.Errorf("the list is %v and the Set has %v, want the list unchanged and a, b", ids, set.Groups)
	}
	if again := c.Acquire(view, []ec2.GroupID{"a", "b"}, 2); again != set || !again.SameGroups(set) {
		t.Error("the same groups in another order have another Set")
	}
	if other := c.Acquire(view, []ec2.GroupID{"a"}, 2); other == set || other.SameGroups(set) {
		t.Error("other groups have the same Set")
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
