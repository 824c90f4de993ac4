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
	next     GroupNumber // never goes back, so that no group gets the number of another
	sweepAt  int         // how many numbers there may be before releaseNumbers
	sets     map[string]*Set
	errs     map[string][]error // of sets, by their key
	reported map[string]bool    // texts of the errors that NewErrors has returned
}

// minNumbers is how many group numbers a Compiler keeps without a look at which are in use.
const minNumbers = 1024

// A Set is the Tables of one distinct set of groups.
type Set struct {
	Groups  []ec2.GroupID // sorted
	Numbers []GroupNumber // of Groups
	Ingress *Table
	Egress  *Table

	key  string
	uses int
}

// SameGroups reports whether two Sets have the same groups.
func (s *Set) SameGroups(o *Set) bool { return s.key == o.key }

// Groups are the groups that a Compiler compiles. A state.View implements it.
type Groups interface {
	Group(ec2.GroupID) (*ec2.Group, bool)
}

// NewCompiler returns a Compiler without Tables.
func NewCompiler() *Compiler {
	return &Compiler{numbers: map[ec2.GroupID]GroupNumber{}, sweepAt: minNumbers, sets: map[string]*Set{}, errs: map[string][]error{}}
}

// Number returns the number of a group. It stays the same for as long as the group is in
// the view, or a Set has it as a group or as a source.
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
// It looks only when there are twice as many numbers as were in use the last time, so that
// a change of one group does not cost a walk over all.
func (c *Compiler) releaseNumbers(view Groups) {
	if len(c.numbers) < c.sweepAt {
		return
	}
	used := map[ec2.GroupID]bool{}
	for _, s := range c.sets {
		for _, id := range s.Groups {
			used[id] = true
		}
		for _, ref := range slices.Concat(s.Ingress.Rules(), s.Egress.Rules()) {
			used[ref.Rule.Source.Group.ID] = true
		}
	}
	for id := range c.numbers {
		if _, ok := view.Group(id); !ok && !used[id] {
			delete(c.numbers, id)
		}
	}
	c.sweepAt = max(minNumbers, 2*len(c.numbers))
}

// Acquire returns the Set of ids, and compiles it if it is new. The caller must Release it;
// the last Release removes the Set.
func (c *Compiler) Acquire(view Groups, ids []ec2.GroupID, generation uint64) *Set {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	key := strings.Join(texts, " ")
	s, ok := c.sets[key]
	if !ok {
		s = &Set{Groups: ids, key: key}
		for _, id := range ids {
			s.Numbers = append(s.Numbers, c.Number(id))
		}
		c.sets[key] = s
		s = c.compile(view, s, generation)
		c.releaseNumbers(view)
	}
	s.uses++
	return s
}

// Release gives back a Set that Acquire returned.
func (c *Compiler) Release(s *Set) {
	current := c.sets[s.key]
	if current.uses--; current.uses == 0 {
		delete(c.sets, s.key)
		delete(c.errs, s.key)
	}
}

// Update compiles the Sets that contain a changed group again. It does not change the Sets
// that it replaces, because readers may still use them.
func (c *Compiler) Update(view Groups, changed []ec2.GroupID, generation uint64) {
	for _, s := range c.sets {
		if slices.ContainsFunc(changed, func(id ec2.GroupID) bool { return slices.Contains(s.Groups, id) }) {
			c.compile(view, s, generation)
		}
	}
	c.releaseNumbers(view)
}

// Current returns the newest Set of the groups of s.
func (c *Compiler) Current(s *Set) *Set { return c.sets[s.key] }

// Errors are the rules that are left out of the present Tables, each once, sorted by text.
func (c *Compiler) Errors() []error {
	var all []error
	for _, errs := range c.errs {
		all = append(all, errs...)
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return slices.CompactFunc(all, func(a, b error) bool { return a.Error() == b.Error() })
}

// NewErrors are those Errors that the last call of NewErrors did not find. The owner logs
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
	next.Ingress, in = Compile(groups, ec2.Ingress, c.Number, old.Ingress, generation)
	if classic(groups) {
		groups = []*ec2.Group{classicEgress}
	}
	next.Egress, out = Compile(groups, ec2.Egress, c.Number, old.Egress, generation)
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
