package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// noRule means that no rule matches.
const noRule = ^uint32(0)

// few is the largest number of sources that a segment lists. Match compares a packet with
// each listed source. If a segment has more sources, Match looks up the packet's source
// instead.
const few = 8

// A segment is a range of ports that the same rules cover. It takes 16 bytes, so that the
// segments of ten thousand rules fit in a core's cache.
type segment struct {
	world [2]uint32 // a rule for 0.0.0.0/0, and one for ::/0, or noRule
	first uint32    // index of its first source in portMap.listed
	count uint16    // number of its sources, if at most few; otherwise dense
}

const dense = ^uint16(0)

// allPorts marks a rule in portMap.bySource that covers every port, so that its source
// needs no ruleIndex.
const allPorts = uint32(1) << 31

// A portMap finds the segment of a port: the port's high byte selects a page, the low byte
// an entry of the page. Blocks of 256 ports that lie in the same segment share a page.
type portMap struct {
	page     [256]uint16
	pages    [][256]uint16
	segments []segment
	listed   []listed // the sources of the segments that list them
	bySource []uint32 // selector -> noRule, or allPorts and a rule, or an index into indexes; nil without dense segments
	indexes  []ruleIndex
	lists    []uint64 // for each segment, words words with a bit for each prefix list that has a rule; nil without such rules
	words    int
	open     [2]bool // one rule admits every port from the whole world: IPv4, IPv6
}

// A listed source is one that Match compares with a packet's source directly.
type listed struct {
	kind      sourceKind
	net, mask uint32       // of an IPv4 prefix
	group     GroupNumber  // of a group
	prefix    netip.Prefix // of an IPv6 prefix
	list      uint32       // bit of a prefix list
	rule      uint32
}

type sourceKind uint8

const (
	sourceGroup sourceKind = iota
	sourceIPv4
	sourceIPv6
	sourceList // is in portMap.lists and never listed
)

func (l *listed) contains(src *Source, ip4 uint32) bool {
	switch l.kind {
	case sourceGroup:
		return slices.Contains(src.Groups, l.group)
	case sourceIPv4:
		return ip4&l.mask == l.net && src.Addr.Is4()
	}
	return l.prefix.Contains(src.Addr)
}

func listedPrefix(p netip.Prefix) listed {
	if p.Addr().Is4() {
		return listed{kind: sourceIPv4, net: word(p.Addr()), mask: ^uint32(0) << (32 - p.Bits())}
	}
	return listed{kind: sourceIPv6, prefix: p}
}

// word returns an IPv4 address as a number, and 0 for an IPv6 address.
func word(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// at returns the index of a port's segment.
func (m *portMap) at(key uint16) uint16 { return m.pages[m.page[key>>8]][key&0xff] }

// listsOf returns the prefix lists that have a rule in a segment, or nil.
func (m *portMap) listsOf(segment uint16) bitSet {
	first := int(segment) * m.words
	for _, word := range m.lists[first : first+m.words] {
		if word != 0 {
			return m.lists[first : first+m.words]
		}
	}
	return nil
}

// sources returns the sources that s lists. s must not be dense.
func (m *portMap) sources(s *segment) []listed {
	return m.listed[s.first : s.first+uint32(s.count)]
}

// ruleOf returns the rule of a source that covers a port of a dense segment, or noRule.
func (m *portMap) ruleOf(selector uint32, key uint16) uint32 {
	switch v := m.bySource[selector]; {
	case v == noRule:
		return noRule
	case v&allPorts != 0:
		return v &^ allPorts
	default:
		return m.indexes[v].rule(key)
	}
}

// setPages builds the pages. starts has the first key of each segment, ascending from 0.
func (m *portMap) setPages(starts []uint32) {
	uniform := map[uint16]uint16{} // segment -> the page that its whole blocks share
	at := 0                        // the segment of the block's first key
	for block := range 256 {
		first, last := uint32(block)<<8, uint32(block)<<8|0xff
		for at+1 < len(starts) && starts[at+1] <= first {
			at++
		}
		whole := at+1 == len(starts) || starts[at+1] > last
		if number, ok := uniform[uint16(at)]; ok && whole {
			m.page[block] = number
			continue
		}
		var page [256]uint16
		s := at
		for i := range page {
			for s+1 < len(starts) && starts[s+1] <= first+uint32(i) {
				s++
			}
			page[i] = uint16(s)
		}
		m.page[block] = uint16(len(m.pages))
		m.pages = append(m.pages, page)
		if whole {
			uniform[uint16(at)] = m.page[block]
		}
	}
}
