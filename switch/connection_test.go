package vswitch

import (
	"net/netip"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestReplyPassesAfterRuleRevoked: a connection admitted from one address is tracked and outlives
// its rule in both directions. A new connection is refused.
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

// TestRevokedWorldRuleCutsConnectionInBothDirections: the server keeps sending, and its packets
// must not create the connection again. A tracker that deletes the entry when it cuts the
// connection has this hole.
func TestRevokedWorldRuleCutsConnectionInBothDirections(t *testing.T) {
	for _, protocol := range []uint8{6, 17} {
		b := newTestbed(t)
		b.rules("web", permit(ec2.Protocol(protocol), 80, 80, "0.0.0.0/0"))
		in, out := template(protocol, laptop, addr("198.18.0.4"), 40000, 80), template(protocol, addr("10.10.0.4"), laptop, 80, 40000)
		b.expect("uplink", outside(in), "web", verdict.Forward)
		if u := b.tracker.Usage(); u.Tracked+u.Untracked != 0 {
			t.Errorf("protocol %d: the first packet of an untracked connection left state: %+v", protocol, u)
		}
		out.TCPFlags = packet.SYN | packet.ACK
		b.expect("web", b.of("web", out), "uplink", verdict.Forward)
		in.TCPFlags, out.TCPFlags = packet.ACK, packet.ACK
		b.expect("uplink", outside(in), "web", verdict.Forward)
		if u := b.tracker.Usage(); u.Tracked != 0 || u.Untracked != 1 {
			t.Errorf("protocol %d: usage %+v after the first answer, want 1 untracked connection", protocol, u)
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

// TestAnswerAfterRevocationCreatesNoConnection: a UDP server may send its first answer after its
// rule for all addresses was revoked, or after its connection timed out. The packet passes but
// creates no connection.
func TestAnswerAfterRevocationCreatesNoConnection(t *testing.T) {
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
	// A packet from another port of the server creates a connection as before; one from port 53
	// does so again after 180 s.
	asks, answer := template(17, addr("10.10.0.4"), laptop, 54, 40000), template(17, laptop, addr("198.18.0.4"), 40000, 54)
	b.expect("web", b.of("web", asks), "uplink", verdict.Forward)
	b.expect("uplink", outside(answer), "web", verdict.Forward)
	b.frame.now = monotonic() + 180*time.Second
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	b.frame.now = 0

	// A hundred rules for all addresses come and go, each for another port.
	for i := range 100 {
		b.rules("web", permit(ec2.UDP, 100+i, 100+i, "0.0.0.0/0"))
	}
	zone := b.sw.Snapshot().attachment(b.ports["web"]).Zone
	for port, want := range map[uint16]bool{53: true, 54: false, 100: true, 198: true, 199: false} {
		if lost, missing := zone.Lost(17, port, monotonic()); lost != want || missing {
			t.Errorf("port %d is lost: %v, with missing entries: %v; want %v, false", port, lost, missing, want)
		}
	}
}

// TestNewSYNOfKnownConnectionNeedsARule: a client whose rule is gone may keep its connection, but
// may not open another on the same ports, not even after a reset.
func TestNewSYNOfKnownConnectionNeedsARule(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	in, out := template(6, laptop, addr("198.18.0.4"), 40000, 22), template(6, addr("10.10.0.4"), laptop, 22, 40000)
	deliver := func(flags uint8, want verdict.Verdict) {
		t.Helper()
		in.TCPFlags = flags
		b.expect("uplink", outside(in), "web", want)
	}
	deliver(packet.SYN, verdict.Forward)
	deliver(packet.SYN, verdict.Forward) // a retransmission
	out.TCPFlags = packet.SYN | packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	deliver(packet.ACK, verdict.Forward)
	deliver(packet.SYN, verdict.Forward) // the rule still admits it
	b.rules("web")
	deliver(packet.SYN, verdict.NoRule)
	deliver(packet.ACK, verdict.Forward)
	out.TCPFlags = packet.FIN | packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	deliver(packet.SYN, verdict.NoRule) // the connection is half closed
	deliver(packet.RST, verdict.Forward)
	deliver(packet.ACK, verdict.Forward)
	deliver(packet.SYN, verdict.NoRule)
	deliver(packet.ACK, verdict.Forward)
}

func TestAnswersToAnInstanceAreAdmitted(t *testing.T) {
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
		t.Errorf("the quoted packet is %v, want the instance's private address as its source", p.Quoted)
	}
	forged := sent
	forged.Flow.Src = addr("198.18.0.5") // not what the error's receiver sent
	b.expect("uplink", about(forged), "web", verdict.NoConnection)
	sent.Flow.DstPort++
	b.expect("uplink", about(sent), "web", verdict.NoConnection)
	redirect := packettest.ICMPError(5, 1, stranger, addr("198.18.0.4"), packettest.Build(template(17, addr("198.18.0.4"), laptop, 5000, 53)), routerMAC, upMAC)
	b.expect("uplink", redirect, "web", verdict.NoConnection)
}

func TestLaterFragmentsGetVerdictOfTheFirst(t *testing.T) {
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
	b.expect("uplink", fragment(laptop, 0, 7, 1480, 100, false), "web", verdict.OrphanFragment) // the datagram is complete
	b.expect("uplink", fragment(laptop, 53, 9, 0, 1472, true), "web", verdict.Forward)
	b.expect("uplink", fragment(laptop, 0, 9, 1472, 104, false), "web", verdict.OverlapFrag)
	b.expect("uplink", fragment(laptop, 54, 8, 0, 1472, true), "web", verdict.NoRule)
	b.expect("uplink", fragment(laptop, 0, 8, 1480, 100, false), "web", verdict.OrphanFragment)
}
