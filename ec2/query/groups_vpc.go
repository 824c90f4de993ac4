package query

import "palisade/ec2"

type groupsForVPCRequest struct {
	VPC     ec2.VPCID `wire:"VpcId"`
	Filters []filter  `wire:"Filter"`
	paged
}

type groupsForVPCAnswer struct {
	Groups    []groupForVPCItem `wire:"securityGroupForVpcSet"`
	NextToken string            `wire:"nextToken"`
}

type groupForVPCItem struct {
	Owner       ec2.AccountID `wire:"ownerId"`
	ID          ec2.GroupID   `wire:"groupId"`
	Name        string        `wire:"groupName"`
	Description string        `wire:"description"`
	PrimaryVPC  ec2.VPCID     `wire:"primaryVpcId"`
	Tags        []tag         `wire:"tagSet"`
}

var groupForVPCFilters = filterable[*ec2.Group]{
	"description":    groupFilters["description"],
	"group-id":       groupFilters["group-id"],
	"group-name":     groupFilters["group-name"],
	"owner-id":       groupFilters["owner-id"],
	"primary-vpc-id": groupFilters["vpc-id"],
}

// groupsForVPC shows the groups that an interface in a VPC can have. These are the groups
// of the VPC itself, because groups cannot be associated with another VPC here.
func groupsForVPC(c *call, r *groupsForVPCRequest) (*groupsForVPCAnswer, error) {
	if err := groupForVPCFilters.check(r.Filters); err != nil {
		return nil, err
	}
	if _, err := c.view.FindVPC(c.account, c.region, r.VPC); err != nil {
		return nil, err
	}
	after, err := r.after(isGroupID)
	if err != nil {
		return nil, err
	}
	tags := taggedBy(c, groupKey)
	wanted := func(g *ec2.Group) bool { return g.VPC == r.VPC && groupForVPCFilters.match(g, r.Filters, tags) }
	page, next, err := pageOf(c.groupsAfter(after), groupKey, wanted, r.paged)
	if err != nil {
		return nil, err
	}
	answer := &groupsForVPCAnswer{NextToken: next}
	for _, g := range page {
		answer.Groups = append(answer.Groups, groupForVPCItem{g.Account, g.ID, g.Name, g.Description, g.VPC, c.tags(string(g.ID))})
	}
	return answer, nil
}

type describeGroupReferencesRequest struct {
	GroupIDs []ec2.GroupID `wire:"GroupId"`
}

type describeGroupReferencesAnswer struct {
	References []struct{} `wire:"securityGroupReferenceSet"`
}

// describeGroupReferences shows which peer VPCs reference a group: none, because there is
// no peering.
func describeGroupReferences(c *call, r *describeGroupReferencesRequest) (*describeGroupReferencesAnswer, error) {
	if len(r.GroupIDs) == 0 {
		return nil, ec2.Missing("GroupId")
	}
	if _, err := c.selectGroups(r.GroupIDs, nil, ""); err != nil {
		return nil, err
	}
	return &describeGroupReferencesAnswer{}, nil
}

type describeStaleGroupsRequest struct {
	VPC ec2.VPCID `wire:"VpcId"`
	paged
}

type describeStaleGroupsAnswer struct {
	Groups []struct{} `wire:"staleSecurityGroupSet"`
}

// describeStaleGroups shows groups with rules that reference a deleted group of a peer
// VPC: none, because there is no peering, and a referenced group cannot be deleted.
func describeStaleGroups(c *call, r *describeStaleGroupsRequest) (*describeStaleGroupsAnswer, error) {
	if _, err := c.view.FindVPC(c.account, c.region, r.VPC); err != nil {
		return nil, err
	}
	if _, err := r.limit(); err != nil {
		return nil, err
	}
	return &describeStaleGroupsAnswer{}, nil
}

type describeGroupAssociationsAnswer struct {
	Associations []struct{} `wire:"securityGroupVpcAssociationSet"`
}

// describeGroupAssociations shows which groups are associated with a second VPC: none,
// because that is not served.
func describeGroupAssociations(*call, *struct{}) (*describeGroupAssociationsAnswer, error) {
	return &describeGroupAssociationsAnswer{}, nil
}
