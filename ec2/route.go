package ec2

import (
	"net/netip"
)

// A RouteTable routes the packets that leave a subnet. Every table also has a local route for each
// block of the VPC, which Routes does not list.
type RouteTable struct {
	ID           RouteTableID
	Account      AccountID
	Region       Region
	VPC          VPCID
	Main         AssociationID // "rtbassoc-…" if it is the main table of its VPC, else ""
	Routes       []Route       // sorted by destination
	Associations []RouteAssociation
	ClientToken  string `json:",omitempty"`
}

// A Route leads to an internet gateway. It is a black hole when the gateway is not attached to
// the VPC any more.
type Route struct {
	Destination netip.Prefix
	Gateway     GatewayID
}

// A RouteAssociation makes a route table apply to a subnet.
type RouteAssociation struct {
	ID     AssociationID
	Subnet SubnetID
}
