package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

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

// groupsForVPC shows the groups that an interface in a VPC can have: those of the VPC itself, and
// those of other VPCs that are associated with it.
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
	wanted := func(g *ec2.Group) bool { return g.UsableIn(r.VPC) && groupForVPCFilters.match(g, r.Filters, tags) }
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
	References []groupReferenceItem `wire:"securityGroupReferenceSet"`
}

type groupReferenceItem struct {
	ID      ec2.GroupID   `wire:"groupId"`
	VPC     ec2.VPCID     `wire:"referencingVpcId"`
	Peering ec2.PeeringID `wire:"vpcPeeringConnectionId"`
}

// describeGroupReferences shows the peered VPCs whose rules name a group. A rule whose peering has
// ended is stale, and names nothing any more.
func describeGroupReferences(c *call, r *describeGroupReferencesRequest) (*describeGroupReferencesAnswer, error) {
	if len(r.GroupIDs) == 0 {
		return nil, ec2.Missing("GroupId")
	}
	groups, err := c.selectGroups(r.GroupIDs, nil, "")
	if err != nil {
		return nil, err
	}
	answer := new(describeGroupReferencesAnswer)
	for g := range groups {
		found := make(map[groupReferenceItem]bool)
		for o := range c.view.GroupsNaming(g.ID) {
			for i := range o.Rules {
				ref := o.Rules[i].Source.Group
				item := groupReferenceItem{g.ID, o.VPC, ref.Peering}
				if ref.ID == g.ID && ref.Peering != "" && !ref.Void && !found[item] {
					found[item] = true
					answer.References = append(answer.References, item)
				}
			}
		}
	}
	return answer, nil
}

type describeStaleGroupsRequest struct {
	VPC ec2.VPCID `wire:"VpcId"`
	paged
}

type describeStaleGroupsAnswer struct {
	Groups    []staleGroupItem `wire:"staleSecurityGroupSet"`
	NextToken string           `wire:"nextToken"`
}

type staleGroupItem struct {
	Description string       `wire:"description"`
	ID          ec2.GroupID  `wire:"groupId"`
	Name        string       `wire:"groupName"`
	Ingress     []permission `wire:"staleIpPermissions"`
	Egress      []permission `wire:"staleIpPermissionsEgress"`
	VPC         ec2.VPCID    `wire:"vpcId"`
}

// describeStaleGroups shows the groups of a VPC that have rules which name a deleted group of a
// peered VPC, or a group of a VPC that is not peered any more.
func describeStaleGroups(c *call, r *describeStaleGroupsRequest) (*describeStaleGroupsAnswer, error) {
	if _, err := c.view.FindVPC(c.account, c.region, r.VPC); err != nil {
		return nil, err
	}
	after, err := r.after(isGroupID)
	if err != nil {
		return nil, err
	}
	stale := func(g *ec2.Group) bool { return g.VPC == r.VPC && len(c.staleRules(g)) > 0 }
	groups, next, err := pageOf(c.groupsAfter(after), groupKey, stale, r.paged)
	if err != nil {
		return nil, err
	}
	answer := &describeStaleGroupsAnswer{NextToken: next}
	for _, g := range groups {
		rules := c.staleRules(g)
		answer.Groups = append(answer.Groups, staleGroupItem{g.Description, g.ID, g.Name, permissionsOf(rules, ec2.Ingress), permissionsOf(rules, ec2.Egress), g.VPC})
	}
	return answer, nil
}

// staleRules returns the rules of a group that name a group of a peer and can never again admit a
// packet.
func (c *call) staleRules(g *ec2.Group) (rules []ec2.Rule) {
	for _, r := range g.Rules {
		ref := r.Source.Group
		if ref.Peering == "" {
			continue
		}
		if _, exists := c.view.Group(ref.ID); ref.Void || !exists {
			rules = append(rules, r)
		}
	}
	return rules
}

type groupVPCRequest struct {
	Group ec2.GroupID `wire:"GroupId"`
	VPC   ec2.VPCID   `wire:"VpcId"`
}

type groupVPCAnswer struct {
	State string `wire:"state"`
}

// associateGroupVPC answers with the state that EC2's answer has, like disassociateGroupVPC. By then the
// group is associated, or not any more.
func associateGroupVPC(c *call, r *groupVPCRequest) (*groupVPCAnswer, error) {
	if _, err := c.apply(&state.AssociateGroupVPC{Account: c.account, Region: c.region, Group: r.Group, VPC: r.VPC}); err != nil {
		return nil, err
	}
	return &groupVPCAnswer{"associating"}, nil
}

func disassociateGroupVPC(c *call, r *groupVPCRequest) (*groupVPCAnswer, error) {
	if _, err := c.apply(&state.DisassociateGroupVPC{Account: c.account, Region: c.region, Group: r.Group, VPC: r.VPC}); err != nil {
		return nil, err
	}
	return &groupVPCAnswer{"disassociating"}, nil
}

type describeGroupAssociationsRequest struct {
	listed
}

type describeGroupAssociationsAnswer struct {
	Associations []groupAssociationItem `wire:"securityGroupVpcAssociationSet"`
	NextToken    string                 `wire:"nextToken"`
}

type groupAssociationItem struct {
	Group      ec2.GroupID   `wire:"groupId"`
	GroupOwner ec2.AccountID `wire:"groupOwnerId"`
	State      string        `wire:"state"`
	VPC        ec2.VPCID     `wire:"vpcId"`
	VPCOwner   ec2.AccountID `wire:"vpcOwnerId"`
}

var groupAssociationListing = listing[groupAssociationItem]{
	id: func(a groupAssociationItem) string { return string(a.Group) + "/" + string(a.VPC) },
	filters: filterable[groupAssociationItem]{
		"group-id":       func(a groupAssociationItem) []string { return nonEmpty(a.Group) },
		"group-owner-id": func(a groupAssociationItem) []string { return nonEmpty(a.GroupOwner) },
		"state":          func(a groupAssociationItem) []string { return nonEmpty(a.State) },
		"vpc-id":         func(a groupAssociationItem) []string { return nonEmpty(a.VPC) },
		"vpc-owner-id":   func(a groupAssociationItem) []string { return nonEmpty(a.VPCOwner) },
	},
}

// describeGroupAssociations shows which groups are associated with a second VPC.
func describeGroupAssociations(c *call, r *describeGroupAssociationsRequest) (*describeGroupAssociationsAnswer, error) {
	var items []groupAssociationItem
	for g := range c.view.GroupsOf(c.account, c.region) {
		for _, vpc := range g.VPCs {
			items = append(items, groupAssociationItem{g.ID, g.Account, "associated", vpc, g.Account})
		}
	}
	items, next, err := groupAssociationListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeGroupAssociationsAnswer{items, next}, nil
}
