package conntrack_test

import (
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// segment is a TCP segment of n bytes, from bob to alice or back.
func segment(fromBob bool, flags uint8, seq, ack uint32, n int) *packet.Packet {
	p := pkt(6, 40000, 22, flags)
	if !fromBob {
		p = back(p, flags)
	}
	p.TCPSeq, p.TCPAck = seq, ack
	p.Payload = p.Len
	p.Len += n
	return p
}

func TestSegmentsOutsideTheWindowsAreStrays(t *testing.T) {
	const ack, rst, fin = packet.ACK, packet.RST, packet.FIN
	var zero uint32 // the differences below wrap around it
	// bob has sent the bytes up to 3000, alice those up to 6000; each accepts 65,535 bytes more.
	for _, tt := range []struct {
		name     string
		fromBob  bool
		flags    uint8
		seq, ack uint32
		n        int
		fits     bool
	}{
		{"next byte", true, ack, 3001, 6001, 100, true},
		{"repeated", true, ack, 1001, 5001, 2000, true},
		{"keep-alive", true, ack, 3000, 6001, 0, true},
		{"after a gap", true, ack, 20_000, 6001, 100, true},
		{"last byte of the window", true, ack, 3001 + 65_535, 6001, 1, true},
		{"after the window", true, ack, 3002 + 65_535, 6001, 1, false},
		{"far after the window", true, ack, 3001 + 1<<30, 6001, 1, false},
		{"before the window", true, ack, zero + 3001 - 70_000, 6001, 100, false},
		{"far before the window", true, ack, zero + 3001 - 1<<30, 6001, 100, false},
		{"acknowledges nothing new", true, ack, 3001, 5001, 100, true},
		{"acknowledges an unsent byte", true, ack, 3001, 6002, 100, false},
		{"acknowledges bytes of long ago", true, ack, 3001, zero + 6001 - 66_001, 100, false},
		{"a reset in the window", true, rst, 3005, 0, 0, true},
		{"a reset outside of the window", true, rst, 3002 + 65_535, 0, 0, false},
		{"a reset with an empty acknowledgment", true, rst | ack, 3001, 0, 0, true},
		{"a reset that acknowledges an unsent byte", true, rst | ack, 3001, 9001, 0, false},
		{"a FIN after the window", true, fin | ack, 3002 + 65_535, 6001, 0, false},
		{"next byte of the other end", false, ack, 6001, 3001, 100, true},
		{"after the window of the other end", false, ack, 6002 + 65_535, 3001, 1, false},
		{"the other end acknowledges an unsent byte", false, ack, 6001, 3002, 100, false},
		{"a repeated SYN+ACK", false, packet.SYN | ack, 5000, 1001, 0, true},
		{"a SYN+ACK with another number", false, packet.SYN | ack, 1 << 30, 1001, 0, false},
	} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		handshake(t, z, 40000, 0)
		expect(t, z, segment(true, ack, 1001, 5001, 2000), 0, rules, conntrack.Live)
		expect(t, z, segment(false, ack, 5001, 3001, 1000), 0, rules, conntrack.Live)
		expect(t, z, segment(true, ack, 3001, 6001, 0), 0, rules, conntrack.Live)
		want := conntrack.New
		if tt.fits {
			want = conntrack.Live
		}
		if a := observe(z, segment(tt.fromBob, tt.flags, tt.seq, tt.ack, tt.n), 0, rules); a.Status != want {
			t.Errorf("%s: status %v, want %v", tt.name, a, want)
		}
		// It has changed nothing that its sender cannot change.
		expect(t, z, segment(false, ack, 6001, 3001, 10), 0, rules, conntrack.Live)
	}
}

// Windows are scaled only if the SYNs of both ends have a scale (RFC 7323 §2.2). The window of a SYN
// itself is not scaled.
func TestWindowsAreScaledOnlyIfBothEndsScale(t *testing.T) {
	for _, tt := range []struct {
		bob, alice bool
		window     uint32
	}{{true, true, 1000 << 7}, {true, false, 1000}, {false, true, 1000}, {false, false, 1000}} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		send := func(fromBob bool, flags uint8, seq, ack uint32, scale bool) {
			p := segment(fromBob, flags, seq, ack, 0)
			p.TCPWindow, p.TCPScale, p.TCPHasScale = 1000, 7, scale
			if flags == packet.SYN {
				admit(z, p, 0, conntrack.Admission{Rule: 7, Revision: rules})
				return
			}
			if s := observe(z, p, 0, rules).Status; s != conntrack.Live {
				t.Fatalf("scale of bob %v, of alice %v: flags %02x have status %v, want live", tt.bob, tt.alice, flags, s)
			}
		}
		send(true, packet.SYN, 1000, 0, tt.bob)
		send(false, packet.SYN|packet.ACK, 5000, 1001, tt.alice)
		send(true, packet.ACK, 1001, 5001, false)
		send(false, packet.ACK, 5001, 1001, false)
		for _, fromBob := range []bool{true, false} {
			first, other := uint32(1001), uint32(5001)
			if !fromBob {
				first, other = other, first
			}
			last, after := segment(fromBob, packet.ACK, first+tt.window, other, 1), segment(fromBob, packet.ACK, first+tt.window+1, other, 1)
			last.TCPWindow, after.TCPWindow = 1000, 1000
			if s := observe(z, last, 0, rules).Status; s != conntrack.Live {
				t.Errorf("scale of bob %v, of alice %v: a byte at the end of a window of %d has status %v, want live", tt.bob, tt.alice, tt.window, s)
			}
			if s := observe(z, after, 0, rules).Status; s != conntrack.New {
				t.Errorf("scale of bob %v, of alice %v: a byte after a window of %d has status %v, want new", tt.bob, tt.alice, tt.window, s)
			}
		}
	}
}

// Nobody compares the sequence numbers of an untracked connection, because the rules judge each of
// its packets. After a reset it goes on if packets follow.
func TestUntrackedConnectionSurvivesAForgedReset(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	answer := back(pkt(6, 40000, 80, 0), packet.SYN|packet.ACK)
	admit(z, answer, 0, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true})
	expect(t, z, pkt(6, 40000, 80, packet.ACK), 0, rules, conntrack.Checked)
	expect(t, z, pkt(6, 40000, 80, packet.RST), 0, rules, conntrack.Checked)
	expect(t, z, pkt(6, 40000, 80, packet.ACK), 9*time.Second, rules, conntrack.Checked)
	if c := only(t, tr, time.Hour); c.State != "established" {
		t.Errorf("after a reset and an ACK: %v, want established", c)
	}
}

// An end sends more than its peer's window takes, as after the peer has shrunk it. However often, a
// lost segment can be sent again, and a segment of long ago does not fit.
func TestSegmentsBeyondAClosedWindow(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	closed := func(ack uint32) *packet.Packet {
		p := segment(false, packet.ACK, 5001, ack, 0)
		p.TCPWindow = 0
		return p
	}
	next := uint32(1001)
	expect(t, z, segment(true, packet.ACK, next, 5001, 65_535), 0, rules, conntrack.Live)
	next += 65_535
	expect(t, z, closed(next), 0, rules, conntrack.Live)
	for range 100 {
		beyond := segment(true, packet.ACK, next, 5001, 10)
		expect(t, z, beyond, 0, rules, conntrack.Live)
		expect(t, z, beyond, 0, rules, conntrack.Live)
		next += 10
		expect(t, z, closed(next), 0, rules, conntrack.Live)
	}
	expect(t, z, segment(true, packet.ACK, next-66_000, 5001, 10), 0, rules, conntrack.New)
}

// A SYN with the ports of a live connection, admitted by another rule, may be forged. Its SYN+ACK
// proves that it opens the next connection, which has the rule of the SYN.
func TestReusedPortsHaveTheRuleOfTheirSYN(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	syn := segment(true, packet.SYN, 900_000, 0, 0)
	expect(t, z, syn, 0, rules, conntrack.Reused)
	later := conntrack.Revision{Generation: 12, Shrunk: 5}
	admit(z, syn, 0, conntrack.Admission{Rule: 9, Revision: later})
	// The server has the old connection and answers with a challenge ACK: it goes on.
	expect(t, z, segment(false, packet.ACK, 5001, 1001, 0), 0, rules, conntrack.Live)
	expect(t, z, segment(true, packet.ACK, 1001, 5001, 10), 0, rules, conntrack.Live)
	if c := only(t, tr, 0); c.State != "established" {
		t.Errorf("after a challenge ACK: %v, want established", c)
	}
	// The server has forgotten it and accepts the new one.
	expect(t, z, segment(false, packet.SYN|packet.ACK, 300_000, 900_001, 0), 0, rules, conntrack.Live)
	expect(t, z, segment(true, packet.ACK, 900_001, 300_001, 0), 0, rules, conntrack.Live)
	if c := only(t, tr, 0); c.State != "established" || c.Rule != 9 || c.Revision != 12 || c.Packets != [2]uint32{1, 1} {
		t.Errorf("the new connection is %v, want established by rule 9 with one packet of each end", c)
	}
	expect(t, z, segment(true, packet.ACK, 1011, 5001, 10), 0, rules, conntrack.New)
}

// A connection admitted by a rule for the whole world is untracked, also if it reuses the ports of a
// tracked connection that is over, or live and forgotten by its server. When its rule is removed, the
// entry of the earlier connection does not admit it.
func TestReusedPortsSurviveNoRevocation(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, z *conntrack.Zone){
		"over": func(t *testing.T, z *conntrack.Zone) {
			expect(t, z, pkt(6, 40000, 22, packet.RST), 0, rules, conntrack.Live)
		},
		"live": func(*testing.T, *conntrack.Zone) {},
	} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		handshake(t, z, 40000, 0)
		end(t, z)
		syn := segment(true, packet.SYN, 900_000, 0, 0)
		expect(t, z, syn, 0, rules, conntrack.Reused)
		var u conntrack.Tuple
		z.Identify(&u, syn)
		z.ReuseUntracked(syn, &u, conntrack.In, 0)
		if n := tr.Usage().Tracked; name == "over" && n != 0 {
			t.Errorf("after the SYN %d connections are left, want none", n)
		}
		answer := segment(false, packet.SYN|packet.ACK, 300_000, 900_001, 0)
		expect(t, z, answer, 0, rules, conntrack.New)
		if v := admit(z, answer, 0, conntrack.Admission{Rule: 9, Revision: rules, Untracked: true, Reversed: true}); v != verdict.Forward {
			t.Fatalf("Admit returned %v, want %v", v, verdict.Forward)
		}
		if c := only(t, tr, 0); c.Tracked || c.Rule != 9 {
			t.Errorf("%s: the new connection is %v, want an untracked one of rule 9", name, c)
		}
		gone := conntrack.Revision{Generation: 20, Shrunk: 20}
		for _, p := range []*packet.Packet{segment(true, packet.ACK, 900_001, 300_001, 1), segment(false, packet.ACK, 300_001, 900_001, 1)} {
			if s := observe(z, p, 0, gone).Status; s != conntrack.Stale {
				t.Errorf("%s: %v after the revocation: status %v, want stale", name, p, s)
			}
		}
	}
}

// An interface that forwards for others has a connection for what comes in and another for what goes
// out. One does not admit the packets of the other.
func TestConnectionOfOneDirectionAdmitsNoForwardedPacket(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	far := alice.Next()
	forwarded := func(p *packet.Packet) *packet.Packet { p.Flow.Dst = far; return p }
	status := func(p *packet.Packet, d conntrack.Direction) conntrack.Status {
		var u conntrack.Tuple
		z.Identify(&u, p)
		return z.Observe(p, &u, d, 0, rules).Status
	}
	for _, protocol := range []uint8{17, 47} {
		p := forwarded(pkt(protocol, 1000, 53, 0))
		answer := back(p, 0)
		var u conntrack.Tuple
		z.Identify(&u, p)
		z.Admit(p, &u, 0, conntrack.Admission{Direction: conntrack.In, Revision: rules})
		for _, tt := range []struct {
			p    *packet.Packet
			d    conntrack.Direction
			want conntrack.Status
		}{
			{p, conntrack.In, conntrack.Live}, {p, conntrack.Out, conntrack.New},
			{answer, conntrack.In, conntrack.New}, {answer, conntrack.Out, conntrack.Live},
		} {
			if got := status(tt.p, tt.d); got != tt.want {
				t.Errorf("%v %v: status %v, want %v", tt.p, tt.d, got, tt.want)
			}
		}
		z.Identify(&u, p)
		z.Admit(p, &u, 0, conntrack.Admission{Direction: conntrack.Out, Revision: rules})
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if a, b := status(p, d), status(answer, d); a != conntrack.Live || b != conntrack.Live {
				t.Errorf("protocol %d %v, after both were admitted: status %v, of the answer %v, want live", protocol, d, a, b)
			}
		}
	}
}

// A first fragment does not tell how long its segment is, up to 64 KiB. The other end may acknowledge as
// much of it as it has room for.
func TestFirstFragmentMayHaveTheWholeWindow(t *testing.T) {
	for _, tt := range []struct {
		window uint16 // of alice, shifted by 7
		most   uint32 // what she may acknowledge
	}{{1, 1001 + 1<<7}, {100, 1001 + 100<<7}, {512, 1001 + 1<<16}, {0xffff, 1001 + 1<<16}} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		send := func(fromBob bool, flags uint8, seq, ack uint32, n int, fragment bool) conntrack.Status {
			p := segment(fromBob, flags, seq, ack, n)
			p.TCPScale, p.TCPHasScale, p.Fragment = 7, flags&packet.SYN != 0, fragment
			if !fromBob && flags&packet.SYN == 0 {
				p.TCPWindow = tt.window
			}
			if flags == packet.SYN {
				admit(z, p, 0, conntrack.Admission{Revision: rules})
			} else if !fromBob && flags&packet.SYN != 0 {
				p.TCPWindow = 1 // unscaled
			}
			return observe(z, p, 0, rules).Status
		}
		send(true, packet.SYN, 1000, 0, 0, false)
		send(false, packet.SYN|packet.ACK, 5000, 1001, 0, false)
		send(true, packet.ACK, 1001, 5001, 0, false)
		send(false, packet.ACK, 5001, 1001, 0, false)
		if got := send(true, packet.ACK, 1001, 5001, 100, true); got != conntrack.Live {
			t.Fatalf("a first fragment in a window of %d: status %v", tt.window, got)
		}
		if got := send(false, packet.ACK, 5001, tt.most+1, 0, false); got != conntrack.New {
			t.Errorf("window %d: an acknowledgment of %d, which nobody sent: status %v", tt.window, tt.most+1, got)
		}
		if got := send(false, packet.ACK, 5001, tt.most, 0, false); got != conntrack.Live {
			t.Errorf("window %d: an acknowledgment of %d: status %v", tt.window, tt.most, got)
		}
	}
}

// While a connection is blocked its windows move. When the rules admit it again, the next segment of each
// end tells them.
func TestWindowsAreLearntAgainAfterABlock(t *testing.T) {
	const ack = packet.ACK
	again := conntrack.Revision{Generation: 10, Shrunk: 9, Strict: true}
	for _, tt := range []struct {
		name     string
		fromBob  bool
		seq, ack uint32
		want     conntrack.Status
	}{
		{"alice acknowledges the last byte", false, 2_000_050, 1_000_100, conntrack.Live},
		{"alice acknowledges a byte that was not sent", false, 2_000_050, 1_000_101, conntrack.New},
		{"alice acknowledges bytes of long ago", false, 2_000_050, 1_000_100 - 70_000, conntrack.New},
		{"alice's last byte in the window", false, 2_000_050 + 65_535, 1_000_100, conntrack.Live},
		{"alice's first byte after the window", false, 2_000_050 + 65_536, 1_000_100, conntrack.New},
		{"bob's last byte in the window", true, 1_000_100 + 65_535, 2_000_050, conntrack.Live},
		{"bob's first byte after the window", true, 1_000_100 + 65_536, 2_000_050, conntrack.New},
		{"bob's bytes of before the block", true, 1001, 2_000_050, conntrack.New},
		{"bob acknowledges a byte that was not sent", true, 1_000_100, 2_000_051, conntrack.New},
	} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		handshake(t, z, 40000, 0)
		rejudge(z, segment(true, ack, 1001, 5001, 0), 0, strict, false, 0)
		if v := rejudge(z, segment(true, ack, 1_000_000, 2_000_000, 100), 0, again, true, 8); v != verdict.Forward {
			t.Fatalf("Rejudge returned %v, want %v", v, verdict.Forward)
		}
		expect(t, z, segment(false, ack, 2_000_000, 1_000_100+1, 50), 0, again, conntrack.New)
		expect(t, z, segment(false, ack, 2_000_000, 1_000_100, 50), 0, again, conntrack.Live)
		if got := observe(z, segment(tt.fromBob, ack, tt.seq, tt.ack, 1), 0, again).Status; got != tt.want {
			t.Errorf("%s: status %v, want %v", tt.name, got, tt.want)
		}
	}
}

// An end with a window of zero bytes gets a probe of one byte (RFC 9293 §3.8.6.1).
func TestWindowOfZeroAdmitsAProbe(t *testing.T) {
	for seq, want := range map[uint32]conntrack.Status{5001: conntrack.Live, 5002: conntrack.Live, 5003: conntrack.New} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		syn, third := segment(true, packet.SYN, 1000, 0, 0), segment(true, packet.ACK, 1001, 5001, 0)
		syn.TCPWindow, third.TCPWindow = 0, 0
		admit(z, syn, 0, conntrack.Admission{Revision: rules})
		expect(t, z, segment(false, packet.SYN|packet.ACK, 5000, 1001, 0), 0, rules, conntrack.Live)
		expect(t, z, third, 0, rules, conntrack.Live)
		if got := observe(z, segment(false, packet.ACK, seq, 1001, 1), 0, rules).Status; got != want {
			t.Errorf("a byte at %d, where 5001 is the next: status %v, want %v", seq, got, want)
		}
	}
}
