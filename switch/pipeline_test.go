package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// A sink is a device that keeps the last frame written to it, without allocating.
type sink struct {
	fd    int
	queue [][]byte // what is to be read: virtio header and frame; nil: a frame that the device loses
	last  []byte   // virtio header and frame
	all   [][]byte // the same of each, if it is not nil
	count int
	buf   [70000]byte

	before func() // a write; nil: nothing happens
}

func (d *sink) FD() int                   { return d.fd }
func (d *sink) Offloads() packet.Offloads { return packet.DatagramOffloads }
func (d *sink) Close() error              { return unix.Close(d.fd) }
func (d *sink) Read(b []byte) (int, error) {
	if len(d.queue) == 0 {
		return 0, unix.EAGAIN
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
	d.last = d.buf[:copy(d.buf[:], b)]
	if d.all != nil {
		d.all = append(d.all, bytes.Clone(b))
	}
	d.count++
	return nil
}

// A bed is a switch with three instances and an uplink:
//
//	web   10.10.0.4 = 198.18.0.4, groups web
//	app   10.10.0.5 = 198.18.0.5, groups app
//	lone  10.10.0.6, groups app, no public address
//	uplink, router 02:..:01
//
// It runs no poller: tests hand it frames one by one.
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
	names    []string // of the interfaces, in the order they were placed
	frame    *frame

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
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return newTestbedOn(t, tracker)
}

func newTestbedOn(t testing.TB, tracker *conntrack.Tracker) *testbed {
	t.Helper()
	sw, err := New(Config{Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	b := &testbed{t: t, sw: sw, tracker: tracker, compiler: firewall.NewCompiler(), view: groups{},
		ports: map[string]*Port{}, devices: map[string]*sink{}, zones: map[string]*conntrack.Zone{},
		sets: map[string]*firewall.Set{}, owners: map[string]*Endpoint{}, frame: newFrame(sw), generation: 1}
	t.Cleanup(func() {
		for _, p := range sw.Ports() {
			sw.RemovePort(p)
		}
		for _, p := range sw.pollers {
			p.close()
		}
		tracker.Close()
	})
	b.view["web"] = &ec2.Group{ID: "web", Name: "web"}
	b.view["app"] = &ec2.Group{ID: "app", Name: "app"}
	e := sw.Edit(1)
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

// place puts an interface behind a port of its own.
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

// send puts an Ethernet frame before the switch as if read from a port.
func (b *testbed) send(from string, ethernet []byte) (at string, v verdict.Verdict) {
	return b.sendOffload(from, make([]byte, offloadLen), ethernet)
}

func (b *testbed) sendOffload(from string, offload, ethernet []byte) (string, verdict.Verdict) {
	f := b.frame
	f.snapshot, f.in, f.from, f.viaGateway = b.sw.Snapshot(), b.ports[from], firewall.Source{}, false
	copy(f.buffer, offload)
	n := copy(f.buffer[offloadLen:], ethernet)
	port, v := f.forward(f.buffer[:offloadLen+n])
	return port.name, v
}

// expect sends a frame and compares its fate.
func (b *testbed) expect(from string, ethernet []byte, at string, want verdict.Verdict) {
	b.t.Helper()
	if got, v := b.send(from, ethernet); got != at || v != want {
		b.t.Errorf("from %s: %v at %s, want %v at %s\n% x", from, v, got, want, at, ethernet[:min(len(ethernet), 60)])
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

func TestPortPassesNothingBeforeItsFirstTable(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	e := b.sw.Edit(9)
	e.Detach(b.ports["web"])
	b.sw.Publish(e)
	syn := template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 22)
	b.expect("web", b.of("web", syn), "web", verdict.NotReady)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.4"), 1, 22)), "web", verdict.NotReady)
}

func TestOnlyAFellowMemberGetsIn(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 8000, 8000, "web"))
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 8000)), "app", verdict.Forward)
	b.expect("lone", b.of("lone", template(6, addr("10.10.0.6"), addr("10.10.0.5"), 1, 8000)), "app", verdict.NoRule)
	// By its public address it is no member: both ends are rewritten, as at AWS.
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.5"), 1, 8000)), "app", verdict.NoRule)
	b.rules("app", permit(ec2.TCP, 8000, 8000, "198.18.0.4/32"))
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.5"), 2, 8000)), "app", verdict.Forward)
	if p := b.delivered("app"); p.Flow.Src != addr("198.18.0.4") || p.Flow.Dst != addr("10.10.0.5") {
		t.Errorf("delivered %v", p.Flow)
	}
	// A frame from outside that claims a member's address is none either.
	b.expect("uplink", outside(template(6, addr("10.10.0.4"), addr("198.18.0.5"), 1, 8000)), "uplink", verdict.BadSource)
}

// delivered decodes the last frame a port was given.
func (b *testbed) delivered(name string) packet.Packet {
	b.t.Helper()
	d := b.devices[name]
	if d.last == nil {
		b.t.Fatalf("%s was given nothing", name)
	}
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(d.last[offloadLen:], &p); !ok {
		b.t.Fatalf("%s was given a frame that is %v", name, v)
	}
	return p
}

func TestSpoofedFramesAreDroppedWhereTheyAreSent(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	mac := func(f packettest.Frame, src, dst ec2.MAC) []byte {
		f.SrcMAC, f.DstMAC = src, dst
		return packettest.Build(f)
	}
	syn := template(6, web, app, 1, 22)
	forged := func(src string) []byte { return b.of("web", template(6, addr(src), app, 1, 22)) }
	tests := []struct {
		name  string
		frame []byte
		want  verdict.Verdict
	}{
		{"another's MAC", mac(syn, macOf("app"), GatewayMAC), verdict.SpoofedMAC},
		{"group MAC as source", mac(syn, ec2.MAC{1, 0, 0x5e}, GatewayMAC), verdict.SpoofedMAC},
		{"another's address", forged("10.10.0.6"), verdict.SpoofedIP},
		{"the gateway's address", forged("10.0.0.1"), verdict.SpoofedIP},
		{"its own public address", forged("198.18.0.4"), verdict.SpoofedIP},
		{"LAND", forged("10.10.0.5"), verdict.SpoofedIP},
		{"loopback", forged("127.0.0.1"), verdict.SpoofedIP},
		{"broadcast MAC", mac(syn, macOf("web"), ec2.MAC{255, 255, 255, 255, 255, 255}), verdict.NotUnicast},
		{"multicast address", b.of("web", template(17, web, addr("224.0.0.1"), 1, 2)), verdict.NotUnicast},
		{"limited broadcast", b.of("web", template(17, web, addr("255.255.255.255"), 68, 67)), verdict.NotUnicast},
		{"DHCP server", b.of("web", template(17, web, app, 67, 68)), verdict.DHCPServer},
		{"a neighbour's MAC, another's address", mac(syn, macOf("web"), macOf("lone")), verdict.WrongMAC},
		{"unknown unicast", b.of("web", template(6, web, addr("10.10.9.9"), 1, 22)), verdict.NoRoute},
		{"the gateway itself", b.of("web", template(6, web, addr("10.0.0.1"), 1, 22)), verdict.GatewayLocal},
		{"unleased public address", b.of("web", template(6, web, addr("198.18.9.9"), 1, 22)), verdict.NoRoute},
		{"ARP reply for the gateway", packettest.ARP(2, macOf("web"), addr("10.0.0.1"), app), verdict.SpoofedARP},
		{"ARP request with another's address", packettest.ARP(1, macOf("web"), app, addr("10.0.0.1")), verdict.SpoofedARP},
		{"ARP with inner MAC of another", arpInner(macOf("web"), macOf("app"), web), verdict.SpoofedARP},
		{"gratuitous ARP", packettest.ARP(1, macOf("web"), web, web), verdict.ARPIgnored},
		{"duplicate address probe", packettest.ARP(1, macOf("web"), addr("0.0.0.0"), web), verdict.ARPIgnored},
		{"ARP for nobody", packettest.ARP(1, macOf("web"), web, addr("10.10.9.9")), verdict.ARPIgnored},
	}
	for _, tt := range tests {
		if at, v := b.send("web", tt.frame); at != "web" || v != tt.want {
			t.Errorf("%s: %v at %s, want %v at web", tt.name, v, at, tt.want)
		}
	}
	if b.devices["app"].count+b.devices["lone"].count+b.devices["uplink"].count != 0 {
		t.Error("a spoofed frame was delivered")
	}
	b.expect("lone", b.of("lone", template(6, addr("10.10.0.6"), laptop, 1, 80)), "lone", verdict.NoRoute) // no public address: no internet
}

func arpInner(outer, inner ec2.MAC, ip netip.Addr) []byte {
	b := packettest.ARP(1, inner, ip, addr("10.0.0.1"))
	copy(b[6:12], outer[:])
	return b
}

func TestOutsideSourcesThatCannotBe(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0"))
	for _, src := range []string{"10.10.0.6", "10.0.0.1", "198.18.7.7", "198.18.0.5", "127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0"} {
		b.expect("uplink", outside(template(6, addr(src), addr("198.18.0.4"), 1, 80)), "uplink", verdict.BadSource)
	}
	f := template(6, laptop, addr("198.18.0.4"), 1, 80)
	f.SrcMAC, f.DstMAC = routerMAC, ec2.MAC{2, 9, 9, 9, 9, 9}
	b.expect("uplink", packettest.Build(f), "uplink", verdict.WrongMAC)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.99"), 1, 80)), "uplink", verdict.NoRoute)
	b.expect("uplink", outside(template(6, laptop, addr("10.10.0.4"), 1, 80)), "uplink", verdict.NoRoute) // by private address
}

func TestARPIsAnsweredHere(t *testing.T) {
	b := newTestbed(t)
	for target, want := range map[string]ec2.MAC{"10.0.0.1": GatewayMAC, "10.10.0.5": macOf("app")} {
		b.expect("web", packettest.ARP(1, macOf("web"), addr("10.10.0.4"), addr(target)), "web", verdict.Answered)
		p := b.delivered("web")
		if p.ARPOperation != 2 || p.ARPSender != want || p.ARPSenderIP != addr(target) || p.DstMAC != macOf("web") {
			t.Errorf("answer for %s: operation %d, %v has %v, to %v", target, p.ARPOperation, p.ARPSender, p.ARPSenderIP, p.DstMAC)
		}
	}
	b.expect("uplink", packettest.ARP(1, routerMAC, addr("198.18.0.1"), addr("198.18.0.4")), "uplink", verdict.Answered)
	b.expect("uplink", packettest.ARP(1, routerMAC, addr("198.18.0.1"), addr("198.18.0.99")), "uplink", verdict.ARPIgnored)
}

func TestNATIsOneToOne(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 80, 80, "203.0.113.25/32"))
	in := template(6, laptop, addr("198.18.0.4"), 40000, 80)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	if p := b.delivered("web"); p.Flow.Dst != addr("10.10.0.4") || p.DstMAC != macOf("web") || p.SrcMAC != GatewayMAC {
		t.Errorf("delivered %v from %v to %v", p.Flow, p.SrcMAC, p.DstMAC)
	}
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), laptop, 80, 40000)), "uplink", verdict.Forward)
	if p := b.delivered("uplink"); p.Flow.Src != addr("198.18.0.4") || p.DstMAC != routerMAC || p.SrcMAC != upMAC {
		t.Errorf("sent %v from %v to %v", p.Flow, p.SrcMAC, p.DstMAC)
	}
	b.expect("uplink", outside(template(6, stranger, addr("198.18.0.4"), 40000, 80)), "web", verdict.NoRule)
}

// TestReplyPassesAfterRuleRevoked: a connection admitted for one address is tracked and
// outlives its rule in both directions; a new one is refused.
func TestReplyPassesAfterRuleRevoked(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	in := template(6, laptop, addr("198.18.0.4"), 40000, 22)
	out := template(6, addr("10.10.0.4"), laptop, 22, 40000)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	out.TCPFlags = packet.SYN | packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	in.TCPFlags, out.TCPFlags = packet.ACK, packet.ACK
	b.rules("web")
	b.expect("uplink", outside(in), "web", verdict.Forward)
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.4"), 40001, 22)), "web", verdict.NoRule)
}

// TestWorldRuleRevokedCutsBothWays: the server keeps talking, and its packets must not
// bring the connection back; that is the hole of trackers that delete the entry.
func TestWorldRuleRevokedCutsBothWays(t *testing.T) {
	for _, protocol := range []uint8{6, 17} {
		b := newTestbed(t)
		b.rules("web", permit(ec2.Protocol(protocol), 80, 80, "0.0.0.0/0"))
		in, out := template(protocol, laptop, addr("198.18.0.4"), 40000, 80), template(protocol, addr("10.10.0.4"), laptop, 80, 40000)
		b.expect("uplink", outside(in), "web", verdict.Forward)
		if u := b.tracker.Usage(); u.Tracked+u.Untracked != 0 {
			t.Errorf("protocol %d: a first packet of the world left state: %+v", protocol, u)
		}
		out.TCPFlags = packet.SYN | packet.ACK
		b.expect("web", b.of("web", out), "uplink", verdict.Forward)
		in.TCPFlags, out.TCPFlags = packet.ACK, packet.ACK
		b.expect("uplink", outside(in), "web", verdict.Forward)
		if u := b.tracker.Usage(); u.Tracked != 0 || u.Untracked != 1 {
			t.Errorf("protocol %d: usage %+v, want one untracked", protocol, u)
		}
		b.rules("web", permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
		for range 3 {
			b.expect("web", b.of("web", out), "web", verdict.Revoked)
			b.expect("uplink", outside(in), "web", verdict.Revoked)
		}
		b.rules("web", permit(ec2.Protocol(protocol), 80, 80, "0.0.0.0/0"))
		b.expect("uplink", outside(in), "web", verdict.Forward)
	}
}

// TestAnswerToWhatWasRevokedOpensNothing: a UDP server that first speaks after its world
// rule has gone, or whose connection was forgotten, is no originator of a connection.
func TestAnswerToWhatWasRevokedOpensNothing(t *testing.T) {
	b := newTestbed(t)
	dns, wide := permit(ec2.UDP, 53, 53, "0.0.0.0/0"), permit(ec2.UDP, 5000, 5999, "0.0.0.0/0")
	b.rules("web", dns, wide)
	in, out := template(17, laptop, addr("198.18.0.4"), 40000, 53), template(17, addr("10.10.0.4"), laptop, 53, 40000)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	b.rules("web", wide)
	b.rules("web", wide, permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	for range 2 {
		b.expect("web", b.of("web", out), "uplink", verdict.Forward)
		b.expect("uplink", outside(in), "web", verdict.NoRule)
	}
	// From its other ports it originates as before, and after a while from this one.
	asks, answer := template(17, addr("10.10.0.4"), laptop, 54, 40000), template(17, laptop, addr("198.18.0.4"), 40000, 54)
	b.expect("web", b.of("web", asks), "uplink", verdict.Forward)
	b.expect("uplink", outside(answer), "web", verdict.Forward)
	b.frame.now = monotonic() + closedFor
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	b.frame.now = 0

	// A rule for everything that comes and goes a hundred times is remembered in bounds.
	for i := range 100 {
		b.rules("web", permit(ec2.UDP, 100+i, 100+i, "0.0.0.0/0"))
	}
	a := b.sw.Snapshot().attachment(b.ports["web"])
	if len(a.closed) > maxClosedRanges || !a.justClosed(53, 0) || !a.justClosed(198, 0) || a.justClosed(54, 0) {
		t.Errorf("%d closings, of 53: %v, of 198: %v, of 54: %v", len(a.closed), a.justClosed(53, 0), a.justClosed(198, 0), a.justClosed(54, 0))
	}
}

// TestSYNRidesOnNoConnection: a client whose rule is gone may keep the connection it has,
// and may not open another on the same ports; nor may a reset make room for one.
func TestSYNRidesOnNoConnection(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	in, out := template(6, laptop, addr("198.18.0.4"), 40000, 22), template(6, addr("10.10.0.4"), laptop, 22, 40000)
	deliver := func(flags uint8, want verdict.Verdict) {
		t.Helper()
		in.TCPFlags = flags
		b.expect("uplink", outside(in), "web", want)
	}
	deliver(packet.SYN, verdict.Forward)
	deliver(packet.SYN, verdict.Forward) // again, as a sender does that hears nothing
	out.TCPFlags = packet.SYN | packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	deliver(packet.ACK, verdict.Forward)
	deliver(packet.SYN, verdict.Forward) // the rule admits it
	b.rules("web")
	deliver(packet.SYN, verdict.NoRule)
	deliver(packet.ACK, verdict.Forward)
	out.TCPFlags = packet.FIN | packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	deliver(packet.SYN, verdict.NoRule) // half closed
	deliver(packet.RST, verdict.Forward)
	deliver(packet.ACK, verdict.Forward)
	deliver(packet.SYN, verdict.NoRule)
	deliver(packet.ACK, verdict.Forward)
}

// TestOutsideHasNoAddressOfTheNetwork: a source within the network cannot come from
// outside, leased or not, or a CIDR rule for members would admit a stranger.
func TestOutsideHasNoAddressOfTheNetwork(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.UDP, 53, 53, "10.10.0.0/16"))
	b.expect("uplink", outside(template(17, addr("10.10.0.77"), addr("198.18.0.4"), 1, 53)), "uplink", verdict.BadSource)
	b.expect("uplink", outside(template(17, addr("10.255.255.255"), addr("198.18.0.4"), 1, 53)), "uplink", verdict.BadSource)
}

func TestInstanceReachesOutAndIsAnswered(t *testing.T) {
	b := newTestbed(t)
	for _, protocol := range []uint8{6, 17, 1} {
		out := template(protocol, addr("10.10.0.4"), laptop, 5000, 80)
		in := template(protocol, laptop, addr("198.18.0.4"), 80, 5000)
		in.TCPFlags, in.ICMPType = packet.SYN|packet.ACK, 0
		if protocol == 1 {
			out.Flow.DstPort, in.Flow.SrcPort = 5000, 5000
		}
		b.expect("uplink", outside(in), "web", verdict.NoRule)
		b.expect("web", b.of("web", out), "uplink", verdict.Forward)
		b.expect("uplink", outside(in), "web", verdict.Forward)
	}
}

func TestICMPErrorPassesOnlyForItsConnection(t *testing.T) {
	b := newTestbed(t)
	out := template(17, addr("10.10.0.4"), laptop, 5000, 53)
	sent := template(17, addr("198.18.0.4"), laptop, 5000, 53)
	about := func(f packettest.Frame) []byte {
		return packettest.ICMPError(3, 1, stranger, addr("198.18.0.4"), packettest.Build(f), routerMAC, upMAC)
	}
	b.expect("uplink", about(sent), "web", verdict.NoConnection)
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	b.expect("uplink", about(sent), "web", verdict.Forward)
	if p := b.delivered("web"); p.Quoted.Src != addr("10.10.0.4") {
		t.Errorf("the quoted packet is %v, want the instance's own address in it", p.Quoted)
	}
	forged := sent
	forged.Flow.Src = addr("198.18.0.5") // not what the error's receiver sent
	b.expect("uplink", about(forged), "web", verdict.NoConnection)
	sent.Flow.DstPort++
	b.expect("uplink", about(sent), "web", verdict.NoConnection)
	redirect := packettest.ICMPError(5, 1, stranger, addr("198.18.0.4"), packettest.Build(template(17, addr("198.18.0.4"), laptop, 5000, 53)), routerMAC, upMAC)
	b.expect("uplink", redirect, "web", verdict.NoConnection)
}

func TestFragmentsInheritTheirFirstsVerdict(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.UDP, 53, 53, "203.0.113.25/32"))
	fragment := func(src netip.Addr, port uint16, id uint16, offset, n int, more bool) []byte {
		f := template(17, src, addr("198.18.0.4"), 4000, port)
		f.FragID, f.FragOffset, f.MoreFollow, f.Payload = id, offset, more, make([]byte, n)
		return outside(f)
	}
	b.expect("uplink", fragment(laptop, 0, 7, 1480, 100, false), "web", verdict.OrphanFragment)
	b.expect("uplink", fragment(laptop, 53, 7, 0, 1472, true), "web", verdict.Forward)
	b.expect("uplink", fragment(laptop, 0, 7, 1480, 100, false), "web", verdict.Forward)
	b.expect("uplink", fragment(laptop, 0, 7, 1480, 100, false), "web", verdict.OrphanFragment) // it is whole
	b.expect("uplink", fragment(laptop, 53, 9, 0, 1472, true), "web", verdict.Forward)
	b.expect("uplink", fragment(laptop, 0, 9, 1472, 104, false), "web", verdict.OverlapFrag)
	b.expect("uplink", fragment(laptop, 54, 8, 0, 1472, true), "web", verdict.NoRule)
	b.expect("uplink", fragment(laptop, 0, 8, 1480, 100, false), "web", verdict.OrphanFragment)
}

// TestDeviceGetsWhatItTakes: a frame that stands for three packets arrives as one where the
// device has the offloads for its protocol, and as three finished packets where it has not.
func TestDeviceGetsWhatItTakes(t *testing.T) {
	const tcp, udp = packet.ProtocolTCP, packet.ProtocolUDP
	for _, tt := range []struct {
		protocol       uint8
		gso, checksum  byte
		headers        int
		offloads       packet.Offloads
		frames, length int // that are written; of the last one
	}{
		{tcp, 1, 16, 54, packet.NoOffloads, 3, 54 + 1080},
		{tcp, 1, 16, 54, packet.StreamOffloads, 1, 54 + 4000},
		{tcp, 1, 16, 54, packet.DatagramOffloads, 1, 54 + 4000},
		{udp, 5, 6, 42, packet.NoOffloads, 3, 42 + 1080},
		{udp, 5, 6, 42, packet.StreamOffloads, 3, 42 + 1080},
		{udp, 5, 6, 42, packet.DatagramOffloads, 1, 42 + 4000},
	} {
		b := newTestbed(t)
		b.rules("app", permit(ec2.TCP, 80, 80, "web"), permit(ec2.UDP, 80, 80, "web"))
		b.ports["app"].offloads = tt.offloads
		f := template(tt.protocol, addr("10.10.0.4"), addr("10.10.0.5"), 4000, 80)
		f.Payload = make([]byte, 4000)
		offload := make([]byte, offloadLen)
		offload[0], offload[1] = 1, tt.gso
		binary.NativeEndian.PutUint16(offload[4:], 1460)
		binary.NativeEndian.PutUint16(offload[6:], 34)
		binary.NativeEndian.PutUint16(offload[8:], uint16(tt.checksum))
		if at, v := b.sendOffload("web", offload, b.of("web", f)); at != "app" || v != verdict.Forward {
			t.Fatalf("%v at %s", v, at)
		}
		d := b.devices["app"]
		finished := [offloadLen]byte(d.last[:offloadLen]) == [offloadLen]byte{}
		if d.count != tt.frames || finished != (tt.frames == 3) || len(d.last) != offloadLen+tt.length {
			t.Errorf("protocol %d, offloads %d: %d frames, the last of %d bytes behind % x; want %d, of %d",
				tt.protocol, tt.offloads, d.count, len(d.last)-offloadLen, d.last[:offloadLen], tt.frames, tt.length)
		}
	}
}

func TestTraceRemembersNothing(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	tr := b.sw.Trace(b.ports["uplink"], outside(template(6, laptop, addr("198.18.0.4"), 1, 22)))
	if tr.Verdict != verdict.Forward || len(tr.Steps) != 1 || !tr.Steps[0].Asked {
		t.Errorf("trace %+v", tr)
	}
	tr = b.sw.Trace(b.ports["uplink"], outside(template(6, stranger, addr("198.18.0.4"), 1, 22)))
	if tr.Verdict != verdict.NoRule {
		t.Errorf("trace %+v", tr)
	}
	if u := b.tracker.Usage(); u.Tracked != 0 || b.devices["web"].count != 0 {
		t.Errorf("a trace left state %+v and %d frames", u, b.devices["web"].count)
	}
}

// TestDatagramsOfOneFlowCrossTheSwitchTogether: as one frame, in their order with the frames
// of other flows, counted and judged as the packets that they are; the frame behind them is
// not lost where it is another flow's, nor at the end of a batch.
func TestDatagramsOfOneFlowCrossTheSwitchTogether(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	datagram := func(from, to uint16) []byte {
		f := template(17, web, app, from, to)
		f.SrcMAC, f.DstMAC, f.DontFragment, f.Payload = macOf("web"), GatewayMAC, true, []byte("twenty-two bytes of it")
		return append(make([]byte, offloadLen), packettest.Build(f)...)
	}
	drain := func(queue ...[]byte) (written, left int) {
		b.devices["web"].queue = queue
		b.frame.snapshot = b.sw.Snapshot()
		before := b.devices["app"].count
		b.sw.pollers[0].drain(b.frame, b.ports["web"])
		return b.devices["app"].count - before, len(b.devices["web"].queue)
	}
	// Three, three of another flow, one again: three frames.
	a, c := datagram(1, 53), datagram(2, 53)
	written, _ := drain(a, a, a, c, c, c, a)
	if got := b.delivered("app"); written != 3 || got.Flow.SrcPort != 1 {
		t.Errorf("%d frames, the last one of %v; want 3, and the flow that came last", written, got.Flow)
	}
	// A hundred: a batch of 64, which is one frame, and the rest is still there.
	many := slices.Repeat([][]byte{a}, 100)
	if written, left := drain(many...); written != 1 || left != 36 {
		t.Errorf("%d frames, %d left; want 1 and 36", written, left)
	}
	if p := b.delivered("app"); p.Len-p.Payload != 64*22 || b.devices["app"].last[1] != 5 {
		t.Errorf("%d bytes of payload behind % x, want those of 64 datagrams", p.Len-p.Payload, b.devices["app"].last[:offloadLen])
	}
	// What no rule admits is counted by the packet.
	refused := datagram(1, 99)
	drain(refused, refused, refused, refused)
	in, out := b.ports["web"].Counters(), b.ports["app"].Counters()
	if out.Verdicts[verdict.NoRule] != 4 || out.Verdicts[verdict.Forward] != 71 || in.RxFrames != 75 || out.TxFrames != 4 {
		t.Errorf("%d refused and %d forwarded of %d frames, %d written; want 4, 71, 75 and 4",
			out.Verdicts[verdict.NoRule], out.Verdicts[verdict.Forward], in.RxFrames, out.TxFrames)
	}
	for c := range b.tracker.Connections(0) {
		if c.Flow.SrcPort == 1 && c.Flow.DstPort == 53 && c.Packets[0] != 68 {
			t.Errorf("%v has %v packets, want 68", c.Flow, c.Packets)
		}
	}
}

// TestFramesOfABatchLeaveAsTheyCame: small and large ones, of flows that are known and of
// such as are not, with what no decoder takes between them, each with its own bytes.
func TestFramesOfABatchLeaveAsTheyCame(t *testing.T) {
	b := newTestbed(t)
	e := b.sw.Edit(2)
	e.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 9000})
	b.sw.Publish(e)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"), permit(ec2.TCP, 80, 80, "web"))
	r := rand.New(rand.NewPCG(5, 6))
	var queue, want [][]byte
	for i := range 300 {
		f := template([]uint8{6, 17, 17}[r.IntN(3)], addr("10.10.0.4"), addr("10.10.0.5"), uint16(1000+r.IntN(40)), 53)
		if f.Flow.Protocol == 6 {
			f.Flow.DstPort = 80
		}
		f.SrcMAC, f.DstMAC = macOf("web"), GatewayMAC
		f.Payload = binary.BigEndian.AppendUint32(nil, uint32(i))
		if n := r.IntN(4); n > 0 { // up to larger than what is looked ahead by
			f.Payload = append(f.Payload, make([]byte, r.IntN([]int{0, 60, 1400, 8000}[n]))...)
		}
		frame := append(make([]byte, offloadLen), packettest.Build(f)...)
		queue, want = append(queue, frame), append(want, f.Payload)
		if r.IntN(10) == 0 {
			queue = append(queue, append(make([]byte, offloadLen), 1, 2, 3))
		}
	}
	d := b.devices["app"]
	b.devices["web"].queue = queue
	d.all = [][]byte{}
	b.frame.snapshot = b.sw.Snapshot()
	for len(b.devices["web"].queue) > 0 {
		b.sw.pollers[0].drain(b.frame, b.ports["web"])
	}
	if len(d.all) != len(want) {
		t.Fatalf("%d frames of %d arrived: %v", len(d.all), len(want), b.ports["app"].Counters().Verdicts)
	}
	for i, frame := range d.all {
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(frame[offloadLen:], &p); !ok || !bytes.Equal(frame[offloadLen+p.Payload:], want[i]) {
			t.Fatalf("frame %d: %v, % x, want % x", i, v, frame[offloadLen+p.Payload:], want[i])
		}
	}
}

func TestNoAllocs(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 80, 80, "web"), permit(ec2.UDP, 53, 53, "0.0.0.0/0"), permit(ec2.ICMP, -1, -1, "0.0.0.0/0"))
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	syn := b.of("web", template(6, web, app, 1, 80))
	b.expect("web", syn, "app", verdict.Forward)
	known := template(6, web, app, 1, 80)
	known.TCPFlags = packet.ACK
	cases := []struct {
		name, from string
		frame      []byte
	}{
		{"known flow", "web", b.of("web", known)},
		{"SYN again", "web", syn},
		{"no rule", "web", b.of("web", template(6, web, app, 1, 81))},
		{"untracked", "web", b.of("web", template(17, web, app, 1, 53))},
		{"echo", "web", b.of("web", template(1, web, app, 5, 5))},
		{"arp", "web", packettest.ARP(1, macOf("web"), web, addr("10.0.0.1"))},
		{"spoofed", "web", b.of("web", template(6, app, web, 1, 80))},
		{"inbound", "uplink", outside(template(6, laptop, addr("198.18.0.4"), 1, 22))},
		{"outbound", "web", b.of("web", template(17, web, laptop, 1, 53))},
		{"hairpin", "web", b.of("web", template(17, web, addr("198.18.0.5"), 9, 53))},
		{"hostile", "web", []byte{1, 2, 3}},
	}
	for _, c := range cases {
		if n := testing.AllocsPerRun(200, func() {
			copy(b.frame.buffer[offloadLen:], c.frame)
			clear(b.frame.buffer[:offloadLen])
			b.frame.snapshot = b.sw.Snapshot()
			b.frame.receive(b.ports[c.from], offloadLen+len(c.frame))
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
	port := uint16(0)
	if n := testing.AllocsPerRun(200, func() {
		port++
		binary.BigEndian.PutUint16(syn[34:], port)
		copy(b.frame.buffer[offloadLen:], syn)
		b.frame.receive(b.ports["web"], offloadLen+len(syn))
	}); n != 0 {
		t.Errorf("new flow: %v allocations", n)
	}
}
