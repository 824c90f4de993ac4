package vswitch

import (
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// meet gives both sides of the peering of the hub and a spoke routes to each other.
func (b *testbed) meet(v VNI) {
	b.routes(hub, 0, route("10.2.0.0/16", toPeer(v)))
	b.routes(v, 0, route("10.1.0.0/16", toPeer(hub)))
}

// part ends a peering: the networks are no peers any more, but the routes stay.
func (b *testbed) part(v VNI, of VNI) {
	b.network(v, func(n *Network) {
		var left []PeerNetwork
		for _, p := range n.Peers {
			if p.VNI != of {
				left = append(left, p)
			}
		}
		n.Peers = left
	})
}

// TestRouteLeadsToPeerAndOnlyThere: each subnet's own route decides, and of two peers with equal addresses the one
// that the route names.
func TestRouteLeadsToPeerAndOnlyThere(t *testing.T) {
	b := newRoutedBed(t)
	there := syn("1front", "10.1.1.10", "10.2.1.10", 22)
	b.unrouted("1front", there, NoTarget)
	b.routes(hub, 0, route("10.2.0.0/16", toPeer(spoke)))
	b.routes(hub, 1, route("10.2.0.0/16", toPeer(twin)))
	b.expect("1front", there, "4spoke", verdict.Forward)
	if p := b.delivered("4spoke"); p.SrcMAC != GatewayMAC || p.DstMAC != macOf("4spoke") || p.Flow.Src != addr("10.1.1.10") {
		t.Errorf("delivered %v from MAC address %v to %v, want it unchanged from the gateway", p.Flow, p.SrcMAC, p.DstMAC)
	}
	b.expect("2back", syn("2back", "10.1.2.10", "10.2.1.10", 22), "5twin", verdict.Forward)
	b.expect("1front", to("1front", macOf("4spoke"), template(6, addr("10.1.1.10"), addr("10.2.1.10"), 7, 22)), "1front", verdict.WrongMAC)
	// The answer needs a route of its own, and the spokes do not reach each other.
	back := to("4spoke", GatewayMAC, reply(template(6, addr("10.1.1.10"), addr("10.2.1.10"), 7, 22), packet.SYN|packet.ACK))
	b.unrouted("4spoke", back, NoTarget)
	b.routes(spoke, 0, route("10.1.0.0/16", toPeer(hub)))
	b.expect("4spoke", back, "1front", verdict.Forward)
	b.expect("1front", syn("1front", "10.1.1.10", "10.2.1.99", 22), "1front", verdict.NoRoute)
	tr := b.sw.Trace(b.ports["1front"], syn("1front", "10.1.1.10", "10.2.1.99", 22))
	if tr.Absent == nil || tr.Absent.Network != spoke || tr.Routed == nil || tr.Routed.Subnet.Prefix != netip.MustParsePrefix("10.1.1.0/24") {
		t.Errorf("the trace of a packet to nobody has Absent %+v and Routed %+v, want the peer and the sender's subnet", tr.Absent, tr.Routed)
	}
	b.routes(hub, 0, route("0.0.0.0/0", toPeer(spoke)))
	b.expect("1front", syn("1front", "10.1.1.10", "203.0.113.25", 22), "1front", verdict.NoRoute) // no way through the peer
	b.expect("1front", syn("1front", "10.1.1.10", "198.18.1.20", 22), "1front", verdict.NoRoute)
}

// TestPeeringIsNotTransitive: an interface that forwards for others cannot give a third network access to a peer of
// its own network.
func TestPeeringIsNotTransitive(t *testing.T) {
	b := newRoutedBed(t)
	b.routes(hub, 2, route("10.2.0.0/16", toPeer(twin)))
	b.unrouted("3mid", syn("3mid", "10.9.1.10", "10.2.1.10", 22), ForeignSource)
	b.unrouted("3mid", syn("3mid", "203.0.113.25", "10.2.1.10", 22), ForeignSource)
	b.expect("3mid", syn("3mid", "10.1.1.10", "10.2.1.10", 22), "5twin", verdict.Forward) // for its own network
	b.rules("other", permit(ec2.TCP, 22, 22, "vpc"), anyOut())
	b.expect("3mid", syn("3mid", "10.1.3.10", "10.2.1.10", 22), "5twin", verdict.Forward)
	b.expect("3mid", to("3mid", GatewayMAC, template(6, addr("10.1.1.10"), addr("10.2.1.10"), 8, 22)), "5twin", verdict.NoRule)
	b.routes(twin, 0, route("10.1.0.0/16", toPeer(hub)), route("10.9.0.0/16", toPeer(hub)))
	b.expect("5twin", syn("5twin", "10.2.1.10", "10.9.1.10", 22), "5twin", verdict.NoRoute)
}

func TestEndedPeeringPassesNothing(t *testing.T) {
	b := newRoutedBed(t)
	b.meet(spoke)
	there := syn("1front", "10.1.1.10", "10.2.1.10", 22)
	established := template(6, addr("10.1.1.10"), addr("10.2.1.10"), 7, 22)
	established.TCPFlags = packet.ACK
	b.expect("1front", there, "4spoke", verdict.Forward)
	b.expect("4spoke", to("4spoke", GatewayMAC, reply(established, packet.SYN|packet.ACK)), "1front", verdict.Forward)
	b.part(hub, spoke)
	b.unrouted("1front", to("1front", GatewayMAC, established), NoTarget)
	b.part(spoke, hub)
	b.unrouted("4spoke", to("4spoke", GatewayMAC, reply(established, packet.ACK)), NoTarget)
	b.expect("2back", syn("2back", "10.1.2.10", "10.1.1.10", 22), "1front", verdict.Forward)
}

// TestRulesNameGroupsOfPeerOfOneRegion: in rules of both directions, and at both ends.
func TestRulesNameGroupsOfPeerOfOneRegion(t *testing.T) {
	for _, groups := range []bool{true, false} {
		b := newRoutedBed(t)
		b.meet(spoke)
		for _, v := range []VNI{hub, spoke} {
			b.network(v, func(n *Network) {
				for i := range n.Peers {
					n.Peers[i].Groups = groups
				}
			})
		}
		b.rules("vpc", permit(ec2.TCP, 22, 22, "theirs"), permitOut(ec2.TCP, 22, 22, "theirs"))
		b.rules("theirs", permit(ec2.TCP, 22, 22, "vpc"), permitOut(ec2.TCP, 22, 22, "vpc"), permitOut(ec2.TCP, 23, 23, "other"))
		at := func(receiver, sender string) (string, verdict.Verdict) {
			if groups {
				return receiver, verdict.Forward
			}
			return sender, verdict.NoRule
		}
		port, v := at("4spoke", "1front")
		b.expect("1front", syn("1front", "10.1.1.10", "10.2.1.10", 22), port, v)
		port, v = at("1front", "4spoke")
		b.expect("4spoke", to("4spoke", GatewayMAC, template(6, addr("10.2.1.10"), addr("10.1.1.10"), 9, 22)), port, v)
		b.expect("4spoke", syn("4spoke", "10.2.1.10", "10.1.1.10", 23), "4spoke", verdict.NoRule)
		b.rules("vpc", permit(ec2.TCP, 22, 22, "theirs"), anyOut())
		b.rules("theirs", permit(ec2.TCP, 22, 22, "vpc"), anyOut())
		want := verdict.NoRule
		if groups {
			want = verdict.Forward
		}
		b.expect("4spoke", to("4spoke", GatewayMAC, template(6, addr("10.2.1.10"), addr("10.1.1.10"), 10, 22)), "1front", want)
	}
}

// farPeer adds interfaces of node 2 to both spokes, with equal addresses.
func (b *testbed) farPeer() (e11, e12, e13 *Endpoint) {
	e := b.sw.Edit(b.generation)
	e11 = &Endpoint{Epoch: 311, Address: addr("10.2.1.20"), MAC: macOf("7far"), Groups: b.sets["4spoke"].Numbers, Node: 2}
	e12 = &Endpoint{Epoch: 312, Address: addr("10.2.1.20"), MAC: macOf("8far"), Groups: b.sets["5twin"].Numbers, Node: 2}
	e13 = &Endpoint{Epoch: 313, Address: addr("10.2.1.40"), MAC: macOf("9far"), Groups: b.sets["4spoke"].Numbers, Node: 2, Unchecked: true}
	e.AddEndpoint(spoke, e11)
	e.AddEndpoint(twin, e12)
	e.AddEndpoint(spoke, e13)
	b.sw.Publish(e)
	return e11, e12, e13
}

func TestPacketToPeerOfAnotherNodeNamesItsNetwork(t *testing.T) {
	b := newRoutedBed(t)
	device := b.tunnel(1406)
	b.farPeer()
	b.routes(hub, 0, route("10.2.0.0/16", toPeer(spoke)))
	b.routes(hub, 1, route("10.2.0.0/16", toPeer(twin)))
	for _, tt := range []struct {
		from, address string
		want          packet.Origin
	}{{"1front", "10.1.1.10", packet.Origin{VNI: uint32(spoke), Epoch: 200}}, {"2back", "10.1.2.10", packet.Origin{VNI: uint32(twin), Epoch: 201}}} {
		b.expect(tt.from, syn(tt.from, tt.address, "10.2.1.20", 22), tt.from, verdict.Forward)
		if device.to != 2 || device.from != tt.want {
			t.Errorf("the packet of %s went to node %d from %+v, want to 2 from %+v", tt.from, device.to, device.from, tt.want)
		}
	}
}

// TestPacketFromPeerOfAnotherNodeNeedsActivePeering: the sender's lease says which of two peers with equal addresses
// has sent it.
func TestPacketFromPeerOfAnotherNodeNeedsActivePeering(t *testing.T) {
	b := newRoutedBed(t)
	b.tunnel(1406)
	b.farPeer()
	b.rules("vpc", permit(ec2.TCP, 22, 22, "theirs"), permit(ec2.TCP, 23, 23, "other"), permit(ec2.TCP, 24, 24, "0.0.0.0/0"))
	origin := func(epoch uint64) packet.Origin { return packet.Origin{Node: 2, VNI: uint32(hub), Epoch: epoch} }
	frame := func(name string, mac ec2.MAC, src string, port uint16) []byte {
		return to(name, mac, template(6, addr(src), addr("10.1.1.10"), 7, port))
	}
	for _, tt := range []struct {
		name string
		from packet.Origin
		b    []byte
		at   string
		want verdict.Verdict
	}{
		{"from a member of a group", origin(311), frame("7far", GatewayMAC, "10.2.1.20", 22), "1front", verdict.Forward},
		{"from its twin", origin(312), frame("8far", GatewayMAC, "10.2.1.20", 22), "1front", verdict.NoRule},
		{"from the twin's group", origin(312), frame("8far", GatewayMAC, "10.2.1.20", 23), "1front", verdict.Forward},
		{"not from the twin's group", origin(311), frame("7far", GatewayMAC, "10.2.1.20", 23), "1front", verdict.NoRule},
		{"of another lease", origin(311), frame("8far", GatewayMAC, "10.2.1.20", 24), "tunnel", verdict.TunnelForeign},
		{"of another node", packet.Origin{Node: 3, VNI: uint32(hub), Epoch: 311}, frame("7far", GatewayMAC, "10.2.1.20", 24), "tunnel", verdict.TunnelForeign},
		{"from another's address", origin(311), frame("7far", GatewayMAC, "10.2.1.40", 24), "tunnel", verdict.TunnelForeign},
		{"past the gateway", origin(311), frame("7far", macOf("1front"), "10.2.1.20", 24), "tunnel", verdict.WrongMAC},
		{"to a middlebox", origin(311), to("7far", macOf("3mid"), template(6, addr("10.2.1.20"), addr("203.0.113.25"), 7, 24)), "tunnel", verdict.WrongMAC},
		{"to an address of nobody", origin(311), to("7far", GatewayMAC, template(6, addr("10.2.1.20"), addr("203.0.113.25"), 7, 24)), "tunnel", verdict.NoRoute},
		{"from one that forwards for its network", origin(313), frame("9far", GatewayMAC, "10.2.1.77", 24), "1front", verdict.Forward},
		{"from one that forwards, by the group", origin(313), frame("9far", GatewayMAC, "10.2.1.77", 22), "1front", verdict.NoRule},
		{"from one that forwards for a third network", origin(313), frame("9far", GatewayMAC, "10.3.1.77", 24), "tunnel", verdict.TunnelForeign},
		{"ARP", origin(311), packettest.ARP(1, macOf("7far"), addr("10.2.1.20"), addr("10.1.1.10")), "tunnel", verdict.TunnelForeign},
	} {
		if at, v := b.come(tt.from, tt.b); at != tt.at || v != tt.want {
			t.Errorf("a frame %s is %v at %s, want %v at %s", tt.name, v, at, tt.want, tt.at)
		}
	}
	b.part(hub, spoke)
	if at, v := b.come(origin(311), frame("7far", GatewayMAC, "10.2.1.20", 24)); v != verdict.TunnelForeign {
		t.Errorf("after the peering has ended a frame is %v at %s, want %v", v, at, verdict.TunnelForeign)
	}
	if at, v := b.come(origin(312), frame("8far", GatewayMAC, "10.2.1.20", 23)); v != verdict.Forward {
		t.Errorf("the other peering has not ended, but a frame is %v at %s", v, at)
	}
}

func TestRulesDoNotNameGroupsOfPeerOfAnotherRegion(t *testing.T) {
	b := newRoutedBed(t)
	b.tunnel(1406)
	b.farPeer()
	b.rules("vpc", permit(ec2.TCP, 22, 22, "theirs"))
	send := func() verdict.Verdict {
		_, v := b.come(packet.Origin{Node: 2, VNI: uint32(hub), Epoch: 311}, to("7far", GatewayMAC, template(17, addr("10.2.1.20"), addr("10.1.1.10"), 7, 22)))
		return v
	}
	b.rules("vpc", permit(ec2.UDP, 22, 22, "theirs"))
	b.network(hub, func(n *Network) { n.Peers = []PeerNetwork{{VNI: spoke, Blocks: n.Peers[0].Blocks}} })
	if v := send(); v != verdict.NoRule {
		t.Errorf("a packet of a peer in another region is %v, want %v", v, verdict.NoRule)
	}
	b.network(hub, func(n *Network) { n.Peers = []PeerNetwork{{VNI: spoke, Blocks: n.Peers[0].Blocks, Groups: true}} })
	if v := send(); v != verdict.Forward {
		t.Errorf("a packet of a peer in the region is %v, want %v", v, verdict.Forward)
	}
}

// TestPeerIsToldWhatFits: the node of the sender accepts the error as one from the receiver, in the network of the
// sender.
func TestPeerIsToldWhatFits(t *testing.T) {
	b := newRoutedBed(t)
	device := b.tunnel(1406)
	b.farPeer()
	big := template(17, addr("10.2.1.20"), addr("10.1.1.10"), 7, 22)
	big.Payload = make([]byte, 1300)
	b.network(hub, func(n *Network) { n.MTU = 1000 })
	frame := to("7far", GatewayMAC, big)
	frame[20] |= 0x40
	if at, v := b.come(packet.Origin{Node: 2, VNI: uint32(hub), Epoch: 311}, frame); v != verdict.TooBig {
		t.Fatalf("the large packet is %v at %s, want %v", v, at, verdict.TooBig)
	}
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(device.last[:device.n], &p); !ok {
		t.Fatalf("the error in the tunnel is %v", v)
	}
	if device.to != 2 || device.from != (packet.Origin{VNI: uint32(spoke), Epoch: 200}) || p.Flow.Src != addr("10.1.1.10") || p.DstMAC != GatewayMAC || !p.IsICMPError {
		t.Errorf("sent to node %d from %+v: %v to MAC address %v, want an error from 10.1.1.10 in network %d", device.to, device.from, p.Flow, p.DstMAC, spoke)
	}
}

func TestForwardingByRoutesAllocatesNothing(t *testing.T) {
	b := newRoutedBed(t)
	b.tunnel(1406)
	b.farPeer()
	b.routes(hub, 0, route("10.2.0.0/16", toPeer(spoke)), route("10.1.2.0/24", via("10.1.3.10")))
	for _, c := range []struct {
		from  string
		frame []byte
		at    string
	}{
		{"1front", syn("1front", "10.1.1.10", "10.2.1.10", 22), "4spoke"},
		{"1front", syn("1front", "10.1.1.10", "10.1.2.10", 22), "3mid"},
		{"1front", syn("1front", "10.1.1.10", "10.2.1.20", 22), "1front"},
		{"tunnel", to("7far", GatewayMAC, template(6, addr("10.2.1.20"), addr("10.1.1.10"), 7, 22)), "1front"},
	} {
		origin := packet.Origin{Node: 2, VNI: uint32(hub), Epoch: 311}
		b.frame.origin = origin
		b.expect(c.from, c.frame, c.at, verdict.Forward)
		if n := testing.AllocsPerRun(200, func() {
			copy(b.frame.buffer[offloadLen:], c.frame)
			clear(b.frame.buffer[:offloadLen])
			b.frame.snapshot, b.frame.origin = b.sw.Snapshot(), origin
			b.frame.receive(b.ports[c.from], offloadLen+len(c.frame))
		}); n != 0 {
			t.Errorf("from %s to %s: %v allocations, want 0", c.from, c.at, n)
		}
	}
}
