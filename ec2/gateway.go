package ec2

import "time"

// An InternetGateway connects the VPC that it is attached to with the internet.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	Region  Region
	VPC     VPCID // "" while it is detached
}

// A NATGateway lets the interfaces of a VPC open connections from its own address. No host can open one
// to them. It has an Interface in Subnet, which no user manages.
type NATGateway struct {
	ID      NATGatewayID
	Account AccountID
	Region  Region
	VPC     VPCID
	Subnet  SubnetID
	State   NATGatewayState
	Created time.Time

	// Interface is "" in a gateway that has Failed or is Deleted. Address and Allocation then say what it had, or
	// would have had.
	Interface  InterfaceID   `json:",omitempty"`
	Address    AddressPair   `json:",omitzero"`
	Allocation AllocationID  `json:",omitempty"` // "" in a private gateway
	Had        InterfaceID   `json:",omitempty"` // the Interface of a Deleted gateway
	Assoc      AssociationID `json:",omitempty"` // of Allocation

	FailureCode    string    `json:",omitempty"`
	FailureMessage string    `json:",omitempty"`
	Ended          time.Time `json:",omitzero"` // when it was Deleted or Failed

	ClientToken  string `json:",omitempty"`
	RequestShape string `json:",omitempty"` // digest of the request that ClientToken stands for
}

// Public reports whether packets leave the gateway with an elastic address.
func (g *NATGateway) Public() bool { return g.Allocation != "" }

// A NATGatewayState is the state of a NAT gateway.
type NATGatewayState uint8

const (
	NATAvailable NATGatewayState = iota
	NATDeleted                   // it is shown for an hour
	NATFailed                    // it was never available, and is shown for an hour
)

func (s NATGatewayState) String() string {
	switch s {
	case NATAvailable:
		return "available"
	case NATDeleted:
		return "deleted"
	case NATFailed:
		return "failed"
	}
	return "unknown"
}
