package node

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/node/plane/planetest"
)

// An interfacesTest is an instance with two interfaces and three public addresses.
type interfacesTest struct {
	*world
	id, peer         ec2.InstanceID
	eth0, eth1, eth2 *ec2.Interface // eth2 is attached later, as device eth4
	secondary        netip.Addr     // of eth0
	public           [3]string      // of eth0, eth1 and the secondary address
}

// TestInstanceKeepsItsInterfaces: an instance has its interfaces and addresses from launch to
// termination, through a restart of the daemon, a reboot, and a stop and start.
func TestInstanceKeepsItsInterfaces(t *testing.T) {
	w := newWorld(t, "nics")
	n := &interfacesTest{world: w}
	n.id = w.run(&state.RunInstances{Account: dev, Region: region, Image: "ami-fba54092", MinCount: 1, MaxCount: 1, Interfaces: []state.LaunchInterface{
		{DeviceIndex: 0, Spec: state.InterfaceSpec{Subnet: w.Public.ID, Groups: []ec2.GroupID{w.all}, SecondaryCount: 1}},
		{DeviceIndex: 1, Spec: state.InterfaceSpec{Subnet: w.Public.ID, Groups: []ec2.GroupID{w.all}}},
	}})
	n.peer = w.launch(w.Private, w.all)
	n.eth0, n.eth1 = w.interfaces(n.id)[0], w.interfaces(n.id)[1]
	n.secondary = n.eth0.Secondary[0].Private
	n.public[0], _ = w.elastic(n.eth0.ID, netip.Addr{})
	n.public[1], _ = w.elastic(n.eth1.ID, netip.Addr{})
	n.public[2], _ = w.elastic(n.eth0.ID, n.secondary)
	n.works("launched")
	if want := n.eth0.Private.String() + "/24 " + n.secondary.String() + "/24"; !strings.Contains(n.addresses("eth0"), want) {
		t.Errorf("eth0 has %q, want %s", n.addresses("eth0"), want)
	}
	n.attachWhileRunning()
	n.restartDaemon()
	n.detachWhileRunning()
	n.reboot()
	n.stopAndStart()
	n.terminate()
}

// works checks packets to every address of eth0 and eth1, and from the instance.
func (n *interfacesTest) works(what string) {
	n.t.Helper()
	for _, public := range n.public {
		n.reaches(n.laptop(), public, true, what)
		n.connects(n.laptop(), public, 80, true, what)
	}
	for _, private := range []netip.Addr{n.eth0.Private, n.secondary, n.eth1.Private} {
		n.reaches(n.of(n.peer), private.String(), true, what)
	}
	n.reaches(origin{n.namespace(n.id), n.eth1.Private.String()}, n.primary(n.peer).Private.String(), true, what+", from eth1")
	n.reaches(n.of(n.id), planetest.Laptop, true, what)
}

// addresses returns the IPv4 addresses of a device in the instance, as the command ip prints
// them.
func (n *interfacesTest) addresses(device string) string {
	out, _ := n.in(n.namespace(n.id), "ip", "-br", "-4", "address", "show", "dev", device)
	return out
}

// devices returns the devices of the instance, as the command ip prints them.
func (n *interfacesTest) devices() string {
	out, _ := n.in(n.namespace(n.id), "ip", "-br", "link")
	return out
}

func (n *interfacesTest) awaitAddress(device, address string, want bool) {
	n.t.Helper()
	n.until(fmt.Sprint(device, map[bool]string{true: " has ", false: " no longer has "}[want], address), func() bool {
		return strings.Contains(n.addresses(device), " "+address+"/24") == want
	})
}

// attachWhileRunning attaches a third interface, and changes its addresses.
func (n *interfacesTest) attachWhileRunning() {
	n.t.Helper()
	n.eth2 = n.do(&state.CreateNetworkInterface{Account: dev, Region: region, Spec: state.InterfaceSpec{Subnet: n.Private.ID, Groups: []ec2.GroupID{n.all}}}).Interface
	n.eth2 = n.do(&state.AttachNetworkInterface{Account: dev, Region: region, Interface: n.eth2.ID, Instance: n.id, DeviceIndex: 4}).Interface
	n.awaitAddress("eth4", n.eth2.Private.String(), true)
	n.reaches(n.of(n.peer), n.eth2.Private.String(), true, "attached")
	more := n.do(&state.AssignPrivateAddresses{Account: dev, Region: region, Interface: n.eth2.ID, Count: 1}).Addresses[0].String()
	n.awaitAddress("eth4", more, true)
	n.reaches(n.of(n.peer), more, true, "assigned")
	n.do(&state.UnassignPrivateAddresses{Account: dev, Region: region, Interface: n.eth2.ID, Addresses: []netip.Addr{netip.MustParseAddr(more)}})
	n.awaitAddress("eth4", more, false)
}

// restartDaemon restarts the daemon, which removes a device whose interface is not attached.
func (n *interfacesTest) restartDaemon() {
	n.t.Helper()
	if out, err := n.in(n.namespace(n.id), "ip", "tuntap", "add", "dev", "eth7", "mode", "tap"); err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	n.restart()
	if strings.Contains(n.devices(), "eth7") {
		n.t.Errorf("the stray device eth7 was not removed: %s", n.devices())
	}
	n.works("adopted")
	n.reaches(n.of(n.peer), n.eth2.Private.String(), true, "adopted")
}

func (n *interfacesTest) detachWhileRunning() {
	n.t.Helper()
	n.do(&state.DetachNetworkInterface{Account: dev, Region: region, Attachment: n.eth2.Attachment.ID})
	n.until("the interface is detached", func() bool {
		now, _ := n.node.plane.View().Interface(n.eth2.ID)
		return now.State == ec2.Idle && now.Attachment == nil
	})
	n.reaches(n.of(n.peer), n.eth2.Private.String(), false, "detached")
	if strings.Contains(n.devices(), "eth4") {
		n.t.Errorf("after the detach the instance has devices %s, want no eth4", n.devices())
	}
	n.works("with one interface detached")
	n.eth2 = n.do(&state.AttachNetworkInterface{Account: dev, Region: region, Interface: n.eth2.ID, Instance: n.id, DeviceIndex: 4}).Interface
	n.awaitAddress("eth4", n.eth2.Private.String(), true)
	n.reaches(n.of(n.peer), n.eth2.Private.String(), true, "attached again")
}

func (n *interfacesTest) reboot() {
	n.t.Helper()
	before := n.init(n.id)
	n.do(&state.RebootInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{n.id}})
	n.until("the instance has rebooted", func() bool { now := n.init(n.id); return now != before && now.Alive() })
	n.until("its services listen", func() bool {
		_, err := n.in(n.namespace(n.peer), "ncat", "-z", "-w", "1", n.eth0.Private.String(), "80")
		return err == nil
	})
	n.works("rebooted")
}

func (n *interfacesTest) stopAndStart() {
	n.t.Helper()
	n.do(&state.StopInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{n.id}})
	n.await(n.id, ec2.Stopped)
	n.reaches(n.laptop(), n.public[0], false, "stopped")
	n.reaches(n.of(n.peer), n.eth0.Private.String(), false, "stopped")
	if netns.Exists(n.namespace(n.id)) {
		n.t.Error("the stopped instance has a namespace")
	}
	n.do(&state.StartInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{n.id}})
	n.await(n.id, ec2.Running)
	n.works("started")
	n.reaches(n.of(n.peer), n.eth2.Private.String(), true, "started")
}

func (n *interfacesTest) terminate() {
	n.t.Helper()
	n.do(&state.TerminateInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{n.id}})
	n.await(n.id, ec2.Terminated)
	for _, public := range n.public {
		n.reaches(n.laptop(), public, false, "terminated")
	}
	if _, ok := n.node.plane.View().Interface(n.eth0.ID); ok || netns.Exists(n.namespace(n.id)) {
		n.t.Error("the terminated instance has an interface or a namespace")
	}
	if leases := n.node.plane.Presence(); len(leases) != 1 {
		n.t.Errorf("the node has leases %+v, want only the lease of the peer", leases)
	}
}
