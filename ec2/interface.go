package ec2

import (
	"net/netip"
	"time"
)

// LeaseState says whether an interface may use its addresses.
type LeaseState uint8

const (
	// Active: the interface forwards, and its addresses count as members of its groups.
	Active LeaseState = iota
	// Draining: its addresses are members of no group any more, and its node takes the port
	// down.
	Draining
	// Idle: the interface keeps its private addresses and is at no node. It is attached to
	// nothing, or to a stopped instance. Only an interface in a VPC can be Idle.
	Idle
)

func (s LeaseState) String() string {
	switch s {
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Idle:
		return "idle"
	}
	return "unknown"
}

// An Interface is a virtual NIC and the lease of its addresses: which instance may use them, at
// which node, and under which Epoch.
//
// In EC2-Classic only the State of an Interface changes; a new address comes with a new
// Interface and a new Epoch. In a VPC an Interface is a resource of its own: it keeps its
// private addresses while it is Idle and gets a new Epoch each time it becomes Active. Its
// groups, its public address and its secondary addresses change without a new Epoch.
type Interface struct {
	ID       InterfaceID
	Epoch    uint64 // never reused; conntrack and tunnels identify the lease by it
	Account  AccountID
	Region   Region
	Instance InstanceID
	Node     NodeID
	VNI      VNI
	MAC      MAC
	Private  netip.Addr
	Public   netip.Addr // zero: none
	Groups   []GroupID  // sorted
	State    LeaseState

	// The fields below are empty in EC2-Classic.

	VPC         VPCID           `json:",omitempty"`
	Subnet      SubnetID        `json:",omitempty"`
	Description string          `json:",omitempty"`
	Secondary   []AddressPair   `json:"Further,omitempty"` // private addresses besides Private, sorted
	Unchecked   bool            `json:",omitempty"`        // the source/destination check is off
	AutoPublic  bool            `json:",omitempty"`        // a start leases it a public address, unless it has an elastic one
	Attachment  *Attachment     `json:",omitempty"`        // to Instance, to External or to NATGateway
	External    *ExternalDevice `json:"Outside,omitempty"`
	NATGateway  NATGatewayID    `json:",omitempty"` // that it belongs to; it is then managed by no user
	ClientToken string          `json:",omitempty"`

	RequestShape string `json:",omitempty"` // digest of the request that came with ClientToken
}

// An AddressPair is a private address and, if there is one, the public address that is translated
// to it.
type AddressPair struct {
	Private netip.Addr
	Public  netip.Addr `json:",omitzero"`
}

// An Attachment connects an interface with an instance or an external device. An interface that
// is attached to an instance is Active at the node of the instance, unless the instance is
// stopped or the attachment ends.
type Attachment struct {
	ID                  AttachmentID
	DeviceIndex         int
	Time                time.Time
	DeleteOnTermination bool
	Detaching           bool `json:",omitempty"` // it ends when the node reports that the port is down
}

// An ExternalDevice is a network interface that Palisade did not make and that an Interface
// is attached to: a device in a network namespace of the node, or a TAP device of the node
// (`palisade attach`). Older commands and snapshots call it Outside.
type ExternalDevice struct {
	Namespace string `json:",omitempty"` // a name below /run/netns; "" for a TAP device of the node
	Device    string // its name in the namespace, or on the node
}

func (d *ExternalDevice) String() string {
	if d.Namespace == "" {
		return "device " + d.Device
	}
	return "namespace " + d.Namespace + ", device " + d.Device
}

// OnTermination says what becomes of an interface when its instance is terminated.
type OnTermination bool

const (
	KeepInterface   OnTermination = true
	DeleteInterface OnTermination = false
)

// Addresses returns the private addresses of the interface, each with its public address. The
// primary one is first.
func (i *Interface) Addresses() []AddressPair {
	return append([]AddressPair{{i.Private, i.Public}}, i.Secondary...)
}
