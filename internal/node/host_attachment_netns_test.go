package node

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
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

// refusedAttach wants an error that says why.
func (w *world) refusedAttach(r control.AttachRequest, want string) {
	w.t.Helper()
	before := len(w.attached())
	if _, err := request[control.AttachmentStatus](w.t, w.node, "POST", "/v1/attach", r); err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("attach %+v: %v, want %q", r, err, want)
	}
	if after := w.attached(); len(after) != before {
		w.t.Errorf("attach %+v was refused and has left %+v", r, after)
	}
}

// newGuest makes a namespace with loopback alone, as a container's may be.
func (w *world) newGuest(name string) {
	w.t.Helper()
	if err := netns.New(name); err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.in(name, "ip", "link", "set", "lo", "up"); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// TestAttachedNamespaceIsReachable: what is in it is a member of the VPC from then on, as
// an instance is, over a restart of the daemon, and if it goes and comes again.
func TestAttachedNamespaceIsReachable(t *testing.T) {
	w := newWorld(t, "guest")
	guest := w.name + "-guest"
	w.newGuest(guest)
	peer := w.launch(w.Private, w.all)

	other := w.do(&state.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	on := control.AttachRequest{Namespace: guest, Subnet: w.Public.ID, Groups: []string{"all"}}
	change := func(edit func(*control.AttachRequest)) control.AttachRequest { r := on; edit(&r); return r }
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Namespace = "palisade-nt-nobody" }), "there is no network namespace palisade-nt-nobody")
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Subnet = "subnet-1" }), `there is no subnet "subnet-1"`)
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Groups = []string{"all", "nobody"} }), `there is no group "nobody" in `+string(w.VPC.ID))
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Groups = []string{string(other.Group)} }), `there is no group "`+string(other.Group))
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Device = "lo" }), "has a device lo already")
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Device = "a/b" }), "is not a device name")
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Address = netip.MustParseAddr("10.0.2.9") }), "does not fall within the subnet's address range")
	w.refusedAttach(change(func(r *control.AttachRequest) { r.Address = w.Public.Gateway() }), "reserved address range")
	w.refusedAttach(control.AttachRequest{Namespace: guest, Interface: w.primary(peer).ID}, "in use")
	w.refusedAttach(control.AttachRequest{Namespace: guest, Interface: "eni-1"}, "there is no interface eni-1")

	s := w.attach(change(func(r *control.AttachRequest) {
		r.Public, r.Label, r.Address = new(true), "cache", netip.MustParseAddr("10.0.1.77")
	}))
	if s.Device != "eth0" || s.Addresses[0] != netip.MustParsePrefix("10.0.1.77/24") || s.Public == "" || s.Gateway != w.Public.Gateway() {
		t.Errorf("attached as %+v", s)
	}
	for tag := range w.node.plane.View().Tags(string(s.Interface)) {
		if tag.Key != "Name" || tag.Value != "cache" {
			t.Errorf("tagged %+v", tag)
		}
	}
	private := s.Addresses[0].Addr().String()
	works := func(what string) {
		t.Helper()
		w.reaches(w.laptop(), s.Public, true, what)
		w.reaches(w.of(peer), private, true, what)
		w.reaches(origin{namespace: guest}, w.primary(peer).Private.String(), true, what)
		w.reaches(origin{namespace: guest}, planetest.Laptop, true, what)
	}
	works("attached")
	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: s.Interface, Groups: []ec2.GroupID{w.none}})
	w.reaches(w.of(peer), private, false, "in group none")
	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: s.Interface, Groups: []ec2.GroupID{w.all}})
	more := w.do(&state.AssignPrivateAddresses{Account: dev, Region: region, Interface: s.Interface, Count: 1}).Addresses[0].String()
	w.until("it has another address", func() bool {
		out, _ := w.in(guest, "ip", "-br", "-4", "address", "show", "dev", "eth0")
		return strings.Contains(out, more)
	})
	w.reaches(w.of(peer), more, true, "assigned")

	// A second one beside it answers by itself.
	second := w.attach(control.AttachRequest{Namespace: guest, Subnet: w.Private.ID, Groups: []string{string(w.all)}})
	if second.Device != "eth1" {
		t.Errorf("the second is %+v", second)
	}
	w.reaches(origin{w.namespace(w.launch(w.Public, w.all)), ""}, second.Addresses[0].Addr().String(), true, "second")
	works("beside a second")

	w.restart()
	works("adopted")
	w.reaches(w.of(peer), second.Addresses[0].Addr().String(), true, "second, adopted")

	if err := netns.Delete(guest); err != nil {
		t.Fatal(err)
	}
	w.until("the port is gone", func() bool { return len(w.node.sw.Ports()) == 3 }) // of two instances, and the uplink
	w.reaches(w.of(peer), private, false, "without its namespace")
	w.newGuest(guest)
	w.until("it is back", func() bool { return len(w.node.sw.Ports()) == 5 })
	works("with its namespace again")

	w.detach(control.DetachRequest{Interface: second.Interface})
	works("with the second detached")
	w.detach(control.DetachRequest{Namespace: guest})
	w.reaches(w.laptop(), s.Public, false, "detached")
	w.reaches(w.of(peer), private, false, "detached")
	if devices, _ := instance.Devices(guest); len(devices) != 1 {
		t.Errorf("detached, it has %q", devices)
	}
	if out, _ := w.in(guest, "ip", "rule"); strings.Contains(out, "lookup 11") {
		t.Errorf("detached, it has rules\n%s", out)
	}
	if _, ok := w.node.plane.View().Interface(s.Interface); ok {
		t.Error("detached, the interface is there")
	}
	if _, err := request[control.AttachmentStatus](t, w.node, "POST", "/v1/detach", control.DetachRequest{Namespace: guest}); err == nil || !strings.Contains(err.Error(), "no interface is attached to namespace "+guest) {
		t.Errorf("detached again: %v", err)
	}

	// One that there is goes before it, and is free again afterwards.
	own := w.do(&state.CreateNetworkInterface{Account: dev, Region: region, Spec: state.InterfaceSpec{Subnet: w.Private.ID, Groups: []ec2.GroupID{w.all}}}).Interface
	w.attach(control.AttachRequest{Namespace: guest, Device: "vpc0", Interface: own.ID})
	w.reaches(w.of(peer), own.Private.String(), true, "an interface that there was")
	w.detach(control.DetachRequest{Namespace: guest, Device: "vpc0"})
	if now, ok := w.node.plane.View().Interface(own.ID); !ok || now.State != ec2.Idle || now.External != nil {
		t.Errorf("detached, it is %+v", now)
	}
}

// inNamespace runs the test that calls it again, in a process of which every thread is in a
// namespace of the test's own, and reports whether this is that process. A device "of the
// host" is then none of this machine.
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

// A vm is a machine that holds a TAP of the host: frames go between the TAP and the kernel
// of a namespace, which is the machine's, with their offloads.
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
				return // the device is gone
			}
			_ = to.Write(buffer[:n]) // as on a wire
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

// TestAttachedVMIsReachable: a virtual machine keeps its TAP, and is a member of the
// VPC; the host it runs on is kept off.
func TestAttachedVMIsReachable(t *testing.T) {
	if !inNamespace(t, "palisade-nt-vm-host") {
		return
	}
	w := newWorld(t, "vm")
	guest := w.name + "-guest"
	w.vm("vm0", guest)
	peer := w.launch(w.Public, w.all)

	on := control.AttachRequest{Device: "vm0", Subnet: w.Public.ID, Groups: []string{"all"}, Public: new(true)}
	w.refusedAttach(control.AttachRequest{Device: "vm1", Subnet: w.Public.ID}, "there is no device vm1")
	w.refusedAttach(control.AttachRequest{Device: "lo", Subnet: w.Public.ID}, "neither a TAP nor a veth")
	s := w.attach(on)
	w.refusedAttach(on, "device vm0 is in use: it belongs to "+string(s.Interface))
	private := func() string { return s.Addresses[0].Addr().String() }

	// By another MAC than the interface's it reaches nobody.
	configure := func(mac ec2.MAC) {
		t.Helper()
		if err := instance.Configure(guest, instance.NIC{Device: "nic", MAC: mac, Addresses: s.Addresses, Gateway: s.Gateway, MTU: s.MTU}); err != nil {
			t.Fatal(err)
		}
	}
	configure(ec2.MAC{2, 0, 0, 9, 9, 9})
	w.reaches(origin{namespace: guest}, w.primary(peer).Private.String(), false, "by a MAC of its own")
	configure(s.MAC)
	works := func(what string) {
		t.Helper()
		w.reaches(w.laptop(), s.Public, true, what)
		w.reaches(w.of(peer), private(), true, what)
		w.reaches(origin{namespace: guest}, planetest.Laptop, true, what)
		w.connects(origin{namespace: guest}, w.primary(peer).Private.String(), 80, true, what)
	}
	works("attached")

	// Twenty megabytes, in frames that stand for several.
	server := exec.Command("ncat", "-l", private(), "9000")
	var got count
	server.Stdout = &got
	if err := netns.Do(guest, server.Start); err != nil {
		t.Fatal(err)
	}
	w.until("it listens", func() bool {
		out, _ := w.in(guest, "ss", "-ltn")
		return strings.Contains(out, ":9000")
	})
	client := exec.Command("sh", "-c", "head -c 20000000 /dev/zero | ncat --send-only "+private()+" 9000")
	begin := time.Now()
	if err := netns.Do(w.namespace(peer), client.Start); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(client.Wait(), server.Wait()); err != nil || got != 20000000 {
		t.Errorf("%d bytes of 20,000,000 came in %v: %v", got, time.Since(begin), err)
	}

	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: s.Interface, Groups: []ec2.GroupID{w.none}})
	w.reaches(w.of(peer), private(), false, "in group none")
	w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: s.Interface, Groups: []ec2.GroupID{w.all}})

	w.restart()
	works("adopted")

	w.detach(control.DetachRequest{Device: "vm0"})
	w.reaches(w.of(peer), private(), false, "detached")
	if out, _ := w.in("", "ip", "-o", "link", "show", "vm0"); strings.Contains(out, "palisade") || strings.Contains(out, ",UP") {
		t.Errorf("given back as %s", out)
	}
	s = w.attach(on)
	configure(s.MAC)
	works("attached again")

	// The machine goes with its TAP, and the next one of that name takes its place.
	ports := len(w.node.sw.Ports())
	if out, err := w.in("", "ip", "link", "del", "vm0"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.until("the port is gone", func() bool { return len(w.node.sw.Ports()) < ports })
	w.reaches(w.of(peer), private(), false, "without its machine")
	guest += "2"
	w.vm("vm0", guest)
	configure(s.MAC)
	w.until("it is back", func() bool { return len(w.node.sw.Ports()) == ports })
	works("with another machine")
}

// count counts what is written to it.
type count int

func (c *count) Write(b []byte) (int, error) { *c += count(len(b)); return len(b), nil }
