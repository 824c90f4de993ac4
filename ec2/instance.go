package ec2

import (
	"net/netip"
	"time"
)

// InstanceState is the life of an instance; the number is EC2's state code.
type InstanceState uint8

const (
	Pending      InstanceState = 0
	Running      InstanceState = 16
	ShuttingDown InstanceState = 32
	Terminated   InstanceState = 48
	Stopping     InstanceState = 64
	Stopped      InstanceState = 80
)

func (s InstanceState) String() string {
	switch s {
	case Pending:
		return "pending"
	case Running:
		return "running"
	case ShuttingDown:
		return "shutting-down"
	case Terminated:
		return "terminated"
	case Stopping:
		return "stopping"
	case Stopped:
		return "stopped"
	}
	return "unknown"
}

// An Instance is a machine somebody launched. Its addresses live in its interfaces.
//
// In EC2-Classic its groups are fixed at launch, and it has one interface, which a stop
// and start replaces. In a VPC its interfaces are resources of their own, which say by
// Interface.Instance whose they are; it keeps them while it is stopped.
type Instance struct {
	ID           InstanceID
	Account      AccountID
	Region       Region
	Reservation  string // "r-…", shared by the instances of one launch
	LaunchIndex  int
	Image        string // "ami-…"
	Type         string // "m1.small"
	KeyName      string
	Groups       []GroupID
	UserData     []byte
	State        InstanceState
	StateReason  string // "Client.UserInitiatedShutdown: …", empty while it runs
	LaunchTime   time.Time
	Ended        time.Time // when it was terminated
	Node         NodeID
	Zone         string      `json:",omitempty"` // of its subnet, or kept of a node that was removed; View.ZoneOf says where it is
	Interface    InterfaceID // the primary one; "" when terminated, in EC2-Classic also while stopped
	ClientToken  string
	RequestShape string // digest of the request that ClientToken stands for

	// Boot is another number after each reboot that somebody asked for. A node that
	// booted the instance under one and sees another boots it again, on the same
	// interfaces.
	Boot uint64 `json:",omitempty"`

	TerminationProtected bool `json:",omitempty"` // disableApiTermination
	StopProtected        bool `json:",omitempty"` // disableApiStop
	TerminateOnShutdown  bool `json:",omitempty"` // instanceInitiatedShutdownBehavior is terminate, not stop

	Metadata *MetadataOptions `json:",omitempty"` // nil: nobody asked for any

	// The rest is of an instance in a VPC only.

	VPC    VPCID    `json:",omitempty"`
	Subnet SubnetID `json:",omitempty"` // of the primary interface; kept when terminated
}

// MetadataOptions are what a launch asked of the instance metadata service. There is none
// here: they are shown again, as not applied.
type MetadataOptions struct {
	Endpoint string `json:",omitempty"` // "enabled" or "disabled"
	Tokens   string `json:",omitempty"` // "optional" or "required"
	Hops     int    `json:",omitempty"` // 1 to 64
	Tags     string `json:",omitempty"` // "enabled" or "disabled"
}

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

	VPC         VPCID         `json:",omitempty"`
	Subnet      SubnetID      `json:",omitempty"`
	Description string        `json:",omitempty"`
	Further     []AddressPair `json:",omitempty"` // private addresses besides Private, sorted
	Unchecked   bool          `json:",omitempty"` // the source/destination check is off
	AutoPublic  bool          `json:",omitempty"` // a start gives it a public address, if it has no elastic one
	Attachment  *Attachment   `json:",omitempty"` // to Instance, or to what Outside names
	Outside     *Outside      `json:",omitempty"`
	ClientToken string        `json:",omitempty"`

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

// Outside is what an interface is put in front of that Palisade did not make: a network
// namespace or a TAP device of the interface's node (`palisade attach`).
type Outside struct {
	Namespace string `json:",omitempty"` // below /run/netns; Device is the name inside
	Device    string
}

// Addresses are the interface's private addresses and what goes with them, the primary
// one first.
func (i *Interface) Addresses() []AddressPair {
	return append([]AddressPair{{i.Private, i.Public}}, i.Further...)
}

// A KeyPair is the public half of a key that images put into root's authorized_keys.
type KeyPair struct {
	Account     AccountID
	Region      Region
	Name        string
	Fingerprint string // as EC2 shows it: SHA-1 of the private key (created) or MD5 of the public (imported)
	PublicKey   string // one line in authorized_keys form

	ID KeyPairID `json:",omitempty"` // "" of a pair of an earlier release
}
