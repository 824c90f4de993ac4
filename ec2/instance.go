package ec2

import "time"

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
