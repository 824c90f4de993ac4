//go:build failpoints

package vswitch

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/internal/failpoint"
	"palisade/internal/failpoint/pointtest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// frameBehind returns a frame behind an empty virtio header.
func frameBehind(b []byte) []byte { return append(make([]byte, offloadLen), b...) }

// throughGateway sends frames of every kind through the NAT gateway of a testbed.
func (b *testbed) throughGateway() (sweepPanicked bool) {
	udp := template(packet.ProtocolUDP, db, laptop, 4000, 53)
	syn := template(packet.ProtocolTCP, db, laptop, 4000, 443)
	b.turns("4db", frameBehind(to("4db", GatewayMAC, udp)), frameBehind(to("4db", GatewayMAC, syn)))
	var left packet.Packet
	if b.devices["uplink"].last != nil {
		packet.NewDecoder().Decode(b.devices["uplink"].last[offloadLen:], &left)
	}
	if left.Flow.Protocol != packet.ProtocolTCP {
		left.Flow = packet.Flow{Src: natPublic, Dst: laptop, SrcPort: 2000, DstPort: 443, Protocol: packet.ProtocolTCP}
	}
	quoted := packettest.Build(packettest.Frame{Flow: left.Flow, Payload: make([]byte, 8)})
	large := packettest.Frame{Flow: packettest.Reverse(left.Flow), TCPFlags: packet.ACK, DontFragment: true, Payload: make([]byte, 3000)}
	b.turns("uplink",
		frameBehind(fromOutside(packettest.Frame{Flow: packettest.Reverse(left.Flow), TCPFlags: packet.SYN | packet.ACK})),
		frameBehind(packettest.ICMPError(3, 1, otherHost, natPublic, quoted, routerMAC, upMAC)),
		frameBehind(fromOutside(large)))
	big := udp
	big.Payload, big.FragID = make([]byte, 1600), 77
	pieces := packettest.Fragments(to("4db", GatewayMAC, big), 800)
	answer := packettest.Build(packettest.Frame{Flow: packettest.Reverse(udp.Flow), Payload: make([]byte, 8)})
	unknown := template(packet.ProtocolTCP, db, laptop, 4001, 443)
	unknown.TCPFlags = packet.ACK
	b.turns("4db", frameBehind(pieces[0]), frameBehind(pieces[1]), frameBehind(to("4db", GatewayMAC, unknown)),
		frameBehind(packettest.ICMPError(3, 3, db, laptop, answer, macOf("4db"), GatewayMAC)))
	defer func() { sweepPanicked = recover() != nil }() // Switch.sweep recovers
	b.sw.nat.Sweep(1 << 62)
	return false
}

func TestPanicAtANATGatewayIsContained(t *testing.T) {
	defer failpoint.Set(nil)
	for _, function := range pointtest.AtGateways(t, "..") {
		t.Run(strings.TrimPrefix(function, "palisade/"), func(t *testing.T) {
			b, table := newNATBed(t)
			b.sw.nat = table
			planted := false
			failpoint.Set(func(reached string) {
				if reached == function && !planted {
					planted = true
					panic("planted in " + function)
				}
			})
			inSweep := b.throughGateway()
			failpoint.Set(nil)
			if panics, _ := b.sw.Panics(); (panics == 1) == inSweep {
				t.Errorf("%d panics, want 1, or one of the sweep: no frame reaches the function, or it was not counted", panics)
			}
			fresh := template(packet.ProtocolUDP, db, netip.MustParseAddr("203.0.113.30"), 4444, 53)
			if _, v := b.send("4db", to("4db", GatewayMAC, fresh)); v != verdict.Forward {
				t.Errorf("a new flow after the panic is %v", v)
			}
		})
	}
}
