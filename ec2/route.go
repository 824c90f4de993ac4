package ec2

import (
	"net/netip"
)

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
	ClientToken  string `json:",omitempty"`
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
