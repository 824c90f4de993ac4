package state

import (
	"net/netip"
	"testing"

	"palisade/ec2"
)

func TestInterfaceIsAttachedAndDetachedWhileTheInstanceRuns(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	made := w.create(InterfaceSpec{})
	if made.State != ec2.Idle || made.Node != "" || made.Attachment != nil || made.Epoch != 0 {
		t.Errorf("the new interface is %+v, want it idle", made)
	}
	eni := w.attach(made.ID, id, 1)
	if eni.State != ec2.Active || eni.Node != w.instance(id).Node || eni.Epoch == 0 || eni.Attachment.DeviceIndex != 1 || eni.Attachment.DeleteOnTermination {
		t.Errorf("the attached interface is %+v, %+v, want it active at the node of its instance", eni, eni.Attachment)
	}
	w.refused(&AttachNetworkInterface{dev, east, eni.ID, id, 2}, "InvalidNetworkInterface.InUse")
	w.refused(&DeleteNetworkInterface{dev, east, eni.ID}, "InvalidParameterValue")
	w.refused(&DetachNetworkInterface{dev, east, w.lease(id).Attachment.ID, false}, "OperationNotPermitted")

	detach := &DetachNetworkInterface{Account: dev, Region: east, Attachment: eni.Attachment.ID}
	w.must(detach)
	if now := w.eni(eni.ID); now.State != ec2.Draining || !now.Attachment.Detaching || now.Epoch != eni.Epoch {
		t.Errorf("the interface that is being detached is %+v, want it draining", now)
	}
	w.refused(detach, "IncorrectState")
	w.must(&ReportInterface{eni.ID, eni.Epoch - 1}) // about an earlier lease
	if w.eni(eni.ID).State != ec2.Draining {
		t.Error("a report about an earlier lease detached the interface")
	}
	w.must(&ReportInterface{eni.ID, eni.Epoch})
	if now := w.eni(eni.ID); now.State != ec2.Idle || now.Instance != "" || now.Attachment != nil || now.Private != eni.Private {
		t.Errorf("the detached interface is %+v, want it idle with its address", now)
	}
	again := w.attach(eni.ID, id, 1)
	if again.Epoch <= eni.Epoch || again.MAC != eni.MAC || again.Attachment.ID == eni.Attachment.ID {
		t.Errorf("the interface attached again is %+v, was %+v; want a new epoch and attachment", again, eni)
	}
	// Force detaches the interface although its node does not report.
	detach.Attachment = again.Attachment.ID
	w.must(detach)
	detach.Force = true
	w.must(detach)
	if now := w.eni(eni.ID); now.State != ec2.Idle || now.Attachment != nil {
		t.Errorf("the interface detached by force is %+v, want it idle", now)
	}
	w.must(&DeleteNetworkInterface{dev, east, eni.ID})
	w.wantDeleted(eni.ID)
}

func TestInterfaceIsAttachedToAStoppedInstance(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	w.stop(id)
	eni := w.attach(w.create(InterfaceSpec{}).ID, id, 3)
	if eni.State != ec2.Idle || eni.Instance != id {
		t.Errorf("attached to a stopped instance the interface is %+v, want it idle", eni)
	}
	w.must(&DetachNetworkInterface{dev, east, eni.Attachment.ID, false})
	if now := w.eni(eni.ID); now.Attachment != nil || now.State != ec2.Idle {
		t.Errorf("detached from a stopped instance the interface is %+v, want it idle and unattached", now)
	}
	w.attach(eni.ID, id, 1)
	w.must(&StartInstances{dev, east, []ec2.InstanceID{id}})
	if now := w.eni(eni.ID); now.State != ec2.Active || now.Node != w.instance(id).Node {
		t.Errorf("after the start the interface is %+v, want it active", now)
	}
	// If its instance stops meanwhile, the interface is detached by the report of the stop.
	w.report(id, ec2.Running)
	w.must(&StopInstances{dev, east, []ec2.InstanceID{id}})
	w.must(&DetachNetworkInterface{dev, east, w.eni(eni.ID).Attachment.ID, false})
	w.report(id, ec2.Stopped)
	if now := w.eni(eni.ID); now.Attachment != nil || now.State != ec2.Idle {
		t.Errorf("detached during a stop the interface is %+v, want it idle and unattached", now)
	}
	// Terminating a stopped instance deletes the interfaces with DeleteOnTermination.
	primary := w.lease(id).ID
	w.attach(eni.ID, id, 1)
	w.must(&TerminateInstances{dev, east, []ec2.InstanceID{id}})
	w.wantDeleted(primary)
	if now := w.eni(eni.ID); now.Attachment != nil || now.State != ec2.Idle {
		t.Errorf("after the termination the interface is %+v, want it idle and unattached", now)
	}
}

func TestAttachRefusesInvalidRequests(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	eni := w.create(InterfaceSpec{})
	other := w.must(&CreateSubnet{Account: dev, Region: east, VPC: w.subnet.VPC, CIDR: cidr("10.0.2.0/24"), Zone: "us-east-1b"}).Subnet
	away := w.create(InterfaceSpec{Subnet: other.ID})
	classic := w.run(1)[0]
	var inDefault *ec2.Subnet
	for s := range w.state.View().SubnetsIn(w.defaultVPC().ID) {
		if s.Zone == "us-east-1a" {
			inDefault = s
		}
	}
	elsewhere := w.create(InterfaceSpec{Subnet: inDefault.ID})
	stopping := w.running()
	w.must(&StopInstances{dev, east, []ec2.InstanceID{stopping}})

	for _, c := range []struct {
		eni   ec2.InterfaceID
		to    ec2.InstanceID
		index int
		code  string
	}{
		{eni.ID, id, 0, "InvalidParameterValue"},
		{eni.ID, id, -1, "InvalidParameterValue"},
		{eni.ID, id, 1 << 20, "InvalidParameterValue"},
		{away.ID, id, 1, "InvalidParameterCombination"},
		{elsewhere.ID, id, 1, "InvalidParameterCombination"},
		{eni.ID, classic.ID, 1, "InvalidInstanceID.NotFound"}, // of another account
		{eni.ID, stopping, 1, "IncorrectState"},
		{"eni-00000000", id, 1, "InvalidNetworkInterfaceID.NotFound"},
		{"i-00000000", id, 1, "InvalidNetworkInterfaceId.Malformed"},
		{"", id, 1, "MissingParameter"},
		{eni.ID, "", 1, "MissingParameter"},
		{w.lease(classic.ID).ID, id, 1, "InvalidNetworkInterfaceID.NotFound"}, // an EC2-Classic interface is no resource
	} {
		w.refused(&AttachNetworkInterface{dev, east, c.eni, c.to, c.index}, c.code)
	}
	w.must(&putSettings{ec2.Settings{InterfacesPerInstance: 2, AddressesPerInterface: 2, InterfacesPerRegion: 6}})
	w.attach(eni.ID, id, 1)
	last := w.create(InterfaceSpec{})
	w.refused(&AttachNetworkInterface{dev, east, last.ID, id, 2}, "AttachmentLimitExceeded")
	w.refused(&CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: w.subnet.ID}}, "NetworkInterfaceLimitExceeded")
	w.refused(w.launching(nil), "NetworkInterfaceLimitExceeded")
	w.must(&putSettings{ec2.Settings{InterfacesPerInstance: 2, AddressesPerInterface: 2, InterfacesPerRegion: 7}})
	if run := w.must(w.launching(func(r *RunInstances) { r.MaxCount = 3 })); len(run.Instances) != 1 {
		t.Errorf("launched %d instances with one interface left, want 1", len(run.Instances))
	}
	w.refused(&AssignPrivateAddresses{Account: dev, Region: east, Interface: last.ID, Count: 2}, "PrivateIpAddressLimitExceeded")
	w.refused(&DetachNetworkInterface{dev, east, "eni-attach-00000000", false}, "InvalidAttachmentID.NotFound")
	w.refused(&DetachNetworkInterface{dev, east, "eni-00000000", false}, "InvalidAttachmentId.Malformed")
}

func TestModifiedInterfaceKeepsItsEpoch(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	was := w.lease(id)
	w.must(&ModifyNetworkInterface{Account: dev, Region: east, Interface: was.ID, Groups: []ec2.GroupID{w.group.ID}})
	now := w.lease(id)
	if now.Epoch != was.Epoch || now.State != ec2.Active || len(now.Groups) != 1 || now.Groups[0] != w.group.ID {
		t.Errorf("with new groups the interface is %+v, want the same epoch", now)
	}
	if i := w.instance(id); len(i.Groups) != 1 || i.Groups[0] != w.group.ID {
		t.Errorf("the instance of the interface has groups %v, want those of the interface", i.Groups)
	}
	w.must(&ModifyNetworkInterface{
		Account: dev, Region: east, Interface: was.ID, Description: new("first"), Unchecked: new(true),
		Attachment: was.Attachment.ID, DeleteOnTermination: new(false),
	})
	if now := w.lease(id); now.Description != "first" || !now.Unchecked || now.Attachment.DeleteOnTermination || now.Epoch != was.Epoch {
		t.Errorf("the modified interface is %+v with attachment %+v, want description first, no source check, no deletion and the same epoch", now, now.Attachment)
	}
	w.must(&ModifyInstance{Account: dev, Region: east, Instance: id, Groups: was.Groups, Unchecked: new(false)})
	if now := w.lease(id); now.Unchecked || now.Groups[0] != was.Groups[0] || w.instance(id).Groups[0] != was.Groups[0] {
		t.Errorf("modified through its instance the interface is %+v, want the source check and group %s", now, was.Groups[0])
	}
	w.attach(w.create(InterfaceSpec{}).ID, id, 1)
	w.refused(&ModifyInstance{Account: dev, Region: east, Instance: id, Groups: was.Groups}, "InvalidInstanceID")

	refused := func(code string, r ModifyNetworkInterface) {
		t.Helper()
		r.Account, r.Region, r.Interface = dev, east, was.ID
		w.refused(&r, code)
	}
	refused("InvalidGroup.NotFound", ModifyNetworkInterface{Groups: []ec2.GroupID{w.defaultVPC().Group}})
	refused("InvalidGroup.NotFound", ModifyNetworkInterface{Groups: []ec2.GroupID{"sg-00000000"}})
	refused("InvalidAttachmentID.NotFound", ModifyNetworkInterface{DeleteOnTermination: new(true), Attachment: "eni-attach-00000000"})
	refused("InvalidParameterValue", ModifyNetworkInterface{Description: new("ä")})
	var six []ec2.GroupID
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		six = append(six, w.must(&CreateSecurityGroup{Account: dev, Region: east, Name: name, Description: "x", VPC: w.subnet.VPC}).Group.ID)
	}
	refused("SecurityGroupsPerInterfaceLimitExceeded", ModifyNetworkInterface{Groups: six})
	w.must(&ModifyNetworkInterface{Account: dev, Region: east, Interface: was.ID, Groups: six[:5]})
	w.refused(w.launching(func(r *RunInstances) {
		for _, id := range six {
			r.Groups = append(r.Groups, GroupSelector{ID: id})
		}
	}), "SecurityGroupsPerInstanceLimitExceeded")
	w.refused(w.launching(func(r *RunInstances) {
		r.Subnet, r.Interfaces = "", []LaunchInterface{{Spec: InterfaceSpec{Subnet: w.subnet.ID, Groups: six}}}
	}), "SecurityGroupsPerInterfaceLimitExceeded")
	w.refused(&ModifyInstance{Account: dev, Region: east, Instance: w.running(), Groups: six}, "SecurityGroupsPerInstanceLimitExceeded")
	w.refused(&DeleteSecurityGroup{dev, east, GroupSelector{ID: six[0]}}, "DependencyViolation")
}

func TestSecondaryAddressesAreAssignedAndUnassigned(t *testing.T) {
	w := newVPCWorld(t)
	a, b := w.create(InterfaceSpec{}), w.create(InterfaceSpec{})
	assign := func(eni ec2.InterfaceID, reassign bool, addrs ...string) *AssignPrivateAddresses {
		r := &AssignPrivateAddresses{Account: dev, Region: east, Interface: eni, Reassign: reassign}
		for _, text := range addrs {
			r.Addresses = append(r.Addresses, addr(text))
		}
		return r
	}
	unassign := func(eni ec2.InterfaceID, text string) *UnassignPrivateAddresses {
		return &UnassignPrivateAddresses{dev, east, eni, []netip.Addr{addr(text)}}
	}
	if got := w.must(&AssignPrivateAddresses{Account: dev, Region: east, Interface: a.ID, Count: 2}); len(got.Addresses) != 2 || got.Addresses[0] != addr("10.0.1.6") || len(got.Interface.Secondary) != 2 {
		t.Errorf("assigned %v to interface %+v, want two addresses from 10.0.1.6", got.Addresses, got.Interface)
	}
	w.refused(assign(b.ID, false, "10.0.1.6"), "InvalidIPAddress.InUse")
	w.refused(assign(b.ID, true, "10.0.1.4"), "InvalidIPAddress.InUse") // a primary address
	w.refused(assign(b.ID, true, "10.0.9.4"), "InvalidParameterValue")
	w.refused(assign(b.ID, true), "MissingParameter")
	w.refused(assign(b.ID, true, "10.0.1.12", "10.0.1.12"), "InvalidParameterValue")
	w.must(assign(a.ID, false, "10.0.1.6")) // the interface has this address already
	both := assign(a.ID, false, "10.0.1.6")
	both.Count = 1
	w.refused(both, "InvalidParameterCombination")

	e := w.must(&AllocateAddress{Account: dev, Region: east}).Elastic
	w.must(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: a.ID, Private: addr("10.0.1.6")})
	w.must(assign(b.ID, true, "10.0.1.6", "10.0.1.9"))
	if now := w.eni(a.ID); len(now.Secondary) != 1 || now.Secondary[0].Private != addr("10.0.1.7") {
		t.Errorf("the interface that lost an address has %v, want 10.0.1.7", now.Secondary)
	}
	if now := w.eni(b.ID); len(now.Secondary) != 2 || now.Secondary[0] != (ec2.AddressPair{Private: addr("10.0.1.6"), Public: e.Public}) {
		t.Errorf("the interface that got an address has %v, want 10.0.1.6 with its elastic address and 10.0.1.9", now.Secondary)
	}
	if now, _ := w.state.View().ElasticAddress(e.ID); now.Interface != b.ID || now.Private != addr("10.0.1.6") {
		t.Errorf("the elastic address is %+v, want it at 10.0.1.6 of the second interface", now)
	}
	w.refused(unassign(b.ID, "10.0.1.5"), "InvalidParameterValue") // its primary address
	w.refused(unassign(b.ID, "10.0.1.7"), "InvalidParameterValue") // an address of the other interface
	w.must(unassign(b.ID, "10.0.1.6"))
	if now, _ := w.state.View().ElasticAddress(e.ID); now.Association != "" {
		t.Errorf("the elastic address is %+v, want it unassociated", now)
	}
	w.refused(assign(a.ID, true, "10.0.1.6"), "InvalidIPAddress.InUse") // it is in quarantine
}

func TestClientTokenMakesOneInterface(t *testing.T) {
	w := newVPCWorld(t)
	r := &CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: w.subnet.ID}, ClientToken: "once"}
	a, b := w.must(r).Interface, w.must(r).Interface
	if a.ID != b.ID {
		t.Errorf("one client token made interfaces %s and %s, want one", a.ID, b.ID)
	}
	w.refused(&CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: w.subnet.ID, Description: "x"}, ClientToken: "once"}, "IdempotentParameterMismatch")
	run := w.launching(func(r *RunInstances) { r.ClientToken = "run" })
	if x, y := w.must(run).Instances[0].After, w.must(run).Instances[0].After; x.ID != y.ID {
		t.Errorf("one client token launched instances %s and %s, want one", x.ID, y.ID)
	}
}

func TestInterfaceIsAttachedToExternalDevice(t *testing.T) {
	w := newVPCWorld(t)
	register := func(change func(*RegisterInterface)) *RegisterInterface {
		r := &RegisterInterface{Account: dev, Region: east, Node: "node4", External: ec2.ExternalDevice{Namespace: "vm7", Device: "eth0"}, Spec: InterfaceSpec{Subnet: w.subnet.ID}, Public: new(true)}
		if change != nil {
			change(r)
		}
		return r
	}
	eni := w.must(register(nil)).Interface
	if eni.State != ec2.Active || eni.Node != "node4" || eni.Instance != "" || eni.External.Namespace != "vm7" || !eni.Public.IsValid() || eni.Epoch == 0 {
		t.Errorf("the registered interface is %+v, want it active at node4", eni)
	}
	w.refused(register(nil), "Resource.AlreadyAssociated")
	w.refused(register(func(r *RegisterInterface) { r.External.Device = "" }), "InvalidParameterValue")
	w.refused(register(func(r *RegisterInterface) { r.External.Device = "a/b" }), "InvalidParameterValue")
	w.refused(register(func(r *RegisterInterface) { r.External.Namespace = ".." }), "InvalidParameterValue")
	w.refused(register(func(r *RegisterInterface) { r.Node = "node2" }), "InvalidParameterCombination") // in zone b
	w.refused(register(func(r *RegisterInterface) { r.Node = "node9" }), "InvalidNode.NotFound")
	w.refused(register(func(r *RegisterInterface) { r.Interface, r.External.Device = eni.ID, "eth1" }), "InvalidNetworkInterface.InUse")
	w.refused(&DetachNetworkInterface{dev, east, eni.Attachment.ID, true}, "OperationNotPermitted")
	w.refused(&AttachNetworkInterface{dev, east, eni.ID, w.running(), 1}, "InvalidNetworkInterface.InUse")
	w.refused(&RemoveNode{Node: "node4"}, "DependencyViolation")
	w.must(&ModifyNetworkInterface{Account: dev, Region: east, Interface: eni.ID, Groups: []ec2.GroupID{w.group.ID}})

	unregister := &UnregisterInterface{Account: dev, Region: east, Interface: eni.ID}
	w.must(unregister)
	if now := w.eni(eni.ID); now.State != ec2.Draining {
		t.Errorf("the unregistered interface is %+v, want it draining", now)
	}
	w.must(unregister) // a repeated request changes nothing
	w.must(&ReportInterface{eni.ID, eni.Epoch})
	w.wantDeleted(eni.ID)

	own := w.create(InterfaceSpec{})
	w.must(register(func(r *RegisterInterface) { r.Interface, r.Spec, r.Public = own.ID, InterfaceSpec{}, nil }))
	w.must(&UnregisterInterface{Account: dev, Region: east, Interface: own.ID})
	w.must(&UnregisterInterface{Account: dev, Region: east, Interface: own.ID, Force: true})
	if now := w.eni(own.ID); now.State != ec2.Idle || now.External != nil || now.Attachment != nil {
		t.Errorf("the interface that existed before is %+v, want it idle and unattached", now)
	}
	w.refused(&UnregisterInterface{Account: dev, Region: east, Interface: own.ID}, "IncorrectState")
}

func TestInstanceAttributesAreEnforced(t *testing.T) {
	w := newVPCWorld(t)
	id := w.launch(func(r *RunInstances) { r.TerminationProtected, r.StopProtected = true, true }).ID
	w.report(id, ec2.Running)
	one := []ec2.InstanceID{id}
	w.refused(&TerminateInstances{dev, east, one}, "OperationNotPermitted")
	w.refused(&StopInstances{dev, east, one}, "OperationNotPermitted")
	modify := func(change func(*ModifyInstance)) *ModifyInstance {
		r := &ModifyInstance{Account: dev, Region: east, Instance: id}
		change(r)
		return r
	}
	w.refused(modify(func(r *ModifyInstance) { r.Type = new("m1.large") }), "IncorrectInstanceState")
	w.refused(modify(func(r *ModifyInstance) { r.UserData = new([]byte("x")) }), "IncorrectInstanceState")
	w.must(modify(func(r *ModifyInstance) { r.TerminationProtected, r.StopProtected = new(false), new(false) }))

	boot := w.instance(id).Boot
	w.must(&RebootInstances{dev, east, one})
	if i := w.instance(id); i.Boot == boot || i.State != ec2.Running || w.lease(id).State != ec2.Active {
		t.Errorf("the rebooted instance is %+v, want it running with another Boot", i)
	}
	w.stop(id)
	w.refused(&RebootInstances{dev, east, one}, "IncorrectInstanceState")
	w.must(modify(func(r *ModifyInstance) { r.Type, r.UserData = new("m1.large"), new([]byte("x")) }))
	if i := w.instance(id); i.Type != "m1.large" || string(i.UserData) != "x" {
		t.Errorf("the modified instance is %+v, want type m1.large and user data x", i)
	}
	w.must(&StartInstances{dev, east, one})
	w.report(id, ec2.Running)
	w.must(modify(func(r *ModifyInstance) { r.TerminateOnShutdown = new(true) }))
	shutdown := func(reason string) {
		w.must(&ReportInstance{Instance: id, InterfaceEpoch: w.lease(id).Epoch, State: ec2.Stopped, Reason: reason})
	}
	shutdown("Server.InternalError: the machine went down")
	if i := w.instance(id); i.State != ec2.Stopped {
		t.Errorf("after its machine failed the instance is %s, want stopped", i.State)
	}
	w.must(&StartInstances{dev, east, one})
	w.report(id, ec2.Running)
	shutdown("Client.InstanceInitiatedShutdown: Instance initiated shutdown")
	if i := w.instance(id); i.State != ec2.Terminated {
		t.Errorf("after it shut itself down the instance is %s, want terminated", i.State)
	}
	w.refused(modify(func(r *ModifyInstance) { r.TerminationProtected = new(true) }), "IncorrectInstanceState")
	classic := w.run(1)[0].ID
	w.refused(&ModifyInstance{Account: albert, Region: east, Instance: classic, Groups: []ec2.GroupID{w.group.ID}}, "InvalidParameterValue")
}

func TestClassicLaunchRefusesVPCResources(t *testing.T) {
	w := newVPCWorld(t)
	vpc := w.must(&CreateVPC{Account: albert, Region: east, CIDR: cidr("10.0.0.0/16")}).VPC
	run := func(change func(*RunInstances)) *RunInstances {
		r := w.launching(change)
		r.Account = albert
		return r
	}
	w.refused(run(func(r *RunInstances) { r.Subnet, r.Groups = "", []GroupSelector{{ID: vpc.Group}} }), "InvalidParameterCombination")
	w.refused(run(func(r *RunInstances) { r.Subnet, r.Private = "", addr("10.10.2.5") }), "InvalidParameterCombination")
	s := w.must(&CreateSubnet{Account: albert, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.1.0/24"), Zone: "us-east-1a"}).Subnet
	i := w.must(run(func(r *RunInstances) { r.Subnet = s.ID })).Instances[0].After
	if i.VPC != vpc.ID || w.lease(i.ID).Private != addr("10.0.1.4") {
		t.Errorf("a Classic account launched into its VPC with interface %+v, want 10.0.1.4", w.lease(i.ID))
	}
	w.refused(run(func(r *RunInstances) { r.Subnet, r.Interfaces = "", []LaunchInterface{{}} }), "VPCIdNotSpecified")
}
