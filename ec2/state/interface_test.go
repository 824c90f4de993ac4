package state

import (
	"net/netip"
	"testing"
	"time"

	"palisade/ec2"
)

// A vpcWorld has zone a with node1 and node4, zone b with node2, and the account dev, which has a
// default VPC and another VPC with a gateway, a subnet in zone a and a group.
type vpcWorld struct {
	*replay
	subnet *ec2.Subnet // 10.0.1.0/28
	group  *ec2.Group
}

func newVPCWorld(t testing.TB) *vpcWorld {
	r := newVPCReplay(t)
	r.must(&PutNode{ec2.Node{ID: "node4", Zone: "us-east-1a"}})
	vpc := r.must(&CreateVPC{Account: dev, Region: east, CIDR: cidr("10.0.0.0/16")}).VPC
	igw := r.must(&CreateInternetGateway{Account: dev, Region: east}).Gateway
	r.must(&AttachInternetGateway{dev, east, igw.ID, vpc.ID})
	return &vpcWorld{
		replay: r,
		subnet: r.must(&CreateSubnet{Account: dev, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.1.0/28"), Zone: "us-east-1a"}).Subnet,
		group:  r.must(&CreateSecurityGroup{Account: dev, Region: east, Name: "web", Description: "x", VPC: vpc.ID}).Group,
	}
}

func (w *vpcWorld) launch(change func(*RunInstances)) *ec2.Instance {
	w.t.Helper()
	return w.must(w.launching(change)).Instances[0].After
}

func (w *vpcWorld) launching(change func(*RunInstances)) *RunInstances {
	run := &RunInstances{Account: dev, Region: east, Image: "ami-eca54085", Type: "m1.small", MinCount: 1, MaxCount: 1, Subnet: w.subnet.ID}
	if change != nil {
		change(run)
	}
	return run
}

// running launches an instance, reports it as running and returns its id.
func (w *vpcWorld) running() ec2.InstanceID {
	w.t.Helper()
	id := w.launch(nil).ID
	w.report(id, ec2.Running)
	return id
}

func (w *vpcWorld) create(spec InterfaceSpec) *ec2.Interface {
	w.t.Helper()
	if spec.Subnet == "" {
		spec.Subnet = w.subnet.ID
	}
	return w.must(&CreateNetworkInterface{Account: dev, Region: east, Spec: spec}).Interface
}

func (w *vpcWorld) eni(id ec2.InterfaceID) *ec2.Interface {
	w.t.Helper()
	eni, ok := w.state.View().Interface(id)
	if !ok {
		w.t.Fatalf("interface %s does not exist", id)
	}
	return eni
}

func (w *vpcWorld) wantDeleted(id ec2.InterfaceID) {
	w.t.Helper()
	if _, ok := w.state.View().Interface(id); ok {
		w.t.Errorf("interface %s still exists", id)
	}
}

func (w *vpcWorld) stop(id ec2.InstanceID) {
	w.t.Helper()
	w.must(&StopInstances{dev, east, []ec2.InstanceID{id}})
	w.report(id, ec2.Stopped)
}

func (w *vpcWorld) attach(eni ec2.InterfaceID, i ec2.InstanceID, index int) *ec2.Interface {
	w.t.Helper()
	return w.must(&AttachNetworkInterface{dev, east, eni, i, index}).Interface
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestLaunchWithoutSubnetGoesToTheDefaultVPC(t *testing.T) {
	w := newVPCWorld(t)
	vpc := w.defaultVPC()
	for _, c := range []struct{ zone, address string }{
		{"us-east-1b", "172.31.16.4"},
		{"us-east-1a", "172.31.0.4"},
	} {
		i := w.launch(func(r *RunInstances) { r.Subnet, r.Zone = "", c.zone })
		eni := w.lease(i.ID)
		if i.VPC != vpc.ID || w.state.View().ZoneOf(i) != c.zone || w.node(i.Node).Zone != c.zone {
			t.Errorf("launched into VPC %s at node %s, want the default VPC in %s", i.VPC, i.Node, c.zone)
		}
		if eni.Private.String() != c.address || !eni.Public.IsValid() || eni.VNI != vpc.VNI || eni.State != ec2.Active || eni.Node != i.Node || eni.Epoch == 0 {
			t.Errorf("the interface is %+v, want it active with %s and a public address", eni, c.address)
		}
		if len(i.Groups) != 1 || i.Groups[0] != vpc.Group || len(eni.Groups) != 1 || eni.Groups[0] != vpc.Group {
			t.Errorf("instance and interface have groups %v and %v, want the default group of the VPC", i.Groups, eni.Groups)
		}
		if len(i.ID) != len("i-0123456789abcdef0") || len(eni.ID) != len("eni-0123456789abcdef0") || len(i.Reservation) != len("r-0123456789abcdef0") {
			t.Errorf("ids %s, %s and %s do not all have 17 digits", i.ID, eni.ID, i.Reservation)
		}
	}
	i := w.launch(func(r *RunInstances) { r.Subnet, r.Groups = "", []GroupSelector{{Name: "default"}} })
	if i.Groups[0] != vpc.Group {
		t.Errorf("launched with the group name default, the instance is in groups %v, want %s", i.Groups, vpc.Group)
	}
	w.refused(w.launching(func(r *RunInstances) { r.Subnet, r.Zone = "", "us-east-1x" }), "InvalidParameterValue")
	w.refused(w.launching(func(r *RunInstances) { r.Zone = "us-east-1b" }), "InvalidParameterValue")
}

func TestLaunchLeasesAddressesOfItsSubnet(t *testing.T) {
	w := newVPCWorld(t)
	nodes := make(map[ec2.NodeID]bool)
	for _, want := range []string{"10.0.1.4", "10.0.1.5"} {
		i := w.launch(func(r *RunInstances) { r.Groups = []GroupSelector{{ID: w.group.ID}} })
		eni := w.lease(i.ID)
		if eni.Private.String() != want || eni.Public.IsValid() || eni.Subnet != w.subnet.ID || i.Subnet != w.subnet.ID || len(eni.Groups) != 1 || eni.Groups[0] != w.group.ID {
			t.Errorf("launched with interface %+v, want %s without public address, in the group", eni, want)
		}
		nodes[i.Node] = true
	}
	if !nodes["node1"] || !nodes["node4"] {
		t.Errorf("two instances are on nodes %v, want one on each node of the zone", nodes)
	}
	chosen := w.launch(func(r *RunInstances) {
		r.Private, r.Secondary = addr("10.0.1.9"), []netip.Addr{addr("10.0.1.11"), addr("10.0.1.10")}
	})
	if eni := w.lease(chosen.ID); eni.Private != addr("10.0.1.9") || len(eni.Secondary) != 2 || eni.Secondary[0].Private != addr("10.0.1.10") {
		t.Errorf("with chosen addresses the interface is %+v, want 10.0.1.9 and two secondary addresses from 10.0.1.10", eni)
	}
	for _, c := range []struct {
		address, code string
	}{
		{"10.0.1.9", "InvalidIPAddress.InUse"},
		{"10.0.1.10", "InvalidIPAddress.InUse"},
		{"10.0.1.0", "InvalidParameterValue"},
		{"10.0.1.3", "InvalidParameterValue"},
		{"10.0.1.15", "InvalidParameterValue"},
		{"10.0.2.4", "InvalidParameterValue"},
	} {
		w.refused(w.launching(func(r *RunInstances) { r.Private = addr(c.address) }), c.code)
	}
	w.refused(w.launching(func(r *RunInstances) { r.Groups = []GroupSelector{{Name: "web"}} }), "InvalidParameterCombination")
	w.refused(w.launching(func(r *RunInstances) { r.Groups = []GroupSelector{{ID: w.defaultVPC().Group}} }), "InvalidGroup.NotFound")
	w.refused(w.launching(func(r *RunInstances) { r.Private, r.MaxCount = addr("10.0.1.12"), 2 }), "InvalidParameterCombination")
	w.refused(w.launching(func(r *RunInstances) { r.Subnet = "subnet-00000000" }), "InvalidSubnetID.NotFound")
	w.refused(w.launching(func(r *RunInstances) { r.Account = albert }), "InvalidSubnetID.NotFound")

	// Of the 11 addresses 5 are in use.
	w.refused(w.launching(func(r *RunInstances) { r.MinCount, r.MaxCount = 7, 9 }), "InsufficientFreeAddressesInSubnet")
	if made := w.must(w.launching(func(r *RunInstances) { r.MinCount, r.MaxCount, r.SecondaryCount = 1, 9, 1 })).Instances; len(made) != 3 {
		t.Errorf("launched %d instances, want 3 with two addresses each", len(made))
	}
}

func TestLaunchDecidesOnPublicAddress(t *testing.T) {
	w := newVPCWorld(t)
	one := func(public *bool) func(*RunInstances) {
		return func(r *RunInstances) {
			r.Subnet = ""
			r.Interfaces = []LaunchInterface{{Spec: InterfaceSpec{Subnet: w.subnet.ID}, Public: public}}
		}
	}
	has := func(i *ec2.Instance) bool { return w.lease(i.ID).Public.IsValid() }
	if has(w.launch(one(nil))) || !has(w.launch(one(new(true)))) {
		t.Error("the launch got a public address that the request did not ask for, or none although it asked for one")
	}
	w.must(&ModifySubnet{dev, east, w.subnet.ID, new(true)})
	if !has(w.launch(nil)) || has(w.launch(one(new(false)))) {
		t.Error("MapPublic of the subnet did not give a public address, or the request did not override it")
	}
	two := func(public *bool) func(*RunInstances) {
		return func(r *RunInstances) {
			one(public)(r)
			r.Interfaces = append(r.Interfaces, LaunchInterface{DeviceIndex: 1, Spec: InterfaceSpec{Subnet: w.subnet.ID}})
		}
	}
	w.refused(w.launching(two(new(true))), "InvalidParameterCombination")
	if has(w.launch(two(nil))) {
		t.Error("an instance with two interfaces got a public address")
	}
}

func TestLaunchUsesListedInterfaces(t *testing.T) {
	w := newVPCWorld(t)
	own := w.create(InterfaceSpec{Private: addr("10.0.1.12"), Groups: []ec2.GroupID{w.group.ID}})
	i := w.launch(func(r *RunInstances) {
		r.Subnet = ""
		r.Interfaces = []LaunchInterface{
			{DeviceIndex: 1, Spec: InterfaceSpec{Subnet: w.subnet.ID, Description: "second"}},
			{DeviceIndex: 0, Interface: own.ID},
		}
	})
	if i.Interface != own.ID || len(i.Groups) != 1 || i.Groups[0] != w.group.ID || i.Subnet != w.subnet.ID {
		t.Errorf("the instance is %+v, want it with interface %s and its groups", i, own.ID)
	}
	var second *ec2.Interface
	for eni := range w.state.View().InterfacesAt(i.ID) {
		if eni.State != ec2.Active || eni.Node != i.Node || eni.Attachment.DeleteOnTermination != (eni.ID != own.ID) {
			t.Errorf("the interface is %+v with attachment %+v, want it active at node %s", eni, eni.Attachment, i.Node)
		}
		if eni.ID != own.ID {
			second = eni
		}
	}
	if second == nil || second.Description != "second" || second.Attachment.DeviceIndex != 1 {
		t.Fatalf("the second interface is %+v, want description second and device index 1", second)
	}
	w.report(i.ID, ec2.Running)
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{i.ID}})
	if eni := w.eni(second.ID); eni.State != ec2.Draining {
		t.Errorf("after terminate the second interface is %+v, want it draining", eni)
	}
	w.report(i.ID, ec2.Terminated)
	w.wantDeleted(second.ID)
	if eni := w.eni(own.ID); eni.State != ec2.Idle || eni.Instance != "" || eni.Attachment != nil || eni.Node != "" || eni.Private != own.Private || eni.MAC != own.MAC {
		t.Errorf("the interface that existed before is %+v, want it idle and unattached", eni)
	}

	for _, c := range []struct {
		what, code string
		change     func(*RunInstances)
	}{
		{"a subnet too", "InvalidParameterCombination", func(r *RunInstances) { r.Subnet = w.subnet.ID }},
		{"groups too", "InvalidParameterCombination", func(r *RunInstances) { r.Groups = []GroupSelector{{ID: w.group.ID}} }},
		{"two at one index", "InvalidParameterValue", func(r *RunInstances) { r.Interfaces[1].DeviceIndex = 0 }},
		{"none at index 0", "InvalidParameterValue", func(r *RunInstances) { r.Interfaces[0].DeviceIndex = 2 }},
		{"two instances", "InvalidParameterCombination", func(r *RunInstances) { r.MaxCount = 2 }},
		{"an id and a subnet", "InvalidParameterCombination", func(r *RunInstances) { r.Interfaces[0].Spec.Subnet = w.subnet.ID }},
		{"one id twice", "InvalidNetworkInterface.InUse", func(r *RunInstances) { r.Interfaces[1] = LaunchInterface{Interface: own.ID, DeviceIndex: 1} }},
		{"more addresses than one may have", "PrivateIpAddressLimitExceeded", func(r *RunInstances) { r.Interfaces[1].Spec.SecondaryCount = 1 << 20 }},
		{"an unknown id", "InvalidNetworkInterfaceID.NotFound", func(r *RunInstances) { r.Interfaces[0].Interface = "eni-00000000" }},
		{"another VPC", "InvalidParameterCombination", func(r *RunInstances) {
			s, _ := w.state.View().Subnet(w.launch(func(r *RunInstances) { r.Subnet, r.Zone = "", "us-east-1a" }).Subnet)
			r.Interfaces[1].Spec.Subnet = s.ID
		}},
		{"too many", "AttachmentLimitExceeded", func(r *RunInstances) {
			for n := range 7 {
				r.Interfaces = append(r.Interfaces, LaunchInterface{DeviceIndex: n + 2})
			}
		}},
	} {
		run := w.launching(func(r *RunInstances) {
			r.Subnet = ""
			r.Interfaces = []LaunchInterface{{Interface: own.ID}, {DeviceIndex: 1, Spec: InterfaceSpec{Subnet: w.subnet.ID}}}
			c.change(r)
		})
		t.Log(c.what)
		w.refused(run, c.code)
	}
	w.attach(own.ID, w.running(), 1)
	w.refused(w.launching(func(r *RunInstances) { r.Subnet, r.Interfaces = "", []LaunchInterface{{Interface: own.ID}} }), "InvalidNetworkInterface.InUse")
}

func TestStoppedVPCInstanceKeepsItsInterface(t *testing.T) {
	w := newVPCWorld(t)
	id := w.launch(func(r *RunInstances) { r.Subnet = "" }).ID
	w.report(id, ec2.Running)
	was := w.lease(id)
	w.must(&StopInstances{dev, east, []ec2.InstanceID{id}})
	if eni := w.lease(id); eni.State != ec2.Draining || eni.Epoch != was.Epoch {
		t.Errorf("during the stop the interface is %+v, want it draining", eni)
	}
	w.report(id, ec2.Stopped)
	eni := w.lease(id)
	if eni.ID != was.ID || eni.State != ec2.Idle || eni.Node != "" || eni.Public.IsValid() || eni.Private != was.Private || eni.Instance != id {
		t.Errorf("the stopped instance has interface %+v, want its own, idle, without public address", eni)
	}
	row := first[address](w.state.View().txn(), tableAddress, indexID, addressKey(publicVNI, was.Public))
	if row == nil || !row.inQuarantine() || row.FreedIndex != w.state.Index() {
		t.Errorf("the row of the public address is %+v, want it in quarantine", row)
	}
	// A later report of the node is about a lease that has ended.
	w.must(&ReportInstance{Instance: id, InterfaceEpoch: was.Epoch, State: ec2.Terminated})
	if i := w.instance(id); i.State != ec2.Stopped {
		t.Errorf("a late report made the instance %s, want stopped", i.State)
	}

	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	now := w.lease(id)
	if now.ID != was.ID || now.State != ec2.Active || now.Epoch <= was.Epoch || now.MAC != was.MAC || now.Private != was.Private {
		t.Errorf("restarted with interface %+v,\nwhich was %+v; want only a new epoch", now, was)
	}
	if !now.Public.IsValid() || now.Public == was.Public {
		t.Errorf("restarted with public address %s, was %s; want a new one", now.Public, was.Public)
	}
	// An instance with two interfaces gets no public address.
	w.report(id, ec2.Running)
	subnet, _ := w.state.View().Subnet(now.Subnet)
	w.attach(w.create(InterfaceSpec{Subnet: subnet.ID}).ID, id, 1)
	w.stop(id)
	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	if eni := w.lease(id); eni.Public.IsValid() {
		t.Errorf("the instance with two interfaces has public address %s, want none", eni.Public)
	}
}

func TestElasticAddressSurvivesStopButNotTermination(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	e := w.must(&AllocateAddress{Account: dev, Region: east}).Elastic
	w.must(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Instance: id})
	w.stop(id)
	if eni := w.lease(id); eni.Public != e.Public {
		t.Errorf("the stopped instance has public address %s, want the elastic address %s", eni.Public, e.Public)
	}
	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	if eni := w.lease(id); eni.Public != e.Public {
		t.Errorf("the started instance has public address %s, want the elastic address %s", eni.Public, e.Public)
	}
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{id}})
	w.report(id, ec2.Terminated)
	if now, ok := w.state.View().ElasticAddress(e.ID); !ok || now.Association != "" || now.Interface != "" || now.Public != e.Public {
		t.Errorf("after the termination the elastic address is %+v, want it unassociated", now)
	}
	w.now = w.now.Add(time.Hour)
	w.must(&Sweep{})
	if again := w.must(&AllocateAddress{Account: dev, Region: east}).Elastic; again.Public == e.Public {
		t.Error("an allocated elastic address was allocated again")
	}
}

func TestVPCAddressIsQuarantinedBeforeReuse(t *testing.T) {
	w := newVPCWorld(t)
	eni := w.create(InterfaceSpec{Private: addr("10.0.1.4"), SecondaryCount: 1})
	if eni.Secondary[0].Private != addr("10.0.1.5") {
		t.Fatalf("the secondary address is %s, want 10.0.1.5", eni.Secondary[0].Private)
	}
	w.must(&DeleteNetworkInterface{dev, east, eni.ID})
	w.refused(&CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: w.subnet.ID, Private: eni.Private}}, "InvalidIPAddress.InUse")
	if next := w.create(InterfaceSpec{}); next.Private != addr("10.0.1.6") {
		t.Errorf("the next interface has %s, want the first address that is not in quarantine", next.Private)
	}
	w.now = w.now.Add(time.Minute)
	w.must(&Sweep{})
	if next := w.create(InterfaceSpec{}); next.Private != eni.Private || next.MAC != eni.MAC || next.ID == eni.ID {
		t.Errorf("after the quarantine the address belongs to %+v, want a new interface with the same MAC", next)
	}
}

func TestInstanceOfFencedNodeKeepsItsInterfaces(t *testing.T) {
	w := newVPCWorld(t)
	at := make(map[ec2.NodeID]ec2.InstanceID)
	for range 2 {
		id := w.running()
		at[w.instance(id).Node] = id
	}
	lost := at["node4"]
	second := w.attach(w.create(InterfaceSpec{}).ID, lost, 1)
	leaving := w.attach(w.create(InterfaceSpec{}).ID, lost, 2)
	w.must(&DetachNetworkInterface{dev, east, leaving.Attachment.ID, false})
	external := w.must(&RegisterInterface{Account: dev, Region: east, Node: "node4", External: ec2.ExternalDevice{Device: "tap0"}, Spec: InterfaceSpec{Subnet: w.subnet.ID}}).Interface
	was := w.lease(lost)

	result := w.must(&FenceNode{Node: "node4"})
	if len(result.Instances) != 1 || result.Instances[0].After.State != ec2.Stopped {
		t.Errorf("the fence changed %d instances, want one, which is stopped", len(result.Instances))
	}
	for _, id := range []ec2.InterfaceID{was.ID, second.ID} {
		if eni := w.eni(id); eni.State != ec2.Idle || eni.Instance != lost || eni.Node != "" {
			t.Errorf("the interface of the stopped instance is %+v, want it idle and still attached", eni)
		}
	}
	if eni := w.eni(leaving.ID); eni.State != ec2.Idle || eni.Instance != "" || eni.Attachment != nil {
		t.Errorf("the interface that was being detached is %+v, want it idle and detached", eni)
	}
	w.wantDeleted(external.ID)
	w.must(&StartInstances{dev, east, []ec2.InstanceID{lost}})
	if i, eni := w.instance(lost), w.lease(lost); i.Node != "node1" || eni.Node != "node1" || eni.State != ec2.Active || eni.Private != was.Private || eni.Epoch <= was.Epoch {
		t.Errorf("started on node %s with interface %+v, want node1 and the same address", i.Node, eni)
	}
	w.report(lost, ec2.Running)
	w.stop(lost)
	w.must(&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1b"}})
	w.refused(&StartInstances{dev, east, []ec2.InstanceID{lost}}, "InsufficientInstanceCapacity")
}
