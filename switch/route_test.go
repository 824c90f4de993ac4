package vswitch

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// The networks of a routed testbed. The spokes have equal addresses.
const (
	hub   VNI = 10
	spoke VNI = 11
	twin  VNI = 12
)

var routedHosts = []vpcHost{
	{vni: hub, name: "1front", private: "10.1.1.10", group: "vpc"},
	{vni: hub, name: "2back", private: "10.1.2.10", public: "198.18.1.20", group: "db"},
	{vni: hub, name: "3mid", private: "10.1.3.10", public: "198.18.1.30", group: "vpc", unchecked: true},
	{vni: spoke, name: "4spoke", private: "10.2.1.10", group: "theirs"},
	{vni: twin, name: "5twin", private: "10.2.1.10", group: "other"},
	{vni: spoke, name: "6nat", private: "10.2.1.30", group: "theirs", unchecked: true},
}

func via(address string) Target { return Target{Kind: Interface, Via: addr(address)} }

func toPeer(v VNI) Target { return Target{Kind: Peer, Peer: v} }

func route(prefix string, to Target) Route { return Route{netip.MustParsePrefix(prefix), to} }

// routedNetwork returns a network with three subnets, and routes for the first two.
func routedNetwork(v VNI, block string, peers []PeerNetwork, front, back []Route) Network {
	prefix := netip.MustParsePrefix(block)
	n := Network{VNI: v, Prefix: prefix, MTU: 1500, Peers: peers}
	base := prefix.Addr().As4()
	for i, routes := range [][]Route{front, back, {route("0.0.0.0/0", Target{Kind: Internet})}} {
		base[2] = byte(i + 1)
		s := netip.PrefixFrom(netip.AddrFrom4(base), 24)
		n.Subnets = append(n.Subnets, Subnet{Prefix: s, Gateway: s.Addr().Next(), Routes: routes})
	}
	return n
}

func peerOf(v VNI, block string) PeerNetwork {
	return PeerNetwork{VNI: v, Blocks: []netip.Prefix{netip.MustParsePrefix(block)}, Groups: true}
}

// newRoutedBed returns a testbed with a hub of three subnets, and two spokes of equal addresses that are its
// peers. No subnet has a route to a peer.
func newRoutedBed(t testing.TB) *testbed {
	t.Helper()
	b := newTestbed(t)
	for _, g := range []string{"vpc", "db", "other", "theirs"} {
		b.view[ec2.GroupID(g)] = &ec2.Group{ID: ec2.GroupID(g), Name: g, VPC: "vpc-1", Rules: []ec2.Rule{anyIn(), anyOut()}}
	}
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Network(routedNetwork(hub, "10.1.0.0/16", []PeerNetwork{peerOf(spoke, "10.2.0.0/16"), peerOf(twin, "10.2.0.0/16")}, nil, nil))
	for _, v := range []VNI{spoke, twin} {
		e.Network(routedNetwork(v, "10.2.0.0/16", []PeerNetwork{peerOf(hub, "10.1.0.0/16")}, nil, nil))
	}
	for i, h := range routedHosts {
		o := Endpoint{Epoch: uint64(200 + i), Address: addr(h.private), Unchecked: h.unchecked}
		if h.public != "" {
			o.Public = addr(h.public)
		}
		b.place(e, h.vni, h.name, o, h.group)
	}
	b.sw.Publish(e)
	return b
}

// network publishes a changed copy of a network.
func (b *testbed) network(v VNI, change func(*Network)) {
	b.generation++
	e := b.sw.Edit(b.generation)
	n := *e.next.networks[v]
	n.Subnets = slices.Clone(n.Subnets)
	change(&n)
	e.Network(n)
	b.sw.Publish(e)
}

// routes replaces the routes of the n-th subnet of a network.
func (b *testbed) routes(v VNI, n int, routes ...Route) {
	b.network(v, func(net *Network) { net.Subnets[n].Routes = routes })
}

// fault returns why a frame of an instance is NotRouted.
func (b *testbed) fault(name string, frame []byte) (RouteFault, bool) {
	tr := b.sw.Trace(b.ports[name], frame)
	if tr.Verdict != verdict.NotRouted || tr.Unrouted == nil {
		return 0, false
	}
	return tr.Unrouted.Fault, true
}

// unrouted expects that a frame is NotRouted for a reason.
func (b *testbed) unrouted(name string, frame []byte, want RouteFault) {
	b.t.Helper()
	b.expect(name, frame, name, verdict.NotRouted)
	if got, ok := b.fault(name, frame); !ok || got != want {
		b.t.Errorf("the trace says not-routed: %v, for reason %d; want reason %d", ok, got, want)
	}
}

// syn builds a SYN that an instance sends to its gateway.
func syn(name, src, dst string, port uint16) []byte {
	return to(name, GatewayMAC, template(6, addr(src), addr(dst), 7, port))
}

func TestFirstOfEqualRoutesAndLongestPrefixDecide(t *testing.T) {
	n := Network{VNI: hub, Prefix: netip.MustParsePrefix("10.1.0.0/16"), Blocks: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, Subnets: []Subnet{{
		Prefix: netip.MustParsePrefix("10.1.1.0/24"), Routes: []Route{
			route("0.0.0.0/0", via("10.1.3.10")), route("0.0.0.0/0", Target{Kind: Internet}),
			route("10.0.0.0/8", toPeer(spoke)), route("10.1.2.0/24", via("10.1.3.11")), route("198.51.100.0/24", Target{}),
			route("10.9.0.0/16", via("10.1.3.12")),
		}}, {Prefix: netip.MustParsePrefix("10.1.2.0/24"), Routes: []Route{route("10.0.0.0/8", toPeer(spoke))}}}}
	n.setSubnets()
	for _, tt := range []struct {
		subnet, remote string
		want           Target
	}{
		{"10.1.1.0", "203.0.113.25", via("10.1.3.10")},
		{"10.1.1.0", "198.51.100.7", Target{}},
		{"10.1.1.0", "10.2.0.1", toPeer(spoke)},
		{"10.1.1.0", "10.1.3.1", Target{Kind: Local}},
		{"10.1.1.0", "10.1.2.1", via("10.1.3.11")},
		{"10.1.1.0", "10.9.0.1", via("10.1.3.12")},
		{"10.1.2.0", "10.9.0.1", Target{Kind: Local}},
		{"10.1.2.0", "10.10.0.1", toPeer(spoke)},
		{"10.1.2.0", "192.0.2.1", Target{}},
	} {
		if got := n.SubnetOf(addr(tt.subnet)).TargetOf(addr(tt.remote)); got != tt.want {
			t.Errorf("in subnet %s the routes lead to %+v for %s, want %+v", tt.subnet, got, tt.remote, tt.want)
		}
	}
	if !n.SubnetOf(addr("10.1.1.0")).inside || n.SubnetOf(addr("10.1.2.0")).inside {
		t.Error("want routes inside of the network in the first subnet alone")
	}
}

// TestRouteInsideOfNetworkLeadsThroughMiddlebox: between subnets, not within one.
func TestRouteInsideOfNetworkLeadsThroughMiddlebox(t *testing.T) {
	for _, prefix := range []string{"10.1.2.0/24", "10.1.0.0/16"} {
		b := newRoutedBed(t)
		there := syn("1front", "10.1.1.10", "10.1.2.10", 22)
		b.expect("1front", there, "2back", verdict.Forward)
		b.routes(hub, 0, route(prefix, via("10.1.3.10")))
		b.expect("1front", there, "3mid", verdict.Forward)
		if p := b.delivered("3mid"); p.Flow.Dst != addr("10.1.2.10") || p.SrcMAC != GatewayMAC || p.DstMAC != macOf("3mid") {
			t.Errorf("delivered %v from MAC address %v to %v, want an unchanged packet from the gateway to 3mid", p.Flow, p.SrcMAC, p.DstMAC)
		}
		b.expect("1front", syn("1front", "10.1.1.10", "10.1.2.99", 22), "3mid", verdict.Forward) // no interface has it
		b.expect("1front", syn("1front", "10.1.1.10", "10.1.1.99", 22), "1front", verdict.NoRoute)
		b.expect("1front", to("1front", macOf("2back"), template(6, addr("10.1.1.10"), addr("10.1.2.10"), 7, 22)), "1front", verdict.WrongMAC)
		b.expect("3mid", syn("3mid", "10.1.1.10", "10.1.2.10", 22), "2back", verdict.Forward) // its subnet has other routes
		b.expect("2back", syn("2back", "10.1.2.10", "10.1.1.10", 22), "1front", verdict.Forward)
		// The target itself is reached directly.
		b.routes(hub, 0, route("10.1.0.0/16", via("10.1.3.10")))
		b.rules("vpc", anyIn(), permitOut(ec2.TCP, 22, 22, "vpc"))
		b.expect("1front", syn("1front", "10.1.1.10", "10.1.3.10", 22), "3mid", verdict.Forward)
	}
}

// TestGroupsDoNotReachThroughMiddlebox: security groups of both instances must name addresses (VPC User Guide,
// "Middlebox routing").
func TestGroupsDoNotReachThroughMiddlebox(t *testing.T) {
	b := newRoutedBed(t)
	there := syn("1front", "10.1.1.10", "10.1.2.10", 22)
	b.rules("vpc", permit(ec2.TCP, 22, 22, "vpc"), permitOut(ec2.TCP, 22, 22, "db"))
	b.rules("db", permit(ec2.TCP, 22, 22, "vpc"))
	b.expect("1front", there, "2back", verdict.Forward)
	b.routes(hub, 0, route("10.1.2.0/24", via("10.1.3.10")))
	again := func(name string, srcPort uint16) []byte { // a new connection
		return to(name, GatewayMAC, template(6, addr("10.1.1.10"), addr("10.1.2.10"), srcPort, 22))
	}
	b.expect("1front", again("1front", 99), "1front", verdict.NoRule)
	b.rules("vpc", permit(ec2.TCP, 22, 22, "vpc"), anyOut())
	b.expect("1front", again("1front", 99), "3mid", verdict.Forward) // the middlebox hears it from a member
	b.rules("vpc", permit(ec2.TCP, 22, 22, "db"), anyOut())
	b.expect("1front", again("1front", 100), "3mid", verdict.NoRule)
	b.expect("3mid", again("3mid", 101), "2back", verdict.NoRule) // not the sender's own address
}

func TestRouteToUnusableInterfaceIsBlackHole(t *testing.T) {
	b := newRoutedBed(t)
	b.routes(hub, 0, route("10.1.2.0/24", via("10.1.3.10")), route("0.0.0.0/0", via("10.1.3.10")))
	b.routes(hub, 2, route("10.1.2.0/24", via("10.1.3.10")))
	inside, outside := syn("1front", "10.1.1.10", "10.1.2.10", 22), syn("1front", "10.1.1.10", "203.0.113.25", 22)
	b.expect("1front", inside, "3mid", verdict.Forward)
	b.expect("1front", outside, "3mid", verdict.Forward)
	b.unrouted("3mid", syn("3mid", "10.1.3.10", "10.1.2.10", 22), LeadsBack)
	b.change("3mid", func(o *Endpoint) { o.Unchecked = false })
	b.unrouted("1front", inside, TargetChecked)
	b.unrouted("1front", outside, TargetChecked)
	b.expect("1front", syn("1front", "10.1.1.10", "10.1.3.10", 22), "3mid", verdict.Forward)
	e := b.sw.Edit(b.generation)
	e.RemoveEndpoint(hub, b.owners["3mid"])
	b.sw.Publish(e)
	b.unrouted("1front", inside, TargetDown)
	b.unrouted("1front", outside, TargetDown)
	b.routes(hub, 0, route("10.1.2.0/24", Target{}))
	b.unrouted("1front", inside, NoTarget)
	b.unrouted("1front", outside, NoTarget)
}

// TestMiddleboxLeadsToInternet: a NAT instance has the route of its subnet, and its own address there. Nothing from
// outside reaches the instance behind it by the way around.
func TestMiddleboxLeadsToInternet(t *testing.T) {
	b := newRoutedBed(t)
	b.routes(hub, 1, route("0.0.0.0/0", via("10.1.3.10")))
	b.expect("2back", syn("2back", "10.1.2.10", "203.0.113.25", 443), "3mid", verdict.Forward)
	b.expect("3mid", syn("3mid", "10.1.3.10", "203.0.113.25", 443), "uplink", verdict.Forward)
	if p := b.delivered("uplink"); p.Flow.Src != addr("198.18.1.30") {
		t.Errorf("the packet leaves from %s, want from the public address of the middlebox", p.Flow.Src)
	}
	b.expect("3mid", syn("3mid", "10.1.2.10", "203.0.113.25", 443), "3mid", verdict.NoRoute) // not its own address
	b.expect("uplink", outside(template(6, laptop, addr("198.18.1.20"), 7, 22)), "uplink", verdict.NotRouted)
	b.expect("2back", syn("2back", "10.1.2.10", "198.18.1.30", 443), "3mid", verdict.Forward) // a public address: by the route too
	if p := b.delivered("3mid"); p.Flow.Dst != addr("198.18.1.30") {
		t.Errorf("the middlebox gets a packet to %s, want it unchanged", p.Flow.Dst)
	}
}

// TestMiddleboxOfAnotherNodeIsReachedByItsMAC: the other node finds the receiver by the MAC address.
func TestMiddleboxOfAnotherNodeIsReachedByItsMAC(t *testing.T) {
	b := newRoutedBed(t)
	device := b.tunnel(1406)
	remote := &Endpoint{Epoch: 300, Address: addr("10.1.3.20"), MAC: macOf("9far"), Groups: b.sets["2back"].Numbers, Node: 2, Unchecked: true}
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(hub, remote)
	b.sw.Publish(e)
	b.routes(hub, 0, route("10.1.2.0/24", via("10.1.3.20")))
	b.expect("1front", syn("1front", "10.1.1.10", "10.1.2.10", 22), "1front", verdict.Forward)
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(device.last[:device.n], &p); !ok {
		t.Fatalf("the frame in the tunnel is %v", v)
	}
	if device.to != 2 || device.from != (packet.Origin{VNI: uint32(hub), Epoch: 200}) || p.DstMAC != remote.MAC || p.SrcMAC != macOf("1front") || p.Flow.Dst != addr("10.1.2.10") {
		t.Errorf("sent to node %d from %+v: %v from MAC address %v to %v", device.to, device.from, p.Flow, p.SrcMAC, p.DstMAC)
	}
	// And from another node to the middlebox here.
	b.rules("vpc", permit(ec2.TCP, 22, 22, "db"), anyOut())
	far := packet.Origin{Node: 2, VNI: uint32(hub), Epoch: 301}
	e = b.sw.Edit(b.generation)
	e.AddEndpoint(hub, &Endpoint{Epoch: 301, Address: addr("10.1.2.30"), MAC: macOf("8far"), Groups: b.sets["2back"].Numbers, Node: 2})
	b.sw.Publish(e)
	frame := func(mac ec2.MAC) []byte {
		return to("8far", mac, template(6, addr("10.1.2.30"), addr("10.1.1.10"), 7, 22))
	}
	at, v := b.come(far, frame(macOf("3mid")))
	if at != "3mid" || v != verdict.Forward {
		t.Fatalf("a frame to the middlebox is %v at %s", v, at)
	}
	if p := b.delivered("3mid"); p.SrcMAC != GatewayMAC {
		t.Errorf("the middlebox sees MAC address %v of a host in another subnet, want the gateway's", p.SrcMAC)
	}
	b.change("3mid", func(o *Endpoint) { o.Unchecked = false })
	if at, v := b.come(far, frame(macOf("3mid"))); v != verdict.WrongMAC {
		t.Errorf("a frame to an interface that forwards nothing is %v at %s, want %v", v, at, verdict.WrongMAC)
	}
}
