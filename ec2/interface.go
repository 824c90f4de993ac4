package ec2

import (
	"net/netip"
	"time"
)

// LeaseState says what an interface's addresses may be used for.
type LeaseState uint8

const (
	// Active addresses are members of the interface's groups and forward.
	Active LeaseState = iota
	// Draining addresses have left every set; the node takes the port down.
	Draining
	// Idle addresses are kept for the interface and are nobody's: it is attached to
	// nothing, or to an instance that is stopped. Only a VPC's interface can be.
	Idle
)

// An Interface is a virtual NIC and the lease of its addresses: who may use them, since
// when, at which node.
//
// EC2-Classic: a lease is never changed in place but for its State; a new address is a new
// Interface with a new Epoch. In a VPC the Interface is a resource of its own: it keeps
// its addresses while it is Idle, and gets a new Epoch each time it becomes Active, while
// its groups, public and further addresses change under the Epoch it has.
type Interface struct {
	ID       InterfaceID
	Epoch    uint64 // never reused; what conntrack and tunnels know the lease by
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

	// The rest is of a VPC's interface only.

	VPC         VPCID           `json:",omitempty"`
	Subnet      SubnetID        `json:",omitempty"`
	Description string          `json:",omitempty"`
	Further     []AddressPair   `json:",omitempty"` // private addresses besides Private, sorted
	Unchecked   bool            `json:",omitempty"` // the source/destination check is off
	AutoPublic  bool            `json:",omitempty"` // a start gives it a public address, if it has no elastic one
	Attachment  *Attachment     `json:",omitempty"` // to Instance, or to the External device
	External    *ExternalDevice `json:"Outside,omitempty"`
	ClientToken string          `json:",omitempty"`

	RequestShape string `json:",omitempty"` // digest of the request that ClientToken stands for
}

// An AddressPair is a private address and the elastic one that goes with it, if any.
type AddressPair struct {
	Private netip.Addr
	Public  netip.Addr `json:",omitzero"`
}

// An Attachment is an interface's place in an instance. An interface that is attached to
// an instance which is not stopped is Active at the instance's node.
type Attachment struct {
	ID                  AttachmentID
	DeviceIndex         int
	Time                time.Time
	DeleteOnTermination bool
	Detaching           bool `json:",omitempty"` // it ends when the node has taken the port down
}

// An ExternalDevice is a network interface that Palisade did not make and that an Interface
// is attached to: a device in a network namespace of the node, or a TAP device of the node
// (`palisade attach`). Older commands and snapshots call it Outside.
type ExternalDevice struct {
	Namespace string `json:",omitempty"` // below /run/netns; Device is the name inside
	Device    string
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

// Addresses are the interface's private addresses and what goes with them, the primary
// one first.
func (i *Interface) Addresses() []AddressPair {
	return append([]AddressPair{{i.Private, i.Public}}, i.Further...)
}
