package state

import (
	"testing"

	"palisade/ec2"
)

// ruleOf returns the last rule of near's group.
func (w *peeringWorld) ruleOf() ec2.Rule {
	w.t.Helper()
	g, _ := w.state.View().Group(w.nearGroup.ID)
	if len(g.Rules) == 0 {
		w.t.Fatal("the group has no rule")
	}
	return g.Rules[len(g.Rules)-1]
}

func TestRuleNamesAGroupOfAnActivePeer(t *testing.T) {
	w := newPeeringWorld(t)
	byID := ec2.GroupRef{ID: w.farGroup.ID, Account: ops}
	w.refused(w.naming(byID), "InvalidGroup.NotFound")
	p := w.request()
	w.refused(w.naming(byID), "InvalidGroup.NotFound") // nobody accepted
	w.must(&AcceptVPCPeering{ops, east, p.ID})
	for _, wrong := range []ec2.GroupRef{
		{ID: w.farGroup.ID, Account: dev},
		{ID: w.farGroup.ID, Account: ops, VPC: w.near.ID},
		{ID: w.farGroup.ID, Account: ops, VPC: "vpc-0123"},
		{ID: w.nearGroup.ID, Account: dev, Peering: p.ID},
	} {
		w.refused(w.naming(wrong), "InvalidGroup.NotFound")
	}
	w.refused(w.naming(ec2.GroupRef{ID: w.farGroup.ID, Account: ops, Peering: "pcx-0123"}), "InvalidVpcPeeringConnectionID.NotFound")
	w.must(w.naming(ec2.GroupRef{ID: w.farGroup.ID, Account: ops, VPC: w.far.ID}))
	want := ec2.GroupRef{Account: ops, ID: w.farGroup.ID, VPC: w.far.ID, Peering: p.ID}
	if got := w.ruleOf().Source.Group; got != want {
		t.Errorf("the rule names %+v, want %+v", got, want)
	}
	w.refused(w.naming(byID), "InvalidPermission.Duplicate")
	egress := w.naming(byID)
	egress.Direction = ec2.Egress
	w.must(egress)
	w.must(&DeleteSecurityGroup{ops, east, GroupSelector{ID: w.farGroup.ID}}) // rules of a peer do not hold it
	if got := w.ruleOf().Source.Group; got != want {
		t.Errorf("after the deletion of the group the rule names %+v, want %+v as before", got, want)
	}
}

// The rule of a deleted peering stays void, also when the same VPCs are peered again. The owner can revoke
// it, and name the group anew.
func TestRuleOfADeletedPeeringIsVoidForGood(t *testing.T) {
	w := newPeeringWorld(t)
	first := w.active()
	byID := ec2.GroupRef{ID: w.farGroup.ID, Account: ops}
	w.must(w.naming(byID))
	w.must(&DeleteVPCPeering{ops, east, first.ID})
	if !w.ruleOf().Source.Group.Void {
		t.Errorf("after the deletion the rule is %+v, want it void", w.ruleOf())
	}
	second := w.active()
	if old := w.ruleOf().Source.Group; !old.Void || old.Peering != first.ID {
		t.Errorf("after a second peering the old rule is %+v, want it void", old)
	}
	w.must(w.naming(byID))
	if got := w.ruleOf().Source.Group; got.Void || got.Peering != second.ID {
		t.Errorf("the new rule names %+v, want %s", got, second.ID)
	}
	revoke := func(ref ec2.GroupRef) *RevokeRules {
		return &RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: w.nearGroup.ID}, Direction: ec2.Ingress, Rules: w.naming(ref).Rules}
	}
	w.must(revoke(byID)) // the rule that is in force goes first
	if got := w.ruleOf().Source.Group; got.Peering != first.ID {
		t.Errorf("after a revocation the rule that names %+v is left, want that of %s", got, first.ID)
	}
	w.must(revoke(ec2.GroupRef{ID: w.farGroup.ID, Account: ops, Peering: first.ID}))
	w.refused(revoke(byID), "InvalidPermission.NotFound")
}

func TestGroupIsUsedInAnotherVPC(t *testing.T) {
	w := newPeeringWorld(t)
	other := w.must(&CreateVPC{Account: dev, Region: east, CIDR: cidr("10.5.0.0/16")}).VPC
	subnet := w.must(&CreateSubnet{Account: dev, Region: east, VPC: other.ID, CIDR: cidr("10.5.1.0/24"), Zone: "us-east-1a"}).Subnet
	with := &CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: subnet.ID, Groups: []ec2.GroupID{w.nearGroup.ID}}}
	w.refused(with, "InvalidGroup.NotFound")
	w.refused(&AssociateGroupVPC{dev, east, w.nearGroup.ID, w.near.ID}, "InvalidParameterValue")
	w.refused(&AssociateGroupVPC{dev, east, w.near.Group, other.ID}, "InvalidParameterValue")
	w.refused(&AssociateGroupVPC{dev, east, w.nearGroup.ID, w.defaultVPC().ID}, "InvalidParameterValue")
	w.refused(&AssociateGroupVPC{dev, east, w.nearGroup.ID, w.far.ID}, "InvalidVpcID.NotFound")
	w.refused(&AssociateGroupVPC{ops, east, w.nearGroup.ID, w.far.ID}, "InvalidGroup.NotFound")
	w.must(&AssociateGroupVPC{dev, east, w.nearGroup.ID, other.ID})
	eni := w.must(with).Interface
	local := w.must(&CreateSecurityGroup{Account: dev, Region: east, VPC: other.ID, Name: "local", Description: "x"}).Group
	names := &AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{ID: local.ID}, IPv6: true, Rules: w.naming(ec2.GroupRef{ID: w.nearGroup.ID}).Rules}
	w.must(names)
	w.refused(&DisassociateGroupVPC{dev, east, w.nearGroup.ID, other.ID}, "DependencyViolation")
	w.must(&DeleteNetworkInterface{dev, east, eni.ID})
	w.refused(&DisassociateGroupVPC{dev, east, w.nearGroup.ID, other.ID}, "DependencyViolation") // the rule
	w.must(&DeleteSecurityGroup{dev, east, GroupSelector{ID: local.ID}})
	w.refused(&DeleteSecurityGroup{dev, east, GroupSelector{ID: w.nearGroup.ID}}, "DependencyViolation")
	w.must(&DisassociateGroupVPC{dev, east, w.nearGroup.ID, other.ID})
	w.refused(&DisassociateGroupVPC{dev, east, w.nearGroup.ID, other.ID}, "InvalidParameterValue")
	w.refused(with, "InvalidGroup.NotFound")
	w.must(&AssociateGroupVPC{dev, east, w.nearGroup.ID, other.ID})
	w.must(&DeleteSubnet{dev, east, subnet.ID})
	w.must(&DeleteVPC{dev, east, other.ID})
	if g, _ := w.state.View().Group(w.nearGroup.ID); len(g.VPCs) != 0 {
		t.Errorf("the group is associated with %v after that VPC was deleted", g.VPCs)
	}
}
