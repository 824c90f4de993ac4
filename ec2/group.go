package ec2

import (
	"net/netip"
	"slices"
)

// A Group is a security group: a named set of rules for the interfaces that are its members.
// A Group in a View is shared and never changed.
type Group struct {
	ID          GroupID
	Account     AccountID
	Region      Region
	VPC         VPCID // "" is EC2-Classic
	Name        string
	Description string
	Rules       []Rule // ingress and egress, in order of creation

	// VPCs are the other VPCs of its region whose interfaces can have the group, sorted.
	VPCs []VPCID `json:",omitempty"`
}

// UsableIn reports whether an interface in a VPC can have the group.
func (g *Group) UsableIn(vpc VPCID) bool { return g.VPC == vpc || slices.Contains(g.VPCs, vpc) }

// CheckDirection returns EC2's error if d is Egress and the group is of EC2-Classic, which has no
// egress rules.
func (g *Group) CheckDirection(d Direction) error {
	if g.VPC == "" && d == Egress {
		return Errorf("InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
	}
	return nil
}

// Direction is the direction of a packet as the instance sees it.
type Direction uint8

const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Protocol is an IP protocol number, or AnyProtocol.
type Protocol int16

const (
	AnyProtocol Protocol = -1
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58
)

// A Rule permits one protocol, one range and one source. A request that lists several sources
// makes one Rule for each.
type Rule struct {
	ID        RuleID
	Serial    uint64 // never reused; the data plane identifies the rule by it
	Direction Direction
	Protocol  Protocol

	// From and To are inclusive ports for TCP and UDP. For ICMP and ICMPv6, From is
	// the type and To the code, and -1 is any. For other protocols both are -1.
	From, To int

	Source      Source
	Description string
}

// Source is the far end that a rule admits: the sender for ingress, the destination for egress.
// It is a CIDR block, a group or a prefix list. A group stands for the private addresses that its
// members have at the time, in the VPC of the rule's own interface or, if it is a group of a peer, in
// the peer's VPC. A prefix list stands for the blocks that it has at the time.
type Source struct {
	Prefix     netip.Prefix // valid for a CIDR source; masked
	Group      GroupRef     // non-zero for a group source
	PrefixList PrefixListID `json:",omitempty"`
	Family     uint8        `json:",omitempty"` // of PrefixList: 4 or 6; 0 for other sources
}

// GroupRef names a group of any account. ID decides which group it is. Name is for display: an
// EC2-Classic rule keeps the name that the request used.
type GroupRef struct {
	Account AccountID
	ID      GroupID
	Name    string

	// VPC and Peering are set for a group of a peered VPC: its VPC, and the peering through which the
	// rule names it. The rule admits nothing once that peering has ended, which Void says.
	VPC     VPCID     `json:",omitempty"`
	Peering PeeringID `json:",omitempty"`
	Void    bool      `json:",omitempty"`
}

// IsIPv6 reports whether the source is a block of IPv6 addresses, or a prefix list of such blocks.
func (s Source) IsIPv6() bool {
	return s.Prefix.IsValid() && s.Prefix.Addr().Is6() || s.PrefixList != "" && s.Family == 6
}

// IsPrefixList reports whether the source is a prefix list.
func (s Source) IsPrefixList() bool { return s.PrefixList != "" }

// IsGroup reports whether the source is a group.
func (s Source) IsGroup() bool { return s.Group.ID != "" }
