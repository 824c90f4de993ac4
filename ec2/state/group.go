package state

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// groupName returns the index key for the name of a group. Names in a VPC are equal if they differ
// in case only (EC2 API Reference, "CreateSecurityGroup"); names in EC2-Classic are not.
func groupName(account ec2.AccountID, region ec2.Region, vpc ec2.VPCID, name string) string {
	if vpc != "" {
		name = strings.ToLower(name)
	}
	return key(account) + key(region) + key(vpc) + key(name)
}

// A groupCount is the number of groups in a VPC, or of an account in EC2-Classic. It saves counting
// all groups when one is created. Snapshots leave the counts out; Restore counts again.
type groupCount struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID
	Count   int
}

func (c *groupCount) key() string { return key(c.Account) + key(c.Region) + key(c.VPC) }

// addGroup inserts a new group.
func (t *tx) addGroup(g *ec2.Group) {
	t.put(tableGroup, g)
	t.countGroup(g, +1)
}

// dropGroup deletes a group, its tags and the tags of its rules. The caller checks that nothing
// uses the group.
func (t *tx) dropGroup(g *ec2.Group) {
	for _, r := range g.Rules {
		t.untag(string(r.ID))
	}
	t.untag(string(g.ID))
	t.del(tableGroup, g)
	t.countGroup(g, -1)
}

func (t *tx) countGroup(g *ec2.Group, more int) {
	c := &groupCount{Account: g.Account, Region: g.Region, VPC: g.VPC, Count: more}
	if was := first[groupCount](t.Txn, tableGroupCount, indexID, c.key()); was != nil {
		c.Count += was.Count
	}
	if c.Count == 0 {
		t.del(tableGroupCount, c)
		return
	}
	t.put(tableGroupCount, c)
}

// groupCounts returns the number of groups in the VPC of g (or in EC2-Classic), and in all VPCs
// of its account in the region.
func (t *tx) groupCounts(g *ec2.Group) (here, inVPCs int) {
	for c := range rows[groupCount](t.Txn, tableGroupCount, indexID, key(g.Account)+key(g.Region)) {
		if c.VPC == g.VPC {
			here = c.Count
		}
		if c.VPC != "" {
			inVPCs += c.Count
		}
	}
	return here, inVPCs
}

// countGroups inserts the counts that a snapshot leaves out.
func countGroups(txn *memdb.Txn) {
	t := &tx{Txn: txn}
	for g := range rows[ec2.Group](txn, tableGroup, indexID, "") {
		t.countGroup(g, +1)
	}
}

// groupNamespace returns the VPC in which an account may name a group by its name: its default
// VPC, or "" for EC2-Classic (EC2 API Reference, "DescribeSecurityGroups").
func groupNamespace(txn *memdb.Txn, account ec2.AccountID, region ec2.Region) (ec2.VPCID, error) {
	a := first[ec2.Account](txn, tableAccount, indexID, key(account))
	if a == nil {
		return "", ec2.Errorf("AuthFailure", "account %s does not exist", account)
	}
	if a.Platform == ec2.Classic {
		return "", nil
	}
	if v := (&tx{Txn: txn}).defaultVPC(account, region); v != nil {
		return v.ID, nil
	}
	return "", ec2.Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
}

// findGroup returns a group of the caller. The selector must have either an id or a name.
func findGroup(txn *memdb.Txn, account ec2.AccountID, region ec2.Region, sel GroupSelector) (*ec2.Group, error) {
	switch {
	case sel.ID == "" && sel.Name == "":
		return nil, ec2.Missing("groupName or groupId")
	case sel.ID != "" && sel.Name != "":
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together")
	case sel.Name != "":
		vpc, err := groupNamespace(txn, account, region)
		if err != nil {
			return nil, err
		}
		return groupNamed(txn, owner{account, region}, vpc, sel.Name)
	}
	if err := ec2.CheckGroupID(sel.ID); err != nil {
		return nil, err
	}
	g := ownedRow[ec2.Group](txn, tableGroup, owner{account, region}, sel.ID)
	if g == nil {
		return nil, ec2.NoSuch("sg", sel.ID)
	}
	return g, nil
}

// groupNamed returns the group with that name in the default VPC or, if vpc is "", in EC2-Classic.
// Else it returns EC2's error.
func groupNamed(txn *memdb.Txn, by owner, vpc ec2.VPCID, name string) (*ec2.Group, error) {
	g := first[ec2.Group](txn, tableGroup, indexName, groupName(by.account, by.region, vpc, name))
	switch {
	case g == nil && vpc == "":
		return nil, ec2.NoSuch("sg", name)
	case g == nil:
		return nil, ec2.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC '%s'", ec2.Clip(name), vpc)
	}
	return g, nil
}

func (t *tx) group(account ec2.AccountID, region ec2.Region, sel GroupSelector) (*ec2.Group, error) {
	return findGroup(t.Txn, account, region, sel)
}

// vpcGroups returns the groups for an interface in a VPC, sorted: the groups that selectors name,
// or without selectors the default group of the VPC.
func (t *tx) vpcGroups(account ec2.AccountID, region ec2.Region, vpc ec2.VPCID, selectors []GroupSelector) ([]ec2.GroupID, error) {
	if len(selectors) == 0 {
		v, err := t.vpc(account, region, vpc)
		if err != nil {
			return nil, err
		}
		return []ec2.GroupID{v.Group}, nil
	}
	var ids []ec2.GroupID
	for _, sel := range selectors {
		g, err := t.group(account, region, sel)
		if err != nil {
			return nil, err
		}
		if !g.UsableIn(vpc) {
			return nil, differentNetworks()
		}
		ids = append(ids, g.ID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) > t.limits().GroupsPerInterface {
		return nil, ec2.Errorf("SecurityGroupsPerInterfaceLimitExceeded", "The maximum number of security groups per interface has been reached.")
	}
	return ids, nil
}

func differentNetworks() error {
	return ec2.Errorf("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
}

// FindGroup returns a group of an account, or EC2's error.
func (v *View) FindGroup(account ec2.AccountID, region ec2.Region, sel GroupSelector) (*ec2.Group, error) {
	return findGroup(v.txn(), account, region, sel)
}

// GroupsFrom yields the groups of an account in a region, sorted by id, starting at the id from.
func (v *View) GroupsFrom(account ec2.AccountID, region ec2.Region, from ec2.GroupID) iter.Seq[*ec2.Group] {
	return func(yield func(*ec2.Group) bool) {
		it, err := v.txn().LowerBound(tableGroup, indexOwner, key(account)+key(region)+string(from))
		if err != nil {
			panic(fmt.Sprintf("state: groups from %s: %v", from, err))
		}
		for row := it.Next(); row != nil; row = it.Next() {
			if g := row.(*ec2.Group); g.Account != account || g.Region != region || !yield(g) {
				return
			}
		}
	}
}

// Rule returns a rule by its id, and the group that has it.
func (v *View) Rule(id ec2.RuleID) (*ec2.Group, *ec2.Rule, bool) {
	g := first[ec2.Group](v.txn(), tableGroup, indexRule, key(id))
	if g == nil {
		return nil, nil, false
	}
	return g, &g.Rules[ruleIndex(g, id)], true
}

// requireClassic returns EC2's error for an account that is not on the EC2-Classic platform, and
// for a region without an EC2-Classic network.
func (t *tx) requireClassic(account ec2.AccountID, region ec2.Region) error {
	a := first[ec2.Account](t.Txn, tableAccount, indexID, key(account))
	if a == nil {
		return ec2.Errorf("AuthFailure", "account %s does not exist", account)
	}
	if a.Platform != ec2.Classic {
		return ec2.Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
	}
	if classicNetwork(t.Txn, region) == nil {
		return ec2.Errorf("Unsupported", "EC2-Classic has no network in region %s", region)
	}
	return nil
}
