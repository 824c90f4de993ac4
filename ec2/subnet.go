package ec2

import (
	"cmp"
	"net/netip"
	"strings"
)

// A Subnet is a range of a VPC in one availability zone. Its first four addresses and its last
// are never leased; the second belongs to its router (Amazon VPC User Guide, "Subnet CIDR
// blocks").
type Subnet struct {
	ID        SubnetID
	Account   AccountID
	Region    Region
	VPC       VPCID
	CIDR      netip.Prefix
	Zone      string // "us-east-1a"
	MapPublic bool   // an instance launched into it gets a public address (MapPublicIpOnLaunch)
	Default   bool   // it is the default subnet of its zone

	// ACL is the network ACL that the subnet was associated with, and ACLAssociation the id of that
	// association. Both are "" until a request replaces the association with the VPC's default ACL.
	ACL            string        `json:",omitempty"`
	ACLAssociation AssociationID `json:",omitempty"`
}

// AssociationWithACL returns the id of the subnet's association with its network ACL. The association
// that a new subnet has is made with it, so its id has the digits of the subnet's id.
func (s *Subnet) AssociationWithACL() AssociationID {
	_, digits, _ := strings.Cut(string(s.ID), "-")
	return cmp.Or(s.ACLAssociation, AssociationID("aclassoc-"+digits))
}

// Gateway returns the address of the router: the second of the subnet.
func (s *Subnet) Gateway() netip.Addr { return s.CIDR.Addr().Next() }

// Leasable reports whether an interface in the subnet may have the address.
func (s *Subnet) Leasable(a netip.Addr) bool {
	low := s.CIDR.Addr().Next().Next().Next() // the fourth
	return s.CIDR.Contains(a) && a.Compare(low) > 0 && a != LastAddress(s.CIDR)
}

// LastAddress returns the highest IPv4 address of a block: the broadcast address of a subnet.
func LastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}
