package ec2

import (
	"net/netip"
)

// A VPC is an account's own address space: it overlaps with others as it likes, for its
// Network has a VNI of its own. Row of the table of VPCs; the Network is what the data
// plane knows of it.
type VPC struct {
	ID      VPCID
	Account AccountID
	Region  Region
	CIDR    netip.Prefix // /16 to /28
	VNI     VNI          // of its Network
	Default bool         // where a launch goes that names no subnet

	RouteTable RouteTableID // the main one: of every subnet that has no other
	Group      GroupID      // its group named default
	ACL        string       // "acl-…", of the network ACL that admits everything

	DNSSupport   bool
	DNSHostnames bool
}
