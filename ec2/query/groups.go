package query

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"palisade/ec2"
)

// groupActions are of groups.
var groupActions = map[string]handler{
	"CreateSecurityGroup":    action(createSecurityGroup),
	"DeleteSecurityGroup":    action(deleteSecurityGroup),
	"DescribeSecurityGroups": action(describeSecurityGroups),
}

type createSecurityGroupRequest struct {
	GroupName        string `wire:"GroupName"`
	GroupDescription string `wire:"GroupDescription"`
	VPC              string `wire:"VpcId"`
}

type createSecurityGroupAnswer struct {
	returned
	GroupID ec2.GroupID `wire:"groupId"`
	Tags    []tag       `wire:"tagSet"`
	ARN     string      `wire:"securityGroupArn"`
}

func createSecurityGroup(c *call, r *createSecurityGroupRequest) (*createSecurityGroupAnswer, error) {
	if r.VPC != "" {
		return nil, ec2.Errorf("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", quote(r.VPC))
	}
	result, err := c.apply(&ec2.CreateSecurityGroup{
		Account:     c.account,
		Region:      c.region,
		Name:        r.GroupName,
		Description: r.GroupDescription,
	})
	if err != nil {
		return nil, err
	}
	return &createSecurityGroupAnswer{returned: done, GroupID: result.Group.ID, ARN: groupARN(result.Group)}, nil
}

// groupSelector names one of the caller's groups by id or by name.
type groupSelector struct {
	GroupID   ec2.GroupID `wire:"GroupId"`
	GroupName string      `wire:"GroupName"`
}

func (s groupSelector) domain() ec2.GroupSelector {
	return ec2.GroupSelector{ID: s.GroupID, Name: s.GroupName}
}

type deleteSecurityGroupRequest struct {
	groupSelector
}

type deleteSecurityGroupAnswer struct {
	returned
	GroupID ec2.GroupID `wire:"groupId"`
}

func deleteSecurityGroup(c *call, r *deleteSecurityGroupRequest) (*deleteSecurityGroupAnswer, error) {
	result, err := c.apply(&ec2.DeleteSecurityGroup{Account: c.account, Region: c.region, Group: r.domain()})
	if err != nil {
		return nil, err
	}
	return &deleteSecurityGroupAnswer{done, result.Group.ID}, nil
}

type describeSecurityGroupsRequest struct {
	GroupIDs   []ec2.GroupID `wire:"GroupId"`
	GroupNames []string      `wire:"GroupName"`
	Filters    []filter      `wire:"Filter"`
	paged
}

type describeSecurityGroupsAnswer struct {
	Groups    []groupItem `wire:"securityGroupInfo"`
	NextToken string      `wire:"nextToken"`
}

type groupItem struct {
	Owner       ec2.AccountID `wire:"ownerId"`
	ID          ec2.GroupID   `wire:"groupId"`
	Name        string        `wire:"groupName"`
	Description string        `wire:"groupDescription"`
	VPC         ec2.VPCID     `wire:"vpcId"`
	Ingress     []permission  `wire:"ipPermissions"`
	Egress      []permission  `wire:"ipPermissionsEgress"`
	Tags        []tag         `wire:"tagSet"`
	ARN         string        `wire:"securityGroupArn"`
}

func describeSecurityGroups(c *call, r *describeSecurityGroupsRequest) (*describeSecurityGroupsAnswer, error) {
	if err := groupFilters.check(r.Filters); err != nil {
		return nil, err
	}
	groups, err := c.selectGroups(r.GroupIDs, r.GroupNames)
	if err != nil {
		return nil, err
	}
	byID := func(g *ec2.Group) string { return string(g.ID) }
	tags := taggedBy(c, byID)
	groups = slices.DeleteFunc(groups, func(g *ec2.Group) bool { return !groupFilters.match(g, r.Filters, tags) })
	if r.MaxResults != nil || r.NextToken != "" {
		slices.SortFunc(groups, func(a, b *ec2.Group) int { return cmp.Compare(byID(a), byID(b)) })
	}
	groups, next, err := page(groups, byID, r.paged)
	if err != nil {
		return nil, err
	}
	answer := &describeSecurityGroupsAnswer{NextToken: next}
	for _, g := range groups {
		answer.Groups = append(answer.Groups, c.newGroupItem(g))
	}
	return answer, nil
}

// selectGroups returns the caller's groups that are named, in order of name: all, if
// none is named. One that does not exist, or is another's, fails the whole call.
func (c *call) selectGroups(ids []ec2.GroupID, names []string) ([]*ec2.Group, error) {
	all := slices.Collect(c.view.GroupsOf(c.account, c.region))
	if len(ids) == 0 && len(names) == 0 {
		return all, nil
	}
	wanted := make(map[ec2.GroupID]bool)
	for _, id := range ids {
		if err := ec2.CheckGroupID(id); err != nil {
			return nil, err
		}
		if g, ok := c.view.Group(id); !ok || g.Account != c.account || g.Region != c.region {
			return nil, ec2.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", id)
		}
		wanted[id] = true
	}
	for _, name := range names {
		g, ok := c.view.GroupNamed(c.account, c.region, "", name)
		if !ok {
			return nil, ec2.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", quote(name))
		}
		wanted[g.ID] = true
	}
	return slices.DeleteFunc(all, func(g *ec2.Group) bool { return !wanted[g.ID] }), nil
}

func (c *call) newGroupItem(g *ec2.Group) groupItem {
	return groupItem{
		Owner:       g.Account,
		ID:          g.ID,
		Name:        g.Name,
		Description: g.Description,
		VPC:         g.VPC,
		Ingress:     permissionsOf(g.Rules, ec2.Ingress),
		Egress:      permissionsOf(g.Rules, ec2.Egress),
		Tags:        c.tags(string(g.ID)),
		ARN:         groupARN(g),
	}
}

func groupARN(g *ec2.Group) string {
	return fmt.Sprintf("arn:aws:ec2:%s:%s:security-group/%s", g.Region, g.Account, g.ID)
}

var groupFilters = func() filterable[*ec2.Group] {
	f := filterable[*ec2.Group]{
		"description": func(g *ec2.Group) []string { return []string{g.Description} },
		"group-id":    func(g *ec2.Group) []string { return []string{string(g.ID)} },
		"group-name":  func(g *ec2.Group) []string { return []string{g.Name} },
		"owner-id":    func(g *ec2.Group) []string { return []string{string(g.Account)} },
		"vpc-id":      func(g *ec2.Group) []string { return []string{string(g.VPC)} },
	}
	for prefix, direction := range map[string]ec2.Direction{"ip-permission.": ec2.Ingress, "egress.ip-permission.": ec2.Egress} {
		for name, of := range ruleFilters {
			f[prefix+name] = func(g *ec2.Group) (values []string) {
				for _, r := range g.Rules {
					if r.Direction == direction {
						values = append(values, of(r)...)
					}
				}
				return values
			}
		}
	}
	return f
}()

// ruleFilters look at one rule; several need not hit the same one.
var ruleFilters = map[string]func(ec2.Rule) []string{
	"cidr": func(r ec2.Rule) []string {
		if r.Source.IsGroup() {
			return nil
		}
		return []string{r.Source.Prefix.String()}
	},
	"protocol":  func(r ec2.Rule) []string { return []string{r.Protocol.String()} },
	"from-port": func(r ec2.Rule) []string { return []string{strconv.Itoa(r.From)} },
	"to-port":   func(r ec2.Rule) []string { return []string{strconv.Itoa(r.To)} },
	"group-id": func(r ec2.Rule) []string {
		return ofGroup(r, string(r.Source.Group.ID))
	},
	"group-name": func(r ec2.Rule) []string {
		return ofGroup(r, r.Source.Group.Name)
	},
	"user-id": func(r ec2.Rule) []string {
		return ofGroup(r, string(r.Source.Group.Account))
	},
	"ipv6-cidr":      func(ec2.Rule) []string { return nil },
	"prefix-list-id": func(ec2.Rule) []string { return nil },
}

func ofGroup(r ec2.Rule, value string) []string {
	if !r.Source.IsGroup() {
		return nil
	}
	return []string{value}
}
