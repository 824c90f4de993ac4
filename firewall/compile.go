package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
)

// Compile builds the Table of a set of groups, and returns an error for each rule that it
// left out. The function number returns the GroupNumber of the group that a rule of a group
// names; false if the rule admits nothing to the interfaces of the set. lists has the numbers of
// prefix lists. previous is the Table
// that the new one replaces, or nil. If previous has a rule that the new Table does not
// have, the new Table's Shrunk is generation.
func Compile(groups []*ec2.Group, direction ec2.Direction, number func(*ec2.Group, ec2.GroupRef) (GroupNumber, bool), lists map[ec2.PrefixListID]listNumber, previous *Table, generation uint64) (*Table, []error) {
	c := compilation{
		table:     &Table{Generation: generation},
		number:    number,
		lists:     lists,
		byGroup:   map[GroupNumber]uint32{},
		byPrefix:  map[netip.Prefix]uint32{},
		protocols: map[ec2.Protocol][]span{},
	}
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Direction == direction {
				c.add(g, r)
			}
		}
	}
	c.link()
	c.table.Shrunk = shrunk(previous, c.table, generation)
	return c.table, c.errs
}

// world is the selector of 0.0.0.0/0 and of ::/0.
const world = ^uint32(0)

// A span is one rule in one protocol's key space.
type span struct {
	from, to uint32
	rule     uint32
	selector uint32 // or world
	family   int    // if selector is world: 0 for IPv4, 1 for IPv6
}

type compilation struct {
	table     *Table
	number    func(*ec2.Group, ec2.GroupRef) (GroupNumber, bool)
	byGroup   map[GroupNumber]uint32
	byPrefix  map[netip.Prefix]uint32
	lists     map[ec2.PrefixListID]listNumber
	sources   []listed // by selector; the field rule is not set
	prefixes  []netip.Prefix
	protocols map[ec2.Protocol][]span
	errs      []error
}

func (c *compilation) add(g *ec2.Group, r ec2.Rule) {
	list, listed, err := c.listOf(r)
	if err == nil {
		err = check(r)
	}
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("rule %s of group %s: %w", r.ID, g.ID, err))
		return
	}
	from, to := keys(r)
	s := span{from: from, to: to, rule: uint32(len(c.table.refs))}
	ref := Ref{Group: g, Rule: r, list: list, listed: listed}
	if r.Source.IsGroup() {
		var ok bool
		if ref.number, ok = c.number(g, r.Source.Group); !ok {
			return
		}
	}
	c.table.refs = append(c.table.refs, ref)
	switch {
	case r.Source.IsPrefixList() && !listed:
		return // a list of AWS, which is empty
	case r.Source.Prefix.IsValid() && r.Source.Prefix.Bits() == 0:
		s.selector, s.family = world, family(r.Source.Prefix.Addr())
	default:
		s.selector = c.selector(r.Source, ref)
	}
	c.protocols[r.Protocol] = append(c.protocols[r.Protocol], s)
}

// listOf returns the number of the prefix list that is a rule's source, if it is one that has a number.
// The lists of one Table must have one owner.
func (c *compilation) listOf(r ec2.Rule) (n listNumber, ok bool, err error) {
	if !r.Source.IsPrefixList() {
		return n, false, nil
	}
	if n, ok = c.lists[r.Source.PrefixList]; !ok {
		return n, false, nil
	}
	if c.table.UsesLists() && c.table.lists.owner != n.owner {
		return n, false, fmt.Errorf("prefix list %s is of another owner than the other lists of this set of groups", r.Source.PrefixList)
	}
	return n, true, nil
}

// listSelector returns the number of a prefix list within this set.
func (c *compilation) listSelector(number listNumber) uint32 {
	lists := &c.table.lists
	lists.owner = number.owner
	for int(number.bit) >= len(lists.selectors) {
		lists.selectors = append(lists.selectors, noRule)
	}
	if n := lists.selectors[number.bit]; n != noRule {
		return n
	}
	next := uint32(len(c.sources))
	lists.selectors[number.bit] = next
	c.sources = append(c.sources, listed{kind: sourceList, list: number.bit})
	return next
}

// selector returns the number of a source within this set. ref has the number of a group or of a
// prefix list.
func (c *compilation) selector(s ec2.Source, ref Ref) uint32 {
	next := uint32(len(c.sources))
	if s.IsGroup() {
		if n, ok := c.byGroup[ref.number]; ok {
			return n
		}
		c.byGroup[ref.number] = next
		c.sources = append(c.sources, listed{kind: sourceGroup, group: ref.number})
		return next
	}
	if s.IsPrefixList() {
		return c.listSelector(ref.list)
	}
	if n, ok := c.byPrefix[s.Prefix]; ok {
		return n
	}
	c.byPrefix[s.Prefix] = next
	c.sources = append(c.sources, listedPrefix(s.Prefix))
	c.prefixes = append(c.prefixes, s.Prefix)
	return next
}

// link builds the structures that Match reads.
func (c *compilation) link() {
	t := c.table
	t.groups = newSelectorIndex(c.byGroup)

	// Insert shorter prefixes first, so that the selectors of all containing prefixes are
	// known.
	slices.SortFunc(c.prefixes, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	for _, p := range c.prefixes {
		ancestors, _ := t.cidrs.LookupPrefix(p)
		own := c.byPrefix[p]
		t.cidrs.Insert(p, append(slices.Clone(ancestors), own))
	}

	every := c.protocols[ec2.AnyProtocol]
	var shared *portMap
	if len(every) > 0 {
		shared = c.ports(every)
	}
	t.icmpv6 = shared
	for protocol := range t.protocols {
		t.protocols[protocol] = shared
		own := c.protocols[ec2.Protocol(protocol)]
		switch {
		case len(own) == 0:
		case ec2.Protocol(protocol) == ec2.ICMPv6:
			t.icmpv6 = c.ports(slices.Concat(every, own))
		default:
			t.protocols[protocol] = c.ports(slices.Concat(every, own))
		}
	}
}

// onlyIPv6 reports whether a rule can admit no IPv4 packet: it is for ICMPv6 or for IPv6 addresses.
func onlyIPv6(r *ec2.Rule) bool { return r.Protocol == ec2.ICMPv6 || r.Source.IsIPv6() }

// ports returns the portMap of one protocol's rules. It cuts the keys into segments by a
// sweep from key 0 upwards.
func (c *compilation) ports(spans []span) *portMap {
	starts := []uint32{0}
	for _, s := range spans {
		starts = append(starts, s.from)
		if s.to < 0xffff {
			starts = append(starts, s.to+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)

	opening, closing := slices.Clone(spans), slices.Clone(spans)
	slices.SortStableFunc(opening, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	slices.SortStableFunc(closing, func(a, b span) int { return cmp.Compare(a.to, b.to) })

	active := newActiveSet(c.sources)
	m := &portMap{segments: make([]segment, len(starts))}
	if slices.ContainsFunc(spans, func(s span) bool { return s.selector != world && c.sources[s.selector].kind == sourceList }) {
		m.words = (len(c.table.lists.selectors) + 63) / 64
		m.lists = make([]uint64, 0, m.words*len(starts))
	}
	isDense := false
	for i, start := range starts {
		for len(closing) > 0 && closing[0].to < start {
			active.remove(closing[0])
			closing = closing[1:]
		}
		for len(opening) > 0 && opening[0].from <= start {
			active.add(opening[0])
			opening = opening[1:]
		}
		active.record(uint16(start))
		m.segments[i] = active.segment(m, c.sources)
		if m.lists != nil {
			m.lists = append(m.lists, active.lists...)
			m.lists = append(m.lists, make([]uint64, m.words-len(active.lists))...)
		}
		isDense = isDense || m.segments[i].count == dense
	}
	if isDense || m.lists != nil {
		m.indexSources(active.intervals)
	}
	m.setPages(starts)
	for _, s := range spans {
		if s.selector == world && s.from == 0 && s.to == 0xffff {
			m.open[s.family] = true
		}
	}
	return m
}

// indexSources fills bySource and indexes from the intervals of each source.
func (m *portMap) indexSources(bySelector [][]interval) {
	m.bySource = make([]uint32, len(bySelector))
	for selector, intervals := range bySelector {
		switch {
		case len(intervals) == 0:
			m.bySource[selector] = noRule
		case len(intervals) == 1 && intervals[0].from == 0:
			m.bySource[selector] = allPorts | intervals[0].rule
		default:
			m.bySource[selector] = uint32(len(m.indexes))
			m.indexes = append(m.indexes, newRuleIndex(intervals))
		}
	}
}

// An activeSet holds the rules that cover the current key of a sweep.
type activeSet struct {
	rules [][]uint32 // selector -> active rules, in the order of their first keys
	bits  []uint64
	count int // selectors with at least one active rule, without prefix lists
	world [2][]uint32

	sources []listed // by selector
	lists   bitSet   // prefix lists with at least one active rule; bits has no bit for them

	intervals [][]interval // selector -> its intervals up to the current key
	changed   []uint32     // selectors that gained or lost a rule since the last call of record
}

func newActiveSet(sources []listed) *activeSet {
	n := len(sources)
	return &activeSet{
		sources: sources, rules: make([][]uint32, n), bits: make([]uint64, (n+63)/64), intervals: make([][]interval, n),
	}
}

// set notes that a source has active rules, or has none any more.
func (a *activeSet) set(selector uint32, active bool) {
	switch s := &a.sources[selector]; {
	case s.kind == sourceList:
		a.lists = a.lists.with(s.list, active)
	case active:
		a.bits[selector>>6] |= 1 << (selector & 63)
		a.count++
	default:
		a.bits[selector>>6] &^= 1 << (selector & 63)
		a.count--
	}
}

func (a *activeSet) add(s span) {
	if s.selector == world {
		a.world[s.family] = append(a.world[s.family], s.rule)
		return
	}
	if len(a.rules[s.selector]) == 0 {
		a.set(s.selector, true)
	}
	a.rules[s.selector] = append(a.rules[s.selector], s.rule)
	a.changed = append(a.changed, s.selector)
}

func (a *activeSet) remove(s span) {
	without := func(rules []uint32) []uint32 {
		i := slices.Index(rules, s.rule)
		return slices.Delete(rules, i, i+1)
	}
	if s.selector == world {
		a.world[s.family] = without(a.world[s.family])
		return
	}
	a.rules[s.selector] = without(a.rules[s.selector])
	a.changed = append(a.changed, s.selector)
	if len(a.rules[s.selector]) == 0 {
		a.set(s.selector, false)
	}
}

// record begins an interval at key start for each source whose first rule has changed.
func (a *activeSet) record(start uint16) {
	for _, selector := range a.changed {
		rule := uint32(noRule)
		if rules := a.rules[selector]; len(rules) > 0 {
			rule = rules[0]
		}
		done := a.intervals[selector]
		switch n := len(done); {
		case n > 0 && done[n-1].from == start:
			done[n-1].rule = rule
		case n == 0 || done[n-1].rule != rule:
			a.intervals[selector] = append(done, interval{start, rule})
		}
	}
	a.changed = a.changed[:0]
}

// segment returns the segment of the current key. It stores the active sources in m, or
// marks the segment as dense if they are too many.
func (a *activeSet) segment(m *portMap, sources []listed) segment {
	s := segment{world: [2]uint32{noRule, noRule}}
	for f, rules := range a.world {
		if len(rules) > 0 {
			s.world[f] = rules[0]
		}
	}
	switch {
	case a.count > few:
		s.count = dense
	case a.count > 0:
		s.first, s.count = uint32(len(m.listed)), uint16(a.count)
		for selector, rules := range a.each() {
			source := sources[selector]
			source.rule = rules[0]
			m.listed = append(m.listed, source)
		}
	}
	return s
}

// each yields, in ascending order, the selectors that have an active rule, and those rules.
func (a *activeSet) each() func(func(uint32, []uint32) bool) {
	return func(yield func(uint32, []uint32) bool) {
		for word, bits := range a.bits {
			for ; bits != 0; bits &= bits - 1 {
				selector := uint32(word<<6 + trailingZeros(bits))
				if !yield(selector, a.rules[selector]) {
					return
				}
			}
		}
	}
}

// keys returns the first and the last key that a rule covers: ports, or ICMP types and
// codes.
func keys(r ec2.Rule) (from, to uint32) {
	switch r.Protocol {
	case ec2.TCP, ec2.UDP:
		return uint32(r.From), uint32(r.To)
	case ec2.ICMP, ec2.ICMPv6:
		switch {
		case r.From == -1:
			return 0, 0xffff
		case r.To == -1:
			return uint32(r.From) << 8, uint32(r.From)<<8 | 0xff
		}
		key := uint32(r.From)<<8 | uint32(r.To)
		return key, key
	}
	return 0, 0xffff
}

// covers reports whether a rule's protocol and range include a packet's.
func covers(r *ec2.Rule, protocol uint8, key uint16) bool {
	if r.Protocol != ec2.AnyProtocol && r.Protocol != ec2.Protocol(protocol) {
		return false
	}
	from, to := keys(*r)
	return from <= uint32(key) && uint32(key) <= to
}

// check returns an error for a rule that a Table cannot enforce exactly. The API refuses
// such a rule too.
func check(r ec2.Rule) error {
	inRange := func(limit int) bool { return -1 <= r.From && r.From <= limit && -1 <= r.To && r.To <= limit }
	switch {
	case !hasOneSource(r.Source):
		return fmt.Errorf("must have exactly one source")
	case r.Source.Prefix.IsValid() && r.Source.Prefix != r.Source.Prefix.Masked():
		return fmt.Errorf("source %s has host bits", r.Source.Prefix)
	case r.Protocol < ec2.AnyProtocol || r.Protocol > 255:
		return fmt.Errorf("protocol %d is not between -1 and 255", r.Protocol)
	case (r.Protocol == ec2.TCP || r.Protocol == ec2.UDP) && (!inRange(65535) || r.From < 0 || r.To < r.From):
		return fmt.Errorf("port range %d-%d is invalid", r.From, r.To)
	case (r.Protocol == ec2.ICMP || r.Protocol == ec2.ICMPv6) && (!inRange(255) || r.From == -1 && r.To != -1):
		return fmt.Errorf("ICMP type %d, code %d is invalid", r.From, r.To)
	}
	return nil
}

func hasOneSource(s ec2.Source) bool {
	count := 0
	for _, given := range []bool{s.IsGroup(), s.Prefix.IsValid(), s.IsPrefixList()} {
		if given {
			count++
		}
	}
	return count == 1
}

// shrunk returns the Shrunk of the Table next, which replaces previous and is compiled by
// the change of generation.
func shrunk(previous, next *Table, generation uint64) uint64 {
	if previous == nil {
		return generation
	}
	kept := make(map[uint64]bool, len(next.refs))
	for _, ref := range next.refs {
		kept[ref.Rule.Serial] = true
	}
	for _, ref := range previous.refs {
		if !kept[ref.Rule.Serial] {
			return generation
		}
	}
	return previous.Shrunk
}
