package vswitch

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// The networks of a VPC testbed, besides the flat one with VNI 1.
const (
	ours   VNI = 2
	theirs VNI = 3
)

// A vpcHost is an interface of a VPC testbed.
type vpcHost struct {
	vni             VNI
	name            string
	private, public string
	group           string
	further         []Pair
	unchecked       bool
}

// The interfaces of both VPCs. The subnet of 4db has only the local route.
var vpcHosts = []vpcHost{
	{vni: ours, name: "1web", private: "10.0.1.10", public: "198.18.1.10", group: "vpc",
		further: []Pair{{addr("10.0.1.11"), addr("198.18.1.11")}, {addr("10.0.1.12"), netip.Addr{}}}},
	{vni: ours, name: "2app", private: "10.0.1.20", public: "198.18.1.20", group: "vpc"},
	{vni: ours, name: "3nat", private: "10.0.1.30", public: "198.18.1.30", group: "vpc", unchecked: true},
	{vni: ours, name: "4db", private: "10.0.2.10", public: "198.18.1.40", group: "db"}, // an elastic address, and no route for it
	{vni: theirs, name: "5web", private: "10.0.1.10", public: "198.18.1.50", group: "theirs"},
	{vni: theirs, name: "6app", private: "10.0.1.20", group: "theirs"},
}

var everywhere = netip.MustParsePrefix("0.0.0.0/0")

func vpcNetwork(v VNI) Network {
	out := []Route{{everywhere, Target{Kind: Internet}}, {netip.MustParsePrefix("198.51.100.0/24"), Target{}}}
	return Network{VNI: v, Prefix: netip.MustParsePrefix("10.0.0.0/16"), MTU: 1500, Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("10.0.1.0/24"), Gateway: addr("10.0.1.1"), Routes: out},
		{Prefix: netip.MustParsePrefix("10.0.2.0/24"), Gateway: addr("10.0.2.1")},
	}}
}

// newVPCBed returns a testbed with two VPCs of equal addresses. Each has a public subnet
// 10.0.1.0/24, with a black hole for 198.51.100.0/24, and a private one 10.0.2.0/24.
func newVPCBed(t testing.TB) *testbed {
	t.Helper()
	b := newTestbed(t)
	for _, g := range []string{"vpc", "db", "other", "theirs"} {
		b.view[ec2.GroupID(g)] = &ec2.Group{ID: ec2.GroupID(g), Name: g, VPC: "vpc-1", Rules: []ec2.Rule{anyOut()}}
	}
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Network(vpcNetwork(ours))
	e.Network(vpcNetwork(theirs))
	for i, h := range vpcHosts {
		o := Endpoint{Epoch: uint64(100 + i), Address: addr(h.private), Further: h.further, Unchecked: h.unchecked}
		if h.public != "" {
			o.Public = addr(h.public)
		}
		b.place(e, h.vni, h.name, o, h.group)
	}
	b.sw.Publish(e)
	return b
}

func permitOut(protocol ec2.Protocol, from, to int, target string) ec2.Rule {
	r := permit(protocol, from, to, target)
	r.Direction = ec2.Egress
	return r
}

func anyOut() ec2.Rule { return permitOut(ec2.AnyProtocol, -1, -1, "0.0.0.0/0") }
func anyIn() ec2.Rule  { return permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0") }

// open lets all packets in and out of every interface.
func (b *testbed) open() {
	for _, g := range []string{"web", "app"} {
		b.rules(g, anyIn())
	}
	for _, g := range []string{"vpc", "db", "other", "theirs"} {
		b.rules(g, anyIn(), anyOut())
	}
}

// change publishes an edited copy of an interface, as the node does after a change of it.
func (b *testbed) change(name string, edit func(*Endpoint)) {
	b.generation++
	was := b.owners[name]
	now := *was
	edit(&now)
	e := b.sw.Edit(b.generation)
	e.RemoveEndpoint(was.network, was)
	e.AddEndpoint(was.network, &now)
	b.owners[name] = &now
	b.attach(e, was.network, name)
	b.sw.Publish(e)
}

// regroup gives an interface other groups.
func (b *testbed) regroup(name string, groups ...ec2.GroupID) {
	b.sets[name] = b.compiler.Acquire(b.view, groups, b.generation+1)
	b.change(name, func(o *Endpoint) { o.Groups = b.sets[name].Numbers })
}

// to builds a frame from an interface to a MAC address.
func to(name string, mac ec2.MAC, f packettest.Frame) []byte {
	f.SrcMAC, f.DstMAC = macOf(name), mac
	return packettest.Build(f)
}

func TestSubnetsReachEachOtherByGatewayOnly(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	web, app, db := addr("10.0.1.10"), addr("10.0.1.20"), addr("10.0.2.10")
	answered := func(name string, sender, target netip.Addr, want verdict.Verdict, mac ec2.MAC) {
		t.Helper()
		b.expect(name, packettest.ARP(1, macOf(name), sender, target), name, want)
		if p := b.devices[name].last; want == verdict.Answered && b.delivered(name).ARPSender != mac {
			t.Errorf("%s asks for the MAC address of %s: the answer is % x, want %v", name, target, p, mac)
		}
	}
	answered("1web", web, addr("10.0.1.1"), verdict.Answered, GatewayMAC)
	answered("1web", addr("10.0.1.12"), app, verdict.Answered, macOf("2app"))
	answered("2app", app, addr("10.0.1.12"), verdict.Answered, macOf("1web"))
	answered("4db", db, addr("10.0.2.1"), verdict.Answered, GatewayMAC)
	answered("1web", web, db, verdict.ARPIgnored, ec2.MAC{})
	answered("1web", web, addr("10.0.2.1"), verdict.ARPIgnored, ec2.MAC{})
	answered("1web", web, addr("10.0.1.11"), verdict.ARPIgnored, ec2.MAC{}) // its own address
	answered("1web", db, addr("10.0.1.1"), verdict.SpoofedARP, ec2.MAC{})

	syn := func(src, dst netip.Addr) packettest.Frame { return template(6, src, dst, 1, 22) }
	b.expect("1web", to("1web", GatewayMAC, syn(web, app)), "2app", verdict.Forward)
	b.expect("1web", to("1web", macOf("2app"), syn(web, app)), "2app", verdict.Forward)
	if p := b.delivered("2app"); p.SrcMAC != macOf("1web") {
		t.Errorf("inside a subnet the source MAC address is %v, want that of 1web", p.SrcMAC)
	}
	b.expect("1web", to("1web", GatewayMAC, syn(web, db)), "4db", verdict.Forward)
	if p := b.delivered("4db"); p.SrcMAC != GatewayMAC || p.DstMAC != macOf("4db") {
		t.Errorf("between subnets the frame is from MAC address %v to %v, want from the gateway to 4db", p.SrcMAC, p.DstMAC)
	}
	b.expect("1web", to("1web", macOf("4db"), syn(web, db)), "1web", verdict.WrongMAC)
	b.expect("1web", to("1web", GatewayMAC, syn(web, addr("10.0.2.1"))), "1web", verdict.GatewayLocal)
	b.expect("1web", to("1web", GatewayMAC, syn(web, addr("10.0.99.1"))), "1web", verdict.NoRoute)
}

// TestRoutesDecideAboutInternetAccess: the longest prefix decides, in both directions, and at both
// ends of a packet between two public addresses.
func TestRoutesDecideAboutInternetAccess(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	web, db := addr("10.0.1.10"), addr("10.0.2.10")
	out := func(name string, src, dst netip.Addr) []byte {
		return to(name, GatewayMAC, template(6, src, dst, 1, 22))
	}
	in := func(src netip.Addr, dst string) []byte { return outside(template(6, src, addr(dst), 1, 22)) }
	b.expect("1web", out("1web", web, laptop), "uplink", verdict.Forward)
	b.expect("uplink", in(laptop, "198.18.1.10"), "1web", verdict.Forward)
	b.expect("1web", out("1web", web, stranger), "1web", verdict.NotRouted) // the black hole
	b.expect("uplink", in(stranger, "198.18.1.10"), "uplink", verdict.NotRouted)
	b.expect("4db", out("4db", db, laptop), "4db", verdict.NotRouted) // although 4db has an elastic address
	b.expect("uplink", in(laptop, "198.18.1.40"), "uplink", verdict.NotRouted)
	b.expect("1web", out("1web", web, addr("198.18.1.50")), "5web", verdict.Forward)
	b.expect("1web", out("1web", web, addr("198.18.1.40")), "1web", verdict.NotRouted)
	b.expect("4db", out("4db", db, addr("198.18.1.50")), "4db", verdict.NotRouted)
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.1.10"), 1, 22)), "1web", verdict.Forward) // from EC2-Classic
	b.expect("1web", out("1web", web, addr("198.18.0.4")), "web", verdict.Forward)
	b.expect("uplink", in(addr("10.0.2.99"), "198.18.1.10"), "uplink", verdict.BadSource)

	tr := b.sw.Trace(b.ports["4db"], out("4db", db, laptop))
	if u := tr.Unrouted; tr.Verdict != verdict.NotRouted || u == nil || u.Endpoint != b.owners["4db"] || u.Remote != laptop || u.Network != ours || u.Subnet.Gateway != addr("10.0.2.1") {
		t.Errorf("the trace has verdict %v and Unrouted %+v, want %v and the subnet of 4db without a route to %s", tr.Verdict, tr.Unrouted, verdict.NotRouted, laptop)
	}

	// The gateway is detached: the route is a black hole, for established connections too.
	n := vpcNetwork(ours)
	n.Subnets[0].Routes = []Route{{everywhere, Target{}}}
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Network(n)
	b.sw.Publish(e)
	established := template(6, web, laptop, 1, 22)
	established.TCPFlags = packet.ACK
	b.expect("1web", to("1web", GatewayMAC, established), "1web", verdict.NotRouted)
	b.expect("uplink", in(laptop, "198.18.1.10"), "uplink", verdict.NotRouted)
	b.expect("1web", out("1web", web, addr("10.0.1.20")), "2app", verdict.Forward) // each subnet has the local route
}

// TestEachPrivateAddressHasItsOwnPublicAddress: a secondary address is as much the interface's as
// the primary one.
func TestEachPrivateAddressHasItsOwnPublicAddress(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	for _, p := range b.owners["1web"].pairs()[:2] {
		b.expect("1web", to("1web", GatewayMAC, template(6, p.Private, laptop, 1, 80)), "uplink", verdict.Forward)
		if got := b.delivered("uplink").Flow.Src; got != p.Public {
			t.Errorf("%s leaves as %s, want %s", p.Private, got, p.Public)
		}
		b.expect("uplink", outside(template(6, laptop, p.Public, 1, 81)), "1web", verdict.Forward)
		if got := b.delivered("1web").Flow.Dst; got != p.Private {
			t.Errorf("%s comes in as %s, want %s", p.Public, got, p.Private)
		}
		b.expect("2app", to("2app", GatewayMAC, template(6, addr("10.0.1.20"), p.Public, 1, 82)), "1web", verdict.Forward)
		if got := b.delivered("1web").Flow; got.Dst != p.Private || got.Src != addr("198.18.1.20") {
			t.Errorf("a packet between public addresses arrived as %v, want 198.18.1.20 > %s", got, p.Private)
		}
		b.expect("uplink", packettest.ARP(1, routerMAC, addr("198.18.0.1"), p.Public), "uplink", verdict.Answered)
	}
	b.expect("1web", to("1web", GatewayMAC, template(6, addr("10.0.1.12"), laptop, 1, 80)), "1web", verdict.NoRoute)
	b.expect("1web", to("1web", GatewayMAC, template(6, addr("10.0.1.13"), laptop, 1, 80)), "1web", verdict.SpoofedIP)

	// A packet from each private address has the interface's groups.
	b.rules("db", permit(ec2.TCP, 3306, 3306, "vpc"))
	for _, src := range []string{"10.0.1.10", "10.0.1.11", "10.0.1.12"} {
		b.expect("1web", to("1web", GatewayMAC, template(6, addr(src), addr("10.0.2.10"), 7, 3306)), "4db", verdict.Forward)
	}

	// An address that is removed belongs to no interface, and another interface may get it.
	b.change("1web", func(o *Endpoint) { o.Further = o.Further[:1]; o.Public = netip.Addr{} })
	b.expect("1web", to("1web", GatewayMAC, template(6, addr("10.0.1.12"), addr("10.0.2.10"), 7, 3306)), "1web", verdict.SpoofedIP)
	b.expect("2app", to("2app", GatewayMAC, template(6, addr("10.0.1.20"), addr("10.0.1.12"), 7, 22)), "2app", verdict.NoRoute)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.1.10"), 1, 81)), "uplink", verdict.NoRoute)
	b.expect("1web", to("1web", GatewayMAC, template(6, addr("10.0.1.10"), laptop, 1, 80)), "1web", verdict.NoRoute)
	b.change("2app", func(o *Endpoint) { o.Further = []Pair{{addr("10.0.1.12"), addr("198.18.1.10")}} })
	b.expect("uplink", outside(template(6, laptop, addr("198.18.1.10"), 1, 81)), "2app", verdict.Forward)
	if got := b.delivered("2app").Flow.Dst; got != addr("10.0.1.12") {
		t.Errorf("a packet to 198.18.1.10 came in as %s, want 10.0.1.12", got)
	}
}

// TestUncheckedInterfaceForwardsForOthers: an interface that is not checked may send from another
// interface's address, but no rule for a group admits such a packet.
func TestUncheckedInterfaceForwardsForOthers(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	web, nat, db, foreign := addr("10.0.1.10"), addr("10.0.1.30"), addr("10.0.2.10"), addr("192.0.2.9")
	fwd := func(name string, mac ec2.MAC, src, dst netip.Addr) []byte {
		return to(name, mac, template(6, src, dst, 9, 22))
	}

	// A frame from a neighbour to the interface's MAC address is delivered, whatever its IP
	// destination is.
	for _, dst := range []netip.Addr{foreign, laptop, db, addr("10.0.1.20"), addr("198.18.1.50"), addr("10.0.77.7"), nat} {
		b.expect("1web", fwd("1web", macOf("3nat"), web, dst), "3nat", verdict.Forward)
		if p := b.delivered("3nat"); p.Flow.Dst != dst || p.SrcMAC != macOf("1web") || p.DstMAC != macOf("3nat") {
			t.Errorf("delivered %v from MAC address %v to %v, want an unchanged packet to %s from 1web to 3nat", p.Flow, p.SrcMAC, p.DstMAC, dst)
		}
	}
	b.expect("1web", fwd("1web", macOf("2app"), web, foreign), "1web", verdict.WrongMAC) // 2app is checked
	b.expect("4db", fwd("4db", macOf("3nat"), db, foreign), "4db", verdict.WrongMAC)     // from another subnet
	b.expect("4db", fwd("4db", macOf("3nat"), db, nat), "4db", verdict.WrongMAC)
	b.expect("6app", fwd("6app", macOf("3nat"), addr("10.0.1.20"), foreign), "6app", verdict.WrongMAC) // of another VPC

	// The interface may send from any IP address, but only from its own MAC address.
	b.expect("3nat", fwd("3nat", GatewayMAC, foreign, db), "4db", verdict.Forward)
	b.expect("3nat", fwd("3nat", GatewayMAC, addr("10.0.2.77"), web), "1web", verdict.Forward)
	b.expect("3nat", fwd("3nat", GatewayMAC, foreign, laptop), "3nat", verdict.NoRoute) // the source has no public address
	b.expect("2app", fwd("2app", GatewayMAC, foreign, db), "2app", verdict.SpoofedIP)
	b.expect("3nat", to("2app", GatewayMAC, template(6, foreign, db, 9, 22)), "3nat", verdict.SpoofedMAC)
	for _, src := range []string{"127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"} {
		b.expect("3nat", fwd("3nat", GatewayMAC, addr(src), db), "3nat", verdict.SpoofedIP)
	}
	b.expect("3nat", packettest.ARP(1, macOf("3nat"), foreign, addr("10.0.1.1")), "3nat", verdict.SpoofedARP)
	b.expect("3nat", packettest.ARP(2, macOf("3nat"), web, addr("10.0.1.20")), "3nat", verdict.SpoofedARP)

	// A group admits packets from its members' own addresses only, sent by the members themselves.
	b.rules("db", permit(ec2.TCP, 3306, 3306, "vpc"))
	b.expect("3nat", to("3nat", GatewayMAC, template(6, nat, db, 9, 3306)), "4db", verdict.Forward)
	b.expect("3nat", to("3nat", GatewayMAC, template(6, foreign, db, 9, 3306)), "4db", verdict.NoRule)
	b.expect("3nat", to("3nat", GatewayMAC, template(6, web, db, 9, 3306)), "4db", verdict.NoRule) // from a member's address, but not the sender's
	// An egress rule for a group does not admit a packet that is handed to another interface.
	b.rules("vpc", anyIn(), permitOut(ec2.TCP, 3306, 3306, "db"))
	b.expect("1web", to("1web", GatewayMAC, template(6, web, db, 8, 3306)), "4db", verdict.Forward)
	b.expect("1web", to("1web", macOf("3nat"), template(6, web, db, 9, 3306)), "1web", verdict.NoRule)

	b.open()
	b.change("3nat", func(o *Endpoint) { o.Unchecked = false })
	b.expect("3nat", fwd("3nat", GatewayMAC, foreign, db), "3nat", verdict.SpoofedIP)
	b.expect("1web", fwd("1web", macOf("3nat"), web, foreign), "1web", verdict.WrongMAC)
}

// TestMovedAddressIsReachedByItsFormerMAC: a neighbour still sends to the MAC address of the interface that had
// the address before, or that does not exist any more. The packet reaches the owner, and the owner's rules decide,
// unless the interface with that MAC address forwards for others.
func TestMovedAddressIsReachedByItsFormerMAC(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	device := b.tunnel(1406)
	web, app, nat, moved := addr("10.0.1.10"), addr("10.0.1.20"), addr("10.0.1.30"), addr("10.0.1.12")
	send := func(mac ec2.MAC, port uint16, at string, want verdict.Verdict) {
		t.Helper()
		b.expect("2app", to("2app", mac, template(6, app, moved, 7, port)), at, want)
	}
	send(macOf("1web"), 22, "1web", verdict.Forward)
	b.change("1web", func(o *Endpoint) { o.Further = o.Further[:1] })
	send(macOf("1web"), 22, "2app", verdict.NoRoute) // no interface has it
	b.change("3nat", func(o *Endpoint) { o.Further = []Pair{{Private: moved}}; o.Unchecked = false })
	send(macOf("1web"), 22, "3nat", verdict.Forward)
	if p := b.delivered("3nat"); p.DstMAC != macOf("3nat") || p.SrcMAC != macOf("2app") {
		t.Errorf("delivered from MAC address %v to %v, want from 2app to 3nat", p.SrcMAC, p.DstMAC)
	}
	send(ec2.MAC{2, 9, 9, 9, 9, 9}, 22, "3nat", verdict.Forward)                                                     // the former owner is deleted
	b.expect("4db", to("4db", macOf("1web"), template(6, addr("10.0.2.10"), moved, 7, 22)), "4db", verdict.WrongMAC) // from another subnet

	// Rules for groups see the owner at both ends, as with the right MAC address.
	b.rules("vpc", permit(ec2.TCP, 3306, 3306, "vpc"), permitOut(ec2.TCP, 3300, 3310, "vpc"))
	send(macOf("1web"), 3306, "3nat", verdict.Forward)
	send(macOf("1web"), 3307, "3nat", verdict.NoRule)
	send(macOf("1web"), 23, "2app", verdict.NoRule)
	b.open()

	// The owner is at another node, which accepts its own MAC address alone.
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(ours, &Endpoint{Epoch: 201, Address: addr("10.0.1.80"), MAC: macOf("8far"), Groups: b.sets["1web"].Numbers, Node: 2})
	b.sw.Publish(e)
	b.expect("1web", to("1web", macOf("2app"), template(6, web, addr("10.0.1.80"), 9, 22)), "1web", verdict.Forward)
	if got := ec2.MAC(device.last[:6]); device.sent != 1 || got != macOf("8far") {
		t.Errorf("%d frames were sent, the last to the MAC address %v; want 1 to that of 8far", device.sent, got)
	}

	// The former owner forwards for others: the packet is meant for it.
	b.change("1web", func(o *Endpoint) { o.Unchecked = true })
	send(macOf("1web"), 24, "1web", verdict.Forward)
	b.change("4db", func(o *Endpoint) { o.Unchecked = true })
	send(macOf("4db"), 25, "2app", verdict.WrongMAC) // it is in another subnet
	b.expect("2app", to("2app", macOf("3nat"), template(6, app, nat, 7, 26)), "3nat", verdict.Forward)
}

// TestEqualAddressesInTwoVPCsAreSeparate: an interface of one VPC sends to all addresses and MAC
// addresses. Interfaces of the other VPC receive only packets to their public addresses.
func TestEqualAddressesInTwoVPCsAreSeparate(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	var macs []ec2.MAC
	var targets []netip.Addr
	for _, h := range vpcHosts {
		macs = append(macs, macOf(h.name))
		targets = append(targets, addr(h.private))
	}
	macs = append(macs, GatewayMAC)
	for _, from := range vpcHosts {
		for _, mac := range macs {
			for _, dst := range targets {
				at, v := b.send(from.name, to(from.name, mac, template(17, addr(from.private), dst, 5, 53)))
				if i := slices.IndexFunc(vpcHosts, func(h vpcHost) bool { return h.name == at }); i < 0 || vpcHosts[i].vni != from.vni {
					t.Errorf("a packet from %s to %s with MAC address %v: %v at %s, want it at an interface of the same VPC", from.name, dst, mac, v, at)
				}
			}
		}
	}
	// A rule that names a group of the other VPC by mistake admits no interface.
	b.rules("theirs", permit(ec2.TCP, 22, 22, "vpc"), anyOut())
	b.expect("1web", to("1web", GatewayMAC, template(6, addr("10.0.1.10"), addr("198.18.1.50"), 1, 22)), "5web", verdict.NoRule)
}

// TestUncheckedInterfaceForwardsThroughTunnel: an interface of another node that forwards for
// others is recognised by its lease and MAC address. No other interface may send from a foreign
// address.
func TestUncheckedInterfaceForwardsThroughTunnel(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	device := b.tunnel(1406)
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(ours, &Endpoint{Epoch: 200, Address: addr("10.0.1.70"), Public: addr("198.18.1.70"), MAC: macOf("7fwd"), Groups: b.sets["1web"].Numbers, Node: 2, Unchecked: true,
		Further: []Pair{{addr("10.0.1.71"), addr("198.18.1.71")}}})
	e.AddEndpoint(ours, &Endpoint{Epoch: 201, Address: addr("10.0.1.80"), Public: addr("198.18.1.80"), MAC: macOf("8far"), Groups: b.sets["1web"].Numbers, Node: 2})
	b.sw.Publish(e)
	come := func(from packet.Origin, frame []byte, at string, want verdict.Verdict) {
		t.Helper()
		if got, v := b.come(from, frame); got != at || v != want {
			t.Errorf("a frame from origin %+v: %v at %s, want %v at %s", from, v, got, want, at)
		}
	}
	foreign := addr("192.0.2.9")
	fwd, far := packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 200}, packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 201}
	by := func(name string, mac ec2.MAC, src, dst string) []byte {
		return to(name, mac, template(6, addr(src), addr(dst), 9, 3306))
	}
	// To the other node.
	b.expect("1web", to("1web", macOf("7fwd"), template(6, addr("10.0.1.10"), foreign, 9, 22)), "1web", verdict.Forward)
	if want := (packet.Origin{VNI: uint32(ours), Epoch: 100}); device.sent != 1 || device.from != want {
		t.Errorf("%d frames sent, the last with origin %+v; want 1 with %+v", device.sent, device.from, want)
	}
	b.expect("4db", to("4db", macOf("7fwd"), template(6, addr("10.0.2.10"), foreign, 9, 22)), "4db", verdict.WrongMAC)
	b.expect("1web", to("1web", macOf("8far"), template(6, addr("10.0.1.10"), foreign, 9, 22)), "1web", verdict.WrongMAC)
	// From the other node.
	come(far, by("8far", macOf("3nat"), "10.0.1.80", "192.0.2.9"), "3nat", verdict.Forward)
	come(far, by("8far", macOf("2app"), "10.0.1.80", "192.0.2.9"), "tunnel", verdict.NoRoute)
	come(fwd, by("7fwd", GatewayMAC, "192.0.2.9", "10.0.2.10"), "4db", verdict.Forward)
	come(far, by("8far", GatewayMAC, "192.0.2.9", "10.0.2.10"), "tunnel", verdict.TunnelForeign)
	come(packet.Origin{Node: 3, VNI: uint32(ours), Epoch: 200}, by("7fwd", GatewayMAC, "192.0.2.9", "10.0.2.10"), "tunnel", verdict.TunnelForeign)
	come(packet.Origin{Node: 2, VNI: uint32(theirs), Epoch: 200}, by("7fwd", GatewayMAC, "192.0.2.9", "10.0.1.20"), "tunnel", verdict.TunnelForeign)
	come(packet.Origin{Node: 2, VNI: 99, Epoch: 200}, by("7fwd", GatewayMAC, "10.0.1.70", "10.0.1.20"), "tunnel", verdict.TunnelForeign)
	come(fwd, by("7fwd", GatewayMAC, "127.0.0.1", "10.0.2.10"), "tunnel", verdict.TunnelForeign)

	b.rules("db", permit(ec2.TCP, 3306, 3306, "vpc"))
	come(fwd, by("7fwd", GatewayMAC, "10.0.1.71", "10.0.2.10"), "4db", verdict.Forward)
	come(fwd, by("7fwd", GatewayMAC, "192.0.2.9", "10.0.2.10"), "4db", verdict.NoRule)
	come(fwd, by("7fwd", GatewayMAC, "10.0.1.80", "10.0.2.10"), "4db", verdict.NoRule) // from a member's address, but not the sender's
	come(fwd, by("7fwd", GatewayMAC, "198.18.1.80", "10.0.2.10"), "4db", verdict.NoRule)

	// For a packet to a public address the receiver's routes are checked again, and only the gateway's MAC address is accepted.
	b.open()
	come(far, by("8far", GatewayMAC, "198.18.1.80", "10.0.1.11"), "1web", verdict.Forward)
	come(fwd, by("7fwd", GatewayMAC, "198.18.1.71", "10.0.1.11"), "1web", verdict.Forward)
	come(far, by("8far", GatewayMAC, "198.18.1.80", "10.0.1.12"), "tunnel", verdict.NoRoute) // has no public address
	come(far, by("8far", GatewayMAC, "198.18.1.80", "10.0.2.10"), "tunnel", verdict.NotRouted)
	come(far, by("8far", macOf("1web"), "198.18.1.80", "10.0.1.10"), "tunnel", verdict.WrongMAC)
}

func TestForwardingInVPCAllocatesNothing(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.tunnel(1406)
	web, db := addr("10.0.1.10"), addr("10.0.2.10")
	further := template(17, addr("10.0.1.12"), db, 1, 53)
	cases := []struct {
		name, from string
		frame      []byte
	}{
		{"between subnets", "1web", to("1web", GatewayMAC, template(6, web, db, 1, 80))},
		{"further address", "1web", to("1web", GatewayMAC, further)},
		{"not routed", "4db", to("4db", GatewayMAC, template(6, db, laptop, 1, 80))},
		{"to a former owner's MAC", "1web", to("1web", macOf("4db"), template(6, web, addr("10.0.1.20"), 1, 80))},
		{"to one that forwards", "1web", to("1web", macOf("3nat"), template(6, web, laptop, 1, 80))},
		{"of one that forwards", "3nat", to("3nat", GatewayMAC, template(6, laptop, db, 1, 80))},
		{"hairpin to a further address", "2app", to("2app", GatewayMAC, template(6, addr("10.0.1.20"), addr("198.18.1.11"), 1, 80))},
		{"inbound", "uplink", outside(template(6, laptop, addr("198.18.1.11"), 1, 22))},
		{"inbound, not routed", "uplink", outside(template(6, laptop, addr("198.18.1.40"), 1, 22))},
		{"arp", "1web", packettest.ARP(1, macOf("1web"), addr("10.0.1.11"), addr("10.0.1.20"))},
	}
	for _, c := range cases {
		if n := testing.AllocsPerRun(200, func() { b.pass(b.ports[c.from], c.frame, 0) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
}
