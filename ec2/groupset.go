package ec2

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// groupName is a name's key. A VPC compares names without case and keeps the case (EC2
// API Reference, "CreateSecurityGroup"); EC2-Classic tells them apart by it.
func groupName(account AccountID, region Region, vpc VPCID, name string) string {
	if vpc != "" {
		name = strings.ToLower(name)
	}
	return key(account) + key(region) + key(vpc) + key(name)
}

// A groupCount is how many groups there are in a VPC, or of an account in EC2-Classic. It
// is derived from the groups, so that a group more needs no walk through all of them, and
// is not part of a snapshot.
type groupCount struct {
	Account AccountID
	Region  Region
	VPC     VPCID
	Count   int
}

func (c *groupCount) key() string { return key(c.Account) + key(c.Region) + key(c.VPC) }

// addGroup puts a group that was not there.
func (t *tx) addGroup(g *Group) {
	t.put(tableGroup, g)
	t.countGroup(g, +1)
}

// dropGroup removes a group that nothing holds any more, with its tags and its rules'.
func (t *tx) dropGroup(g *Group) {
	for _, r := range g.Rules {
		t.untag(string(r.ID))
	}
	t.untag(string(g.ID))
	t.del(tableGroup, g)
	t.countGroup(g, -1)
}

func (t *tx) countGroup(g *Group, more int) {
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

// groupCounts are the groups where g goes, and those of its account in all VPCs of the
// region.
func (t *tx) groupCounts(g *Group) (here, inVPCs int) {
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

// countGroups makes what a snapshot leaves out.
func countGroups(txn *memdb.Txn) {
	t := &tx{Txn: txn}
	for g := range rows[Group](txn, tableGroup, indexID, "") {
		t.countGroup(g, +1)
	}
}

// namesOf is where the groups are that an account may call by name: EC2-Classic or its
// default VPC (EC2 API Reference, "DescribeSecurityGroups").
func namesOf(txn *memdb.Txn, account AccountID, region Region) (VPCID, error) {
	a := first[Account](txn, tableAccount, indexID, key(account))
	if a == nil {
		return "", Errorf("AuthFailure", "account %s does not exist", account)
	}
	if a.Platform == Classic {
		return "", nil
	}
	if v := (&tx{Txn: txn}).defaultVPC(account, region); v != nil {
		return v.ID, nil
	}
	return "", Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
}

// findGroup finds a group of the caller. Exactly one of id and name must be given.
func findGroup(txn *memdb.Txn, account AccountID, region Region, sel GroupSelector) (*Group, error) {
	switch {
	case sel.ID == "" && sel.Name == "":
		return nil, Missing("groupName or groupId")
	case sel.ID != "" && sel.Name != "":
		return nil, Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together")
	case sel.Name != "":
		home, err := namesOf(txn, account, region)
		if err != nil {
			return nil, err
		}
		return groupNamed(txn, account, region, home, sel.Name)
	}
	if err := CheckGroupID(sel.ID); err != nil {
		return nil, err
	}
	g := rowOf[Group](txn, tableGroup, home{account, region}, sel.ID)
	if g == nil {
		return nil, NoSuch("sg", sel.ID)
	}
	return g, nil
}

func groupNamed(txn *memdb.Txn, account AccountID, region Region, home VPCID, name string) (*Group, error) {
	g := first[Group](txn, tableGroup, indexName, groupName(account, region, home, name))
	switch {
	case g == nil && home == "":
		return nil, NoSuch("sg", name)
	case g == nil:
		return nil, Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC '%s'", Clip(name), home)
	}
	return g, nil
}

func (t *tx) group(account AccountID, region Region, sel GroupSelector) (*Group, error) {
	return findGroup(t.Txn, account, region, sel)
}

// vpcGroups are the groups that an interface in a VPC is to have, sorted: those that are
// named, or the VPC's default one.
func (t *tx) vpcGroups(account AccountID, region Region, vpc VPCID, selectors []GroupSelector) ([]GroupID, error) {
	if len(selectors) == 0 {
		v, err := t.vpc(account, region, vpc)
		if err != nil {
			return nil, err
		}
		return []GroupID{v.Group}, nil
	}
	var ids []GroupID
	for _, sel := range selectors {
		g, err := t.group(account, region, sel)
		if err != nil {
			return nil, err
		}
		if g.VPC != vpc {
			return nil, differentNetworks()
		}
		ids = append(ids, g.ID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) > t.limits().GroupsPerInterface {
		return nil, Errorf("SecurityGroupsPerInterfaceLimitExceeded", "The maximum number of security groups per interface has been reached.")
	}
	return ids, nil
}

func differentNetworks() error {
	return Errorf("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
}

// FindGroup finds a group of an account, with the error that a request about it has.
func (v *View) FindGroup(account AccountID, region Region, sel GroupSelector) (*Group, error) {
	return findGroup(v.txn(), account, region, sel)
}

// GroupsFrom yields the groups of an account in a region by id, from one id on.
func (v *View) GroupsFrom(account AccountID, region Region, from GroupID) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		it, err := v.txn().LowerBound(tableGroup, indexOwner, key(account)+key(region)+string(from))
		if err != nil {
			panic(fmt.Sprintf("ec2: groups from %s: %v", from, err))
		}
		for row := it.Next(); row != nil; row = it.Next() {
			if g := row.(*Group); g.Account != account || g.Region != region || !yield(g) {
				return
			}
		}
	}
}

// Rule finds a rule by its id, with the group that has it.
func (v *View) Rule(id RuleID) (*Group, *Rule, bool) {
	g := first[Group](v.txn(), tableGroup, indexRule, key(id))
	if g == nil {
		return nil, nil, false
	}
	return g, &g.Rules[ruleIndex(g, id)], true
}

// requireClassic refuses what only an account with a flat network can do.
func (t *tx) requireClassic(account AccountID, region Region) error {
	a := first[Account](t.Txn, tableAccount, indexID, key(account))
	if a == nil {
		return Errorf("AuthFailure", "account %s does not exist", account)
	}
	if a.Platform != Classic {
		return Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
	}
	if classicNetwork(t.Txn, region) == nil {
		return Errorf("Unsupported", "EC2-Classic has no network in region %s", region)
	}
	return nil
}
