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

// A Route leads packets for its destination, a range or the entries of a prefix list, to one target:
// an internet gateway, a NAT gateway, a peered VPC, or an interface, which a request can name by its
// instance. It is a black hole while its target does not exist, or can carry nothing.
//
// A route to a block of the VPC itself takes the place of the local route.
type Route struct {
	Destination netip.Prefix
	PrefixList  PrefixListID `json:",omitempty"` // in place of Destination
	Gateway     GatewayID
	NAT         NATGatewayID `json:",omitempty"`
	Peering     PeeringID    `json:",omitempty"`
	Interface   InterfaceID  `json:",omitempty"`
	Instance    InstanceID   `json:",omitempty"` // that the request named; Interface is its interface
}

// A RouteAssociation makes a route table apply to a subnet.
type RouteAssociation struct {
	ID     AssociationID
	Subnet SubnetID
}
