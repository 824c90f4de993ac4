package conntrack_test

import (
	"testing"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A SYN with the ports of a live connection may be forged. Only a SYN+ACK that acknowledges it begins
// the next connection; the windows of that one are known from its SYN on, scaled.
func TestOnlyTheAnswerToANotedSYNBeginsAgain(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	syn := segment(true, packet.SYN, 900_000, 0, 0)
	syn.TCPScale, syn.TCPHasScale, syn.TCPWindow = 7, true, 1000
	expect(t, z, syn, 0, rules, conntrack.Reused)
	admit(z, syn, 0, conntrack.Admission{Rule: 9, Revision: rules})
	for _, acked := range []uint32{900_000, 900_002, 0} {
		expect(t, z, segment(false, packet.SYN|packet.ACK, 300_000, acked, 0), 0, rules, conntrack.New)
	}
	expect(t, z, segment(true, packet.ACK, 1001, 5001, 10), 0, rules, conntrack.Live)
	answer := segment(false, packet.SYN|packet.ACK, 300_000, 900_001, 0)
	answer.TCPScale, answer.TCPHasScale, answer.TCPWindow = 7, true, 1000
	expect(t, z, answer, 0, rules, conntrack.Live)
	expect(t, z, segment(true, packet.ACK, 1011, 5001, 10), 0, rules, conntrack.New)
	third := segment(true, packet.ACK, 900_001, 300_001, 0)
	third.TCPWindow = 1000
	expect(t, z, third, 0, rules, conntrack.Live)
	expect(t, z, segment(false, packet.ACK, 300_001+100_000, 900_001, 1), 0, rules, conntrack.Live) // within 1000<<7
	if c := only(t, tr, 0); c.State != "established" || c.Rule != 9 {
		t.Errorf("the new connection is %v, want established by rule 9", c)
	}
}

// A server that has an older connection on the ports of a SYN answers with a challenge ACK (RFC 5961
// §4.2). It passes, so that the client can send its RST, and changes nothing.
func TestChallengeOfASYNPasses(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := segment(true, packet.SYN, 1000, 0, 0)
	expect(t, z, syn, 0, rules, conntrack.New)
	admit(z, syn, 0, conntrack.Admission{Rule: 7, Revision: rules})
	expect(t, z, segment(false, packet.ACK, 77_000, 66_000, 0), 0, rules, conntrack.Live)
	expect(t, z, segment(false, packet.ACK, 77_000, 66_000, 1), 0, rules, conntrack.New)
	if c := only(t, tr, 0); c.State != "syn-sent" {
		t.Errorf("after a challenge ACK the connection is %v, want syn-sent", c)
	}
	expect(t, z, segment(false, packet.SYN|packet.ACK, 5000, 1001, 0), 0, rules, conntrack.Live)
	expect(t, z, segment(true, packet.ACK, 1001, 5001, 0), 0, rules, conntrack.Live)
	if c := only(t, tr, 0); c.State != "established" {
		t.Errorf("after the handshake the connection is %v, want established", c)
	}
}

// A segment outside of the windows of a tracked connection changes nothing, also if by now the rules
// would admit it as part of an untracked one.
func TestStraySegmentLeavesATrackedConnection(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	stray := segment(false, packet.ACK, 3_000_000_000, 1001, 1)
	expect(t, z, stray, 0, rules, conntrack.New)
	if v := admit(z, stray, 0, conntrack.Admission{Rule: 9, Revision: rules, Untracked: true, Reversed: true}); v != verdict.Forward {
		t.Errorf("Admit returned %v, want %v", v, verdict.Forward)
	}
	if c := only(t, tr, 0); !c.Tracked || c.Rule != 7 {
		t.Errorf("after a stray segment: %v, want the tracked connection of rule 7", c)
	}
	expect(t, z, segment(true, packet.ACK, 1001, 5001, 1), 0, conntrack.Revision{Generation: 20, Shrunk: 20}, conntrack.Live)
}

// Each shard keeps the last SYNs that reused the ports of a live connection. A SYN+ACK that answers an
// older one, or none, is a stray segment. The sender of the SYN repeats it.
func TestForgottenSYNMustBeRepeated(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := func(port uint16) *packet.Packet {
		p := pkt(6, port, 22, packet.SYN)
		p.TCPSeq = 900_000
		return p
	}
	answer := func(port uint16, ack uint32) *packet.Packet {
		p := back(pkt(6, port, 22, 0), packet.SYN|packet.ACK)
		p.TCPSeq, p.TCPAck = 3_000_000_000, ack
		return p
	}
	note := func(port uint16) { admit(z, syn(port), 0, conntrack.Admission{Rule: 9, Revision: rules}) }
	const ports = 20_000 // about 300 in each of 64 shards
	for port := range uint16(ports) {
		handshake(t, z, port, 0)
		note(port)
	}
	known := 0
	for port := range uint16(ports) {
		expect(t, z, answer(port, 0), 0, rules, conntrack.New)
		if observe(z, answer(port, 900_001), 0, rules).Status == conntrack.Live {
			known++
		}
	}
	if known != 64*64 {
		t.Errorf("%d SYNs are known, want 64 of each of 64 shards", known)
	}
	expect(t, z, answer(0, 900_001), 0, rules, conntrack.New)
	for range 200 { // repeated by one sender, it takes the room of one
		note(0)
	}
	note(1)
	expect(t, z, answer(0, 900_001), 0, rules, conntrack.Live)
	expect(t, z, answer(1, 900_001), 0, rules, conntrack.Live)
}
