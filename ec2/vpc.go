package ec2

import (
	"net/netip"
	"slices"
	"strings"
)

// A VPC is a private address space of an account. It may overlap with other VPCs because its
// Network has a VNI of its own. The data plane uses the Network; the VPC is for the API.
type VPC struct {
	ID      VPCID
	Account AccountID
	Region  Region
	CIDR    netip.Prefix // the primary block, from /16 to /28
	VNI     VNI          // of its Network
	Default bool         // launches that name no subnet go into it

	// Secondary are its further blocks, in the order of their association.
	Secondary []VPCBlock `json:",omitempty"`

	RouteTable RouteTableID // the main table, for each subnet without an association
	Group      GroupID      // the group named default
	ACL        string       // "acl-…", id of its NetworkACL

	DNSSupport   bool
	DNSHostnames bool

	DHCPOptions DHCPOptionsID `json:",omitempty"` // "": the default set of the region; NoDHCPOptions: none
}

// A VPCBlock is a CIDR block of a VPC.
type VPCBlock struct {
	Association AssociationID // "vpc-cidr-assoc-…"
	CIDR        netip.Prefix
}

// Blocks returns the blocks of a VPC, the primary one first. They do not overlap. The primary block
// exists as long as the VPC, so its association has the digits of the VPC's id.
func (v *VPC) Blocks() []VPCBlock {
	_, digits, _ := strings.Cut(string(v.ID), "-")
	return slices.Concat([]VPCBlock{{AssociationID("vpc-cidr-assoc-" + digits), v.CIDR}}, v.Secondary)
}

// Contains reports whether a range of addresses lies within one block of the VPC.
func (v *VPC) Contains(p netip.Prefix) bool {
	return slices.ContainsFunc(v.Blocks(), func(b VPCBlock) bool { return b.CIDR.Bits() <= p.Bits() && b.CIDR.Contains(p.Addr()) })
}
