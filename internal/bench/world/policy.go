package world

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// A policy is what every contestant that filters is asked to enforce, each in its own
// words: that the server may be reached by what its rules name, in tracked connections,
// and the client by nobody.
//
// The last two rules admit the client's group on FirstPort to LastPort; those before them
// match no packet. Half of these name a single address, half a group; ten such rules name
// the same group, which has ten members, each ten TCP ports below FirstPort.
type policy struct {
	rules  []rule
	groups [][]netip.Addr // the members of each; groups[0] is the client's, and it the first member
}

// A rule admits one protocol to a range of ports from a group, or from a single address.
type rule struct {
	protocol string     // "tcp" or "udp"
	from, to int        // ports
	address  netip.Addr // zero: the group
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

// Where the addresses are taken from. Strangers are out of what RFC 6890 keeps for
// benchmarks; members share the endpoints' network.
var (
	onLink        = netip.MustParsePrefix("10.8.0.0/13")
	clientAddress = netip.MustParseAddr("10.10.0.4")
	serverAddress = netip.MustParseAddr("10.10.0.5")
	idleInstances = netip.MustParseAddr("10.10.0.6") // and up, one for each port more
	clientMembers = netip.MustParseAddr("10.11.0.0")
	otherMembers  = netip.MustParseAddr("10.13.0.0")
	strangers     = netip.MustParseAddr("198.18.0.0")
)

// What of these there is.
const (
	maxRules   = 100_000
	maxMembers = 100_000
	maxPorts   = 202
)

// nth is the i-th address after first.
func nth(first netip.Addr, i int) netip.Addr {
	b := slices.Clone(first.AsSlice())
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+uint32(i))
	a, _ := netip.AddrFromSlice(b)
	return a
}
