package firewall

import (
	"math/bits"
	"slices"
	"strings"

	"palisade/ec2"
)

// A Compiler keeps the Tables of a node current.
//
// It has no lock of its own. Its owner, the node's Plane, calls every method with the mutex
// held under which it builds Snapshots. The Sets and Tables that a Compiler returns are
// immutable and safe for any number of readers.
type Compiler struct {
	numbers  map[ec2.GroupID]GroupNumber
	next     GroupNumber // only increases, so that no number is given to a second group
	sweepAt  int         // releaseNumbers does nothing while there are fewer numbers
	sets     map[string]*Set
	lists    listBook
	errs     map[string][]error // by the key of the Set that the error is of
	reported map[string]bool    // texts of the errors that NewErrors has returned
}

// minNumbers is how many group numbers a Compiler keeps before it first looks for unused
// ones.
const minNumbers = 1024

// A Set is the Tables of one distinct set of groups.
type Set struct {
	Groups  []ec2.GroupID // sorted
	Numbers []GroupNumber // of Groups
	Ingress *Table
	Egress  *Table

	vpc  ec2.VPCID // of the interfaces that have the groups
	key  string
	uses int
}

// UsesLists reports whether a rule of the Set names a prefix list.
func (s *Set) UsesLists() bool { return s.Ingress.UsesLists() || s.Egress.UsesLists() }

// SameGroups reports whether two Sets have the same groups.
func (s *Set) SameGroups(o *Set) bool { return s.key == o.key }

// Groups finds the groups that a Compiler compiles. A state.View implements it.
type Groups interface {
	Group(ec2.GroupID) (*ec2.Group, bool)
}

// NewCompiler returns a Compiler without Tables.
func NewCompiler() *Compiler {
	return &Compiler{numbers: map[ec2.GroupID]GroupNumber{}, sweepAt: minNumbers, sets: map[string]*Set{}, lists: newListBook(), errs: map[string][]error{}}
}

// Number returns the number of a group, and gives it one if it has none. The number stays
// the same while the group is in the view, or while a Set has the group as a member or as a
// source.
func (c *Compiler) Number(id ec2.GroupID) GroupNumber {
	n, ok := c.numbers[id]
	if !ok {
		n = c.next
		c.next++
		c.numbers[id] = n
	}
	return n
}

// releaseNumbers forgets the numbers of groups that are neither in the view nor in a Set.
// It searches for them only when there are twice as many numbers as after the last search,
// so that a change of one group does not cost a walk over all groups.
func (c *Compiler) releaseNumbers(view Groups) {
	if len(c.numbers) < c.sweepAt {
		return
	}
	used := map[GroupNumber]bool{}
	for _, s := range c.sets {
		for _, n := range s.Numbers {
			used[n] = true
		}
		for _, ref := range slices.Concat(s.Ingress.Rules(), s.Egress.Rules()) {
			used[ref.number] = true
		}
	}
	for id, n := range c.numbers {
		if _, ok := view.Group(id); !ok && !used[n] {
			delete(c.numbers, id)
		}
	}
	c.sweepAt = max(minNumbers, 2*len(c.numbers))
}

// Acquire returns the Set of the groups ids, and compiles it if no caller has it. The
// caller must Release the Set; the last Release removes it.
func (c *Compiler) Acquire(view Groups, ids []ec2.GroupID, generation uint64) *Set {
	return c.AcquireIn(view, "", ids, generation)
}

// AcquireIn is Acquire for the interfaces of a VPC, which may have groups of other VPCs. "" is
// the VPC of the groups themselves.
func (c *Compiler) AcquireIn(view Groups, vpc ec2.VPCID, ids []ec2.GroupID, generation uint64) *Set {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	texts := make([]string, len(ids), len(ids)+1)
	guest := false
	for i, id := range ids {
		texts[i] = string(id)
		guest = guest || memberID(view, vpc, id) != id
	}
	if guest {
		texts = append(texts, "in "+string(vpc))
	}
	key := strings.Join(texts, " ")
	s, ok := c.sets[key]
	if !ok {
		s = &Set{Groups: ids, vpc: vpc, key: key}
		for _, id := range ids {
			s.Numbers = append(s.Numbers, c.NumberIn(view, vpc, id))
		}
		c.sets[key] = s
		s = c.compile(view, s, generation)
		c.releaseNumbers(view)
	}
	s.uses++
	return s
}

// memberID returns the key of the members that a group has in a VPC. A rule that names a group
// means the members in one VPC, so those that the group has in another have another number.
func memberID(view Groups, vpc ec2.VPCID, id ec2.GroupID) ec2.GroupID {
	if g, ok := view.Group(id); vpc == "" || !ok || g.VPC == vpc {
		return id
	}
	return id + ec2.GroupID("@"+vpc)
}

// NumberIn returns the number of the members that a group has in a VPC.
func (c *Compiler) NumberIn(view Groups, vpc ec2.VPCID, id ec2.GroupID) GroupNumber {
	return c.Number(memberID(view, vpc, id))
}

// sources returns the function by which Compile finds the members that a rule means, for the
// interfaces of a Set. A rule for a group of a peer means the members in the peer's VPC; it
// applies only in the VPC that is peered, which is the rule's own, and only while the peering is
// active. Any other rule means the members in the VPC of the interface that it applies to.
func (c *Compiler) sources(view Groups, s *Set) func(*ec2.Group, ec2.GroupRef) (GroupNumber, bool) {
	return func(g *ec2.Group, ref ec2.GroupRef) (GroupNumber, bool) {
		if s.vpc == "" {
			return c.sourceIn(view, g, ref, g.VPC)
		}
		return c.sourceIn(view, g, ref, s.vpc)
	}
}

func (c *Compiler) sourceIn(view Groups, g *ec2.Group, ref ec2.GroupRef, vpc ec2.VPCID) (GroupNumber, bool) {
	switch {
	case ref.Peering == "":
		return c.NumberIn(view, vpc, ref.ID), true
	case ref.Void || vpc != g.VPC:
		return 0, false
	}
	return c.NumberIn(view, ref.VPC, ref.ID), true
}

// Release gives back a Set that Acquire returned.
func (c *Compiler) Release(s *Set) {
	current := c.sets[s.key]
	if current.uses--; current.uses == 0 {
		delete(c.sets, s.key)
		delete(c.errs, s.key)
	}
}

// Update compiles again the Sets that contain a changed group. It does not change the old
// Sets, because readers may still use them.
func (c *Compiler) Update(view Groups, changed []ec2.GroupID, generation uint64) {
	for _, s := range c.sets {
		if slices.ContainsFunc(changed, func(id ec2.GroupID) bool { return slices.Contains(s.Groups, id) }) {
			c.compile(view, s, generation)
		}
	}
	c.releaseNumbers(view)
}

// Current returns the newest Set of the same groups as s.
func (c *Compiler) Current(s *Set) *Set { return c.sets[s.key] }

// Errors returns an error for each rule that is left out of the present Tables, each once,
// sorted by text.
func (c *Compiler) Errors() []error {
	var all []error
	for _, errs := range c.errs {
		all = append(all, errs...)
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return slices.CompactFunc(all, func(a, b error) bool { return a.Error() == b.Error() })
}

// NewErrors returns the Errors that the last call of NewErrors did not find. The owner logs
// them, so that a bad rule is logged when it appears and not at every change.
func (c *Compiler) NewErrors() []error {
	found := map[string]bool{}
	var unreported []error
	for _, err := range c.Errors() {
		found[err.Error()] = true
		if !c.reported[err.Error()] {
			unreported = append(unreported, err)
		}
	}
	c.reported = found
	return unreported
}

func (c *Compiler) compile(view Groups, old *Set, generation uint64) *Set {
	next := *old
	var groups []*ec2.Group
	for _, id := range old.Groups {
		// A deleted group admits nothing.
		if g, ok := view.Group(id); ok {
			groups = append(groups, g)
		}
	}
	var in, out []error
	next.Ingress, in = Compile(groups, ec2.Ingress, c.sources(view, old), c.lists.numbers, old.Ingress, generation)
	if classic(groups) {
		groups = []*ec2.Group{classicEgress}
	}
	next.Egress, out = Compile(groups, ec2.Egress, c.sources(view, old), c.lists.numbers, old.Egress, generation)
	c.sets[old.key] = &next
	c.errs[old.key] = append(in, out...)
	return &next
}

func classic(groups []*ec2.Group) bool {
	return len(groups) > 0 && !slices.ContainsFunc(groups, func(g *ec2.Group) bool { return g.VPC != "" })
}

// classicEgress admits all outgoing packets: EC2-Classic groups have no egress rules (EC2
// User Guide 2012, "Security Groups").
var classicEgress = &ec2.Group{ID: "classic", Name: "EC2-Classic", Rules: []ec2.Rule{
	{ID: "classic-egress", Direction: ec2.Egress, Protocol: ec2.AnyProtocol, From: -1, To: -1, Source: ec2.Source{Prefix: everywhere4}},
}}

func trailingZeros(x uint64) int { return bits.TrailingZeros64(x) }
