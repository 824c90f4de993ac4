package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/node/control"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/process"
)

// TestMain lets the test binary be the init process of the instances that its nodes boot.
func TestMain(m *testing.M) {
	if code, ok := instance.Reexec(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

const (
	dev    = planetest.Dev
	region = planetest.Region
)

// A world is one node with a VPC, and a network outside. The node runs in the test's process and
// namespace, each instance in its own namespace:
//
//	NAME-out                                the node                 NAME-i-…
//	  lo  203.0.113.25 (the laptop)
//	  up0 198.18.0.1/16 -------------------- uplink · switch · ports - eth0, eth1 …
//
// The VPC is a planetest.Network. Groups all and none admit all egress; group all also admits all
// ingress.
type world struct {
	t      *testing.T
	name   string
	config Config
	node   testNode
	stop   func() error

	planetest.Network
	all, none ec2.GroupID

	packet   sentPacket // of the last check that failed
	reported bool
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	netnstest.NeedRoot(t)
	w := &world{t: t, name: "palisade-nt-" + name, config: nodeConfig(t)}
	w.config.Lab = Lab{NamespacePrefix: w.name + "-", InstanceDir: filepath.Join(w.config.DataDir, "instances"), CgroupPrefix: w.name}
	w.config.Uplink = Uplink{Device: "up0", Namespace: w.name + "-out", GatewayMAC: ec2.MAC{2, 0, 0, 0, 0, 1}}
	w.config.Account = append(w.config.Account, Account{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", SecretKey: "secret"})
	w.cleanup()
	t.Cleanup(w.cleanup)
	if err := netns.New(w.name + "-out"); err != nil {
		t.Fatal(err)
	}
	w.start()
	if err := netns.Do(w.name+"-out", w.buildOutside); err != nil {
		t.Fatal(err)
	}
	w.buildVPC()
	return w
}

// cleanup removes instances and namespaces of this test, or of an earlier run of it.
func (w *world) cleanup() {
	names, err := netns.List(w.name + "-")
	for _, ns := range names {
		id := strings.TrimPrefix(ns, w.name+"-")
		s := instance.Spec{Namespace: ns, ID: id, Dir: filepath.Join(w.config.Lab.InstanceDir, id), CgroupPrefix: w.name}
		err = errors.Join(err, instance.Remove(s))
	}
	if err != nil {
		w.t.Error(err)
	}
}

// subtest runs a subtest on the world.
func (w *world) subtest(name string, run func(*testing.T)) {
	parent := w.t
	defer func() { w.t = parent }()
	parent.Run(name, func(t *testing.T) {
		w.t = t
		run(t)
	})
}

// start runs the node, or a new daemon on the same data directory.
func (w *world) start() {
	w.t.Helper()
	w.node = newNode(w.t, w.config)
	w.stop = w.node.start(w.t)
	w.t.Cleanup(func() { // before the node stops
		if w.t.Failed() {
			w.report()
		}
	})
}

// failed reports that a check of a packet failed, and prints the state of the node once.
func (w *world) failed(p sentPacket, format string, args ...any) {
	w.t.Helper()
	w.t.Errorf(format, args...)
	w.packet = p
	w.report()
}

func (w *world) report() {
	w.t.Helper()
	if !w.reported {
		w.reported = true
		w.t.Logf("the node when the test failed:\n%s", w.node.report(w.t, w.packet))
	}
}

func (w *world) restart() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

func (w *world) buildOutside() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	up, err := netlink.LinkByName("up0")
	if err != nil {
		return err
	}
	laptop, _ := netlink.ParseAddr(planetest.Laptop + "/32")
	router, _ := netlink.ParseAddr("198.18.0.1/16")
	return errors.Join(
		netlink.LinkSetUp(lo), netlink.AddrAdd(lo, laptop), netlink.LinkSetDown(up),
		netlink.LinkSetHardwareAddr(up, net.HardwareAddr(w.config.Uplink.GatewayMAC[:])), netlink.AddrAdd(up, router), netlink.LinkSetUp(up))
}

func (w *world) buildVPC() {
	w.t.Helper()
	w.Network = planetest.NewNetwork(w.do)
	w.all, w.none = w.group("all"), w.group("none")
	w.permit(w.all, state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere})
}

// do applies a request and waits until the switch enforces it.
func (w *world) do(r state.Request) state.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	result, index, err := w.node.cluster.Apply(ctx, state.Command{Request: r})
	if err != nil {
		w.t.Fatalf("%T: %v", r, err)
	}
	if !w.node.plane.Wait(ctx, index) {
		w.t.Fatalf("%T is not enforced after %s", r, patience)
	}
	return result
}

func (w *world) group(name string) ec2.GroupID {
	w.t.Helper()
	return w.do(&state.CreateSecurityGroup{Account: dev, Region: region, VPC: w.VPC.ID, Name: name, Description: name}).Group.ID
}

func (w *world) permit(group ec2.GroupID, rules ...state.RuleSpec) {
	w.t.Helper()
	w.do(&state.AuthorizeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: group}, Rules: rules})
}

// launch runs a web server in a subnet and waits until it is running.
func (w *world) launch(subnet *ec2.Subnet, groups ...ec2.GroupID) ec2.InstanceID {
	w.t.Helper()
	run := &state.RunInstances{Account: dev, Region: region, Image: "ami-fba54092", MinCount: 1, MaxCount: 1, Subnet: subnet.ID}
	for _, g := range groups {
		run.Groups = append(run.Groups, state.GroupSelector{ID: g})
	}
	return w.run(run)
}

func (w *world) run(run *state.RunInstances) ec2.InstanceID {
	w.t.Helper()
	id := w.do(run).Instances[0].After.ID
	w.await(id, ec2.Running)
	return id
}

// await waits until an instance has a state.
func (w *world) await(id ec2.InstanceID, state ec2.InstanceState) {
	w.t.Helper()
	var now *ec2.Instance
	w.until(fmt.Sprintf("%s is %s", id, state), func() bool {
		now, _ = w.node.plane.View().Instance(id)
		if now.State == ec2.Terminated && state != ec2.Terminated {
			w.t.Fatalf("%s was terminated: %s", id, now.StateReason)
		}
		return now.State == state
	})
}

// until waits until a condition holds.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("after %s it is not true that %s", patience, what)
		}
	}
}

// interfaces returns the interfaces of an instance, by device index.
func (w *world) interfaces(id ec2.InstanceID) []*ec2.Interface {
	list := slices.Collect(w.node.plane.View().InterfacesAt(id))
	slices.SortFunc(list, func(a, b *ec2.Interface) int { return a.Attachment.DeviceIndex - b.Attachment.DeviceIndex })
	return list
}

func (w *world) primary(id ec2.InstanceID) *ec2.Interface { return w.interfaces(id)[0] }

// elastic associates a new public address with a private address of an interface. The zero private
// address means the interface's first.
func (w *world) elastic(eni ec2.InterfaceID, private netip.Addr) (public string, association ec2.AssociationID) {
	w.t.Helper()
	e := w.do(&state.AllocateAddress{Account: dev, Region: region}).Elastic
	r := w.do(&state.AssociateAddress{Account: dev, Region: region, Allocation: e.ID, Interface: eni, Private: private})
	return e.Public.String(), r.Elastic.Association
}

// init returns the first process of an instance, or the zero ID if there is none.
func (w *world) init(id ec2.InstanceID) process.ID {
	init, _ := process.ReadFile(filepath.Join(w.config.Lab.InstanceDir, string(id), "init.json"))
	return init
}

func (w *world) namespace(id ec2.InstanceID) string { return w.config.Lab.NamespacePrefix + string(id) }

// in runs a command in a namespace and returns its output.
func (w *world) in(namespace string, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Do(namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// An origin is where a packet is sent from: a namespace, and the source address; "" means the
// namespace's first address.
type origin struct{ namespace, address string }

func (w *world) laptop() origin { return origin{w.name + "-out", planetest.Laptop} }

// host returns the name of an origin in a trace: an address, or the id of an instance or interface.
// It returns "" if the node does not know the origin.
func (w *world) host(from origin) string {
	if from.address != "" {
		return from.address
	}
	if id, ok := strings.CutPrefix(from.namespace, w.config.Lab.NamespacePrefix); ok && strings.HasPrefix(id, "i-") {
		return id
	}
	for _, a := range w.attached() {
		if a.Namespace == from.namespace {
			return string(a.Interface)
		}
	}
	return ""
}

func (w *world) of(id ec2.InstanceID) origin { return origin{namespace: w.namespace(id)} }

// within returns how many seconds a check waits for an answer: long for an answer that must come even
// on a busy machine, and short for an answer that must not come.
func within(want bool) string {
	if want {
		return "10"
	}
	return "1"
}

// reaches pings an address, and checks that it answers or, if want is false, that it does not.
func (w *world) reaches(from origin, address string, want bool, what string) {
	w.t.Helper()
	argv := []string{"ping", "-n", "-c1", "-W" + within(want)}
	if from.address != "" {
		argv = append(argv, "-I", from.address)
	}
	tries := 1
	if want {
		tries = 3 // the first may be lost to ARP
	}
	var out string
	err := errors.New("not tried")
	for ; tries > 0 && err != nil; tries-- {
		out, err = w.in(from.namespace, append(argv, address)...)
	}
	if (err == nil) != want {
		w.failed(sentPacket{w.host(from), address, "icmp"}, "%s: ping from %s to %s: answered %v, want %v\n%s", what, from.namespace, address, err == nil, want, out)
	}
}

// connects opens a TCP connection, and checks that this succeeds or, if want is false, that it fails.
func (w *world) connects(from origin, address string, port int, want bool, what string) {
	w.t.Helper()
	argv := []string{"ncat", "-z", "-w", within(want)}
	if from.address != "" {
		argv = append(argv, "-s", from.address)
	}
	out, err := w.in(from.namespace, append(argv, address, fmt.Sprint(port))...)
	if (err == nil) != want {
		w.failed(sentPacket{w.host(from), address, fmt.Sprint("tcp/", port)}, "%s: connection from %s to %s:%d: established %v, want %v\n%s",
			what, from.namespace, address, port, err == nil, want, out)
	}
}

// trace asks the node for the verdict on an imagined packet.
func (w *world) trace(from, to, packet string) (control.Trace, error) {
	w.t.Helper()
	q := url.Values{"from": {from}, "to": {to}, "packet": {packet}}
	return request[control.Trace](w.t, w.node, "GET", "/v1/trace?"+q.Encode(), nil)
}
