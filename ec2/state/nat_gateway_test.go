package state

import (
	"testing"
	"time"

	"palisade/ec2"
)

// natSamples returns one request of each type of natRequests, with all fields set.
func natSamples() map[string]Request {
	const nat = ec2.NATGatewayID("nat-0a1b2c3d4e5f60718")
	return map[string]Request{
		"CreateNATGateway": &CreateNATGateway{albert, east, "subnet-0a1b2c3d", false, "eipalloc-0a1b2c3d", addr("10.0.1.9"), "token", map[string]string{"Name": "nat"}},
		"DeleteNATGateway": &DeleteNATGateway{albert, east, nat},
		"MoveNATGateway":   &MoveNATGateway{nat, "node1", "node2"},
	}
}

func (w *vpcWorld) nat(change func(*CreateNATGateway)) *ec2.NATGateway {
	w.t.Helper()
	return w.must(w.makesNAT(change)).NAT
}

// makesNAT returns a request for a private gateway in the world's subnet.
func (w *vpcWorld) makesNAT(change func(*CreateNATGateway)) *CreateNATGateway {
	r := &CreateNATGateway{Account: dev, Region: east, Subnet: w.subnet.ID, Private: true}
	if change != nil {
		change(r)
	}
	return r
}

func public(e *ec2.ElasticAddress) func(*CreateNATGateway) {
	return func(r *CreateNATGateway) { r.Private, r.Allocation = false, e.ID }
}

func TestNATGatewayHasItsInterfaceAndElasticAddress(t *testing.T) {
	w := newVPCWorld(t)
	e := w.allocate()
	g := w.nat(public(e))
	eni := w.eni(g.Interface)
	if g.State != ec2.NATAvailable || !g.Public() || eni.State != ec2.Active || w.node(eni.Node).Zone != "us-east-1a" || eni.Public != e.Public || !eni.Unchecked || len(eni.Groups) != 0 {
		t.Fatalf("the gateway is %+v with interface %+v, want it available in us-east-1a with %s and no group", g, eni, e.Public)
	}
	if has := w.elastic(e.ID); has.Interface != eni.ID || has.Association != g.Assoc {
		t.Errorf("the elastic address is %+v, want it associated with %s", has, eni.ID)
	}
	w.refused(&DisassociateAddress{dev, east, g.Assoc}, "OperationNotPermitted")
	w.refused(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Instance: w.running()}, "OperationNotPermitted")
	w.refused(&AssociateAddress{Account: dev, Region: east, Allocation: w.allocate().ID, Interface: eni.ID}, "OperationNotPermitted")
	w.refused(&ModifyNetworkInterface{Account: dev, Region: east, Interface: eni.ID, Groups: []ec2.GroupID{w.group.ID}}, "OperationNotPermitted")
	w.refused(&AssignPrivateAddresses{Account: dev, Region: east, Interface: eni.ID, Count: 1}, "OperationNotPermitted")
	w.refused(&UnassignPrivateAddresses{Account: dev, Region: east, Interface: eni.ID}, "OperationNotPermitted")
	w.refused(&DetachNetworkInterface{Account: dev, Region: east, Attachment: eni.Attachment.ID}, "OperationNotPermitted")
	w.refused(&DeleteNetworkInterface{dev, east, eni.ID}, "InvalidParameterValue")
	w.refused(&ReleaseAddress{dev, east, e.ID}, "InvalidIPAddress.InUse")
	w.refused(&DeleteSubnet{dev, east, w.subnet.ID}, "DependencyViolation")

	gone := w.must(&DeleteNATGateway{dev, east, g.ID}).NAT
	w.wantDeleted(eni.ID)
	if gone.State != ec2.NATDeleted || gone.Had != eni.ID || w.elastic(e.ID).Association != "" {
		t.Errorf("the deleted gateway is %+v, want it deleted and its elastic address free", gone)
	}
	w.must(&ReleaseAddress{dev, east, e.ID})
	w.now = w.now.Add(time.Hour - time.Second)
	w.must(&Sweep{})
	w.must(&DeleteNATGateway{dev, east, g.ID}) // still shown
	w.now = w.now.Add(time.Second)
	if due, ok := w.state.View().SweepDue(); !ok || due.After(w.now) {
		t.Errorf("the next sweep is due at %v (%v), want it now", due, ok)
	}
	w.must(&Sweep{})
	w.refused(&DeleteNATGateway{dev, east, g.ID}, "NatGatewayNotFound")
}

func TestNATGatewayThatCannotWorkHasFailed(t *testing.T) {
	w := newVPCWorld(t)
	used := w.allocate()
	w.must(associate(used, w.running()))
	closed := w.must(&CreateVPC{Account: dev, Region: east, CIDR: cidr("10.9.0.0/16")}).VPC
	alone := w.must(&CreateSubnet{Account: dev, Region: east, VPC: closed.ID, CIDR: cidr("10.9.0.0/28"), Zone: "us-east-1a"}).Subnet
	free := w.allocate()
	taken := w.create(InterfaceSpec{}).Private
	for _, tt := range []struct {
		name, code string
		change     func(*CreateNATGateway)
	}{
		{"an address that is in use", "Resource.AlreadyAssociated", public(used)},
		{"a VPC without internet gateway", "Gateway.NotAttached", func(r *CreateNATGateway) { public(free)(r); r.Subnet = alone.ID }},
		{"a private address that is taken", "InvalidIPAddress.InUse", func(r *CreateNATGateway) { r.Address = taken }},
	} {
		g := w.nat(tt.change)
		if g.State != ec2.NATFailed || g.FailureCode != tt.code || g.FailureMessage == "" || g.Interface != "" {
			t.Errorf("with %s the gateway is %+v, want it failed with %s", tt.name, g, tt.code)
		}
	}
	if w.elastic(free.ID).Association != "" {
		t.Error("a failed gateway has an elastic address")
	}
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.Private = false }), "MissingParameter")
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.Allocation = free.ID }), "InvalidParameterCombination")
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.Private, r.Allocation = false, "eipalloc-0a1b2c3d" }), "InvalidAllocationID.NotFound")
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.Address = addr("10.0.2.9") }), "InvalidParameterValue")
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.Subnet = "subnet-0a1b2c3d" }), "InvalidSubnetID.NotFound")
}

func TestNATGatewaysOfAZoneAreLimitedAndTokensRepeat(t *testing.T) {
	w := newVPCWorld(t)
	g := w.nat(func(r *CreateNATGateway) { r.ClientToken = "t" })
	if again := w.nat(func(r *CreateNATGateway) { r.ClientToken = "t" }); again.ID != g.ID {
		t.Errorf("the same token made %s and %s", g.ID, again.ID)
	}
	w.refused(w.makesNAT(func(r *CreateNATGateway) { r.ClientToken = "t"; r.Address = addr("10.0.1.9") }), "IdempotentParameterMismatch")
	for range 4 {
		w.nat(nil)
	}
	w.refused(w.makesNAT(nil), "NatGatewayLimitExceeded")
	w.must(&DeleteNATGateway{dev, east, g.ID})
	w.nat(nil)
}

func TestNATGatewayMovesFromALostNode(t *testing.T) {
	w := newVPCWorld(t)
	e := w.allocate()
	g := w.nat(public(e))
	was := w.eni(g.Interface)
	other := ec2.NodeID("node1")
	if was.Node == other {
		other = "node4"
	}
	if to := w.state.View().NodeForNAT(g, func(n ec2.NodeID) bool { return n == was.Node }); to != other {
		t.Errorf("the gateway would move to %q, want %s, the other node of its zone", to, other)
	}
	w.must(&MoveNATGateway{g.ID, other, was.Node}) // it is not there
	if w.eni(g.Interface).Epoch != was.Epoch {
		t.Error("a move from a node where the gateway is not moved it")
	}
	w.must(&MoveNATGateway{g.ID, was.Node, other})
	now := w.eni(g.Interface)
	if now.Node != other || now.Epoch == was.Epoch || now.Private != was.Private || now.Public != e.Public {
		t.Errorf("the moved interface is %+v, want it at %s with a new epoch and the same addresses", now, other)
	}
	w.must(&FenceNode{Node: other})
	if now := w.eni(g.Interface); now.Node == other || now.State != ec2.Active {
		t.Errorf("after the fence of %s the interface is %s at %s", other, now.State, now.Node)
	}
}
