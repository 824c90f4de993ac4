package ec2

import "net/netip"

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

// A Subnet is a range of a VPC in one availability zone. Its first four addresses and its
// last are not leased (Amazon VPC User Guide, "Subnet CIDR blocks"); the second is its
// router's.
type Subnet struct {
	ID        SubnetID
	Account   AccountID
	Region    Region
	VPC       VPCID
	CIDR      netip.Prefix
	Zone      string // "us-east-1a"
	MapPublic bool   // a launch into it gets a public address (MapPublicIpOnLaunch)
	Default   bool   // the zone's, of the default VPC
}

// Gateway is the router's address in the subnet: its second.
func (s *Subnet) Gateway() netip.Addr { return s.CIDR.Addr().Next() }

// An InternetGateway is a way out of the VPC that it is attached to.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	Region  Region
	VPC     VPCID // "" while it is detached
}

// A RouteTable says where what leaves a subnet goes. The VPC's own range is local in
// every table and not listed.
type RouteTable struct {
	ID           RouteTableID
	Account      AccountID
	Region       Region
	VPC          VPCID
	Main         AssociationID // "rtbassoc-…" of the VPC's main table; "" for others
	Routes       []Route       // by destination
	Associations []RouteAssociation
}

// A Route leads to the internet gateway. One whose gateway is no longer attached to the
// VPC is a black hole.
type Route struct {
	Destination netip.Prefix
	Gateway     GatewayID
}

// A RouteAssociation makes a table that of a subnet.
type RouteAssociation struct {
	ID     AssociationID
	Subnet SubnetID
}

// An ElasticAddress is a public address that an account keeps, whether an interface has
// it or not.
type ElasticAddress struct {
	ID      AllocationID
	Account AccountID
	Region  Region
	Public  netip.Addr

	Association AssociationID // "eipassoc-…"; "" while nobody has it
	Interface   InterfaceID
	Private     netip.Addr // which of the interface's addresses
}

// vpcRequests are of VPCs and what is in them but interfaces.
var vpcRequests = []Request{}
