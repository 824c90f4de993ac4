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

// An Instance is a machine somebody launched. In EC2-Classic its groups are fixed at
// launch; its addresses live in the Interface, which a stop and start replaces.
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
	Zone         string      `json:",omitempty"` // kept of a node that was removed; View.ZoneOf says where it is
	Interface    InterfaceID // "" while stopped or terminated
	ClientToken  string
	RequestShape string // digest of the request that ClientToken stands for
}

// LeaseState says what an interface's addresses may be used for.
type LeaseState uint8

const (
	// Active addresses are members of the interface's groups and forward.
	Active LeaseState = iota
	// Draining addresses have left every set; the node takes the port down.
	Draining
)

// An Interface is a virtual NIC and the lease of its addresses: who may use them, since
// when, at which node. A lease is never changed in place but for its State; a new
// address is a new Interface with a new Epoch.
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
}

// A KeyPair is the public half of a key that images put into root's authorized_keys.
type KeyPair struct {
	Account     AccountID
	Region      Region
	Name        string
	Fingerprint string // as EC2 shows it: SHA-1 of the private key (created) or MD5 of the public (imported)
	PublicKey   string // one line in authorized_keys form
}
