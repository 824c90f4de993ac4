package ec2

import "net/netip"

// A Group is a security group: a named set of permits for the interfaces that are its
// members. A Group in a View is shared and never changed.
type Group struct {
	ID          GroupID
	Account     AccountID
	Region      Region
	VPC         VPCID // "" is EC2-Classic
	Name        string
	Description string
	Rules       []Rule // ingress and egress, in order of creation
}

// CheckDirection refuses egress rules for a group of EC2-Classic, which has none.
func (g *Group) CheckDirection(d Direction) error {
	if g.VPC == "" && d == Egress {
		return Errorf("InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
	}
	return nil
}

// Direction is the way of a packet as the instance sees it, as AWS does.
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

// A Rule is one permit of a group: one protocol, one range, one source. A request that
// lists several sources makes one Rule of each.
type Rule struct {
	ID        RuleID
	Serial    uint64 // never reused; what the data plane remembers of the rule
	Direction Direction
	Protocol  Protocol

	// From and To are inclusive ports for TCP and UDP. For ICMP and ICMPv6, From is
	// the type and To the code, and -1 is any. For other protocols both are -1.
	From, To int

	Source      Source
	Description string
}

// Source is what a rule admits (for egress: where to): exactly one of a CIDR and a
// group. A group stands for the private addresses of its members, evaluated live.
type Source struct {
	Prefix netip.Prefix // valid for a CIDR source; masked
	Group  GroupRef     // non-zero for a group source
}

// GroupRef names a group of any account. Name is what the rule was written with in
// EC2-Classic and is for display only; ID decides.
type GroupRef struct {
	Account AccountID
	ID      GroupID
	Name    string
}

// IsGroup reports whether the source is a group.
func (s Source) IsGroup() bool { return s.Group.ID != "" }
