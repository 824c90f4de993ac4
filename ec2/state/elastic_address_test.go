package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
)

func (w *vpcWorld) allocate() *ec2.ElasticAddress {
	w.t.Helper()
	return w.must(&AllocateAddress{Account: dev, Region: east}).Elastic
}

func (w *vpcWorld) elastic(id ec2.AllocationID) *ec2.ElasticAddress {
	w.t.Helper()
	e, ok := w.state.View().ElasticAddress(id)
	if !ok {
		w.t.Fatalf("elastic address %s does not exist", id)
	}
	checkElastic(w.t.(*testing.T), w.state.View(), e)
	return e
}

// The method public launches an instance with an automatic public address, reports it as running
// and returns its id.
func (w *vpcWorld) public() ec2.InstanceID {
	w.t.Helper()
	w.must(&ModifySubnet{dev, east, w.subnet.ID, new(true)})
	return w.running()
}

func associate(e *ec2.ElasticAddress, i ec2.InstanceID) *AssociateAddress {
	return &AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Instance: i}
}

func TestElasticAddressBelongsToItsAccountUntilReleased(t *testing.T) {
	w := newVPCWorld(t)
	e := w.must(&AllocateAddress{Account: dev, Region: east, Tags: map[string]string{"k": "v"}}).Elastic
	if e.Public != addr("198.18.0.2") || e.Association != "" || w.tags(string(e.ID)) != "k=v" {
		t.Errorf("allocated %+v, want 198.18.0.2 with its tag", e)
	}
	w.now = w.now.Add(time.Hour)
	w.must(&Sweep{})
	for range 4 {
		if other := w.allocate(); other.Public == e.Public {
			t.Fatalf("address %s was allocated twice", e.Public)
		}
	}
	w.refused(&AllocateAddress{Account: dev, Region: east}, "AddressLimitExceeded")
	w.refused(&AllocateAddress{Account: dev, Region: "eu-west-1"}, "UnsupportedOperation")
	if o := w.must(&AllocateAddress{Account: albert, Region: east}).Elastic; o.Public == e.Public {
		t.Errorf("address %s was allocated to two accounts", e.Public)
	}
	if got := w.lease(w.run(1)[0].ID).Public; got == e.Public { // EC2-Classic has the same pool
		t.Errorf("the elastic address %s was leased to an instance", got)
	}
	w.refused(&ReleaseAddress{albert, east, e.ID}, "InvalidAllocationID.NotFound")
	w.refused(&ReleaseAddress{dev, east, ""}, "MissingParameter")
	w.must(&ReleaseAddress{dev, east, e.ID})
	w.refused(&ReleaseAddress{dev, east, e.ID}, "InvalidAllocationID.NotFound")
	if w.tags(string(e.ID)) != "" {
		t.Error("a released address still has tags")
	}
	if again := w.allocate(); again.Public == e.Public {
		t.Errorf("address %s was allocated again without quarantine", e.Public)
	} else {
		w.must(&ReleaseAddress{dev, east, again.ID})
	}
	w.now = w.now.Add(2 * time.Minute)
	w.must(&Sweep{})
	if again := w.allocate(); again.Public != e.Public {
		t.Errorf("allocated %s, want %s, whose quarantine is over", again.Public, e.Public)
	}
}

func TestLaunchAndAllocateStopWhenPublicPoolIsEmpty(t *testing.T) {
	w := newVPCWorld(t)
	n := firstRequests()[3].(*PutNetwork).Network
	n.PublicPools = n.PublicPools[:0]
	n.PublicPools = append(n.PublicPools, cidr("198.18.0.0/31"))
	w.must(&PutNetwork{n})
	w.allocate()
	w.must(&ModifySubnet{dev, east, w.subnet.ID, new(true)})
	if run := w.must(w.launching(func(r *RunInstances) { r.MaxCount = 2 })); len(run.Instances) != 1 {
		t.Errorf("launched %d instances with one public address left, want 1", len(run.Instances))
	}
	w.refused(w.launching(nil), "InsufficientAddressCapacity") // although the subnet has free addresses
	w.refused(&AllocateAddress{Account: dev, Region: east}, "InsufficientAddressCapacity")
}

func TestElasticAddressReplacesAutomaticAddress(t *testing.T) {
	w := newVPCWorld(t)
	id := w.public()
	was := w.lease(id)
	if !was.Public.IsValid() {
		t.Fatalf("the interface has no public address: %+v", was)
	}
	e := w.allocate()
	made := w.must(associate(e, id)).Elastic
	now := w.lease(id)
	if now.Public != e.Public || now.Epoch != was.Epoch || now.State != ec2.Active || made.Interface != now.ID || made.Private != now.Private || made.Association == "" {
		t.Errorf("elastic address %+v is associated with interface %+v, which was %+v; want the same epoch and the new public address", made, now, was)
	}
	w.elastic(e.ID)
	if again := w.must(associate(e, id)).Elastic; again.Association != made.Association {
		t.Errorf("the repeated association is %s, want %s", again.Association, made.Association)
	}
	if o := w.allocate(); o.Public == was.Public {
		t.Errorf("the automatic address %s was allocated without quarantine", was.Public)
	}
	w.refused(&ReleaseAddress{dev, east, e.ID}, "InvalidIPAddress.InUse")

	w.must(&DisassociateAddress{dev, east, made.Association})
	back := w.lease(id)
	if !back.Public.IsValid() || back.Public == e.Public || back.Public == was.Public || back.Epoch != was.Epoch {
		t.Errorf("after disassociation the interface is %+v, want another automatic address", back)
	}
	if e := w.elastic(e.ID); e.Association != "" || e.Interface != "" || e.Private.IsValid() {
		t.Errorf("the elastic address is %+v, want it unassociated", e)
	}
	w.refused(&DisassociateAddress{dev, east, made.Association}, "InvalidAssociationID.NotFound")
	w.refused(&DisassociateAddress{dev, east, ""}, "MissingParameter")
	w.must(&ReleaseAddress{dev, east, e.ID})
}

// EC2 restores no automatic address if the launch had none, if the instance is stopped, or if it
// has two interfaces.
func TestAutomaticAddressIsRestoredAfterDisassociation(t *testing.T) {
	w := newVPCWorld(t)
	e := w.allocate()
	bare := w.running()
	w.must(&DisassociateAddress{dev, east, w.must(associate(e, bare)).Elastic.Association})
	if got := w.lease(bare); got.Public.IsValid() {
		t.Errorf("launched without public address, the interface has %s, want none", got.Public)
	}

	id := w.public()
	made := w.must(associate(e, id)).Elastic
	w.stop(id)
	if got := w.lease(id); got.Public != e.Public || got.State != ec2.Idle {
		t.Errorf("the interface of the stopped instance is %+v, want its elastic address", got)
	}
	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	if got := w.lease(id); got.Public != e.Public || got.State != ec2.Active {
		t.Errorf("the interface of the started instance is %+v, want its elastic address", got)
	}
	w.report(id, ec2.Running)
	w.stop(id)
	w.must(&DisassociateAddress{dev, east, made.Association})
	if got := w.lease(id); got.Public.IsValid() {
		t.Errorf("the stopped instance has public address %s, want none", got.Public)
	}
	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	w.report(id, ec2.Running)
	if got := w.lease(id); !got.Public.IsValid() || got.Public == e.Public {
		t.Errorf("the started instance has public address %s, want an automatic one", got.Public)
	}

	w.must(associate(e, id))
	w.must(associate(e, bare)) // moved without a disassociation
	if got := w.lease(id); !got.Public.IsValid() || got.Public == e.Public {
		t.Errorf("after its elastic address moved the instance has %s, want an automatic address", got.Public)
	}
	made = w.must(associate(e, id)).Elastic
	w.attach(w.create(InterfaceSpec{}).ID, id, 1)
	w.must(&DisassociateAddress{dev, east, made.Association})
	if got := w.lease(id); got.Public.IsValid() {
		t.Errorf("the instance with two interfaces has public address %s, want none", got.Public)
	}
}

func TestEachPrivateAddressCanHaveAnElasticAddress(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	second := w.create(InterfaceSpec{SecondaryCount: 1})
	a, b, c := w.allocate(), w.allocate(), w.allocate()
	w.attach(second.ID, id, 1)
	w.refused(associate(a, id), "InvalidInstanceID")
	to := func(e *ec2.ElasticAddress, private string) Request {
		r := &AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: second.ID}
		if private != "" {
			r.Private = addr(private)
		}
		return r
	}
	w.refused(to(a, "10.0.1.14"), "InvalidParameterValue")
	secondary := second.Secondary[0].Private.String()
	w.must(to(a, ""))
	w.must(to(b, secondary))
	if got := w.eni(second.ID); got.Public != a.Public || got.Secondary[0].Public != b.Public {
		t.Errorf("the interface is %+v, want it with %s and %s", got, a.Public, b.Public)
	}
	// Moving a to the secondary private address disassociates b.
	w.must(to(a, secondary))
	if got := w.eni(second.ID); got.Public.IsValid() || got.Secondary[0].Public != a.Public {
		t.Errorf("the interface is %+v, want %s at the secondary address only", got, a.Public)
	}
	if e := w.elastic(b.ID); e.Association != "" {
		t.Errorf("elastic address %+v is still associated, want it replaced", e)
	}
	w.elastic(a.ID)
	w.must(to(c, ""))
	w.must(&UnassignPrivateAddresses{dev, east, second.ID, []netip.Addr{second.Secondary[0].Private}})
	if e := w.elastic(a.ID); e.Association != "" {
		t.Errorf("elastic address %+v is associated with a private address that was unassigned", e)
	}
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{id}})
	w.elastic(c.ID)
}

func TestReassociationNeedsPermissionInClassicAccounts(t *testing.T) {
	w := newVPCWorld(t)
	one, two := w.running(), w.running()
	a, b := w.allocate(), w.allocate()
	w.must(associate(a, one))
	w.must(associate(b, two))
	with := func(e *ec2.ElasticAddress, i ec2.InstanceID, allow bool) Request {
		r := associate(e, i)
		r.AllowReassociation = &allow
		return r
	}
	w.refused(with(a, two, false), "Resource.AlreadyAssociated")
	free := w.allocate()
	w.refused(with(free, two, false), "Resource.AlreadyAssociated") // b is associated with it
	w.must(associate(a, two))                                       // a VPC account needs no permission
	if w.lease(one).Public.IsValid() || w.lease(two).Public != a.Public || w.elastic(b.ID).Association != "" {
		t.Errorf("the instances have public addresses %s and %s, want none and the moved one", w.lease(one).Public, w.lease(two).Public)
	}
	w.elastic(a.ID)

	vpc := w.vpc(albert, "10.0.0.0/16")
	w.attachedGateway(vpc)
	s := w.replay.subnet(vpc, "10.0.1.0/24", "us-east-1a")
	x := w.must(&CreateNetworkInterface{Account: albert, Region: east, Spec: InterfaceSpec{Subnet: s.ID}}).Interface
	y := w.must(&CreateNetworkInterface{Account: albert, Region: east, Spec: InterfaceSpec{Subnet: s.ID}}).Interface
	e := w.must(&AllocateAddress{Account: albert, Region: east}).Elastic
	w.must(&AssociateAddress{Account: albert, Region: east, Allocation: e.ID, Interface: x.ID})
	w.refused(&AssociateAddress{Account: albert, Region: east, Allocation: e.ID, Interface: y.ID}, "Resource.AlreadyAssociated")
	w.must(&AssociateAddress{Account: albert, Region: east, Allocation: e.ID, Interface: y.ID, AllowReassociation: new(true)})
}

func TestAssociateAddressRefusesInvalidTargets(t *testing.T) {
	w := newVPCWorld(t)
	e := w.allocate()
	pending := w.launch(nil).ID
	ended := w.running()
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{ended}})
	classic := w.run(1)[0].ID
	w.report(classic, ec2.Running)
	alberts := w.must(&AllocateAddress{Account: albert, Region: east}).Elastic
	island := w.must(&CreateVPC{Account: dev, Region: east, CIDR: cidr("10.9.0.0/16")}).VPC
	lonely := w.create(InterfaceSpec{Subnet: w.replay.subnet(island, "10.9.1.0/24", "us-east-1a").ID})
	for _, c := range []struct {
		req  *AssociateAddress
		code string
	}{
		{associate(e, pending), "InvalidInstanceID"},
		{associate(e, ended), "InvalidInstanceID"},
		{associate(e, "i-00000000"), "InvalidInstanceID.NotFound"},
		{associate(e, classic), "InvalidInstanceID.NotFound"}, // of another account
		{associate(alberts, pending), "InvalidAllocationID.NotFound"},
		{&AssociateAddress{Account: albert, Region: east, Allocation: alberts.ID, Instance: classic}, "InvalidInstanceID"},
		{&AssociateAddress{Account: albert, Region: east, Allocation: alberts.ID, Interface: w.lease(classic).ID}, "InvalidNetworkInterfaceID.NotFound"},
		{&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: lonely.ID}, "Gateway.NotAttached"},
		{&AssociateAddress{Account: dev, Region: east, Allocation: e.ID}, "MissingParameter"},
		{&AssociateAddress{Account: dev, Region: east, Instance: pending}, "MissingParameter"},
		{&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Instance: pending, Interface: lonely.ID}, "InvalidParameterCombination"},
	} {
		w.refused(c.req, c.code)
	}
}

func TestElasticAddressOutlivesItsInterface(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	e := w.allocate()
	w.must(associate(e, id))
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{id}})
	w.report(id, ec2.Terminated)
	if now := w.elastic(e.ID); now.Association != "" {
		t.Errorf("after the termination the elastic address is %+v, want it unassociated", now)
	}
	idle := w.create(InterfaceSpec{})
	w.must(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: idle.ID})
	w.must(&DeleteNetworkInterface{dev, east, idle.ID})
	if now := w.elastic(e.ID); now.Association != "" {
		t.Errorf("after the deletion of the interface the elastic address is %+v, want it unassociated", now)
	}
}

// A gateway cannot be detached while interfaces of its VPC have public addresses. A subnet with
// interfaces cannot be deleted. The errors name the interfaces.
func TestGatewayAndSubnetInUseAreNotRemoved(t *testing.T) {
	w := newVPCWorld(t)
	e := w.allocate()
	idle := w.create(InterfaceSpec{})
	made := w.must(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: idle.ID}).Elastic
	var g *ec2.InternetGateway
	for x := range w.state.View().InternetGatewaysOf(dev, east) {
		if x.VPC == w.subnet.VPC {
			g = x
		}
	}
	for _, c := range []struct {
		req   Request
		names []string
	}{
		{&DetachInternetGateway{dev, east, g.ID, w.subnet.VPC}, []string{"has some mapped public address(es)", string(idle.ID), e.Public.String()}},
		{&DeleteSubnet{dev, east, w.subnet.ID}, []string{"has dependencies and cannot be deleted", string(idle.ID)}},
	} {
		_, err := w.do(c.req)
		if e, ok := err.(*ec2.Error); !ok || e.Code != "DependencyViolation" || slices.ContainsFunc(c.names, func(n string) bool { return !strings.Contains(e.Message, n) }) {
			t.Errorf("%T: got %v, want a DependencyViolation that names %v", c.req, err, c.names)
		}
	}
	w.must(&DisassociateAddress{dev, east, made.Association})
	w.must(&DetachInternetGateway{dev, east, g.ID, w.subnet.VPC})
	w.must(&DeleteNetworkInterface{dev, east, idle.ID})
	w.must(&DeleteSubnet{dev, east, w.subnet.ID})
}

func TestFreeAddressesAreCounted(t *testing.T) {
	w := newVPCWorld(t)
	free := func() int { return w.state.View().FreeAddresses(w.subnet) }
	if free() != 11 {
		t.Errorf("a /28 has %d free addresses, want 11", free())
	}
	eni := w.create(InterfaceSpec{SecondaryCount: 2})
	if free() != 8 {
		t.Errorf("with three addresses in use %d are free, want 8", free())
	}
	w.must(&DeleteNetworkInterface{dev, east, eni.ID})
	if free() != 8 {
		t.Errorf("with three addresses in quarantine %d are free, want 8", free())
	}
	w.now = w.now.Add(time.Hour)
	w.must(&Sweep{})
	if free() != 11 {
		t.Errorf("after the quarantine %d are free, want 11", free())
	}
}
