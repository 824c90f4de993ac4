package world

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// A policy is what every contestant with a filter enforces, each in its own format: tracked
// connections to the server from the sources of its rules, and none to the client.
//
// The last two rules admit the client's group on FirstPort to LastPort. The rules before them
// match no packet: each has ten TCP ports below FirstPort, half of them name a single address
// and half a group. Ten such rules name the same group, which has ten members.
type policy struct {
	rules  []rule
	groups [][]netip.Addr // members of each; groups[0] is the client's group, whose first member is the client
}

// A rule admits one protocol on a range of ports, from a group or a single address.
type rule struct {
	protocol string     // "tcp" or "udp"
	from, to int        // ports
	address  netip.Addr // zero: group is the source
	group    int
}

const (
	clientGroup    = 0
	rulesOfAGroup  = 10
	membersOfOther = 10
)

func newPolicy(c Config) policy {
	p := policy{groups: [][]netip.Addr{{clientAddress}}}
	for i := range c.Members - 1 {
		p.groups[clientGroup] = append(p.groups[clientGroup], nth(clientMembers, i))
	}
	for i := range c.Rules - 2 {
		r := rule{protocol: "tcp", from: 1000 + 10*(i%400)}
		r.to = r.from + 9
		if i%2 == 0 {
			r.address = nth(strangers, i)
		} else {
			r.group = 1 + i/2/rulesOfAGroup
			if r.group == len(p.groups) {
				p.groups = append(p.groups, membersOf(r.group))
			}
		}
		p.rules = append(p.rules, r)
	}
	p.rules = append(p.rules,
		rule{protocol: "tcp", from: FirstPort, to: LastPort},
		rule{protocol: "udp", from: FirstPort, to: LastPort})
	return p
}

func membersOf(group int) []netip.Addr {
	var members []netip.Addr
	for i := range membersOfOther {
		members = append(members, nth(otherMembers, group*membersOfOther+i))
	}
	return members
}

func (p policy) String() string {
	members := 0
	for _, g := range p.groups {
		members += len(g)
	}
	return fmt.Sprintf("%d rules, %d groups with %d members", len(p.rules), len(p.groups), members)
}

// The address ranges. Strangers are in the range that RFC 6890 reserves for benchmarks;
// members are in the endpoints' network.
var (
	onLink        = netip.MustParsePrefix("10.8.0.0/13")
	clientAddress = netip.MustParseAddr("10.10.0.4")
	serverAddress = netip.MustParseAddr("10.10.0.5")
	idleInstances = netip.MustParseAddr("10.10.0.6") // and up, one for each further port
	clientMembers = netip.MustParseAddr("10.11.0.0")
	otherMembers  = netip.MustParseAddr("10.13.0.0")
	strangers     = netip.MustParseAddr("198.18.0.0")
)

// Upper bounds of a Config.
const (
	maxRules   = 100_000
	maxMembers = 100_000
	maxPorts   = 202
)

// nth returns the i-th address after first.
func nth(first netip.Addr, i int) netip.Addr {
	b := slices.Clone(first.AsSlice())
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+uint32(i))
	a, _ := netip.AddrFromSlice(b)
	return a
}
