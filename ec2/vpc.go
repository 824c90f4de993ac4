package ec2

import (
	"net/netip"
)

// A VPC is a private address space of an account. It may overlap with other VPCs because its
// Network has a VNI of its own. The data plane uses the Network; the VPC is for the API.
type VPC struct {
	ID      VPCID
	Account AccountID
	Region  Region
	CIDR    netip.Prefix // from /16 to /28
	VNI     VNI          // of its Network
	Default bool         // launches that name no subnet go into it

	RouteTable RouteTableID // the main table, for each subnet without an association
	Group      GroupID      // the group named default
	ACL        string       // "acl-…", id of its NetworkACL

	DNSSupport   bool
	DNSHostnames bool

	DHCPOptions DHCPOptionsID `json:",omitempty"` // "": the default set of the region; NoDHCPOptions: none
}
