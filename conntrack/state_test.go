package conntrack_test

import (
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

func TestNewConnectionInheritsNothing(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	// A SYN from either end with the same tuple is a new connection.
	expect(t, z, back(syn, packet.SYN), 0, rules, conntrack.Reused)
	expect(t, z, syn, 0, rules, conntrack.Reused)
	// If the rules admit the SYN, the connection goes on.
	admit(z, syn, 0, conntrack.Admission{Rule: 7, Revision: rules})
	expect(t, z, pkt(6, 40000, 22, packet.ACK), time.Hour, rules, conntrack.Live)
	// After both FINs the same tuple is a new connection, judged by the rules.
	expect(t, z, pkt(6, 40000, 22, packet.FIN|packet.ACK), time.Hour, rules, conntrack.Live)
	expect(t, z, back(syn, packet.FIN|packet.ACK), time.Hour, rules, conntrack.Live)
	expect(t, z, syn, time.Hour+1, rules, conntrack.Reused)
}

// A SYN from the other end, if the rules admit it, opens a new connection in place of one that is
// untracked, blocked or over. It inherits nothing from it.
func TestSYNFromTheOtherEndIsANewConnection(t *testing.T) {
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	for name, old := range map[string]func(t *testing.T, z *conntrack.Zone){
		"over": func(t *testing.T, z *conntrack.Zone) {
			expect(t, z, back(handshake(t, z, 40000, 0), packet.RST), 0, rules, conntrack.Live)
		},
		"untracked": func(t *testing.T, z *conntrack.Zone) {
			admit(z, back(pkt(6, 40000, 22, 0), packet.SYN|packet.ACK), 0, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true})
		},
		"blocked": func(t *testing.T, z *conntrack.Zone) {
			handshake(t, z, 40000, 0)
			strict := gone
			strict.Strict = true
			expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, strict, conntrack.Stale)
			rejudge(z, pkt(6, 40000, 22, packet.ACK), 0, strict, false, 0)
			expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, strict, conntrack.Blocked)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := open(t, conntrack.Config{})
			z := tr.AddZone(1, conntrack.Timeouts{})
			old(t, z)
			was := only(t, tr, 0)
			syn := back(pkt(6, 40000, 22, 0), packet.SYN)
			expect(t, z, syn, 1, gone, conntrack.Reused)
			if v := admit(z, syn, 1, conntrack.Admission{Rule: 8, Revision: gone}); v != verdict.Forward {
				t.Fatalf("Admit returned verdict %v, want %v", v, verdict.Forward)
			}
			now := only(t, tr, 1)
			want := conntrack.Connection{Epoch: 1, Flow: packettest.Reverse(was.Flow), Tracked: true, State: "syn-sent", Rule: 8, Revision: 9}
			now.Age, now.Expires, now.Packets, now.Bytes = 0, 0, [2]uint32{}, [2]uint64{}
			if now != want {
				t.Errorf("the connection is\n%v, want\n%v", now, want)
			}
		})
	}
}

// A SYN from the other end of a live connection changes nothing, even if the rules admit it: it may
// be forged. In the middle of a handshake it opens the same connection (RFC 9293 §3.5).
func TestSYNFromTheOtherEndOfALiveConnection(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	was := only(t, tr, 0)
	forged := back(syn, packet.SYN)
	forged.TCPSeq = 77
	expect(t, z, forged, 0, rules, conntrack.Reused)
	admit(z, forged, 0, conntrack.Admission{Rule: 8, Revision: rules})
	if now := only(t, tr, 0); now != was {
		t.Errorf("after a SYN of the other end the connection is\n%v, want\n%v", now, was)
	}

	tr = open(t, conntrack.Config{})
	z = tr.AddZone(1, conntrack.Timeouts{})
	syn = pkt(6, 40000, 22, packet.SYN)
	admit(z, syn, 0, conntrack.Admission{Rule: 7, Revision: rules})
	admit(z, back(syn, packet.SYN), 0, conntrack.Admission{Rule: 8, Revision: rules})
	expect(t, z, back(syn, packet.SYN|packet.ACK), 0, rules, conntrack.Live)
	synAck := pkt(6, 40000, 22, packet.SYN|packet.ACK)
	expect(t, z, synAck, 0, rules, conntrack.Live)
	if c := only(t, tr, 0); c.State != "established" || c.Rule != 7 {
		t.Errorf("after a simultaneous open: %v, want established by rule 7", c)
	}
}

// After both FINs or a reset, a new connection on the same ports has its own rule and state.
func TestNewConnectionAfterAClosedOneIsJudged(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, z *conntrack.Zone, syn *packet.Packet){
		"FINs": func(t *testing.T, z *conntrack.Zone, syn *packet.Packet) {
			expect(t, z, pkt(6, 40000, 22, packet.FIN|packet.ACK), 1, rules, conntrack.Live)
			expect(t, z, back(syn, packet.FIN|packet.ACK), 1, rules, conntrack.Live)
		},
		"a reset": func(t *testing.T, z *conntrack.Zone, syn *packet.Packet) {
			expect(t, z, pkt(6, 40000, 22, packet.RST), 1, rules, conntrack.Live)
		},
		"a reset of the other end": func(t *testing.T, z *conntrack.Zone, syn *packet.Packet) {
			expect(t, z, back(syn, packet.RST), 1, rules, conntrack.Live)
		},
	} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		syn := handshake(t, z, 40000, 0)
		end(t, z, syn)
		expect(t, z, syn, 2, rules, conntrack.Reused)
		later := conntrack.Revision{Generation: 12, Shrunk: 5}
		admit(z, syn, 2, conntrack.Admission{Rule: 9, Revision: later})
		if c := only(t, tr, 2); c.Rule != 9 || c.Revision != 12 || c.State != "syn-sent" || c.Packets != [2]uint32{1, 0} {
			t.Errorf("after %s and a new SYN: %v, want a new connection of rule 9 with one packet", name, c)
		}
	}
}

// A sender that guesses ports can send resets. Only one with exactly the next sequence number ends
// the connection.
func TestConnectionSurvivesAForgedReset(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	for i := range 50 {
		forged := pkt(6, 40000, 22, packet.RST)
		if i%2 == 1 {
			forged = back(syn, packet.RST|packet.ACK)
		}
		forged.TCPSeq += uint32(1 + i*1000)
		expect(t, z, forged, time.Duration(i)*time.Second, rules, conntrack.Live)
	}
	if c := only(t, tr, 50*time.Second); c.State != "established" {
		t.Errorf("after 50 resets with wrong sequence numbers: %v, want established", c)
	}
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 55*time.Second, rules, conntrack.Live)
	expect(t, z, back(syn, packet.ACK), time.Hour, rules, conntrack.Live)
	exact := back(syn, packet.RST)
	expect(t, z, exact, 2*time.Hour, rules, conntrack.Live)
	if c := only(t, tr, 2*time.Hour); c.State != "closed" {
		t.Errorf("after a reset with the next sequence number: %v, want closed", c)
	}
	// It is over ten seconds later, even if packets follow.
	for i := range 10 {
		expect(t, z, pkt(6, 40000, 22, packet.ACK), 2*time.Hour+time.Duration(i)*time.Second, rules, conntrack.Live)
	}
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 2*time.Hour+10*time.Second, rules, conntrack.New)
}

// A connection stays half open if only the end that opened it sends packets. So the
// connections of a flood can be evicted.
func TestOneEndAloneEstablishesNoConnection(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	admit(z, pkt(6, 1, 22, packet.SYN), 0, conntrack.Admission{Revision: rules})
	for _, flags := range []uint8{packet.ACK, packet.SYN | packet.ACK, packet.ACK | packet.PSH, packet.FIN | packet.ACK, packet.ACK} {
		observe(z, pkt(6, 1, 22, flags), 0, rules)
		if c := only(t, tr, 0); c.State != "syn-sent" {
			t.Errorf("after flags %02x of the end that opened the connection: %v, want syn-sent", flags, c)
		}
	}
	expect(t, z, pkt(6, 1, 22, packet.ACK), 29*time.Second, rules, conntrack.Live)
	expect(t, z, pkt(6, 1, 22, packet.ACK), 60*time.Second, rules, conntrack.New)
}

// A repeated FIN of one end does not count as the FIN of the other end. After Rejudge a
// connection has the rule that admits it now.
func TestConnectionSurvivesAFINFromOneEnd(t *testing.T) {
	for _, side := range []string{"opening end", "other end"} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		syn := handshake(t, z, 40000, 0)
		fin := pkt(6, 40000, 22, packet.FIN|packet.ACK)
		other := back(syn, packet.FIN|packet.ACK)
		if side == "other end" {
			fin, other = other, fin
		}
		for range 3 {
			expect(t, z, fin, 0, rules, conntrack.Live)
			if c := only(t, tr, 0); c.State != "closing" {
				t.Errorf("after the FIN of the %s: %v, want closing", side, c)
			}
		}
		expect(t, z, other, 0, rules, conntrack.Live)
		if c := only(t, tr, 0); c.State != "time-wait" {
			t.Errorf("after both FINs: %v, want time-wait", c)
		}
	}
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	strict := conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}
	p := pkt(6, 40000, 22, packet.ACK)
	expect(t, z, p, 0, strict, conntrack.Stale)
	if v := rejudge(z, p, 0, strict, true, 8); v != verdict.Forward {
		t.Fatalf("Rejudge returned verdict %v, want %v", v, verdict.Forward)
	}
	if c := only(t, tr, 0); c.Rule != 8 || c.Revision != 9 || c.Blocked {
		t.Errorf("after Rejudge: %v, want rule 8, not blocked", c)
	}
}

// The state of a connection after a packet, in each state of its handshake. Only an ACK of the end that
// opened it completes the handshake.
func TestHandshakeStates(t *testing.T) {
	const syn, ack, fin, psh = packet.SYN, packet.ACK, packet.FIN, packet.PSH
	bob, alice := true, false
	for _, tt := range []struct {
		answered bool // by a SYN+ACK
		fromBob  bool
		flags    uint8
		n        int
		want     string
	}{
		{false, bob, ack, 0, "syn-sent"},
		{false, bob, psh, 10, "syn-sent"},
		{false, bob, fin, 0, "syn-sent"},
		{false, bob, syn | ack, 0, "syn-sent"},
		{false, alice, ack, 0, "syn-sent"}, // a challenge
		{false, alice, syn | ack, 0, "syn-received"},
		{true, bob, psh, 10, "syn-received"},
		{true, alice, ack, 0, "syn-received"},
		{true, alice, psh | ack, 10, "syn-received"},
		{true, alice, syn | ack, 0, "syn-received"},
		{true, bob, ack, 0, "established"},
		{true, bob, psh | ack, 10, "established"},
		{true, bob, fin, 0, "closing"},
		{true, bob, fin | ack, 0, "closing"},
		{true, alice, fin | ack, 0, "closing"},
	} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		admit(z, segment(bob, syn, 1000, 0, 0), 0, conntrack.Admission{Revision: rules})
		if tt.answered {
			expect(t, z, segment(alice, syn|ack, 5000, 1001, 0), 0, rules, conntrack.Live)
		}
		seq, acked := firstSeq(1000, tt.flags), uint32(5001)
		if !tt.fromBob {
			seq, acked = firstSeq(5000, tt.flags), 1001
		}
		expect(t, z, segment(tt.fromBob, tt.flags, seq, acked, tt.n), 0, rules, conntrack.Live)
		if c := only(t, tr, 0); c.State != tt.want {
			t.Errorf("answered %v, then flags %02x of bob %v: %v, want %s", tt.answered, tt.flags, tt.fromBob, c, tt.want)
		}
	}
}

// A connection that was blocked before its handshake stays half open when the rules admit it again,
// although its windows are not known: data of the other end are no answer to its SYN.
func TestHalfOpenConnectionIsHalfOpenAfterABlock(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	admit(z, segment(true, packet.SYN, 1000, 0, 0), 0, conntrack.Admission{Revision: rules})
	data := segment(false, packet.PSH|packet.ACK, 5001, 1001, 10)
	rejudge(z, data, 0, strict, false, 0)
	again := conntrack.Revision{Generation: 10, Shrunk: 9, Strict: true}
	if v := rejudge(z, data, 0, again, true, 8); v != verdict.Forward {
		t.Errorf("Rejudge returned %v, want %v", v, verdict.Forward)
	}
	if c := only(t, tr, 0); c.State != "syn-sent" || c.Blocked {
		t.Errorf("the connection is %v, want syn-sent", c)
	}
}
