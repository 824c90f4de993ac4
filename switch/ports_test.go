package vswitch

import (
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestLostPortDropsAnswersWithoutAnEntry: a server whose rule for all addresses was revoked continues to send
// TCP segments of a connection that has no entry. They are dropped while they come. The server may open
// connections of its own from the same port, and may answer a client that another rule admits.
func TestLostPortDropsAnswersWithoutAnEntry(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 80, 80, "0.0.0.0/0"))
	b.rules("web", permit(ec2.TCP, 80, 80, "198.51.100.7/32"))
	answer := template(6, addr("10.10.0.4"), laptop, 80, 40000)
	answer.TCPFlags = packet.ACK
	b.frame.now = monotonic()
	for range 5 {
		b.expect("web", b.of("web", answer), "web", verdict.Revoked)
		b.frame.now += 179 * time.Second
	}
	toStranger := answer
	toStranger.Flow.Dst = stranger
	b.expect("web", b.of("web", toStranger), "uplink", verdict.Forward)
	other := answer
	other.Flow.SrcPort = 81
	b.expect("web", b.of("web", other), "uplink", verdict.Forward)
	own := answer
	own.TCPFlags = packet.SYN
	b.expect("web", b.of("web", own), "uplink", verdict.Forward)
	b.frame.now += 181 * time.Second
	own.Flow.DstPort++
	own.TCPFlags = packet.ACK
	b.expect("web", b.of("web", own), "uplink", verdict.Forward)
}

// TestPacketsOfAConnectionDoNotKeepLostPorts: packets of a connection that the rules in force admit do
// not keep the memory of a port that is lost for others.
func TestPacketsOfAConnectionDoNotKeepLostPorts(t *testing.T) {
	b := newVPCBed(t)
	web, db := addr("10.0.1.10"), addr("10.0.2.10")
	b.frame.now = monotonic()
	b.rules("vpc", anyOut())
	b.rules("db", permit(ec2.TCP, 80, 80, "0.0.0.0/0"), anyOut())
	request, answer := template(packet.ProtocolTCP, web, db, 40000, 80), template(packet.ProtocolTCP, db, web, 80, 40000)
	answer.TCPFlags = packet.ACK
	b.expect("1web", to("1web", GatewayMAC, request), "4db", verdict.Forward)
	b.expect("4db", to("4db", GatewayMAC, answer), "1web", verdict.Forward)
	b.rules("db", permit(ec2.TCP, 80, 80, "10.0.1.10/32"))
	for range 4 {
		b.expect("4db", to("4db", GatewayMAC, answer), "4db", verdict.NoRule)
		b.frame.now += 50 * time.Second
	}
	b.rules("db", anyOut())
	if lost, _ := b.sw.Snapshot().attachment(b.ports["4db"]).Zone.Lost(packet.ProtocolTCP, 80, b.frame.now); lost {
		t.Error("port 80 is still lost")
	}
}

// TestForwardedPacketNeedsAnEgressRule: an interface without the source/dest check forwards a packet that
// ingress admitted. Egress judges it too, and in the other order.
func TestForwardedPacketNeedsAnEgressRule(t *testing.T) {
	for _, protocol := range []uint8{1, 6, 17} {
		b := newVPCBed(t)
		b.rules("db", anyIn(), anyOut())
		web, db := addr("10.0.1.10"), addr("10.0.2.10")
		request := template(protocol, web, db, 9, 22)
		answer := template(protocol, db, web, 22, 9)
		answer.TCPFlags, answer.ICMPType = packet.SYN|packet.ACK, packet.ICMPEchoReply
		if protocol == 1 {
			request.Flow.DstPort, answer.Flow.SrcPort = 9, 9
		}
		b.rules("vpc", permit(ec2.AnyProtocol, -1, -1, "10.0.1.10/32"), anyOut())
		b.expect("1web", to("1web", macOf("3nat"), request), "3nat", verdict.Forward)
		b.rules("vpc", permit(ec2.AnyProtocol, -1, -1, "10.0.1.10/32"), permitOut(ec2.TCP, 443, 443, "0.0.0.0/0"))
		b.expect("3nat", to("3nat", GatewayMAC, request), "3nat", verdict.NoRule)
		// With an egress rule it is forwarded. The answer needs no ingress rule, because it belongs to
		// the connection that went out; and leaves in the connection that came in.
		b.rules("vpc", permit(ec2.AnyProtocol, -1, -1, "10.0.1.10/32"), anyOut())
		b.expect("3nat", to("3nat", GatewayMAC, request), "4db", verdict.Forward)
		b.expect("3nat", to("3nat", GatewayMAC, answer), "1web", verdict.Forward)
		// The reverse: egress admitted it, ingress did not.
		b.rules("vpc", anyOut())
		b.expect("1web", to("1web", macOf("3nat"), template(protocol, web, db, 10, 23)), "3nat", verdict.NoRule)
	}
}

// TestReplyHasTheKeyOfItsRequest: when the rules have changed, an answer is judged as the packet that it
// answers.
func TestReplyHasTheKeyOfItsRequest(t *testing.T) {
	for _, tt := range []struct {
		protocol         uint8
		request, reply   uint8 // types of ICMP
		srcPort, dstPort uint16
		wantKey          uint16
	}{
		{packet.ProtocolTCP, 0, 0, 40000, 80, 80}, {packet.ProtocolUDP, 0, 0, 40000, 53, 53}, {50, 0, 0, 0, 0, 0},
		{packet.ProtocolICMP, packet.ICMPEcho, packet.ICMPEchoReply, 7, 7, packet.ICMPEcho << 8},
		{packet.ProtocolICMP, packet.ICMPTimestamp, packet.ICMPTimestampReply, 7, 7, packet.ICMPTimestamp << 8},
	} {
		flow := packet.Flow{Src: laptop, Dst: stranger, SrcPort: tt.srcPort, DstPort: tt.dstPort, Protocol: tt.protocol}
		request, answer := packet.Packet{Flow: flow, ICMPType: tt.request}, packet.Packet{Flow: packettest.Reverse(flow), ICMPType: tt.reply}
		if got := replyKey(&answer); got != tt.wantKey || request.RuleKey() != tt.wantKey {
			t.Errorf("protocol %d: the answer has rule key %d and its request %d, want %d", tt.protocol, got, request.RuleKey(), tt.wantKey)
		}
	}
}
