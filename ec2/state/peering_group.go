package state

import (
	"slices"

	"palisade/ec2"
)

// peerGroup returns the reference of a new rule of g to the group o of another VPC. The two VPCs must
// have an active peering. sourceGroup finds groups of the rule's own region only (Amazon VPC Peering Guide, "Update your security groups to
// reference peer security groups").
func (t *tx) peerGroup(g, o *ec2.Group, ref ec2.GroupRef) (ec2.GroupRef, error) {
	p := t.livePeering(g.VPC, o.VPC)
	if p == nil || !p.Active() || ref.VPC != "" && ref.VPC != o.VPC || ref.Peering != "" && ref.Peering != p.ID {
		return ec2.GroupRef{}, differentNetworks()
	}
	return ec2.GroupRef{Account: o.Account, ID: o.ID, VPC: o.VPC, Peering: p.ID}, nil
}

// knownPeerGroup returns the reference to a peer's group that a rule of g has and that a request names.
// A rule that is in force goes before one whose peering has ended.
func knownPeerGroup(g *ec2.Group, ref ec2.GroupRef) (found ec2.GroupRef, ok bool) {
	for _, r := range g.Rules {
		o := r.Source.Group
		named := o.Peering != "" && o.ID == ref.ID && (ref.Peering == "" || ref.Peering == o.Peering) && (ref.VPC == "" || ref.VPC == o.VPC) &&
			(ref.Account == "" || ref.Account == o.Account)
		if named && (!ok || found.Void) {
			found, ok = o, true
		}
	}
	return found, ok
}

// AssociateGroupVPC lets interfaces in another VPC of the group's region have the group. Result: Group.
type AssociateGroupVPC struct {
	Account ec2.AccountID
	Region  ec2.Region
	Group   ec2.GroupID
	VPC     ec2.VPCID
}

// maxGroupVPCs is the most VPCs that one group is associated with.
const maxGroupVPCs = 100

func (r *AssociateGroupVPC) apply(t *tx) (Result, error) {
	was, vpc, err := t.groupAndVPC(r.Account, r.Region, r.Group, r.VPC)
	switch {
	case err != nil:
		return Result{}, err
	case was.Name == defaultGroup:
		return Result{}, ec2.Errorf("InvalidParameterValue", "The default security group %s cannot be associated with another VPC", was.ID)
	case vpc.Default:
		return Result{}, ec2.Errorf("InvalidParameterValue", "Security groups cannot be associated with a default VPC, which %s is", vpc.ID)
	case was.UsableIn(vpc.ID):
		return Result{}, ec2.Errorf("InvalidParameterValue", "The security group %s can be used in %s already", was.ID, vpc.ID)
	case len(was.VPCs) >= maxGroupVPCs:
		return Result{}, ec2.Errorf("ResourceLimitExceeded", "The security group %s is associated with %d VPCs, the most that are allowed", was.ID, maxGroupVPCs)
	}
	g := *was
	g.VPCs = append(slices.Clone(was.VPCs), vpc.ID)
	slices.Sort(g.VPCs)
	t.put(tableGroup, &g)
	return Result{Group: &g}, nil
}

// DisassociateGroupVPC ends the use of a group in another VPC, where no interface may have it and no rule
// may name it any more. Result: Group.
type DisassociateGroupVPC struct {
	Account ec2.AccountID
	Region  ec2.Region
	Group   ec2.GroupID
	VPC     ec2.VPCID
}

func (r *DisassociateGroupVPC) apply(t *tx) (Result, error) {
	was, vpc, err := t.groupAndVPC(r.Account, r.Region, r.Group, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if !slices.Contains(was.VPCs, vpc.ID) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "The security group %s is not associated with %s", was.ID, vpc.ID)
	}
	var holders []string
	for i := range rows[ec2.Interface](t.Txn, tableInterface, indexMember, key(was.ID)) {
		if i.VPC == vpc.ID {
			holders = append(holders, "network interface "+string(i.ID))
		}
	}
	for o := range rows[ec2.Group](t.Txn, tableGroup, indexSource, key(was.ID)) {
		if o.VPC == vpc.ID {
			holders = append(holders, rulesNaming(o, was.ID)...)
		}
	}
	if len(holders) > 0 {
		return Result{}, ec2.Errorf("DependencyViolation", "The security group %s is in use in %s. %s", was.ID, vpc.ID, dependentObjects(holders))
	}
	return Result{Group: t.withoutVPC(was, vpc.ID)}, nil
}

func (t *tx) withoutVPC(was *ec2.Group, vpc ec2.VPCID) *ec2.Group {
	g := *was
	g.VPCs = slices.DeleteFunc(slices.Clone(was.VPCs), func(v ec2.VPCID) bool { return v == vpc })
	if len(g.VPCs) == 0 {
		g.VPCs = nil
	}
	t.put(tableGroup, &g)
	return &g
}

// disassociateGroups ends the use of all other VPCs' groups in a VPC that is deleted.
func (t *tx) disassociateGroups(vpc *ec2.VPC) {
	for _, g := range slices.Collect(rows[ec2.Group](t.Txn, tableGroup, indexOwner, key(vpc.Account)+key(vpc.Region))) {
		if slices.Contains(g.VPCs, vpc.ID) {
			t.withoutVPC(g, vpc.ID)
		}
	}
}

func (t *tx) groupAndVPC(account ec2.AccountID, region ec2.Region, id ec2.GroupID, in ec2.VPCID) (*ec2.Group, *ec2.VPC, error) {
	if id == "" {
		return nil, nil, ec2.Missing("groupId")
	}
	g, err := t.group(account, region, GroupSelector{ID: id})
	if err != nil {
		return nil, nil, err
	}
	if g.VPC == "" {
		return nil, nil, ec2.Errorf("InvalidParameterValue", "The security group %s is of EC2-Classic and cannot be associated with a VPC", g.ID)
	}
	vpc, err := t.vpc(account, region, in)
	return g, vpc, err
}

// rulesNaming returns texts for the rules of a group that name another without a peering.
func rulesNaming(o *ec2.Group, id ec2.GroupID) (texts []string) {
	for i := range o.Rules {
		if s := o.Rules[i].Source.Group; s.ID == id && s.Peering == "" {
			texts = append(texts, "rule "+string(o.Rules[i].ID)+" of security group "+string(o.ID))
		}
	}
	return texts
}
