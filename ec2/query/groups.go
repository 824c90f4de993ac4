package query

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// groupActions manage security groups.
var groupActions = map[string]handler{
	"CreateSecurityGroup":    action(createSecurityGroup),
	"DeleteSecurityGroup":    action(deleteSecurityGroup),
	"DescribeSecurityGroups": action(describeSecurityGroups),

	"GetSecurityGroupsForVpc":              action(groupsForVPC),
	"DescribeSecurityGroupReferences":      action(describeGroupReferences),
	"DescribeStaleSecurityGroups":          action(describeStaleGroups),
	"DescribeSecurityGroupVpcAssociations": action(describeGroupAssociations),
}

type createSecurityGroupRequest struct {
	GroupName        string             `wire:"GroupName"`
	GroupDescription string             `wire:"GroupDescription"`
	VPC              ec2.VPCID          `wire:"VpcId"`
	Tags             []tagSpecification `wire:"TagSpecification"`
}

type createSecurityGroupAnswer struct {
	returned
	GroupID ec2.GroupID `wire:"groupId"`
	Tags    []tag       `wire:"tagSet"`
	ARN     string      `wire:"securityGroupArn"`
}

func createSecurityGroup(c *call, r *createSecurityGroupRequest) (*createSecurityGroupAnswer, error) {
	tags, err := tagsFor(r.Tags, "security-group")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateSecurityGroup{
		Account:     c.account,
		Region:      c.region,
		Name:        r.GroupName,
		Description: r.GroupDescription,
		VPC:         r.VPC,
		Tags:        tags,
	})
	if err != nil {
		return nil, err
	}
	g := result.Group
	return &createSecurityGroupAnswer{done, g.ID, c.tags(string(g.ID)), groupARN(g)}, nil
}

// groupSelector names one of the caller's groups by id or by name.
type groupSelector struct {
	GroupID   ec2.GroupID `wire:"GroupId"`
	GroupName string      `wire:"GroupName"`
}

// selector returns the group that a request names. A request may have a group's name beside its id,
// as boto3's SecurityGroup.authorize_ingress(GroupName=...) sends it; a name of another group is an
// error.
func (c *call) selector(s groupSelector) (state.GroupSelector, error) {
	if s.GroupID == "" || s.GroupName == "" {
		return state.GroupSelector{ID: s.GroupID, Name: s.GroupName}, nil
	}
	g, err := c.view.FindGroup(c.account, c.region, state.GroupSelector{ID: s.GroupID})
	if err != nil {
		return state.GroupSelector{}, err
	}
	return state.GroupSelector{ID: g.ID}, checkNamed(g, s.GroupName)
}

// checkNamed returns an error if a request names a group by its id and by another group's name.
func checkNamed(g *ec2.Group, name string) error {
	if g.Name == name || g.VPC != "" && strings.EqualFold(g.Name, name) {
		return nil
	}
	return ec2.Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId name different groups: %s is not named '%s'", g.ID, wire.Quote(name))
}

type deleteSecurityGroupRequest struct {
	groupSelector
}

type deleteSecurityGroupAnswer struct {
	returned
	GroupID ec2.GroupID `wire:"groupId"`
}

func deleteSecurityGroup(c *call, r *deleteSecurityGroupRequest) (*deleteSecurityGroupAnswer, error) {
	group, err := c.selector(r.groupSelector)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.DeleteSecurityGroup{Account: c.account, Region: c.region, Group: group})
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
	VPC         ec2.VPCID     `wire:"vpcId"` // none in EC2-Classic
	Ingress     []permission  `wire:"ipPermissions"`
	Egress      []permission  `wire:"ipPermissionsEgress"`
	Tags        []tag         `wire:"tagSet"`
	ARN         string        `wire:"securityGroupArn"`
}

// describeSecurityGroups sorts pages by id, because the token of a page holds an id. An
// answer without pages is sorted by VPC and name.
func describeSecurityGroups(c *call, r *describeSecurityGroupsRequest) (*describeSecurityGroupsAnswer, error) {
	if err := groupFilters.check(r.Filters); err != nil {
		return nil, err
	}
	after, err := r.after(isGroupID)
	if err != nil {
		return nil, err
	}
	var groups iter.Seq[*ec2.Group]
	switch {
	case len(r.GroupIDs) > 0 || len(r.GroupNames) > 0:
		if groups, err = c.selectGroups(r.GroupIDs, r.GroupNames, after); err != nil {
			return nil, err
		}
	case r.MaxResults != nil || after != "":
		groups = c.groupsAfter(after)
	default:
		groups = c.view.GroupsOf(c.account, c.region)
	}
	tags := taggedBy(c, groupKey)
	wanted := func(g *ec2.Group) bool { return groupFilters.match(g, r.Filters, tags) }
	page, next, err := pageOf(groups, groupKey, wanted, r.paged)
	if err != nil {
		return nil, err
	}
	answer := &describeSecurityGroupsAnswer{NextToken: next}
	for _, g := range page {
		answer.Groups = append(answer.Groups, c.newGroupItem(g))
	}
	return answer, nil
}

func groupKey(g *ec2.Group) string { return string(g.ID) }

func isGroupID(text string) bool { return ec2.CheckGroupID(ec2.GroupID(text)) == nil }

// groupsAfter returns a sequence of the caller's groups with ids greater than after, sorted
// by id.
func (c *call) groupsAfter(after string) iter.Seq[*ec2.Group] {
	return func(yield func(*ec2.Group) bool) {
		for g := range c.view.GroupsFrom(c.account, c.region, ec2.GroupID(after)) {
			if string(g.ID) > after && !yield(g) {
				return
			}
		}
	}
}

// selectGroups returns a sequence of the named groups with ids greater than after, sorted
// by id. With ids and names, a group must have one of each. A group that does not exist or
// that the caller does not own is an error.
func (c *call) selectGroups(ids []ec2.GroupID, names []string, after string) (iter.Seq[*ec2.Group], error) {
	var list []*ec2.Group
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	found := make(map[string]bool, len(names))
	for _, id := range ids {
		g, err := c.view.FindGroup(c.account, c.region, state.GroupSelector{ID: id})
		if err != nil {
			return nil, err
		}
		if len(names) == 0 || wanted[g.Name] {
			list, found[g.Name] = append(list, g), true
		}
	}
	for _, name := range names {
		if found[name] {
			continue
		}
		g, err := c.view.FindGroup(c.account, c.region, state.GroupSelector{Name: name})
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			list = append(list, g)
		}
	}
	list = slices.DeleteFunc(list, func(g *ec2.Group) bool { return string(g.ID) <= after })
	slices.SortFunc(list, func(a, b *ec2.Group) int { return cmp.Compare(a.ID, b.ID) })
	return slices.Values(slices.Compact(list)), nil
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
	return arn(g.Region, g.Account, "security-group", string(g.ID))
}
