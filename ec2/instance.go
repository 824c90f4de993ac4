package ec2

import "time"

// InstanceState is the state of an instance. Its number is EC2's state code.
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

// An Instance is a machine that an account launched. Its addresses are in its interfaces.
//
// In EC2-Classic an instance has one interface, which a stop and a start replace, and its
// groups are fixed at launch. In a VPC its interfaces are resources of their own, which name
// the instance in Interface.Instance. A stopped instance keeps them.
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
	StateReason  string // "Client.UserInitiatedShutdown: …"; "" while it runs
	LaunchTime   time.Time
	Ended        time.Time // when it became Terminated
	Node         NodeID
	Zone         string      `json:",omitempty"` // of its subnet; in EC2-Classic of the node that it was on, once that is removed. View.ZoneOf has the zone in all cases
	Interface    InterfaceID // the primary one; "" when it is terminated, and in EC2-Classic while it is stopped
	ClientToken  string
	RequestShape string // digest of the request that came with ClientToken

	// Boot changes with each RebootInstances. A node boots the instance again, on the same
	// interfaces, when Boot differs from the number at its last boot.
	Boot uint64 `json:",omitempty"`

	TerminationProtected bool `json:",omitempty"` // disableApiTermination
	StopProtected        bool `json:",omitempty"` // disableApiStop
	TerminateOnShutdown  bool `json:",omitempty"` // instanceInitiatedShutdownBehavior: terminate if true, else stop

	Metadata *MetadataOptions `json:",omitempty"` // nil: the launch named none

	Monitored  bool            `json:",omitempty"` // detailed monitoring is on
	Options    InstanceOptions `json:",omitzero"`
	RootDevice string          `json:",omitempty"` // "/dev/sda1"; "": its image has no EBS root. Its volumes name it in Volume.Attachments

	// VPC and Subnet are empty in EC2-Classic.

	VPC    VPCID    `json:",omitempty"`
	Subnet SubnetID `json:",omitempty"` // of the primary interface; still set when it is terminated
}

// MetadataOptions are the options of the instance metadata service that a launch asked for.
// Palisade has no such service. DescribeInstances shows them as they were asked for.
type MetadataOptions struct {
	Endpoint string `json:",omitempty"` // "enabled" or "disabled"
	Tokens   string `json:",omitempty"` // "optional" or "required"
	Hops     int    `json:",omitempty"` // 1 to 64
	Tags     string `json:",omitempty"` // "enabled" or "disabled"
	IPv6     string `json:",omitempty"` // "enabled" or "disabled"
}
