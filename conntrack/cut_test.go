package conntrack_test

import (
	"path/filepath"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// newer is the revision of rules that were changed since, and admit as much as before.
var newer = conntrack.Revision{Generation: 50, Shrunk: 5}

func all(conntrack.Connection) bool { return true }

// stored opens an untracked connection from bob to alice.
func stored(z *conntrack.Zone, protocol uint8, now time.Duration) {
	admit(z, back(pkt(protocol, 40000, 22, 0), packet.SYN|packet.ACK), now, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true})
}

// TestCutConnectionIsBlockedUntilNoPacketCameFor180Seconds, in both directions, tracked or not. Rules
// that change meanwhile do not bring it back, and nor does a packet that was judged before the cut.
func TestCutConnectionIsBlockedUntilNoPacketCameFor180Seconds(t *testing.T) {
	for name, start := range map[string]func(z *conntrack.Zone) uint8{
		"tracked tcp":   func(z *conntrack.Zone) uint8 { handshake(t, z, 40000, 0); return packet.ProtocolTCP },
		"untracked tcp": func(z *conntrack.Zone) uint8 { stored(z, packet.ProtocolTCP, 0); return packet.ProtocolTCP },
		"untracked udp": func(z *conntrack.Zone) uint8 { stored(z, packet.ProtocolUDP, 0); return packet.ProtocolUDP },
		"tracked udp": func(z *conntrack.Zone) uint8 {
			admit(z, pkt(packet.ProtocolUDP, 40000, 22, 0), 0, conntrack.Admission{Rule: 7, Revision: rules})
			return packet.ProtocolUDP
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := open(t, conntrack.Config{})
			z := tr.AddZone(1, conntrack.Timeouts{})
			protocol := start(z)
			there := pkt(protocol, 40000, 22, packet.ACK)
			reply := back(there, packet.ACK)
			if n := tr.Cut(1, func(c conntrack.Connection) bool { return c.Flow.DstPort != 22 }); n != 0 {
				t.Fatalf("a cut of others ended %d connections", n)
			}
			if n := tr.Cut(1, func(c conntrack.Connection) bool { return c.Rule == 7 && c.Flow == there.Flow }); n != 1 {
				t.Fatalf("the cut ended %d connections, want 1", n)
			}
			if n := tr.Cut(1, all); n != 0 {
				t.Errorf("a second cut ended %d connections, want 0", n)
			}
			if c := only(t, tr, 1); !c.Cut || !c.Blocked {
				t.Errorf("after the cut the connection is %+v, want it cut and blocked", c)
			}
			if v := rejudge(z, there, 1, newer, true, 8); v != verdict.Revoked {
				t.Errorf("a packet that was Stale before the cut is %v, want %v", v, verdict.Revoked)
			}
			if v := admit(z, there, 1, conntrack.Admission{Rule: 8, Revision: newer}); v != verdict.Revoked {
				t.Errorf("a packet that was New before the cut is %v, want %v", v, verdict.Revoked)
			}
			now := time.Duration(1)
			for range 3 {
				now += 179 * time.Second
				expect(t, z, reply, now, newer, conntrack.Blocked)
				now += 179 * time.Second
				expect(t, z, there, now, newer, conntrack.Blocked)
			}
			expect(t, z, there, now+181*time.Second, newer, conntrack.New)
		})
	}
}

// TestSYNOpensANewConnectionAfterACut only if the other end answers it with SYN and ACK. An end that
// still has the old connection answers with ACK, and the old connection stays cut.
func TestSYNOpensANewConnectionAfterACut(t *testing.T) {
	syn, ack := pkt(6, 40000, 22, packet.SYN), pkt(6, 40000, 22, packet.ACK)
	for name, tracked := range map[string]bool{"tracked": true, "untracked": false} {
		t.Run(name, func(t *testing.T) {
			tr := open(t, conntrack.Config{})
			z := tr.AddZone(1, conntrack.Timeouts{})
			again := func(now time.Duration) {
				t.Helper()
				expect(t, z, syn, now, newer, conntrack.Reused)
				if tracked {
					if v := admit(z, syn, now, conntrack.Admission{Rule: 8, Revision: newer}); v != verdict.Forward {
						t.Fatalf("Admit of a SYN returned %v, want %v", v, verdict.Forward)
					}
					return
				}
				var u conntrack.Tuple
				z.Identify(&u, syn)
				z.ReuseUntracked(syn, &u, conntrack.In, now)
			}
			if tracked {
				handshake(t, z, 40000, 0)
			} else {
				stored(z, packet.ProtocolTCP, 0)
			}
			tr.Cut(1, all)
			expect(t, z, back(syn, packet.SYN|packet.ACK), 2, newer, conntrack.Blocked)
			expect(t, z, back(syn, packet.SYN), 2, newer, conntrack.Blocked)
			again(3)
			expect(t, z, back(syn, packet.ACK), 4, newer, conntrack.Blocked)
			expect(t, z, ack, 5, newer, conntrack.Blocked)
			again(6)
			expect(t, z, pkt(6, 40000, 22, packet.SYN|packet.ACK), 7, newer, conntrack.Blocked)
			if !tracked {
				expect(t, z, back(syn, packet.SYN|packet.ACK), 8, newer, conntrack.New)
				expect(t, z, ack, 9, newer, conntrack.New)
				return
			}
			expect(t, z, back(syn, packet.SYN|packet.ACK), 8, newer, conntrack.Live)
			expect(t, z, ack, 9, newer, conntrack.Live)
			expect(t, z, back(syn, packet.ACK), 10, newer, conntrack.Live)
			if c := only(t, tr, 10); c.Cut || c.Blocked || c.State != "established" || c.Rule != 8 {
				t.Errorf("the new connection is %+v, want it established by rule 8", c)
			}
		})
	}
}

// A SYN that the rules judge in another way than the old connection opens none on its ports: the entry
// is in the other pool.
func TestCutConnectionStaysCutIfTheNextIsOfTheOtherPool(t *testing.T) {
	syn := pkt(6, 40000, 22, packet.SYN)
	tr := open(t, conntrack.Config{})
	tracked, untracked := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	handshake(t, tracked, 40000, 0)
	stored(untracked, packet.ProtocolTCP, 0)
	tr.Cut(1, all)
	var u conntrack.Tuple
	tracked.Identify(&u, syn)
	tracked.ReuseUntracked(syn, &u, conntrack.In, 2)
	admit(untracked, syn, 2, conntrack.Admission{Rule: 8, Revision: newer})
	for _, z := range []*conntrack.Zone{tracked, untracked} {
		expect(t, z, back(syn, packet.SYN|packet.ACK), 3, newer, conntrack.Blocked)
	}
}

func TestCutOutlivesTheProcess(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena")}
	tr := open(t, c)
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	tr.Cut(1, all)
	if err := tr.Close(); err != nil { // it writes nothing, so the file is as after kill -9
		t.Fatal(err)
	}
	z = open(t, c).AddZone(1, conntrack.Timeouts{})
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 2, newer, conntrack.Blocked)
	expect(t, z, back(pkt(6, 40000, 22, 0), packet.ACK), 2, newer, conntrack.Blocked)
}

// Later fragments of a datagram that a cut connection had begun are dropped; those of others are not.
func TestCutEndsDatagramsInFragments(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	frag := func(p *packet.Packet, protocol uint8, from int) *packet.Packet {
		f := &packet.Packet{Flow: packet.Flow{Src: p.Flow.Src, Dst: p.Flow.Dst, Protocol: protocol}, Fragment: true, HasL4: from == 0, FragID: 1, FragOffset: from, FragLen: 64, MoreFollow: true}
		return f
	}
	ask := pkt(packet.ProtocolUDP, 40000, 22, 0)
	admit(z, ask, 0, conntrack.Admission{Rule: 7, Revision: rules})
	reply := back(ask, 0)
	z.AdmitFragment(frag(ask, packet.ProtocolUDP, 0), conntrack.In, 0)
	z.AdmitFragment(frag(reply, packet.ProtocolUDP, 0), conntrack.Out, 0)
	z.AdmitFragment(frag(ask, packet.ProtocolTCP, 0), conntrack.In, 0)
	tr.Cut(1, all)
	for _, tt := range []struct {
		name string
		p    *packet.Packet
		d    conntrack.Direction
		want verdict.Verdict
	}{
		{"of the connection", frag(ask, packet.ProtocolUDP, 64), conntrack.In, verdict.OrphanFragment},
		{"of an answer", frag(reply, packet.ProtocolUDP, 64), conntrack.Out, verdict.OrphanFragment},
		{"of another protocol", frag(ask, packet.ProtocolTCP, 64), conntrack.In, verdict.Forward},
	} {
		if v := z.Fragment(tt.p, tt.d, 2); v != tt.want {
			t.Errorf("fragment %s: verdict %v, want %v", tt.name, v, tt.want)
		}
	}
}

// A Reset has every older connection judged again, also where rules do not cut
// tracked connections.
func TestConnectionsOlderThanAResetAreJudgedAgain(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	r := conntrack.Revision{Generation: 9, Shrunk: 5, Reset: 5}
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 1, r, conntrack.Live)
	r.Reset = 9
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 2, r, conntrack.Stale)
	rejudge(z, pkt(6, 40000, 22, packet.ACK), 2, r, true, 7)
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 3, r, conntrack.Live)
}

// A SYN of the end that did not open the connection passes if the rules admit it, and opens none on the
// ports of a connection that was cut.
func TestOtherEndOpensNoConnectionAfterACut(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	tr.Cut(1, all)
	other := back(syn, packet.SYN)
	for _, p := range []*packet.Packet{other, pkt(6, 40000, 22, packet.SYN|packet.ACK), back(syn, packet.SYN|packet.ACK)} {
		if p == other {
			if v := admit(z, p, 2, conntrack.Admission{Rule: 8, Revision: newer}); v != verdict.Forward {
				t.Errorf("Admit of a SYN of the other end returned %v, want %v", v, verdict.Forward)
			}
			continue
		}
		p.TCPAck = other.TCPSeq + 1 // what the SYN of the other end has sent
		expect(t, z, p, 3, newer, conntrack.Blocked)
	}
	if c := only(t, tr, 3); !c.Cut || c.Rule != 7 || c.Revision != rules.Generation {
		t.Errorf("after a SYN of the other end the connection is %+v, want it cut, with its own rule 7", c)
	}
}

// An error is about a connection that was cut if it quotes a packet of it that crossed the interface in
// the other direction.
func TestErrorAboutACutConnectionIsKnown(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	cut, live := handshake(t, z, 40000, 0), handshake(t, z, 40001, 0)
	tr.Cut(1, func(c conntrack.Connection) bool { return c.Flow == cut.Flow })
	for name, tt := range map[string]struct {
		quoted *packet.Packet
		d      conntrack.Direction
		want   bool
	}{
		"about what bob sent":                   {cut, conntrack.Out, true},
		"about what alice sent":                 {back(cut, 0), conntrack.In, true},
		"in the direction of the quoted packet": {cut, conntrack.In, false},
		"about another connection":              {live, conntrack.Out, false},
		"about no connection":                   {pkt(6, 40002, 22, 0), conntrack.Out, false},
		"without a quoted packet":               {nil, conntrack.Out, false},
	} {
		e := &packet.Packet{Flow: packet.Flow{Src: alice, Dst: bob, Protocol: 1}, IsICMPError: true, ICMPType: packet.ICMPUnreachable}
		if tt.quoted != nil {
			e.HasQuoted, e.Quoted = true, tt.quoted.Flow
		}
		if got := z.QuotesCut(e, tt.d, 2); got != tt.want {
			t.Errorf("an error %s: QuotesCut returned %v, want %v", name, got, tt.want)
		}
	}
}

// A cut ends all that it selects, and nothing else.
func TestCutEndsAllThatItSelects(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	for n := range uint16(2000) { // many in each shard
		admit(z, pkt(17, 1000+n, 53, 0), 0, conntrack.Admission{Revision: rules, Untracked: n%4 == 0})
	}
	third := func(c conntrack.Connection) bool { return c.Flow.SrcPort%3 == 0 }
	for _, want := range []int{2000 / 3, 0} {
		if n := tr.Cut(1, third); n != want {
			t.Errorf("the cut ended %d connections, want %d", n, want)
		}
	}
	for c := range tr.Connections(2) {
		if c.Cut != third(c) || c.Blocked != c.Cut {
			t.Fatalf("after the cut: %+v", c)
		}
	}
	if n := tr.Cut(3, all); n != 2000-2000/3 {
		t.Errorf("a cut of the others ended %d connections, want %d", n, 2000-2000/3)
	}
}

// A SYN that was on its way when the connection was cut does not open the next one: its answer is
// blocked.
func TestSYNBeforeACutOpensNoConnection(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	syn := segment(true, packet.SYN, 900_000, 0, 0)
	admit(z, syn, 0, conntrack.Admission{Rule: 8, Revision: rules})
	tr.Cut(1, all)
	answer := segment(false, packet.SYN|packet.ACK, 300_000, 900_001, 0)
	expect(t, z, answer, 2, rules, conntrack.Blocked)
	// The sender repeats it.
	admit(z, syn, 3, conntrack.Admission{Rule: 8, Revision: rules})
	expect(t, z, answer, 4, rules, conntrack.Live)
	expect(t, z, segment(true, packet.ACK, 900_001, 300_001, 0), time.Second, rules, conntrack.Live)
	// The new connection has nothing of the old one.
	expect(t, z, segment(true, packet.ACK, 1001, 5001, 1), time.Second, rules, conntrack.New)
	if c := only(t, tr, 5*time.Second); c.State != "established" || c.Packets != [2]uint32{1, 1} || c.Age != 5*time.Second || c.Rule != 8 {
		t.Errorf("the new connection is %+v, want an established one of rule 8 with a packet of each end", c)
	}
}

// A crash leaves a connection cut, before and after a SYN of the next one, and leaves the next one
// open once it is answered.
func TestNextConnectionAfterACutSurvivesACrash(t *testing.T) {
	c := inFile(t)
	tr := open(t, c)
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	data := pkt(6, 40000, 22, packet.ACK)
	after := func(what string, want conntrack.Status) {
		t.Helper()
		next, _ := crashed(t, c)
		defer closed(t, next)
		if got := observe(next.AddZone(1, conntrack.Timeouts{}), data, 5, newer).Status; got != want {
			t.Errorf("%s: a packet after the crash has status %v, want %v", what, got, want)
		}
	}
	tr.Cut(1, all)
	after("cut", conntrack.Blocked)
	admit(z, syn, 2, conntrack.Admission{Rule: 8, Revision: newer})
	after("SYN of the next", conntrack.Blocked)
	expect(t, z, back(syn, packet.SYN|packet.ACK), 3, newer, conntrack.Live)
	after("answered", conntrack.Live)
}
