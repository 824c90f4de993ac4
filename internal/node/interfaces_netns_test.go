package node

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/node/plane/planetest"
)

// TestInstanceKeepsItsInterfaces: from its launch, attached and detached while it runs,
// through a restart of the daemon, a stop and a start, until it is terminated.
func TestInstanceKeepsItsInterfaces(t *testing.T) {
	w := newWorld(t, "nics")
	id := w.run(&state.RunInstances{Account: dev, Region: region, Image: "ami-fba54092", MinCount: 1, MaxCount: 1, Interfaces: []state.LaunchInterface{
		{DeviceIndex: 0, Spec: state.InterfaceSpec{Subnet: w.Public.ID, Groups: []ec2.GroupID{w.all}, FurtherCount: 1}},
		{DeviceIndex: 1, Spec: state.InterfaceSpec{Subnet: w.Public.ID, Groups: []ec2.GroupID{w.all}}},
	}})
	peer := w.launch(w.Private, w.all)
	eth0, eth1 := w.interfaces(id)[0], w.interfaces(id)[1]
	further := eth0.Further[0].Private
	public0, _ := w.elastic(eth0.ID, netip.Addr{})
	public1, _ := w.elastic(eth1.ID, netip.Addr{})
	public2, _ := w.elastic(eth0.ID, further)
	everywhere := func(what string, also ...string) {
		t.Helper()
		for _, public := range append(also, public0, public1, public2) {
			w.reaches(w.laptop(), public, true, what)
			w.connects(w.laptop(), public, 80, true, what)
		}
		for _, private := range []netip.Addr{eth0.Private, further, eth1.Private} {
			w.reaches(w.of(peer), private.String(), true, what)
		}
		w.reaches(origin{w.namespace(id), eth1.Private.String()}, w.primary(peer).Private.String(), true, what+", of its second")
		w.reaches(w.of(id), planetest.Laptop, true, what)
	}
	everywhere("launched")
	out, _ := w.in(w.namespace(id), "ip", "-br", "-4", "address", "show", "dev", "eth0")
	if !strings.Contains(out, eth0.Private.String()+"/24 "+further.String()+"/24") {
		t.Errorf("eth0 has %q", out)
	}

	// A third comes while it runs, with addresses that come and go.
	eth2 := w.do(&state.CreateNetworkInterface{Account: dev, Region: region, Spec: state.InterfaceSpec{Subnet: w.Private.ID, Groups: []ec2.GroupID{w.all}}}).Interface
	eth2 = w.do(&state.AttachNetworkInterface{Account: dev, Region: region, Interface: eth2.ID, Instance: id, DeviceIndex: 4}).Interface
	has := func(device, address string) func() bool {
		return func() bool {
			out, _ := w.in(w.namespace(id), "ip", "-br", "-4", "address", "show", "dev", device)
			return strings.Contains(out, " "+address+"/24")
		}
	}
	w.until("eth4 is there", has("eth4", eth2.Private.String()))
	w.reaches(w.of(peer), eth2.Private.String(), true, "attached")
	more := w.do(&state.AssignPrivateAddresses{Account: dev, Region: region, Interface: eth2.ID, Count: 1}).Addresses[0].String()
	w.until("eth4 has another address", has("eth4", more))
	w.reaches(w.of(peer), more, true, "assigned")
	w.do(&state.UnassignPrivateAddresses{Account: dev, Region: region, Interface: eth2.ID, Addresses: []netip.Addr{netip.MustParseAddr(more)}})
	w.until("eth4 has it no more", func() bool { return !has("eth4", more)() })

	// What a daemon before has left of one that was detached by force is taken away.
	if out, err := w.in(w.namespace(id), "ip", "tuntap", "add", "dev", "eth7", "mode", "tap"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.restart()
	if out, _ := w.in(w.namespace(id), "ip", "-br", "link"); strings.Contains(out, "eth7") {
		t.Errorf("a stray device is left: %s", out)
	}
	everywhere("adopted")
	w.reaches(w.of(peer), eth2.Private.String(), true, "adopted")

	w.do(&state.DetachNetworkInterface{Account: dev, Region: region, Attachment: eth2.Attachment.ID})
	w.until("it is free", func() bool {
		now, _ := w.node.plane.View().Interface(eth2.ID)
		return now.State == ec2.Idle && now.Attachment == nil
	})
	w.reaches(w.of(peer), eth2.Private.String(), false, "detached")
	if out, _ := w.in(w.namespace(id), "ip", "-br", "link"); strings.Contains(out, "eth4") {
		t.Errorf("detached, it still has %s", out)
	}
	everywhere("with one detached")

	eth2 = w.do(&state.AttachNetworkInterface{Account: dev, Region: region, Interface: eth2.ID, Instance: id, DeviceIndex: 4}).Interface
	w.until("eth4 is back", has("eth4", eth2.Private.String()))
	w.reaches(w.of(peer), eth2.Private.String(), true, "attached again")

	before := w.init(id)
	w.do(&state.RebootInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{id}})
	w.until("it has rebooted", func() bool { now := w.init(id); return now != before && now.Alive() })
	w.until("its services listen", func() bool {
		_, err := w.in(w.namespace(peer), "ncat", "-z", "-w", "1", eth0.Private.String(), "80")
		return err == nil
	})
	everywhere("rebooted", public0)

	w.do(&state.StopInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{id}})
	w.await(id, ec2.Stopped)
	w.reaches(w.laptop(), public0, false, "stopped")
	w.reaches(w.of(peer), eth0.Private.String(), false, "stopped")
	if netns.Exists(w.namespace(id)) {
		t.Error("stopped, its namespace is there")
	}
	w.do(&state.StartInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{id}})
	w.await(id, ec2.Running)
	everywhere("started") // with all the addresses that it had
	w.reaches(w.of(peer), eth2.Private.String(), true, "started")

	w.do(&state.TerminateInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{id}})
	w.await(id, ec2.Terminated)
	for _, public := range []string{public0, public1, public2} {
		w.reaches(w.laptop(), public, false, "terminated")
	}
	if _, ok := w.node.plane.View().Interface(eth0.ID); ok || netns.Exists(w.namespace(id)) {
		t.Error("terminated, something of it is there")
	}
	if n := len(w.node.plane.Presence()); n != 1 {
		t.Errorf("%d leases are left at the node, want the peer's alone", n)
	}
}
