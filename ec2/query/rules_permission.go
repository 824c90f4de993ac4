package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// A permissionParam is one protocol and port range with any number of sources. Each source
// becomes a rule.
type permissionParam struct {
	Protocol    string            `wire:"IpProtocol"`
	From        *int              `wire:"FromPort"`
	To          *int              `wire:"ToPort"`
	Groups      []groupParam      `wire:"Groups"`
	Ranges      []rangeParam      `wire:"IpRanges"`
	Ranges6     []range6Param     `wire:"Ipv6Ranges"`
	PrefixLists []prefixListParam `wire:"PrefixListIds"`
}

type groupParam struct {
	ID          ec2.GroupID   `wire:"GroupId"`
	Name        string        `wire:"GroupName"`
	Account     ec2.AccountID `wire:"UserId"`
	VPC         ec2.VPCID     `wire:"VpcId"`
	Peering     ec2.PeeringID `wire:"VpcPeeringConnectionId"`
	Description string        `wire:"Description"`
}

type rangeParam struct {
	CIDR        string `wire:"CidrIp"`
	Description string `wire:"Description"`
}

type range6Param struct {
	CIDR        string `wire:"CidrIpv6"`
	Description string `wire:"Description"`
}

type prefixListParam struct {
	ID          ec2.PrefixListID `wire:"PrefixListId"`
	Description string           `wire:"Description"`
}

// oneRule has the parameters of a single permission, which the API's first versions had
// instead of a list.
type oneRule struct {
	Protocol    string        `wire:"IpProtocol"`
	From        *int          `wire:"FromPort"`
	To          *int          `wire:"ToPort"`
	CIDR        string        `wire:"CidrIp"`
	SourceName  string        `wire:"SourceSecurityGroupName"`
	SourceOwner ec2.AccountID `wire:"SourceSecurityGroupOwnerId"`
}

// The method with returns the list permissions, or the single permission if the request has
// one. A request cannot have both.
func (r oneRule) with(permissions []permissionParam) ([]permissionParam, error) {
	if r == (oneRule{}) {
		return permissions, nil
	}
	if len(permissions) > 0 {
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameter 'ipPermissions' may not be used in combination with 'ipProtocol'")
	}
	single := permissionParam{Protocol: r.Protocol, From: r.From, To: r.To}
	if r.CIDR != "" {
		single.Ranges = []rangeParam{{CIDR: r.CIDR}}
	}
	if r.SourceName != "" || r.SourceOwner != "" {
		single.Groups = []groupParam{{Name: r.SourceName, Account: r.SourceOwner}}
		if r.Protocol == "" && r.CIDR == "" && r.From == nil && r.To == nil {
			return onEveryProtocol(single.Groups), nil
		}
	}
	return []permissionParam{single}, nil
}

// onEveryProtocol returns the permissions for a source group without a protocol: all TCP,
// UDP and ICMP, also in a default VPC (EC2 API Reference, AuthorizeSecurityGroupIngress,
// "SourceSecurityGroupName").
func onEveryProtocol(groups []groupParam) []permissionParam {
	first, last, any := 1, 65535, -1
	return []permissionParam{
		{Protocol: "tcp", From: &first, To: &last, Groups: groups},
		{Protocol: "udp", From: &first, To: &last, Groups: groups},
		{Protocol: "icmp", From: &any, To: &any, Groups: groups},
	}
}

// specsOf returns a rule for each source of each permission. It returns an error for a
// parameter that it does not understand, because ignoring a condition would widen the rule.
func (c *call) specsOf(permissions []permissionParam, g *ec2.Group) ([]state.RuleSpec, error) {
	var specs []state.RuleSpec
	for i := range permissions {
		list, err := permissions[i].specs(c, g)
		if err != nil {
			return nil, err
		}
		specs = append(specs, list...)
	}
	return specs, nil
}

func (p *permissionParam) specs(c *call, g *ec2.Group) ([]state.RuleSpec, error) {
	if len(p.Ranges)+len(p.Ranges6)+len(p.PrefixLists)+len(p.Groups) == 0 {
		return nil, ec2.Errorf("MissingParameter", "Missing source specification: include source security group or CIDR information")
	}
	protocols, err := p.protocols(g)
	if err != nil {
		return nil, err
	}
	sources, err := p.sources(c, g)
	if err != nil {
		return nil, err
	}
	var specs []state.RuleSpec
	for _, ports := range protocols {
		for _, spec := range sources {
			spec.Protocol, spec.From, spec.To = ports.Protocol, ports.From, ports.To
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

// sources returns a rule for each source, without protocol and ports.
func (p *permissionParam) sources(c *call, g *ec2.Group) ([]state.RuleSpec, error) {
	if g.VPC == "" && len(p.Ranges6)+len(p.PrefixLists) > 0 {
		return nil, ec2.Errorf("InvalidParameterValue", "IPv6 ranges and prefix lists may only be used with Amazon VPC security groups.")
	}
	var specs []state.RuleSpec
	for _, x := range p.Ranges {
		prefix, err := ec2.ParseCIDR(x.CIDR)
		if err != nil {
			return nil, err
		}
		specs = append(specs, state.RuleSpec{Prefix: prefix, Description: x.Description})
	}
	for _, x := range p.Ranges6 {
		prefix, err := ec2.ParseCIDR6(x.CIDR)
		if err != nil {
			return nil, err
		}
		specs = append(specs, state.RuleSpec{Prefix: prefix, Description: x.Description})
	}
	for _, x := range p.PrefixLists {
		if x.ID == "" {
			return nil, ec2.Missing("PrefixListId")
		}
		specs = append(specs, state.RuleSpec{PrefixList: x.ID, Description: x.Description})
	}
	for _, x := range p.Groups {
		spec, err := x.spec(c, g)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func (x groupParam) spec(c *call, g *ec2.Group) (state.RuleSpec, error) {
	switch {
	case x.ID == "" && x.Name == "":
		return state.RuleSpec{}, ec2.Errorf("MissingParameter", "Source group ID missing.")
	case g.VPC == "" && x.VPC+ec2.VPCID(x.Peering) != "":
		return state.RuleSpec{}, ec2.Errorf("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
	}
	if x.ID != "" && x.Name != "" {
		if o, ok := c.view.Group(x.ID); ok && (o.Account == c.account || o.VPC == "") {
			if err := checkNamed(o, x.Name); err != nil {
				return state.RuleSpec{}, err
			}
		}
		x.Name = "" // Apply finds the group by its id, or returns the error
	}
	return state.RuleSpec{Group: ec2.GroupRef{Account: x.Account, ID: x.ID, Name: x.Name, VPC: x.VPC, Peering: x.Peering}, Description: x.Description}, nil
}

// protocols returns a rule for each protocol and port range, without sources. In
// EC2-Classic a source group without a protocol stands for all TCP, UDP and ICMP (EC2
// Developer Guide (2006), AuthorizeSecurityGroupIngress).
func (p *permissionParam) protocols(g *ec2.Group) ([]state.RuleSpec, error) {
	if p.Protocol == "" {
		if g.VPC != "" {
			return nil, noProtocol()
		}
		if len(p.Ranges) > 0 || p.From != nil || p.To != nil {
			return nil, ec2.Missing("ipProtocol")
		}
		return []state.RuleSpec{
			{Protocol: ec2.TCP, From: 1, To: 65535},
			{Protocol: ec2.UDP, From: 1, To: 65535},
			{Protocol: ec2.ICMP, From: -1, To: -1},
		}, nil
	}
	spec, err := portsOf(p.Protocol, p.From, p.To)
	return []state.RuleSpec{spec}, err
}

// portsOf returns a rule with only its protocol and ports. It ignores ports with a protocol
// that has none. ICMPv6 may come without a type and a code.
func portsOf(protocol string, from, to *int) (state.RuleSpec, error) {
	number, err := ec2.ParseProtocol(protocol)
	if err != nil {
		return state.RuleSpec{}, err
	}
	spec := state.RuleSpec{Protocol: number, From: -1, To: -1}
	if !number.HasRange() || number == ec2.ICMPv6 && from == nil && to == nil {
		return spec, nil
	}
	if from == nil || to == nil {
		what := "Must specify both from and to ports with TCP/UDP."
		if number != ec2.TCP && number != ec2.UDP {
			what = "Must specify both type and code, as from and to ports, with ICMP; -1 is any."
		}
		return state.RuleSpec{}, ec2.Errorf("InvalidParameterValue", "Invalid value for portRange. %s", what)
	}
	spec.From, spec.To = *from, *to
	return spec, nil
}

func noProtocol() error {
	return ec2.Errorf("InvalidParameterValue", "Invalid value 'null' for protocol. VPC security group rules must specify protocols explicitly.")
}

// A permission shows together all rules with the same protocol and port range.
type permission struct {
	Protocol    string           `wire:"ipProtocol"`
	From        *int             `wire:"fromPort"` // nil for a protocol without ports
	To          *int             `wire:"toPort"`
	Groups      []groupPair      `wire:"groups"`
	Ranges      []cidrItem       `wire:"ipRanges"`
	Ranges6     []cidr6Item      `wire:"ipv6Ranges"`
	PrefixLists []prefixListItem `wire:"prefixListIds"`
}

type groupPair struct {
	Account     ec2.AccountID `wire:"userId"`
	ID          ec2.GroupID   `wire:"groupId"`
	Name        string        `wire:"groupName"` // only in EC2-Classic
	Description string        `wire:"description"`

	// Only of a group of a peered VPC.
	VPC     ec2.VPCID     `wire:"vpcId"`
	Peering ec2.PeeringID `wire:"vpcPeeringConnectionId"`
	Status  string        `wire:"peeringStatus"`
}

// peeringStatusIn returns the status of the peering through which a rule names a group.
func peeringStatusIn(g ec2.GroupRef) string {
	switch {
	case g.Peering == "":
		return ""
	case g.Void:
		return string(ec2.PeeringDeleted)
	}
	return string(ec2.PeeringActive)
}

type cidrItem struct {
	CIDR        string `wire:"cidrIp"`
	Description string `wire:"description"`
}

type cidr6Item struct {
	CIDR        string `wire:"cidrIpv6"`
	Description string `wire:"description"`
}

type prefixListItem struct {
	ID          ec2.PrefixListID `wire:"prefixListId"`
	Description string           `wire:"description"`
}

// permissionsOf returns the permissions of the rules in one direction, in order of the
// rules' creation.
func permissionsOf(rules []ec2.Rule, direction ec2.Direction) []permission {
	type ports struct {
		protocol ec2.Protocol
		from, to int
	}
	var list []permission
	at := make(map[ports]int)
	for i := range rules {
		r := &rules[i]
		if r.Direction != direction {
			continue
		}
		key := ports{r.Protocol, r.From, r.To}
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			list = append(list, permission{Protocol: r.Protocol.String()})
			if r.Protocol.HasRange() {
				list[i].From, list[i].To = &r.From, &r.To
			}
		}
		list[i].add(r)
	}
	return list
}

func (p *permission) add(r *ec2.Rule) {
	switch {
	case r.Source.IsPrefixList():
		p.PrefixLists = append(p.PrefixLists, prefixListItem{r.Source.PrefixList, r.Description})
	case !r.Source.Prefix.IsValid():
		g := r.Source.Group
		p.Groups = append(p.Groups, groupPair{g.Account, g.ID, g.Name, r.Description, g.VPC, g.Peering, peeringStatusIn(g)})
	case r.Source.Prefix.Addr().Is6():
		p.Ranges6 = append(p.Ranges6, cidr6Item{r.Source.Prefix.String(), r.Description})
	default:
		p.Ranges = append(p.Ranges, cidrItem{r.Source.Prefix.String(), r.Description})
	}
}
