package conntrack_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

var (
	alice = netip.MustParseAddr("10.10.0.4")
	bob   = netip.MustParseAddr("203.0.113.25")
	rules = conntrack.Revision{Generation: 5, Shrunk: 5}
)

func open(t testing.TB, c conntrack.Config) *conntrack.Tracker {
	t.Helper()
	tr, err := conntrack.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// pkt is a packet from bob to alice. bob's SYN has the sequence number 1000, alice's 5000; their
// other TCP segments are empty and follow it.
func pkt(protocol uint8, srcPort, dstPort uint16, flags uint8) *packet.Packet {
	return &packet.Packet{
		Flow:   packet.Flow{Src: bob, Dst: alice, SrcPort: srcPort, DstPort: dstPort, Protocol: protocol},
		TCPSeq: firstSeq(1000, flags), TCPAck: 5001,
		TCPFlags: flags, TCPWindow: 0xffff, Segments: 1, L3: 14, L4: 34, Payload: 74, Len: 74,
	}
}

func back(p *packet.Packet, flags uint8) *packet.Packet {
	r := *p
	r.Flow, r.TCPFlags = packettest.Reverse(p.Flow), flags
	r.TCPSeq, r.TCPAck = firstSeq(5000, flags), 1001
	return &r
}

func firstSeq(syn uint32, flags uint8) uint32 {
	if flags&packet.SYN == 0 {
		syn++
	}
	return syn
}

func echo(src, dst netip.Addr, id uint16, icmpType uint8) *packet.Packet {
	return &packet.Packet{Flow: packet.Flow{Src: src, Dst: dst, SrcPort: id, DstPort: id, Protocol: 1}, ICMPType: icmpType, Segments: 1, L3: 14, Len: 98}
}

// direction returns the direction in which a packet between bob and alice crosses alice's
// interface.
func direction(p *packet.Packet) conntrack.Direction {
	if p.Flow.Src == alice {
		return conntrack.Out
	}
	return conntrack.In
}

// observe, admit and rejudge identify a packet and call the zone, as the switch does.
func observe(z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision) conntrack.Answer {
	var u conntrack.Tuple
	z.Identify(&u, p)
	return z.Observe(p, &u, direction(p), now, r)
}

func admit(z *conntrack.Zone, p *packet.Packet, now time.Duration, a conntrack.Admission) verdict.Verdict {
	var u conntrack.Tuple
	z.Identify(&u, p)
	a.Direction = direction(p)
	return z.Admit(p, &u, now, a)
}

func rejudge(z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision, admitted bool, rule uint64) verdict.Verdict {
	var u conntrack.Tuple
	z.Identify(&u, p)
	return z.Rejudge(p, &u, direction(p), now, r, admitted, rule)
}

// expect observes p at now and returns the answer. It fails if the status is not want.
func expect(t *testing.T, z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision, want conntrack.Status) conntrack.Answer {
	t.Helper()
	a := observe(z, p, now, r)
	if a.Status != want {
		t.Fatalf("%v at %v: status %v, want %v\n%s", p, now, a.Status, want, z.Describe(now))
	}
	return a
}

// handshake opens a tracked connection from bob to alice and returns its SYN.
func handshake(t *testing.T, z *conntrack.Zone, srcPort uint16, now time.Duration) *packet.Packet {
	t.Helper()
	syn := pkt(6, srcPort, 22, packet.SYN)
	expect(t, z, syn, now, rules, conntrack.New)
	if v := admit(z, syn, now, conntrack.Admission{Rule: 7, Revision: rules}); v != verdict.Forward {
		t.Fatalf("Admit of a SYN returned %v, want %v", v, verdict.Forward)
	}
	expect(t, z, back(syn, packet.SYN|packet.ACK), now, rules, conntrack.Live)
	expect(t, z, pkt(6, srcPort, 22, packet.ACK), now, rules, conntrack.Live)
	return syn
}

// only returns the connection of a tracker, and fails unless there is exactly one.
func only(t *testing.T, tr *conntrack.Tracker, now time.Duration) conntrack.Connection {
	t.Helper()
	var all []conntrack.Connection
	for c := range tr.Connections(now) {
		all = append(all, c)
	}
	if len(all) != 1 {
		t.Fatalf("%d connections, want 1\n%s", len(all), tr.Describe(now))
	}
	return all[0]
}

func TestTrackedConnectionOutlivesItsRule(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	expect(t, z, pkt(6, 40000, 22, packet.ACK), time.Hour, gone, conntrack.Live)
	expect(t, z, back(syn, packet.ACK), time.Hour, gone, conntrack.Live)

	gone.Strict = true
	a := expect(t, z, pkt(6, 40000, 22, packet.ACK), time.Hour, gone, conntrack.Stale)
	if !a.Outside || a.Reply {
		t.Errorf("answer %v, want the original direction of a connection that the peer opened", a)
	}
}

func TestRevokedUntrackedConnectionIsCutBothWays(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	answer := back(pkt(6, 40000, 80, 0), packet.SYN|packet.ACK)
	admit(z, answer, 0, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true})
	data := pkt(6, 40000, 80, packet.ACK)
	expect(t, z, data, 1, rules, conntrack.Checked)

	added := conntrack.Revision{Generation: 8, Shrunk: 5}
	expect(t, z, data, 2, added, conntrack.Checked)

	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	a := expect(t, z, answer, 3, gone, conntrack.Stale)
	if !a.Outside || !a.Reply {
		t.Errorf("answer %v, want a reply of a connection that the peer opened", a)
	}
	if v := rejudge(z, answer, 3, gone, false, 0); v != verdict.Revoked {
		t.Errorf("Rejudge without a rule returned %v, want %v", v, verdict.Revoked)
	}
	// The connection stays blocked while packets come, here for ten minutes.
	for now := time.Second; now < 10*time.Minute; now += 10 * time.Second {
		expect(t, z, back(data, packet.ACK), now, gone, conntrack.Blocked)
		expect(t, z, data, now, gone, conntrack.Blocked)
	}
	// The rule is added again.
	again := conntrack.Revision{Generation: 10, Shrunk: 9}
	expect(t, z, data, 11*time.Minute, again, conntrack.Stale)
	if v := rejudge(z, data, 11*time.Minute, again, true, 8); v != verdict.Forward {
		t.Errorf("Rejudge with a rule returned %v, want %v", v, verdict.Forward)
	}
	expect(t, z, data, 11*time.Minute, again, conntrack.Checked)
}

func TestIdleConnectionsExpire(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name  string
		setUp func(t *testing.T, z *conntrack.Zone) *packet.Packet
		lives time.Duration
	}{
		{"TCP established", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			handshake(t, z, 1, 0)
			return pkt(6, 1, 22, packet.ACK)
		}, 432_000 * s},
		{"TCP half open", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			syn := pkt(6, 1, 22, packet.SYN)
			admit(z, syn, 0, conntrack.Admission{Revision: rules})
			return back(syn, packet.SYN|packet.ACK)
		}, 30 * s},
		{"TCP closing", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			handshake(t, z, 1, 0)
			expect(t, z, pkt(6, 1, 22, packet.FIN|packet.ACK), 0, rules, conntrack.Live)
			return pkt(6, 1, 22, packet.ACK)
		}, 120 * s},
		{"TCP closed by both ends", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			syn := handshake(t, z, 1, 0)
			expect(t, z, pkt(6, 1, 22, packet.FIN|packet.ACK), 0, rules, conntrack.Live)
			expect(t, z, back(syn, packet.FIN|packet.ACK), 0, rules, conntrack.Live)
			return pkt(6, 1, 22, packet.ACK)
		}, 60 * s},
		{"TCP reset", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			handshake(t, z, 1, 0)
			expect(t, z, pkt(6, 1, 22, packet.RST), 0, rules, conntrack.Live)
			return pkt(6, 1, 22, packet.ACK)
		}, 10 * s},
		{"UDP single", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			p := pkt(17, 1, 53, 0)
			admit(z, p, 0, conntrack.Admission{Revision: rules})
			expect(t, z, back(p, 0), 0, rules, conntrack.Live)
			return p
		}, 30 * s},
		{"UDP stream", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			p := pkt(17, 1, 53, 0)
			admit(z, p, 0, conntrack.Admission{Revision: rules})
			for range 2 {
				expect(t, z, back(p, 0), 0, rules, conntrack.Live)
				expect(t, z, p, 0, rules, conntrack.Live)
			}
			return p
		}, 180 * s},
		{"ICMP echo", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			admit(z, echo(bob, alice, 7, 8), 0, conntrack.Admission{Revision: rules})
			return echo(bob, alice, 7, 8)
		}, 30 * s},
		{"another protocol", func(t *testing.T, z *conntrack.Zone) *packet.Packet {
			admit(z, pkt(47, 0, 0, 0), 0, conntrack.Admission{Revision: rules})
			return pkt(47, 0, 0, 0)
		}, 600 * s},
	}
	for _, tt := range tests {
		for _, at := range []struct {
			now  time.Duration
			want conntrack.Status
		}{{tt.lives - 1, conntrack.Live}, {tt.lives, conntrack.New}} {
			z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
			p := tt.setUp(t, z)
			if got := observe(z, p, at.now, rules).Status; got != at.want {
				t.Errorf("%s after %v: status %v, want %v", tt.name, at.now, got, at.want)
			}
		}
	}
}

func TestZonesShareNoConnections(t *testing.T) {
	tr := open(t, conntrack.Config{})
	one, two := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	handshake(t, one, 40000, 0)
	expect(t, two, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.New)
	tr.RemoveZone(one)
	if u := tr.Usage(); u.Tracked != 0 {
		t.Errorf("usage after RemoveZone: %+v, want 0 tracked connections", u)
	}
}

// TestTrackerMatchesAMapModel compares a small tracker under random traffic with a map of deadlines.
func TestTrackerMatchesAMapModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tr := open(t, conntrack.Config{})
	var zones [3]*conntrack.Zone
	for i := range zones {
		zones[i] = tr.AddZone(uint64(i+1), conntrack.Timeouts{})
	}
	type id struct {
		zone int
		port uint16
	}
	deadlines := map[id]time.Duration{}
	var now time.Duration
	for step := range 50_000 {
		now += time.Duration(r.IntN(200)) * time.Millisecond
		k := id{r.IntN(3), uint16(r.IntN(200) + 1)}
		p := pkt(47, 0, 0, 0)
		p.Flow.Src = netip.AddrFrom4([4]byte{192, 0, 2, byte(k.port)})
		want := conntrack.New
		if now < deadlines[k] {
			want = conntrack.Live
		}
		if r.IntN(2) == 0 {
			p = back(p, 0)
		}
		if got := observe(zones[k.zone], p, now, rules).Status; got != want {
			t.Fatalf("step %d, %v at %v: status %v, want %v\n%s", step, k, now, got, want, zones[k.zone].Describe(now))
		}
		if want == conntrack.New {
			admit(zones[k.zone], p, now, conntrack.Admission{Revision: rules})
		}
		deadlines[k] = now + 600*time.Second
		if step%1000 == 0 {
			tr.Sweep(now)
		}
		if r.IntN(5000) == 0 {
			now += 700 * time.Second
		}
	}
}

func TestNoAllocs(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	port := uint16(0)
	if n := testing.AllocsPerRun(1000, func() {
		port++
		p := packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, SrcPort: port, DstPort: 53, Protocol: 17}, Segments: 1}
		observe(z, &p, 0, rules)
		admit(z, &p, 0, conntrack.Admission{Revision: rules})
		observe(z, &p, 0, rules)
		z.Related(&p, conntrack.In, 0, rules)
		z.Fragment(&p, conntrack.In, 0)
	}); n != 0 {
		t.Errorf("%v allocations for each packet, want 0", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, flows := range []int{1, 50_000, 200_000} {
		b.Run(fmt.Sprint("flows=", flows), func(b *testing.B) {
			z := open(b, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
			all := make([]*packet.Packet, flows)
			for i := range all {
				all[i] = pkt(17, uint16(i), uint16(i>>16), 0)
				admit(z, all[i], 0, conntrack.Admission{Revision: rules})
			}
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			i := 0
			for b.Loop() {
				observe(z, all[i%len(all)], 1, rules)
				i++
			}
		})
	}
}

// Packets and bytes are counted for each direction. A joined packet counts as the segments that it was
// made of; bytes are those of its one IP header and what follows.
func TestPacketsAndBytesAreCounted(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	const header = 60 // of an IP packet of these tests without data
	counts := func(what string, packets [2]uint32, bytes [2]uint64) {
		t.Helper()
		if c := only(t, tr, 0); c.Packets != packets || c.Bytes != bytes {
			t.Errorf("%s: %d packets and %d bytes, want %d and %d", what, c.Packets, c.Bytes, packets, bytes)
		}
	}
	handshake(t, z, 40000, 0)
	counts("a handshake", [2]uint32{2, 1}, [2]uint64{2 * header, header})
	joined := segment(true, packet.ACK, 1001, 5001, 4000)
	joined.Segments = 4
	expect(t, z, joined, 0, rules, conntrack.Live)
	expect(t, z, segment(false, packet.ACK, 5001, 5001, 10), 0, rules, conntrack.Live)
	counts("a joined packet and its answer", [2]uint32{6, 2}, [2]uint64{3*header + 4000, 2*header + 10})
	expect(t, z, segment(true, packet.ACK|packet.FIN, 5001, 5011, 20), 0, rules, conntrack.Live)
	counts("a FIN", [2]uint32{7, 2}, [2]uint64{4*header + 4020, 2*header + 10})
	tr.RemoveZone(z)

	z = tr.AddZone(2, conntrack.Timeouts{})
	p := pkt(17, 1000, 53, 0)
	p.Len = p.L3 + 1<<24
	admit(z, p, 0, conntrack.Admission{Revision: rules, Untracked: true})
	for range 299 {
		expect(t, z, p, 0, rules, conntrack.Checked)
	}
	counts("more than four GiB", [2]uint32{300, 0}, [2]uint64{300 << 24, 0})
}
