package node

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
	"palisade/internal/netns"
	"palisade/internal/node/control"
	"palisade/internal/node/plane/planetest"
	"palisade/switch/tap"
)

// attach attaches an interface.
func (w *world) attach(r control.AttachRequest) control.AttachmentStatus {
	w.t.Helper()
	answer, err := request[control.AttachmentStatus](w.t, w.node, "POST", "/v1/attach", r)
	if err != nil {
		w.t.Fatalf("attach %+v: %v", r, err)
	}
	return answer
}

func (w *world) detach(r control.DetachRequest) {
	w.t.Helper()
	if _, err := request[control.AttachmentStatus](w.t, w.node, "POST", "/v1/detach", r); err != nil {
		w.t.Fatalf("detach %+v: %v", r, err)
	}
}

// attached lists the interfaces that are attached to namespaces and devices.
func (w *world) attached() []control.AttachmentStatus {
	w.t.Helper()
	all, err := request[[]control.AttachmentStatus](w.t, w.node, "GET", "/v1/outside", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// refusedAttach checks that a request is refused with a reason, and changes nothing.
func (w *world) refusedAttach(r control.AttachRequest, want string) {
	w.t.Helper()
	before := len(w.attached())
	if _, err := request[control.AttachmentStatus](w.t, w.node, "POST", "/v1/attach", r); err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("attach %+v: error %v, want one that contains %q", r, err, want)
	}
	if after := w.attached(); len(after) != before {
		w.t.Errorf("attach %+v was refused, but the attachments are now %+v", r, after)
	}
}

// newGuest makes a namespace that has only loopback, like that of a new container.
func (w *world) newGuest(name string) {
	w.t.Helper()
	if err := netns.New(name); err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.in(name, "ip", "link", "set", "lo", "up"); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// A namespaceTest attaches interfaces to a network namespace.
type namespaceTest struct {
	*world
	guest         string // the namespace
	peer          ec2.InstanceID
	first, second control.AttachmentStatus
}

// TestAttachedNamespaceIsReachable: the namespace is a member of the VPC like an instance, also after a
// restart of the daemon, and after the namespace was removed and made again.
func TestAttachedNamespaceIsReachable(t *testing.T) {
	w := newWorld(t, "guest")
	n := &namespaceTest{world: w, guest: w.name + "-guest"}
	w.newGuest(n.guest)
	n.peer = w.launch(w.Private, w.all)
	n.refusals()

	public := true
	n.first = w.attach(control.AttachRequest{
		Namespace: n.guest, Subnet: w.Public.ID, Groups: []string{"all"}, Public: &public, Label: "cache", Address: netip.MustParseAddr("10.0.1.77"),
	})
	if a := n.first; a.Device != "eth0" || a.Addresses[0] != netip.MustParsePrefix("10.0.1.77/24") || a.Public == "" || a.Gateway != w.Public.Gateway() {
		t.Errorf("the attached interface is %+v, want device eth0, 10.0.1.77/24, a public address and gateway %s", a, w.Public.Gateway())
	}
	for tag := range w.node.plane.View().Tags(string(n.first.Interface)) {
		if tag.Key != "Name" || tag.Value != "cache" {
			t.Errorf("the interface has tag %+v, want Name=cache", tag)
		}
	}
	n.works("attached")
	n.changes()
	n.addSecond()

	w.restart()
	n.works("adopted")
	w.reaches(w.of(n.peer), n.second.Addresses[0].Addr().String(), true, "second interface, adopted")

	n.namespaceIsMadeAgain()
	n.detachBoth()
	n.existingInterface()
}

// refusals sends requests that must be refused.
func (n *namespaceTest) refusals() {
	n.t.Helper()
	other := n.do(&state.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	valid := control.AttachRequest{Namespace: n.guest, Subnet: n.Public.ID, Groups: []string{"all"}}
	refused := func(want string, change func(*control.AttachRequest)) {
		n.t.Helper()
		r := valid
		change(&r)
		n.refusedAttach(r, want)
	}
	refused("there is no network namespace palisade-nt-nobody", func(r *control.AttachRequest) { r.Namespace = "palisade-nt-nobody" })
	refused(`there is no subnet "subnet-1"`, func(r *control.AttachRequest) { r.Subnet = "subnet-1" })
	refused(`there is no group "nobody" in `+string(n.VPC.ID), func(r *control.AttachRequest) { r.Groups = []string{"all", "nobody"} })
	refused(`there is no group "`+string(other.Group), func(r *control.AttachRequest) { r.Groups = []string{string(other.Group)} })
	refused("has a device lo already", func(r *control.AttachRequest) { r.Device = "lo" })
	refused("is not a device name", func(r *control.AttachRequest) { r.Device = "a/b" })
	refused("does not fall within the subnet's address range", func(r *control.AttachRequest) { r.Address = netip.MustParseAddr("10.0.2.9") })
	refused("reserved address range", func(r *control.AttachRequest) { r.Address = n.Public.Gateway() })
	n.refusedAttach(control.AttachRequest{Namespace: n.guest, Interface: n.primary(n.peer).ID}, "in use")
	n.refusedAttach(control.AttachRequest{Namespace: n.guest, Interface: "eni-1"}, "there is no interface eni-1")
}

func (n *namespaceTest) private() string { return n.first.Addresses[0].Addr().String() }

// works checks packets from and to the namespace.
func (n *namespaceTest) works(what string) {
	n.t.Helper()
	n.reaches(n.laptop(), n.first.Public, true, what)
	n.reaches(n.of(n.peer), n.private(), true, what)
	n.reaches(origin{namespace: n.guest}, n.primary(n.peer).Private.String(), true, what)
	n.reaches(origin{namespace: n.guest}, planetest.Laptop, true, what)
}

// changes modifies groups and addresses of the attached interface.
func (n *namespaceTest) changes() {
	n.t.Helper()
	eni := n.first.Interface
	n.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: eni, Groups: []ec2.GroupID{n.none}})
	n.reaches(n.of(n.peer), n.private(), false, "in group none")
	n.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: eni, Groups: []ec2.GroupID{n.all}})
	more := n.do(&state.AssignPrivateAddresses{Account: dev, Region: region, Interface: eni, Count: 1}).Addresses[0].String()
	n.until("eth0 has the second address", func() bool {
		out, _ := n.in(n.guest, "ip", "-br", "-4", "address", "show", "dev", "eth0")
		return strings.Contains(out, more)
	})
	n.reaches(n.of(n.peer), more, true, "second address")
}

// addSecond attaches a second interface to the namespace, whose replies leave by its own device.
func (n *namespaceTest) addSecond() {
	n.t.Helper()
	n.refusedAttach(control.AttachRequest{Namespace: n.guest, Subnet: n.Private.ID, Groups: []string{string(n.all)}},
		string(n.first.Interface)+" is attached to namespace "+n.guest+" already, as eth0")
	n.second = n.attach(control.AttachRequest{Namespace: n.guest, Device: "eth1", Subnet: n.Private.ID, Groups: []string{string(n.all)}})
	if n.second.Device != "eth1" {
		n.t.Errorf("the second interface is %+v, want device eth1", n.second)
	}
	n.reaches(n.of(n.launch(n.Public, n.all)), n.second.Addresses[0].Addr().String(), true, "second interface")
	n.works("with a second interface")
}

// namespaceIsMadeAgain removes the namespace and makes it again.
func (n *namespaceTest) namespaceIsMadeAgain() {
	n.t.Helper()
	if err := netns.Delete(n.guest); err != nil {
		n.t.Fatal(err)
	}
	n.until("the ports are removed", func() bool { return len(n.node.sw.Ports()) == 3 }) // of two instances, and the uplink
	n.reaches(n.of(n.peer), n.private(), false, "without its namespace")
	n.newGuest(n.guest)
	n.until("the ports are back", func() bool { return len(n.node.sw.Ports()) == 5 })
	n.works("with its namespace again")
}

func (n *namespaceTest) detachBoth() {
	n.t.Helper()
	n.detach(control.DetachRequest{Interface: n.second.Interface})
	n.works("with the second interface detached")
	n.detach(control.DetachRequest{Namespace: n.guest})
	n.reaches(n.laptop(), n.first.Public, false, "detached")
	n.reaches(n.of(n.peer), n.private(), false, "detached")
	if devices, _ := instance.Devices(n.guest); len(devices) != 1 {
		n.t.Errorf("after the detach the namespace has %q, want only lo", devices)
	}
	if out, _ := n.in(n.guest, "ip", "rule"); strings.Contains(out, "lookup 11") {
		n.t.Errorf("after the detach the namespace has routing rules\n%s", out)
	}
	if _, ok := n.node.plane.View().Interface(n.first.Interface); ok {
		n.t.Error("after the detach the interface exists")
	}
	_, err := request[control.AttachmentStatus](n.t, n.node, "POST", "/v1/detach", control.DetachRequest{Namespace: n.guest})
	if err == nil || !strings.Contains(err.Error(), "no interface is attached to namespace "+n.guest) {
		n.t.Errorf("detach of an empty namespace: error %v, want one that says no interface is attached", err)
	}
}

// existingInterface attaches an interface that exists already. The detach must not delete it.
func (n *namespaceTest) existingInterface() {
	n.t.Helper()
	eni := n.do(&state.CreateNetworkInterface{Account: dev, Region: region, Spec: state.InterfaceSpec{Subnet: n.Private.ID, Groups: []ec2.GroupID{n.all}}}).Interface
	n.attach(control.AttachRequest{Namespace: n.guest, Device: "vpc0", Interface: eni.ID})
	n.reaches(n.of(n.peer), eni.Private.String(), true, "existing interface")
	n.detach(control.DetachRequest{Namespace: n.guest, Device: "vpc0"})
	if now, ok := n.node.plane.View().Interface(eni.ID); !ok || now.State != ec2.Idle || now.External != nil {
		n.t.Errorf("after the detach the interface is %+v, want it idle", now)
	}
}

// inNamespace runs the calling test again in a process whose threads are all in a new network
// namespace, and reports whether this is that process. A device of the host is then a device of that
// namespace, not of this machine.
func inNamespace(t *testing.T, name string) bool {
	t.Helper()
	const inside = "PALISADE_TEST_INSIDE"
	if os.Getenv(inside) == name || os.Geteuid() != 0 {
		return true
	}
	_ = netns.Delete(name)
	if err := netns.New(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v="+map[bool]string{true: "true", false: "false"}[testing.Verbose()])
	cmd.Env = append(os.Environ(), inside+"="+name)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := netns.Do(name, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Errorf("inside %s: %v", name, err)
	}
	return false
}

// vm makes a stand-in for a virtual machine that uses a TAP of the host: it copies frames, with their
// offloads, between the TAP and a namespace.
func (w *world) vm(device, guest string) {
	w.t.Helper()
	w.newGuest(guest)
	outer, err := tap.Open(tap.Config{Name: device})
	if err != nil {
		w.t.Fatal(err)
	}
	inner, err := tap.Open(tap.Config{Name: "nic", Namespace: guest})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	carry := func(from, to *tap.Device) {
		defer func() { done <- struct{}{} }()
		buffer := make([]byte, 70000)
		for ctx.Err() == nil {
			n, err := from.Read(buffer)
			if errors.Is(err, unix.EAGAIN) {
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(from.FD()), Events: unix.POLLIN}}, 20)
				continue
			}
			if err != nil {
				return // the device was removed
			}
			_ = to.Write(buffer[:n]) // may be lost, like on a wire
		}
	}
	go carry(outer, inner)
	go carry(inner, outer)
	w.t.Cleanup(func() {
		stop()
		<-done
		<-done
		if err := errors.Join(outer.Close(), inner.Close()); err != nil {
			w.t.Error(err)
		}
	})
}

// A vmTest attaches an interface to the TAP of a virtual machine.
type vmTest struct {
	*world
	guest  string // the machine's namespace
	peer   ec2.InstanceID
	wanted control.AttachRequest
	status control.AttachmentStatus
}

// TestAttachedVMIsReachable: a virtual machine keeps its TAP and is a member of the VPC. The host gets
// none of its packets.
func TestAttachedVMIsReachable(t *testing.T) {
	if !inNamespace(t, "palisade-nt-vm-host") {
		return
	}
	w := newWorld(t, "vm")
	v := &vmTest{world: w, guest: w.name + "-guest"}
	w.vm("vm0", v.guest)
	v.peer = w.launch(w.Public, w.all)
	v.wanted = control.AttachRequest{Device: "vm0", Subnet: w.Public.ID, Groups: []string{"all"}, Public: new(true)}
	w.refusedAttach(control.AttachRequest{Device: "vm1", Subnet: w.Public.ID}, "there is no device vm1")
	w.refusedAttach(control.AttachRequest{Device: "lo", Subnet: w.Public.ID}, "neither a TAP nor a veth")
	v.status = w.attach(v.wanted)
	w.refusedAttach(v.wanted, "device vm0 is in use: it belongs to "+string(v.status.Interface))

	v.configure(ec2.MAC{2, 0, 0, 9, 9, 9})
	w.reaches(origin{namespace: v.guest}, w.primary(v.peer).Private.String(), false, "with another MAC than the interface's")
	v.configure(v.status.MAC)
	v.works("attached")
	v.transfer()

	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: v.status.Interface, Groups: []ec2.GroupID{w.none}})
	w.reaches(w.of(v.peer), v.private(), false, "in group none")
	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: v.status.Interface, Groups: []ec2.GroupID{w.all}})

	w.restart()
	v.works("adopted")
	v.oldGuard()
	v.attachAgain()
	v.replaceMachine()
	v.machineStartsLater()
}

// machineStartsLater attaches a TAP that no machine has open. The node takes it from the host when a
// machine opens it, and puts it back when the machine ends, because the next one looks for it there.
func (v *vmTest) machineStartsLater() {
	v.t.Helper()
	if out, err := v.in("", "ip", "tuntap", "add", "vm9", "mode", "tap", "multi_queue"); err != nil {
		v.t.Fatalf("%v\n%s", err, out)
	}
	status := v.attach(control.AttachRequest{Device: "vm9", Subnet: v.Public.ID, Groups: []string{"all"}})
	held := func(want bool) func() bool {
		return func() bool {
			for _, a := range v.attached() {
				if a.Interface == status.Interface {
					return (a.HeldIn != "") == want
				}
			}
			return false
		}
	}
	if !held(false)() {
		v.t.Errorf("the node has taken a TAP that no machine has open: %+v", status)
	}
	for range 2 {
		machine, err := tap.Open(tap.Config{Name: "vm9"})
		if err != nil {
			v.t.Fatal(err)
		}
		v.until("the TAP of the machine is taken", held(true))
		if err := machine.Close(); err != nil {
			v.t.Fatal(err)
		}
		v.until("the TAP waits for the next machine", held(false))
	}
	v.detach(control.DetachRequest{Device: "vm9"})
	if out, err := v.in("", "ip", "-o", "link", "show", "vm9"); err != nil || strings.Contains(out, "palisade") {
		v.t.Errorf("after the detach the TAP is %s: %v", out, err)
	}
}

// oldGuard leaves the device as versions did that left it in the host's namespace. The next daemon
// takes it from there.
func (v *vmTest) oldGuard() {
	v.t.Helper()
	if err := v.stop(); err != nil {
		v.t.Fatal(err)
	}
	v.isHeld("without a daemon")
	for _, argv := range [][]string{
		{"ip", "link", "set", "vm0", "netns", strconv.Itoa(os.Getpid())},
		{"ip", "link", "set", "vm0", "up", "alias", "palisade " + string(v.status.Interface) + " up=false ipv6=0 was="},
	} {
		namespace := ""
		if argv[4] == "netns" {
			namespace = v.status.HeldIn
		}
		if out, err := v.in(namespace, argv...); err != nil {
			v.t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	v.start()
	v.works("taken from an earlier version")
	v.isHeld("taken from an earlier version")
}

// configure gives the machine the interface's addresses and a MAC.
func (v *vmTest) configure(mac ec2.MAC) {
	v.t.Helper()
	a := v.status
	if err := instance.Configure(v.guest, instance.NIC{Device: "nic", MAC: mac, Addresses: a.Addresses, Gateway: a.Gateway, MTU: a.MTU}); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vmTest) private() string { return v.status.Addresses[0].Addr().String() }

// works checks packets from and to the machine.
func (v *vmTest) works(what string) {
	v.t.Helper()
	v.reaches(v.laptop(), v.status.Public, true, what)
	v.reaches(v.of(v.peer), v.private(), true, what)
	v.reaches(origin{namespace: v.guest}, planetest.Laptop, true, what)
	v.connects(origin{namespace: v.guest}, v.primary(v.peer).Private.String(), 80, true, what)
}

// transfer sends 20 MB to the machine, in frames that stand for several packets.
func (v *vmTest) transfer() {
	v.t.Helper()
	server := exec.Command("ncat", "-l", v.private(), "9000")
	var got count
	server.Stdout = &got
	if err := netns.Do(v.guest, server.Start); err != nil {
		v.t.Fatal(err)
	}
	v.until("the server listens", func() bool {
		out, _ := v.in(v.guest, "ss", "-ltn")
		return strings.Contains(out, ":9000")
	})
	client := exec.Command("sh", "-c", "head -c 20000000 /dev/zero | ncat --send-only "+v.private()+" 9000")
	begin := time.Now()
	if err := netns.Do(v.namespace(v.peer), client.Start); err != nil {
		v.t.Fatal(err)
	}
	if err := errors.Join(client.Wait(), server.Wait()); err != nil || got != 20000000 {
		v.t.Errorf("%d bytes of 20,000,000 arrived in %v: %v", got, time.Since(begin), err)
	}
}

// attachAgain detaches the interface and attaches another one.
func (v *vmTest) attachAgain() {
	v.t.Helper()
	v.detach(control.DetachRequest{Device: "vm0"})
	v.reaches(v.of(v.peer), v.private(), false, "detached")
	if out, _ := v.in("", "ip", "-o", "link", "show", "vm0"); strings.Contains(out, "palisade") || strings.Contains(out, ",UP") {
		v.t.Errorf("after the detach the device is %s", out)
	}
	v.status = v.attach(v.wanted)
	v.configure(v.status.MAC)
	v.works("attached again")
	v.isHeld("attached again")
}

// isHeld checks that the host does not have the device.
func (v *vmTest) isHeld(when string) {
	v.t.Helper()
	if out, err := v.in("", "ip", "link", "show", "vm0"); err == nil {
		v.t.Errorf("%s: the host has the device\n%s", when, out)
	}
	if out, err := v.in(v.status.HeldIn, "ip", "link", "show", "vm0"); v.status.HeldIn == "" || err != nil {
		v.t.Errorf("%s: namespace %q does not have the device: %v\n%s", when, v.status.HeldIn, err, out)
	}
}

// replaceMachine removes the machine's TAP; another machine with a TAP of that name takes its place.
func (v *vmTest) replaceMachine() {
	v.t.Helper()
	ports := len(v.node.sw.Ports())
	if out, err := v.in(v.status.HeldIn, "ip", "link", "del", "vm0"); err != nil {
		v.t.Fatalf("%v\n%s", err, out)
	}
	v.until("the port is removed", func() bool { return len(v.node.sw.Ports()) < ports })
	v.reaches(v.of(v.peer), v.private(), false, "without its machine")
	v.guest += "2"
	v.vm("vm0", v.guest)
	v.configure(v.status.MAC)
	v.until("the port is back", func() bool { return len(v.node.sw.Ports()) == ports })
	v.works("with another machine")
}

// A count is the number of bytes written to it.
type count int

func (c *count) Write(b []byte) (int, error) { *c += count(len(b)); return len(b), nil }
