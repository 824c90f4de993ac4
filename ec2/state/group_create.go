package state

import (
	"strings"

	"palisade/ec2"
)

// defaultGroup is the name of the group for instances whose launch names no group. Users can
// neither create nor delete it.
const defaultGroup = "default"

// groupRequests are the requests for rules.
var groupRequests = []Request{
	&AuthorizeRules{}, &RevokeRules{}, &ModifyRules{}, &UpdateRuleDescriptions{},
}

// A GroupSelector names a group of the caller, by its id or by its name. Names work in EC2-Classic
// and in the default VPC only.
type GroupSelector struct {
	ID   ec2.GroupID
	Name string
}

// CreateSecurityGroup adds a group to a VPC. An empty VPC means the default VPC of the account, or
// EC2-Classic (EC2 API Reference, "CreateSecurityGroup"). Result: Group.
type CreateSecurityGroup struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Name        string
	Description string
	VPC         ec2.VPCID         `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
}

func (r *CreateSecurityGroup) apply(t *tx) (Result, error) {
	g := &ec2.Group{Account: r.Account, Region: r.Region, VPC: r.VPC, Name: r.Name, Description: r.Description}
	if err := t.placeGroup(g); err != nil {
		return Result{}, err
	}
	check := checkClassicGroup
	if g.VPC != "" {
		// EC2 drops blanks at the end of a name (EC2 User Guide, "Create a security group").
		g.Name = strings.TrimRight(g.Name, " ")
		check = checkVPCGroup
	}
	if g.Name == "" {
		return Result{}, ec2.Missing("GroupName")
	}
	if g.Description == "" {
		return Result{}, ec2.Missing("GroupDescription")
	}
	if err := check(g); err != nil {
		return Result{}, err
	}
	if err := t.groupLimit(g); err != nil {
		return Result{}, err
	}
	if g.VPC == "" {
		g.ID = ec2.GroupID(t.meta.classicID("sg", t.serial()))
	} else {
		g.ID = ec2.GroupID(t.meta.longID("sg", t.serial()))
		g.Rules = []ec2.Rule{t.numbered(allowAllEgress)}
	}
	if err := t.tag(string(g.ID), g.Account, g.Region, r.Tags); err != nil {
		return Result{}, err
	}
	t.addGroup(g)
	return Result{Group: g}, nil
}

// allowAllEgress is the egress rule that each new group of a VPC has.
var allowAllEgress = ec2.Rule{
	Direction: ec2.Egress,
	Protocol:  ec2.AnyProtocol, From: -1, To: -1,
	Source: ec2.Source{Prefix: allIPv4},
}

// placeGroup sets the VPC of a new group. It refuses a name that looks like an id.
func (t *tx) placeGroup(g *ec2.Group) error {
	if g.VPC != "" {
		if _, err := t.vpc(g.Account, g.Region, g.VPC); err != nil {
			return err
		}
	} else {
		vpc, err := groupNamespace(t.Txn, g.Account, g.Region)
		if err != nil {
			return err
		}
		if vpc == "" && classicNetwork(t.Txn, g.Region) == nil {
			return ec2.Errorf("Unsupported", "EC2-Classic has no network in region %s", g.Region)
		}
		g.VPC = vpc
	}
	if strings.HasPrefix(strings.ToLower(g.Name), "sg-") {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. Group names may not be in the format sg-*.", ec2.Clip(g.Name))
	}
	return nil
}

func checkClassicGroup(g *ec2.Group) error {
	if strings.EqualFold(g.Name, defaultGroup) {
		return ec2.Errorf("InvalidGroup.Reserved", "The security group '%s' is reserved", g.Name)
	}
	if !ec2.Printable(g.Name, 255) {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. Character sets beyond ASCII are not supported.", ec2.Clip(g.Name))
	}
	if !ec2.Printable(g.Description, 255) {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported.", ec2.Clip(g.Description))
	}
	return nil
}

func checkVPCGroup(g *ec2.Group) error {
	if strings.EqualFold(g.Name, defaultGroup) {
		return ec2.Errorf("InvalidParameterValue", "Cannot use reserved security group name: %s", g.Name)
	}
	if !isValidText(g.Name) {
		return ec2.Errorf("InvalidParameterValue", "Invalid security group name. Valid names are strings less than 256 characters from the following set:  %s", validTextSet)
	}
	if !isValidText(g.Description) {
		return ec2.Errorf("InvalidParameterValue", "Invalid security group description. Valid descriptions are strings less than 256 characters from the following set:  %s", validTextSet)
	}
	return nil
}

// validTextSet lists the characters that names and descriptions in a VPC may have, as AWS's
// messages write them. validTextChars has each of them.
const validTextSet = "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"

const validTextChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789. _-:/()#,@[]+=&;{}!$*"

// isValidText reports whether text can be a name or a description in a VPC.
func isValidText(text string) bool {
	return len(text) <= 255 && strings.Trim(text, validTextChars) == ""
}

// groupLimit returns EC2's error if another group has the name of g, or if g would be above the
// limits. In EC2-Classic the limit is for an account in a region. In a VPC there is one limit for
// the VPC and one for all VPCs of the account in the region.
func (t *tx) groupLimit(g *ec2.Group) error {
	where := ""
	if g.VPC != "" {
		where = " for VPC '" + string(g.VPC) + "'"
	}
	if first[ec2.Group](t.Txn, tableGroup, indexName, groupName(g.Account, g.Region, g.VPC, g.Name)) != nil {
		return ec2.Errorf("InvalidGroup.Duplicate", "The security group '%s' already exists%s", g.Name, where)
	}
	limits := t.limits()
	here, inVPCs := t.groupCounts(g)
	if g.VPC == "" {
		if here >= limits.GroupsPerRegion {
			return ec2.Errorf("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")
		}
		return nil
	}
	if here >= limits.GroupsPerVPC || inVPCs >= limits.VPCGroupsPerRegion {
		return ec2.Errorf("SecurityGroupLimitExceeded", "The maximum number of security groups%s has been reached.", where)
	}
	return nil
}

// DeleteSecurityGroup deletes a group without members that no rule of another group names. In
// EC2-Classic a group can be deleted although rules of other accounts name it: those rules stay and
// match nothing, because ids are never reused. Result: Group.
type DeleteSecurityGroup struct {
	Account ec2.AccountID
	Region  ec2.Region
	Group   GroupSelector
}

func (r *DeleteSecurityGroup) apply(t *tx) (Result, error) {
	g, err := t.group(r.Account, r.Region, r.Group)
	if err != nil {
		return Result{}, err
	}
	if g.VPC == "" {
		err = t.checkUnusedInClassic(g)
	} else {
		err = t.checkUnusedInVPC(g)
	}
	if err != nil {
		return Result{}, err
	}
	t.dropGroup(g)
	return Result{Group: g}, nil
}

func (t *tx) checkUnusedInClassic(g *ec2.Group) error {
	if g.Name == defaultGroup {
		return ec2.Errorf("InvalidGroup.Reserved", "The security group '%s' is reserved", g.Name)
	}
	if first[ec2.Instance](t.Txn, tableInstance, indexMember, key(g.ID)) != nil {
		return ec2.Errorf("InvalidGroup.InUse", "There are active instances using security group '%s'", g.Name)
	}
	var users []string
	for o := range rows[ec2.Group](t.Txn, tableGroup, indexSource, key(g.ID)) {
		if o.Account == g.Account {
			users = append(users, string(o.Account)+":"+o.Name)
		}
	}
	if len(users) > 0 {
		return ec2.Errorf("InvalidGroup.InUse", "Group %s:%s is used by groups: %s", g.Account, g.Name, strings.Join(users, " "))
	}
	return nil
}

// checkUnusedInVPC returns an error if the group is in use. Rules of a peered VPC that name it do not hold
// it: they stay, and are stale. AWS's message does not say what uses
// the group; ours adds that.
func (t *tx) checkUnusedInVPC(g *ec2.Group) error {
	if g.Name == defaultGroup {
		return ec2.Errorf("CannotDelete", `the specified group: "%s" name: "%s" cannot be deleted by a user`, g.ID, g.Name)
	}
	var holders []string
	for i := range rows[ec2.Interface](t.Txn, tableInterface, indexMember, key(g.ID)) {
		holder := "network interface " + string(i.ID)
		if i.Instance != "" {
			holder += " of instance " + string(i.Instance)
		}
		holders = append(holders, holder)
	}
	for o := range rows[ec2.Group](t.Txn, tableGroup, indexSource, key(g.ID)) {
		if names := rulesNaming(o, g.ID); len(names) > 0 {
			holders = append(holders, names[0])
		}
	}
	for _, vpc := range g.VPCs {
		holders = append(holders, "association with "+string(vpc))
	}
	if len(holders) > 0 {
		return ec2.Errorf("DependencyViolation", "resource %s has a dependent object. %s", g.ID, dependentObjects(holders))
	}
	return nil
}

// addDefaultGroup gives an EC2-Classic account its default group in a region. The group admits
// all packets of its own members (EC2 Developer Guide (2006), "Security Groups").
func (t *tx) addDefaultGroup(a *ec2.Account, region ec2.Region) {
	if a.Platform != ec2.Classic || first[ec2.Group](t.Txn, tableGroup, indexName, groupName(a.ID, region, "", defaultGroup)) != nil {
		return
	}
	g := &ec2.Group{
		ID:          ec2.GroupID(t.meta.classicID("sg", t.serial())),
		Account:     a.ID,
		Region:      region,
		Name:        defaultGroup,
		Description: "default group",
	}
	self := ec2.Source{Group: ec2.GroupRef{Account: a.ID, ID: g.ID, Name: g.Name}}
	for _, r := range []ec2.Rule{
		{Protocol: ec2.TCP, From: 0, To: 65535, Source: self},
		{Protocol: ec2.UDP, From: 0, To: 65535, Source: self},
		{Protocol: ec2.ICMP, From: -1, To: -1, Source: self},
	} {
		g.Rules = append(g.Rules, t.numbered(r))
	}
	t.addGroup(g)
}

// addVPCDefaultGroup gives a new VPC its default group and returns the id of the group. The group
// admits all packets of its own members and all egress (Amazon VPC User Guide, "Default security
// groups").
func (t *tx) addVPCDefaultGroup(v *ec2.VPC) ec2.GroupID {
	g := &ec2.Group{
		ID:          ec2.GroupID(t.meta.longID("sg", t.serial())),
		Account:     v.Account,
		Region:      v.Region,
		VPC:         v.ID,
		Name:        defaultGroup,
		Description: "default VPC security group",
	}
	self := ec2.Source{Group: ec2.GroupRef{Account: v.Account, ID: g.ID}}
	g.Rules = []ec2.Rule{
		t.numbered(ec2.Rule{Protocol: ec2.AnyProtocol, From: -1, To: -1, Source: self}),
		t.numbered(allowAllEgress),
	}
	t.addGroup(g)
	return g.ID
}
