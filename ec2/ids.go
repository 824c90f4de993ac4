package ec2

import (
	"encoding"
	"fmt"
	"net"
	"regexp"
)

// The ids of the domain. Each is the text that a client sees. The id of an EC2-Classic resource
// has 8 hex digits after its prefix, that of a VPC resource 17 (EC2 User Guide, "Resource IDs").
type (
	AccountID   string // 12 digits
	Region      string // "us-east-1"; a request names it in the scope of its signature
	GroupID     string // "sg-455b6c31"
	RuleID      string // "sgr-0a1b2c3d4e5f60718"
	InstanceID  string // "i-cfd732a6"
	InterfaceID string // "eni-0a1b2c3d"
	NodeID      string // name of a cluster member: "node1"
	VPCID       string // "vpc-…"; "" is EC2-Classic

	SubnetID      string // "subnet-…"
	GatewayID     string // "igw-…"
	RouteTableID  string // "rtb-…"
	AllocationID  string // "eipalloc-…"
	AssociationID string // "eipassoc-…", "rtbassoc-…" or "vpc-cidr-assoc-…"
	AttachmentID  string // "eni-attach-…"
	KeyPairID     string // "key-…"

	LaunchTemplateID string // "lt-…"
	PlacementGroupID string // "pg-…"
	DHCPOptionsID    string // "dopt-…"
	VolumeID         string // "vol-…"

	NATGatewayID string // "nat-…"
	PeeringID    string // "pcx-…"
	PrefixListID string // "pl-…"
)

// VNI names one flat address space, as in RFC 7348 §5: 24 bits.
type VNI uint32

// MAC is an Ethernet address. Values are compared with ==.
type MAC [6]byte

var (
	_ encoding.TextMarshaler   = MAC{}
	_ encoding.TextUnmarshaler = (*MAC)(nil)
)

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsUnicast reports whether m names one station: the group bit is clear and m is not zero.
func (m MAC) IsUnicast() bool { return m[0]&1 == 0 && m != MAC{} }

// MarshalText returns the address in hex with colons: "02:00:00:00:00:01".
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a 48-bit address in any form that net.ParseMAC accepts.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	if len(hw) != len(m) {
		return fmt.Errorf("%q is not a 48-bit Ethernet address", text)
	}
	copy(m[:], hw)
	return nil
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{1,17}$`)

// CheckInstanceID returns EC2's error for text that does not have the form of an instance id.
func CheckInstanceID(id InstanceID) error {
	if !instanceID.MatchString(string(id)) {
		return Errorf("InvalidInstanceID.Malformed", `Invalid id: "%s" (expecting "i-...")`, Clip(string(id)))
	}
	return nil
}

var interfaceID = regexp.MustCompile(`^eni-[0-9a-f]{1,17}$`)

// CheckInterfaceID returns EC2's error for text that does not have the form of an interface id.
func CheckInterfaceID(id InterfaceID) error {
	if !interfaceID.MatchString(string(id)) {
		return Errorf("InvalidNetworkInterfaceId.Malformed", `Invalid id: "%s" (expecting "eni-...")`, Clip(string(id)))
	}
	return nil
}

var volumeID = regexp.MustCompile(`^vol-[0-9a-f]{1,17}$`)

// CheckVolumeID returns EC2's error for text that does not have the form of a volume id.
func CheckVolumeID(id VolumeID) error {
	if !volumeID.MatchString(string(id)) {
		return Errorf("InvalidParameterValue", "Value (%s) for parameter volume is invalid. Expected: 'vol-...'.", Clip(string(id)))
	}
	return nil
}

var peeringID = regexp.MustCompile(`^pcx-[0-9a-f]{1,17}$`)

// CheckPeeringID returns EC2's error for text that does not have the form of a peering's id.
func CheckPeeringID(id PeeringID) error {
	if !peeringID.MatchString(string(id)) {
		return Errorf("InvalidVpcPeeringConnectionId.Malformed", `Invalid id: "%s" (expecting "pcx-...")`, Clip(string(id)))
	}
	return nil
}

var groupID = regexp.MustCompile(`^sg-[0-9a-f]{1,17}$`)

// CheckGroupID returns EC2's error for text that does not have the form of a group id.
func CheckGroupID(id GroupID) error {
	if !groupID.MatchString(string(id)) {
		return Errorf("InvalidGroupId.Malformed", `Invalid id: "%s" (expecting "sg-...")`, Clip(string(id)))
	}
	return nil
}

var ruleID = regexp.MustCompile(`^sgr-[0-9a-f]{1,17}$`)

// CheckRuleID returns EC2's error for text that does not have the form of a rule id.
func CheckRuleID(id RuleID) error {
	if !ruleID.MatchString(string(id)) {
		return Errorf("InvalidSecurityGroupRuleId.Malformed", "The security group rule ID '%s' is malformed", Clip(string(id)))
	}
	return nil
}
