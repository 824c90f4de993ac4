package vswitch

import (
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestCutConnectionStaysCutWhileRulesAdmitIt, in both directions, tracked or not, and errors about it
// are dropped too. A new connection on other ports and, if both ends take part, on the same ports is
// admitted.
func TestCutConnectionStaysCutWhileRulesAdmitIt(t *testing.T) {
	for name, from := range map[string]string{"tracked": "203.0.113.25/32", "untracked": "0.0.0.0/0"} {
		b := newTestbed(t)
		rules := []ec2.Rule{permit(ec2.TCP, 22, 22, from), permit(ec2.ICMP, -1, -1, "0.0.0.0/0")}
		b.rules("web", rules...)
		syn := template(6, laptop, addr("198.18.0.4"), 40000, 22)
		answer := reply(template(6, laptop, addr("10.10.0.4"), 40000, 22), packet.SYN|packet.ACK)
		open := func() {
			t.Helper()
			b.expect("uplink", outside(syn), "web", verdict.Forward)
			frame := b.of("web", answer)
			frame[14+20+11] = 1 // it acknowledges syn, whose number is 0
			b.expect("web", frame, "uplink", verdict.Forward)
		}
		open()
		there, back := syn, answer
		there.TCPFlags, back.TCPFlags = packet.ACK, packet.ACK
		failed := packettest.ICMPError(packet.ICMPUnreachable, 1, stranger, addr("198.18.0.4"), packettest.Build(template(6, addr("198.18.0.4"), laptop, 22, 40000)), routerMAC, upMAC)
		b.expect("uplink", outside(there), "web", verdict.Forward)
		b.expect("uplink", failed, "web", verdict.Forward)
		if n := b.tracker.Cut(monotonic(), func(c conntrack.Connection) bool { return c.Flow.SrcPort == 40000 }); n != 1 {
			t.Fatalf("%s: the cut ended %d connections, want 1", name, n)
		}
		for range 2 {
			b.expect("web", b.of("web", back), "web", verdict.Revoked)
			b.expect("uplink", outside(there), "web", verdict.Revoked)
			b.expect("uplink", failed, "web", verdict.NoConnection)
			b.rules("web", append(rules, permit(ec2.UDP, 53, 53, "0.0.0.0/0"))...)
		}
		b.expect("uplink", outside(syn), "web", verdict.Forward)
		b.expect("web", b.of("web", back), "web", verdict.Revoked) // an end that has the old connection answers so
		b.expect("uplink", outside(there), "web", verdict.Revoked)
		open()
		b.expect("uplink", outside(there), "web", verdict.Forward)
		b.expect("web", b.of("web", back), "uplink", verdict.Forward)
	}
}
