package conntrack_test

import (
	"net/netip"
	"testing"

	"palisade/conntrack"
	"palisade/internal/packet"
)

func TestPingMayBeAnsweredButNotSentBack(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	admit(z, echo(bob, alice, 8, 8), 0, conntrack.Admission{Revision: rules})
	expect(t, z, echo(alice, bob, 8, 0), 0, rules, conntrack.Live)
	expect(t, z, echo(alice, bob, 8, 8), 0, rules, conntrack.New) // alice's own ping
	expect(t, z, echo(bob, alice, 8, 0), 0, rules, conntrack.New) // a reply to no ping
	expect(t, z, echo(alice, bob, 9, 0), 0, rules, conntrack.New)
}

// The flow of an echo reply or of a timestamp equals the flow of the ping before it.
// Identify must not reuse the ping's tuple for them.
func TestUnsolicitedReplyDoesNotReuseATuple(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	var u conntrack.Tuple
	status := func(p *packet.Packet) conntrack.Status {
		z.Identify(&u, p)
		return z.Observe(p, &u, direction(p), 0, rules).Status
	}
	ping := echo(bob, alice, 7, packet.ICMPEcho)
	status(ping)
	if v := z.Admit(ping, &u, 0, conntrack.Admission{Revision: rules}); v.Drops() {
		t.Fatalf("Admit returned verdict %v, want it to pass", v)
	}
	for _, tt := range []struct {
		src, dst netip.Addr
		icmpType uint8
		want     conntrack.Status
	}{
		{bob, alice, packet.ICMPEcho, conntrack.Live},
		{bob, alice, packet.ICMPEchoReply, conntrack.New},
		{bob, alice, packet.ICMPTimestamp, conntrack.New},
		{bob, alice, packet.ICMPTimestampReply, conntrack.New},
		{alice, bob, packet.ICMPEchoReply, conntrack.Live},
		{alice, bob, packet.ICMPEcho, conntrack.New},
		{alice, bob, packet.ICMPTimestampReply, conntrack.New},
		{alice, bob, packet.ICMPTimestamp, conntrack.New},
	} {
		status(echo(tt.src, tt.dst, 7, packet.ICMPEcho)) // of the same flow as the next packet
		if got := status(echo(tt.src, tt.dst, 7, tt.icmpType)); got != tt.want {
			t.Errorf("type %d from %s: status %v, want %v", tt.icmpType, tt.src, got, tt.want)
		}
	}
}

// A packet that differs from a reply in one field belongs to no connection. The test is
// made at a client and at a server.
func TestReplyMustMatchEveryFieldOfItsConnection(t *testing.T) {
	third := netip.MustParseAddr("192.0.2.1")
	changes := map[string]func(f *packet.Flow){
		"protocol":            func(f *packet.Flow) { f.Protocol ^= packet.ProtocolTCP ^ packet.ProtocolUDP },
		"source port":         func(f *packet.Flow) { f.SrcPort++ },
		"destination port":    func(f *packet.Flow) { f.DstPort++ },
		"pair of ports":       func(f *packet.Flow) { f.SrcPort, f.DstPort = f.DstPort, f.SrcPort },
		"source address":      func(f *packet.Flow) { f.Src = third },
		"destination address": func(f *packet.Flow) { f.Dst = third },
	}
	tr := open(t, conntrack.Config{})
	for n := range uint16(4) {
		protocol, d := uint8(packet.ProtocolTCP), conntrack.Direction(n>>1&1)
		if n&1 == 1 {
			protocol = packet.ProtocolUDP
		}
		z := tr.AddZone(uint64(n+1), conntrack.Timeouts{})
		asks := pkt(protocol, 40000+n, 22, packet.SYN)
		if d == conntrack.Out {
			asks.Flow.Src, asks.Flow.Dst = alice, bob
		}
		admit(z, asks, 0, conntrack.Admission{Direction: d, Revision: rules})
		answer := back(asks, packet.SYN|packet.ACK)
		expect(t, z, answer, 0, rules, conntrack.Live)
		for name, change := range changes {
			for _, sound := range []*packet.Packet{answer, asks} {
				p := *sound
				p.TCPFlags = packet.ACK
				change(&p.Flow)
				if got := observe(z, &p, 0, rules).Status; got != conntrack.New {
					t.Fatalf("connection in direction %v, packet with another %s: %v has status %v, want %v", d, name, &p, got, conntrack.New)
				}
			}
		}
		tr.RemoveZone(z)
	}
}

// A connection that one zone has admitted is New in another, also if the hashes of the zones are
// equal, as those of leases whose low 32 bits are equal.
func TestEqualFlowsInTwoZonesAreTwoConnections(t *testing.T) {
	tr := open(t, conntrack.Config{})
	syn := pkt(6, 40000, 22, packet.SYN)
	one := tr.AddZone(1, conntrack.Timeouts{})
	admit(one, syn, 0, conntrack.Admission{Revision: rules})
	expect(t, one, back(syn, packet.SYN|packet.ACK), 0, rules, conntrack.Live)
	for _, lease := range []uint64{2, 1<<32 | 1} {
		two := tr.AddZone(lease, conntrack.Timeouts{})
		expect(t, two, back(syn, packet.SYN|packet.ACK), 0, rules, conntrack.New)
		expect(t, two, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.New)
		admit(two, syn, 0, conntrack.Admission{Revision: rules})
		tr.RemoveZone(two)
		expect(t, one, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
	}
}

func TestIdentifyFollowsARewrittenAddress(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	p := pkt(17, 1000, 53, 0)
	var u conntrack.Tuple
	status := func() conntrack.Status {
		z.Identify(&u, p)
		return z.Observe(p, &u, direction(p), 0, rules).Status
	}
	status()
	z.Admit(p, &u, 0, conntrack.Admission{Revision: rules})
	if got := status(); got != conntrack.Live {
		t.Fatalf("a packet of the admitted connection: status %v, want %v", got, conntrack.Live)
	}
	own := p.Flow.Src
	p.Flow.Src = netip.MustParseAddr("198.18.0.1") // as NAT does on the way
	if got := status(); got != conntrack.New {
		t.Errorf("the packet with a rewritten source: status %v, want %v", got, conntrack.New)
	}
	p.Flow.Src = own
	if got := status(); got != conntrack.Live {
		t.Errorf("the packet with its own source again: status %v, want %v", got, conntrack.Live)
	}
}
