package vswitch

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	"palisade/switch/switchtest"
)

// A sink is a device that keeps the last frame written to it, without allocating.
type sink struct {
	fd    int
	queue [][]byte // frames to read, with virtio header; nil: a frame that the device loses
	last  []byte   // the last written frame, with virtio header
	all   [][]byte // all written frames, if it is not nil
	count int
	buf   [70000]byte
	empty error // of Read when the queue is empty; nil: EAGAIN

	before func() // called before each write; nil: nothing is
	fails  error  // of each write
}

func (d *sink) FD() int { return d.fd }

func (d *sink) Offloads() packet.Offloads { return packet.DatagramOffloads }

func (d *sink) Close() error { return unix.Close(d.fd) }

func (d *sink) Read(b []byte) (int, error) {
	if len(d.queue) == 0 {
		return 0, cmp.Or(d.empty, error(unix.EAGAIN))
	}
	next := d.queue[0]
	d.queue = d.queue[1:]
	if next == nil {
		return 0, verdict.Lost(verdict.UnknownOffload)
	}
	return copy(b, next), nil
}

func (d *sink) Write(b []byte) error {
	if d.before != nil {
		d.before()
	}
	if d.fails != nil {
		return d.fails
	}
	d.last = d.buf[:copy(d.buf[:], b)]
	if d.all != nil {
		d.all = append(d.all, bytes.Clone(b))
	}
	d.count++
	return nil
}

// A testbed is a switch with three instances and an uplink:
//
//	web   10.10.0.4 = 198.18.0.4, groups web
//	app   10.10.0.5 = 198.18.0.5, groups app
//	lone  10.10.0.6, groups app, no public address
//	uplink, router 02:..:01
//
// It runs no poller: tests pass frames to it one by one.
type testbed struct {
	t        testing.TB
	sw       *Switch
	tracker  *conntrack.Tracker
	compiler *firewall.Compiler
	view     groups
	ports    map[string]*Port
	devices  map[string]*sink
	zones    map[string]*conntrack.Zone
	sets     map[string]*firewall.Set
	owners   map[string]*Endpoint
	names    []string // of the interfaces, in the order they were added
	frame    *frame
	last     []byte // the last frame sent
	lastPort *Port  // where it came in

	generation uint64
}

type groups map[ec2.GroupID]*ec2.Group

func (g groups) Group(id ec2.GroupID) (*ec2.Group, bool) { one, ok := g[id]; return one, ok }

var (
	routerMAC = ec2.MAC{2, 0, 0, 0, 0, 1}
	upMAC     = ec2.MAC{2, 0x75, 0, 0, 0, 1}
	laptop    = netip.MustParseAddr("203.0.113.25")
	stranger  = netip.MustParseAddr("198.51.100.7")
	hosts     = []struct{ name, private, public, group string }{
		{"web", "10.10.0.4", "198.18.0.4", "web"},
		{"app", "10.10.0.5", "198.18.0.5", "app"},
		{"lone", "10.10.0.6", "", "app"},
	}
	serial uint64
)

func permit(protocol ec2.Protocol, from, to int, source string) ec2.Rule {
	serial++
	r := ec2.Rule{ID: ec2.RuleID(fmt.Sprint("sgr-", serial)), Serial: serial, Protocol: protocol, From: from, To: to}
	if p, err := netip.ParsePrefix(source); err == nil {
		r.Source.Prefix = p
	} else {
		r.Source.Group = ec2.GroupRef{ID: ec2.GroupID(source)}
	}
	return r
}

func newTestbed(t testing.TB) *testbed {
	t.Helper()
	return newTestbedWith(t, conntrack.Config{})
}

func newTestbedWith(t testing.TB, c conntrack.Config) *testbed {
	t.Helper()
	tracker, err := conntrack.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return newTestbedOn(t, tracker)
}

func newTestbedOn(t testing.TB, tracker *conntrack.Tracker) *testbed {
	t.Helper()
	return newTestbedAt(t, tracker, 1)
}

// newTestbedAt starts at a generation, as a daemon does that starts again.
func newTestbedAt(t testing.TB, tracker *conntrack.Tracker, generation uint64) *testbed {
	t.Helper()
	sw, err := New(Config{Tracker: tracker, Pollers: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := &testbed{t: t, sw: sw, tracker: tracker, compiler: firewall.NewCompiler(), view: groups{},
		ports: map[string]*Port{}, devices: map[string]*sink{}, zones: map[string]*conntrack.Zone{},
		sets: map[string]*firewall.Set{}, owners: map[string]*Endpoint{}, frame: newFrame(sw), generation: generation}
	t.Cleanup(func() {
		for _, p := range sw.Ports() {
			sw.RemovePort(p)
		}
		for _, p := range sw.pollers {
			p.close()
		}
		tracker.Close()
	})
	switchtest.ReportFailure(t, b.describe)
	b.view["web"] = &ec2.Group{ID: "web", Name: "web"}
	b.view["app"] = &ec2.Group{ID: "app", Name: "app"}
	e := sw.Edit(generation)
	e.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1500})
	e.PublicPools([]netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")})
	for i, h := range hosts {
		o := Endpoint{Epoch: uint64(i + 1), Address: netip.MustParseAddr(h.private)}
		if h.public != "" {
			o.Public = netip.MustParseAddr(h.public)
		}
		b.place(e, 1, h.name, o, h.group)
	}
	b.add("uplink", UplinkPort)
	e.Uplink(&Uplink{Port: b.ports["uplink"], MAC: upMAC, NextHop: routerMAC, MTU: 1500})
	sw.Publish(e)
	return b
}

// describe returns the state of the switch, and the last frame sent, traced again.
func (b *testbed) describe() string {
	if b.last == nil {
		return b.sw.Describe(b.frame.now)
	}
	return b.sw.Describe(b.frame.now) + "\nthe last frame, traced again: " + b.sw.Trace(b.lastPort, bytes.Clone(b.last)).String()
}

// place adds an interface behind a port of its own.
func (b *testbed) place(e *Edit, v VNI, name string, o Endpoint, group string) {
	b.add(name, InstancePort)
	b.names = append(b.names, name)
	b.zones[name] = b.tracker.AddZone(o.Epoch, conntrack.Timeouts{})
	b.sets[name] = b.compiler.Acquire(b.view, []ec2.GroupID{ec2.GroupID(group)}, b.generation)
	o.MAC, o.Groups, o.Port = macOf(name), b.sets[name].Numbers, b.ports[name]
	b.owners[name] = &o
	e.AddEndpoint(v, &o)
	b.attach(e, v, name)
}

func (b *testbed) attach(e *Edit, v VNI, name string) {
	e.Attach(b.ports[name], v, Attachment{Endpoint: b.owners[name], Zone: b.zones[name], Rules: b.sets[name]})
}

func (b *testbed) add(name string, kind PortKind) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		b.t.Fatal(err)
	}
	b.devices[name] = &sink{fd: fd}
	if b.ports[name], err = b.sw.AddPort(name, kind, b.devices[name]); err != nil {
		b.t.Fatal(err)
	}
}

// rules replaces the rules of a group, as the node does after a change of it.
func (b *testbed) rules(group string, rules ...ec2.Rule) {
	b.generation++
	id := ec2.GroupID(group)
	was := b.view[id]
	b.view[id] = &ec2.Group{ID: id, Name: group, VPC: was.VPC, Rules: rules}
	b.compiler.Update(b.view, []ec2.GroupID{id}, b.generation)
	e := b.sw.Edit(b.generation)
	for _, name := range b.names {
		b.sets[name] = b.compiler.Current(b.sets[name])
		b.attach(e, b.owners[name].network, name)
	}
	b.sw.Publish(e)
}

func macOf(name string) ec2.MAC { return ec2.MAC{2, 0, 0, 1, 0, name[0]} }

// send passes an Ethernet frame to the switch as if read from a port.
func (b *testbed) send(from string, ethernet []byte) (at string, v verdict.Verdict) {
	return b.sendOffload(from, make([]byte, offloadLen), ethernet)
}

func (b *testbed) sendOffload(from string, offload, ethernet []byte) (string, verdict.Verdict) {
	f := b.frame
	f.snapshot, f.in, f.from, f.sender, f.viaGateway = b.sw.Snapshot(), b.ports[from], firewall.Source{}, nil, false
	copy(f.buffer, offload)
	b.last, b.lastPort = ethernet, b.ports[from]
	n := copy(f.buffer[offloadLen:], ethernet)
	port, v := f.forward(f.buffer[:offloadLen+n])
	return port.name, v
}

// expect sends a frame and checks its verdict.
func (b *testbed) expect(from string, ethernet []byte, at string, want verdict.Verdict) {
	b.t.Helper()
	if got, v := b.send(from, ethernet); got != at || v != want {
		b.t.Errorf("a frame from %s is %v at %s, want %v at %s\n% x", from, v, got, want, at, ethernet[:min(len(ethernet), 60)])
	}
}

func template(protocol uint8, src, dst netip.Addr, srcPort, dstPort uint16) packettest.Frame {
	return packettest.Frame{Flow: packet.Flow{Src: src, Dst: dst, SrcPort: srcPort, DstPort: dstPort, Protocol: protocol}, TCPFlags: packet.SYN, ICMPType: 8}
}

// of builds a frame that an instance sends through its gateway.
func (b *testbed) of(name string, f packettest.Frame) []byte {
	f.SrcMAC, f.DstMAC = macOf(name), GatewayMAC
	return packettest.Build(f)
}

// outside builds a frame that the router sends.
func outside(f packettest.Frame) []byte {
	f.SrcMAC, f.DstMAC = routerMAC, upMAC
	return packettest.Build(f)
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func reply(f packettest.Frame, flags uint8) packettest.Frame {
	f.Flow, f.TCPFlags = packettest.Reverse(f.Flow), flags
	return f
}

// delivered decodes the last frame that was written to a port.
func (b *testbed) delivered(name string) packet.Packet {
	b.t.Helper()
	d := b.devices[name]
	if d.last == nil {
		b.t.Fatalf("nothing was written to %s", name)
	}
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(d.last[offloadLen:], &p); !ok {
		b.t.Fatalf("Decode refuses the frame written to %s as %v", name, v)
	}
	return p
}
