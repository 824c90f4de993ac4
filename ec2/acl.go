package ec2

import "net/netip"

// A NetworkACL filters the packets that enter and leave a subnet, without regard to connections.
// Packets within a subnet do not meet it. Each VPC has one, which all its subnets use; its id is
// the VPC's field ACL.
type NetworkACL struct {
	ID      string
	Account AccountID
	Region  Region
	VPC     VPCID
	Entries []ACLEntry // the egress entries, then the ingress entries, each by number
}

// An ACLEntry admits or denies every packet of one address family. The entry with the lowest number
// decides; without an entry the packet is denied (Amazon VPC User Guide, "Network ACL rules").
type ACLEntry struct {
	Number int // 1 to 32766
	Egress bool
	Allow  bool
	CIDR   netip.Prefix // 0.0.0.0/0 or ::/0
}

// OpenEntries are the entries of a new default ACL: number 100 admits everything in each direction
// (Amazon VPC User Guide, "Default network ACL").
func OpenEntries() []ACLEntry {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return []ACLEntry{{Number: 100, Egress: true, Allow: true, CIDR: all}, {Number: 100, Allow: true, CIDR: all}}
}

// Admits reports whether the ACL admits IPv4 packets that leave its subnets, or that enter them.
func (a *NetworkACL) Admits(egress bool) bool {
	for _, e := range a.Entries {
		if e.Egress == egress && e.CIDR.Addr().Is4() {
			return e.Allow
		}
	}
	return false
}
