// Package firewall decides whether the rules of an interface's groups admit a packet.
//
// Compile turns the rules of one set of groups into a Table. Match judges one packet by a
// Table. Explain decides the same, and names the rule that admits the packet, or says of
// every rule why it does not admit it. A Compiler keeps the Tables of a node: one for each
// distinct set of groups, however many interfaces have that set.
//
// The cost of Match does not grow with rules, groups or members. A port (or ICMP type and
// code) finds its segment by two array reads. A segment of up to eight sources lists them,
// and Match compares each. In a segment of more, Match finds the packet's source by the
// groups of the interface it came from and by one longest-prefix match over the Table's
// CIDRs, and a ruleIndex for each source finds its rule for the port in constant time. The
// loops that remain are over the groups of one interface and over nested CIDRs, at most 33
// of IPv4. The memory of a Table grows with its rules alone. Members are not in a Table,
// so a launch compiles nothing, and a rule change compiles only the sets that contain its
// group.
//
// Rules only permit, and have no order (EC2 User Guide, "Security group rules"). A rule
// that cannot be enforced exactly is left out and reported; it changes no other rule.
// Package conntrack tracks connections.
package firewall

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"palisade/ec2"
	"palisade/internal/failpoint"
)

// A GroupNumber identifies a group in the data plane. A Compiler assigns the numbers.
type GroupNumber uint32

// A Source is the sender of a packet; for egress, its receiver.
type Source struct {
	// Groups are the groups of the sending interface, if Addr is one of its private
	// addresses; otherwise nil.
	Groups []GroupNumber
	Addr   netip.Addr
	// Lists are the prefix lists in force. Without them no rule that names a list admits the packet.
	Lists *Lists
}

// A Decision is the result of judging a packet by a Table. The zero Decision denies.
type Decision struct {
	Allowed bool
	World   bool   // a rule for 0.0.0.0/0 or ::/0 admits the packet
	Rule    uint64 // serial of a rule that admits the packet
}

// A Table is the compiled form of one set of groups in one direction. It is immutable
// and safe for any number of readers. A nil Table denies everything.
type Table struct {
	// Generation is the generation of the change that compiled this Table. Shrunk is the
	// generation of the last change that removed a rule from it. An untracked connection
	// that was admitted since Shrunk need not be judged again.
	Generation uint64
	Shrunk     uint64

	// A selector numbers the distinct sources of the rules: groups, CIDRs and prefix lists.
	protocols [256]*portMap
	icmpv6    *portMap // of protocol 58, for IPv6 addresses
	groups    selectorIndex
	cidrs     bart.Table[[]uint32] // prefix -> its own selector, and those of all prefixes that contain it
	lists     tableLists
	refs      []Ref // all rules; a rule's index is its number in this Table
}

// A Ref names a rule and the group that holds it.
type Ref struct {
	Group *ec2.Group
	Rule  ec2.Rule

	number GroupNumber // of the rule's source, if that is a group
	list   listNumber  // of the rule's source, if that is a prefix list that exists
	listed bool        // list is set
}

// tableLists are the prefix lists that the rules of a Table name, which all have the same owner.
type tableLists struct {
	owner     uint32
	selectors []uint32 // by listNumber.bit; noRule: the Table does not name the list
}

// Match decides whether a packet of a protocol and key (see packet.Packet.RuleKey) from src
// is admitted. It allocates nothing.
func (t *Table) Match(protocol uint8, key uint16, src Source) Decision {
	failpoint.Reach()
	if t == nil {
		return Decision{}
	}
	ports := t.ports(protocol, src.Addr)
	if ports == nil {
		return Decision{}
	}
	at := ports.at(key)
	s := &ports.segments[at]
	if rule := s.world[family(src.Addr)]; rule != noRule {
		return Decision{Allowed: true, World: true, Rule: t.refs[rule].Rule.Serial}
	}
	if ports.lists != nil {
		if d := t.matchLists(ports, at, key, src); d.Allowed {
			return d
		}
	}
	if s.count == dense {
		return t.matchDense(ports, key, src)
	}
	ip4 := word(src.Addr)
	sources := ports.sources(s)
	for i := range sources {
		if sources[i].contains(&src, ip4) {
			return Decision{Allowed: true, Rule: t.refs[sources[i].rule].Rule.Serial}
		}
	}
	return Decision{}
}

// ports returns the rules of a protocol for packets from an address. Rules for ICMPv6 alone admit no
// IPv4 packet, whatever their source is: under IPv4 the protocol number 58 means nothing (RFC 4443).
func (t *Table) ports(protocol uint8, addr netip.Addr) *portMap {
	if ec2.Protocol(protocol) == ec2.ICMPv6 && !addr.Is4() {
		return t.icmpv6
	}
	return t.protocols[protocol]
}

// matchDense decides about a packet to a port with many sources. It looks at the rules of
// each of the packet's groups, and of each CIDR that contains its address.
func (t *Table) matchDense(ports *portMap, key uint16, src Source) Decision {
	failpoint.Reach()
	for _, group := range src.Groups {
		if selector, ok := t.groups.find(group); ok {
			if rule := ports.ruleOf(selector, key); rule != noRule {
				return Decision{Allowed: true, Rule: t.refs[rule].Rule.Serial}
			}
		}
	}
	chain, _ := t.cidrs.Lookup(src.Addr)
	for _, selector := range chain {
		if rule := ports.ruleOf(selector, key); rule != noRule {
			return Decision{Allowed: true, Rule: t.refs[rule].Rule.Serial}
		}
	}
	return Decision{}
}

// matchLists decides about a packet by the rules that name prefix lists. A list with 0.0.0.0/0 is not
// the world, so the connections that it admits are tracked.
func (t *Table) matchLists(ports *portMap, segment uint16, key uint16, src Source) Decision {
	failpoint.Reach()
	wanted := ports.listsOf(segment)
	if wanted == nil {
		return Decision{}
	}
	bit, ok := src.Lists.find(t.lists.owner, wanted, src.Addr)
	if !ok {
		return Decision{}
	}
	rule := ports.ruleOf(t.lists.selectors[bit], key)
	return Decision{Allowed: true, Rule: t.refs[rule].Rule.Serial}
}

// UsesLists reports whether a rule of the Table names a prefix list.
func (t *Table) UsesLists() bool { return t != nil && len(t.lists.selectors) > 0 }

// Open reports whether a single rule admits every port of a protocol from every address of
// addr's family, as in the egress of EC2-Classic. Only then may connections be untracked.
func (t *Table) Open(protocol uint8, addr netip.Addr) bool {
	if t == nil {
		return false
	}
	ports := t.ports(protocol, addr)
	return ports != nil && ports.open[family(addr)]
}

// A PortRange is a range of ports that includes both ends.
type PortRange struct{ From, To uint16 }

// An OpenRange is a range of ports that rules open to one source.
type OpenRange struct {
	PortRange
	// Source tells sources apart: 0 is the whole world, other numbers are hashes of a CIDR block, of a
	// group id, or of the id of a prefix list with the version that last lost an entry. So a port that
	// a list opens is lost when the list loses an entry.
	Source uint32
}

// OpenRanges returns the ports of a protocol that t opens to IPv4 packets, in order and merged for each
// source: those that a rule opens to the whole world or, with anySource, those that any rule opens to
// any source.
func (t *Table) OpenRanges(protocol uint8, anySource bool, lists *Lists) []OpenRange {
	var open []OpenRange
	for _, ref := range t.Rules() {
		r := ref.Rule
		source := sourceHash(r.Source, lists.shrunk(ref.list))
		if onlyIPv6(&r) {
			continue
		}
		if (source == 0 || anySource) && (r.Protocol == ec2.AnyProtocol || r.Protocol == ec2.Protocol(protocol)) {
			from, to := keys(r)
			open = append(open, OpenRange{PortRange{uint16(from), uint16(to)}, source})
		}
	}
	slices.SortFunc(open, func(a, b OpenRange) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.From, b.From))
	})
	merged := open[:0]
	for _, r := range open {
		if n := len(merged); n > 0 && merged[n-1].Source == r.Source && int(r.From) <= int(merged[n-1].To)+1 {
			merged[n-1].To = max(merged[n-1].To, r.To)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// sourceHash returns the Source of an OpenRange. It is the same in every process.
func sourceHash(s ec2.Source, version int) uint32 {
	if s.Prefix.IsValid() && s.Prefix.Bits() == 0 {
		return 0
	}
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, s.Prefix, s.Group.ID) // never fails
	if s.IsPrefixList() {
		_, _ = fmt.Fprint(h, s.PrefixList, version)
	}
	return h.Sum32() | 1
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// A selectorIndex maps the groups that a Table's rules name to their selectors. It is a
// hash table with open addressing and twice as many slots as groups, so that a search for
// an absent group takes one or two reads.
type selectorIndex struct {
	slots []selectorSlot // their number is a power of two, or 0 without groups
	shift uint8
}

type selectorSlot struct {
	used     bool
	group    GroupNumber
	selector uint32
}

func newSelectorIndex(groups map[GroupNumber]uint32) selectorIndex {
	if len(groups) == 0 {
		return selectorIndex{}
	}
	bits := uint8(1)
	for 1<<bits < 2*len(groups) {
		bits++
	}
	x := selectorIndex{slots: make([]selectorSlot, 1<<bits), shift: 32 - bits}
	for group, selector := range groups {
		i := x.slot(group)
		for x.slots[i].used {
			i = (i + 1) & uint32(len(x.slots)-1)
		}
		x.slots[i] = selectorSlot{used: true, group: group, selector: selector}
	}
	return x
}

func (x *selectorIndex) slot(group GroupNumber) uint32 { return uint32(group) * 0x9e3779b1 >> x.shift }

func (x *selectorIndex) find(group GroupNumber) (uint32, bool) {
	failpoint.Reach()
	if len(x.slots) == 0 {
		return 0, false
	}
	for i := x.slot(group); ; i = (i + 1) & uint32(len(x.slots)-1) {
		switch slot := &x.slots[i]; {
		case !slot.used:
			return 0, false
		case slot.group == group:
			return slot.selector, true
		}
	}
}
