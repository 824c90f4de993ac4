package ec2

import (
	"fmt"
	"net/netip"
)

// A NetworkACL filters the packets that enter and leave a subnet, without regard to connections.
// Packets within a subnet do not meet it. Each VPC has a default one, whose id is the VPC's field ACL;
// a subnet without an ACL of its own uses it.
type NetworkACL struct {
	ID      string
	Account AccountID
	Region  Region
	VPC     VPCID
	Entries []ACLEntry // the egress entries, then the ingress entries, each by number

	ClientToken string `json:",omitempty"` // of the request that created it
}

// An ACLEntry admits or denies packets. The entry with the lowest number that matches a packet decides;
// without an entry the packet is denied (Amazon VPC User Guide, "Network ACL rules").
type ACLEntry struct {
	Number  int // 1 to 32766
	Egress  bool
	Allow   bool
	CIDR    netip.Prefix // of the source or, in an egress entry, of the destination
	Traffic ACLTraffic   `json:",omitzero"`
}

// ACLTraffic is what an entry matches of a packet beside its address. The zero value is all packets, and
// so are the entries that earlier releases wrote.
type ACLTraffic struct {
	One      bool     // only packets of Protocol
	Protocol Protocol `json:",omitempty"`
	// From and To are the first and the last destination port of TCP and UDP. For ICMP they are the type and
	// the code, or -1 for all. They are 0 for other protocols.
	From int `json:",omitempty"`
	To   int `json:",omitempty"`
}

// LastACLEntry is the number of the last entry of every ACL, which denies what no other entry matches. It
// cannot be changed (Amazon VPC User Guide, "Default network ACL").
const LastACLEntry = 32767

// OpenEntries are the entries of a new default ACL: number 100 admits everything in each direction
// (Amazon VPC User Guide, "Default network ACL").
func OpenEntries() []ACLEntry {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return []ACLEntry{{Number: 100, Egress: true, Allow: true, CIDR: all}, {Number: 100, Allow: true, CIDR: all}}
}

// Keys returns the lowest and the highest key of the packets of a protocol that the traffic has: of their
// destination port, or of their ICMP type in the high byte and code in the low byte.
func (t ACLTraffic) Keys() (from, to uint16) {
	switch {
	case !t.One:
	case t.Protocol == TCP, t.Protocol == UDP:
		return uint16(t.From), uint16(t.To)
	case t.Protocol == ICMP && t.From >= 0 && t.To < 0:
		return uint16(t.From) << 8, uint16(t.From)<<8 | 0xff
	case t.Protocol == ICMP && t.From >= 0:
		return uint16(t.From)<<8 | uint16(t.To), uint16(t.From)<<8 | uint16(t.To)
	}
	return 0, 0xffff
}

// String describes an entry in one line: "100 allow tcp 443 from 0.0.0.0/0".
func (e ACLEntry) String() string {
	action, preposition := "deny", "from"
	if e.Allow {
		action = "allow"
	}
	if e.Egress {
		preposition = "to"
	}
	return fmt.Sprintf("%d %s %s %s %s", e.Number, action, e.Traffic, preposition, e.CIDR)
}

// String describes the traffic: "all traffic", "tcp 80-443", "icmp 8:-1" or "protocol 47".
func (t ACLTraffic) String() string {
	switch {
	case !t.One:
		return "all traffic"
	case t.Protocol == ICMP, t.Protocol == ICMPv6:
		return fmt.Sprintf("%s %d:%d", t.Protocol, t.From, t.To)
	case !t.Protocol.HasRange():
		return fmt.Sprintf("protocol %d", t.Protocol)
	case t.From == t.To:
		return fmt.Sprintf("%s %d", t.Protocol, t.From)
	}
	return fmt.Sprintf("%s %d-%d", t.Protocol, t.From, t.To)
}
