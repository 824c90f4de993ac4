package query

import (
	"cmp"
	"iter"
	"slices"

	"palisade/ec2"
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

func (s groupSelector) domain() state.GroupSelector {
	return state.GroupSelector{ID: s.GroupID, Name: s.GroupName}
}

type deleteSecurityGroupRequest struct {
	groupSelector
}

type deleteSecurityGroupAnswer struct {
	returned
	GroupID ec2.GroupID `wire:"groupId"`
}

func deleteSecurityGroup(c *call, r *deleteSecurityGroupRequest) (*deleteSecurityGroupAnswer, error) {
	result, err := c.apply(&state.DeleteSecurityGroup{Account: c.account, Region: c.region, Group: r.domain()})
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
// by id. A group that does not exist or that the caller does not own is an error.
func (c *call) selectGroups(ids []ec2.GroupID, names []string, after string) (iter.Seq[*ec2.Group], error) {
	var selectors []state.GroupSelector
	for _, id := range ids {
		selectors = append(selectors, state.GroupSelector{ID: id})
	}
	for _, name := range names {
		selectors = append(selectors, state.GroupSelector{Name: name})
	}
	var list []*ec2.Group
	for _, s := range selectors {
		g, err := c.view.FindGroup(c.account, c.region, s)
		if err != nil {
			return nil, err
		}
		if string(g.ID) > after {
			list = append(list, g)
		}
	}
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
