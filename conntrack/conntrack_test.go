package conntrack_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
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

// pkt is a packet from bob to alice unless reversed.
func pkt(protocol uint8, srcPort, dstPort uint16, flags uint8) *packet.Packet {
	return &packet.Packet{
		Flow:     packet.Flow{Src: bob, Dst: alice, SrcPort: srcPort, DstPort: dstPort, Protocol: protocol},
		TCPFlags: flags, Segments: 1, L3: 14, Len: 74,
	}
}

func back(p *packet.Packet, flags uint8) *packet.Packet {
	r := *p
	r.Flow, r.TCPFlags = packettest.Reverse(p.Flow), flags
	return &r
}

func echo(src, dst netip.Addr, id uint16, icmpType uint8) *packet.Packet {
	return &packet.Packet{Flow: packet.Flow{Src: src, Dst: dst, SrcPort: id, DstPort: id, Protocol: 1}, ICMPType: icmpType, Segments: 1, L3: 14, Len: 98}
}

// observe, admit and rejudge ask a zone as the switch does.

func observe(z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision) conntrack.Answer {
	var u conntrack.Tuple
	z.Identify(&u, p)
	return z.Observe(p, &u, now, r)
}

func admit(z *conntrack.Zone, p *packet.Packet, now time.Duration, a conntrack.Admission) verdict.Verdict {
	var u conntrack.Tuple
	z.Identify(&u, p)
	return z.Admit(p, &u, now, a)
}

func rejudge(z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision, admitted bool, rule uint64) verdict.Verdict {
	var u conntrack.Tuple
	z.Identify(&u, p)
	return z.Rejudge(p, &u, now, r, admitted, rule)
}

// expect observes p at now and compares the status.
func expect(t *testing.T, z *conntrack.Zone, p *packet.Packet, now time.Duration, r conntrack.Revision, want conntrack.Status) conntrack.Answer {
	t.Helper()
	a := observe(z, p, now, r)
	if a.Status != want {
		t.Fatalf("%v at %v: status %d, want %d", p.Flow, now, a.Status, want)
	}
	return a
}

// handshake opens a tracked connection from bob to alice and returns its SYN.
func handshake(t *testing.T, z *conntrack.Zone, srcPort uint16, now time.Duration) *packet.Packet {
	t.Helper()
	syn := pkt(6, srcPort, 22, packet.SYN)
	expect(t, z, syn, now, rules, conntrack.New)
	if v := admit(z, syn, now, conntrack.Admission{Direction: conntrack.In, Rule: 7, Revision: rules}); v != verdict.Forward {
		t.Fatalf("Admit = %v", v)
	}
	expect(t, z, back(syn, packet.SYN|packet.ACK), now, rules, conntrack.Live)
	expect(t, z, pkt(6, srcPort, 22, packet.ACK), now, rules, conntrack.Live)
	return syn
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
		t.Errorf("answer %+v, want from outside, original", a)
	}
}

func TestRevokedUntrackedConnectionIsCutBothWays(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	answer := back(pkt(6, 40000, 80, 0), packet.SYN|packet.ACK)
	admit(z, answer, 0, conntrack.Admission{Direction: conntrack.Out, Rule: 7, Revision: rules, Untracked: true, Reversed: true})
	data := pkt(6, 40000, 80, packet.ACK)
	expect(t, z, data, 1, rules, conntrack.Checked)

	added := conntrack.Revision{Generation: 8, Shrunk: 5}
	expect(t, z, data, 2, added, conntrack.Checked)

	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	a := expect(t, z, answer, 3, gone, conntrack.Stale)
	if !a.Outside || !a.Reply {
		t.Errorf("answer %+v, want from outside, reply", a)
	}
	if v := rejudge(z, answer, 3, gone, false, 0); v != verdict.Revoked {
		t.Errorf("Rejudge = %v", v)
	}
	// The server keeps talking for ten minutes; nothing brings the entry back.
	for now := time.Second; now < 10*time.Minute; now += 10 * time.Second {
		expect(t, z, back(data, packet.ACK), now, gone, conntrack.Blocked)
		expect(t, z, data, now, gone, conntrack.Blocked)
	}
	// The rule comes back.
	again := conntrack.Revision{Generation: 10, Shrunk: 9}
	expect(t, z, data, 11*time.Minute, again, conntrack.Stale)
	if v := rejudge(z, data, 11*time.Minute, again, true, 8); v != verdict.Forward {
		t.Errorf("Rejudge = %v", v)
	}
	expect(t, z, data, 11*time.Minute, again, conntrack.Checked)
}

func TestIdleTimeouts(t *testing.T) {
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
				t.Errorf("%s after %v: status %d, want %d", tt.name, at.now, got, at.want)
			}
		}
	}
}

func TestNewConnectionInheritsNothing(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	// The server may not call back over the same tuple, nor the client call again.
	expect(t, z, back(syn, packet.SYN), 0, rules, conntrack.New)
	expect(t, z, syn, 0, rules, conntrack.New)
	// What the rules admit of that does the connection no harm.
	admit(z, syn, 0, conntrack.Admission{Direction: conntrack.In, Rule: 7, Revision: rules})
	expect(t, z, pkt(6, 40000, 22, packet.ACK), time.Hour, rules, conntrack.Live)
	// After both FINs the same tuple is a new connection, judged by the rules.
	expect(t, z, pkt(6, 40000, 22, packet.FIN|packet.ACK), time.Hour, rules, conntrack.Live)
	expect(t, z, back(syn, packet.FIN|packet.ACK), time.Hour, rules, conntrack.Live)
	expect(t, z, syn, time.Hour+1, rules, conntrack.New)
}

func TestPingMayBeAnsweredNotReturned(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	admit(z, echo(bob, alice, 8, 8), 0, conntrack.Admission{Revision: rules})
	expect(t, z, echo(alice, bob, 8, 0), 0, rules, conntrack.Live)
	expect(t, z, echo(alice, bob, 8, 8), 0, rules, conntrack.New) // alice's own ping
	expect(t, z, echo(bob, alice, 8, 0), 0, rules, conntrack.New) // an answer to nothing
	expect(t, z, echo(alice, bob, 9, 0), 0, rules, conntrack.New)
}

func TestZonesAreApart(t *testing.T) {
	tr := open(t, conntrack.Config{})
	one, two := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	handshake(t, one, 40000, 0)
	expect(t, two, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.New)
	tr.RemoveZone(one)
	if u := tr.Usage(); u.Tracked != 0 {
		t.Errorf("usage after RemoveZone: %+v", u)
	}
}

func TestICMPErrorNeedsItsConnection(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	about := func(quoted packet.Flow, to netip.Addr, icmpType uint8) *packet.Packet {
		return &packet.Packet{Flow: packet.Flow{Src: bob, Dst: to, Protocol: 1}, ICMPType: icmpType, IsICMPError: true, HasQuoted: true, Quoted: quoted}
	}
	sent := packettest.Reverse(syn.Flow) // what alice sent
	other := sent
	other.DstPort++
	tests := []struct {
		name string
		p    *packet.Packet
		want bool
	}{
		{"unreachable about its own packet", about(sent, alice, 3), true},
		{"time exceeded", about(sent, alice, 11), true},
		{"redirect", about(sent, alice, 5), false},
		{"another port", about(other, alice, 3), false},
		{"quoting what alice did not send", about(syn.Flow, alice, 3), false},
	}
	for _, tt := range tests {
		if got := z.Related(tt.p, 0); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestFullTableKeepsTheEstablished(t *testing.T) {
	// Room is looked for in one shard only, so the table must not be too small: by chance a
	// shard of ten has nothing that may go.
	tr := open(t, conntrack.Config{Capacity: 6400, Untracked: 64, Reserve: 640})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	handshake(t, greedy, 40000, 0)
	full := 0
	for port := range 50_000 {
		if admit(greedy, pkt(6, uint16(port), 22, packet.SYN), 0, conntrack.Admission{Revision: rules}) == verdict.TableFull {
			full++
		}
	}
	expect(t, greedy, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
	if u := tr.Usage(); u.Tracked > 6400 {
		t.Errorf("%d connections, capacity 6400", u.Tracked)
	}
	for port := range 640 {
		if v := admit(modest, pkt(17, uint16(port), 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Errorf("reserved connection %d: %v", port, v)
		}
	}

	// Beyond its reserve too a zone gets what another holds only half open beyond its own.
	for port := range 2000 {
		p := pkt(17, uint16(port), 54, 0)
		if v := admit(modest, p, 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d beyond the reserve, beside a flood: %v", port, v)
		}
		observe(modest, back(p, 0), 0, rules)
	}
	expect(t, greedy, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)

	// Established connections fill the surplus; then new ones are refused.
	tr = open(t, conntrack.Config{Capacity: 6400, Untracked: 64, Reserve: 640})
	greedy = tr.AddZone(1, conntrack.Timeouts{})
	for port := range 9000 {
		p := pkt(6, uint16(port), 22, packet.SYN)
		if v := admit(greedy, p, 0, conntrack.Admission{Revision: rules}); v == verdict.TableFull {
			full++
			continue
		}
		observe(greedy, back(p, packet.SYN|packet.ACK), 0, rules)
		observe(greedy, pkt(6, uint16(port), 22, packet.ACK), 0, rules)
	}
	if full < 2500 {
		t.Errorf("%d of 9000 refused at a capacity of 6400", full)
	}
	expect(t, greedy, pkt(6, 0, 22, packet.ACK), 0, rules, conntrack.Live)
}

func TestConnectionsSurviveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arena")
	tr := open(t, conntrack.Config{Path: path})
	kept, dropped := tr.AddZone(11, conntrack.Timeouts{}), tr.AddZone(12, conntrack.Timeouts{})
	handshake(t, kept, 40000, 0)
	handshake(t, kept, 40001, 0)
	handshake(t, dropped, 40000, 0)
	if _, err := conntrack.Open(conntrack.Config{Path: path}); err == nil {
		t.Fatal("two processes share one file")
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}

	// One byte of one entry is torn.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i += 128 {
		if b[i+4] == 11 && b[i+40] == 0x41 && b[i+41] == 0x9c { // zone 11, port 40001
			b[i+8+15]++
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}

	tr = open(t, conntrack.Config{Path: path})
	kept = tr.AddZone(11, conntrack.Timeouts{})
	expect(t, kept, pkt(6, 40000, 22, packet.ACK), time.Minute, rules, conntrack.Live)
	expect(t, kept, pkt(6, 40001, 22, packet.ACK), time.Minute, rules, conntrack.New)
	if n := tr.PurgeUnknown(); n != 1 {
		t.Errorf("PurgeUnknown = %d, want 1", n)
	}
	if u := tr.Usage(); u.Tracked != 1 {
		t.Errorf("usage %+v, want 1 tracked", u)
	}
}

// TestAdoptedConnectionsThatIdledOutCountForNobody: they ended while no process ran.
func TestAdoptedConnectionsThatIdledOutCountForNobody(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(t.TempDir(), "arena"), Capacity: 640, Untracked: 64, Reserve: 64}
	fill := func(z *conntrack.Zone, now time.Duration) (taken int) {
		for port := range 500 {
			p := pkt(17, uint16(port), 53, 0)
			if admit(z, p, now, conntrack.Admission{Revision: rules}) == verdict.Forward {
				observe(z, back(p, 0), now, rules)
				taken++
			}
		}
		return taken
	}
	tr := open(t, c)
	want := fill(tr.AddZone(1, conntrack.Timeouts{}), 0)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr = open(t, c)
	tr.Sweep(time.Hour)
	z := tr.AddZone(1, conntrack.Timeouts{})
	tr.PurgeUnknown()
	tr.Sweep(time.Hour)
	if got := fill(z, time.Hour); got != want {
		t.Errorf("%d connections after the restart, want %d", got, want)
	}
}

func TestFragmentsFollowTheirFirst(t *testing.T) {
	frag := func(id uint16, from, to int, more bool) *packet.Packet {
		return &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0,
			FragID: id, FragOffset: from, FragLen: to - from, MoreFollow: more}
	}
	type step struct {
		p    *packet.Packet
		want verdict.Verdict
	}
	tests := map[string][]step{
		"in order":     {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 128, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}},
		"out of order": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}, {frag(1, 64, 128, true), verdict.Forward}},
		"no first":     {{frag(1, 64, 128, true), verdict.OrphanFragment}},
		"another id":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(2, 64, 128, true), verdict.OrphanFragment}},
		"overlap":      {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 56, 120, true), verdict.OverlapFrag}, {frag(1, 120, 128, false), verdict.OverlapFrag}},
		"same twice":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 0, 64, true), verdict.OverlapFrag}},
		"two ends":     {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}, {frag(1, 64, 120, false), verdict.OverlapFrag}},
		"past the end": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 72, 80, false), verdict.Forward}, {frag(1, 80, 88, true), verdict.OverlapFrag}},
		"end before":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 136, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.OverlapFrag}},
		"after whole":  {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward}, {frag(1, 64, 72, false), verdict.OrphanFragment}},
		"id again": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward},
			{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward}},
	}
	for name, steps := range tests {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		for i, s := range steps {
			got := z.Fragment
			if s.p.HasL4 {
				got = z.AdmitFragment
			}
			if v := got(s.p, conntrack.In, 0); v != s.want {
				t.Errorf("%s, step %d: %v, want %v", name, i, v, s.want)
			}
		}
	}
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	for id := range 5000 {
		z.AdmitFragment(frag(uint16(id), 0, 64, true), conntrack.In, 0)
	}
	if v := z.AdmitFragment(frag(6000, 0, 64, true), conntrack.In, 0); v != verdict.FragmentsFull {
		t.Errorf("beyond the zone's room: %v, want %v", v, verdict.FragmentsFull)
	}
	// A flood of first fragments takes nobody else's room, and whole datagrams take none.
	for id := range 200_000 {
		first, last := frag(uint16(id), 0, 64, true), frag(uint16(id), 64, 72, false)
		if v, w := other.AdmitFragment(first, conntrack.In, 0), other.Fragment(last, conntrack.In, 0); v != verdict.Forward || w != verdict.Forward {
			t.Fatalf("datagram %d beside a flood: %v, %v", id, v, w)
		}
	}
	tr.Sweep(time.Minute)
	if v := z.AdmitFragment(frag(6000, 0, 64, true), conntrack.In, time.Minute); v != verdict.Forward {
		t.Errorf("after the flood: %v", v)
	}
}

// TestEqualsMap compares a small tracker under random traffic with a map of deadlines.
func TestEqualsMap(t *testing.T) {
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
			t.Fatalf("step %d, %v at %v: status %d, want %d", step, k, now, got, want)
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

// TestSeekMayBeAskedAtAnyTime: of what is there, what is not, and what another goroutine is
// changing, without a lock and without an effect.
func TestSeekMayBeAskedAtAnyTime(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	p := pkt(17, 1000, 53, 0)
	var u conntrack.Tuple
	z.IdentifyFlow(&u, p.Flow)
	nowhere := z.Seek(&u)
	nowhere.Fetch()
	if nowhere != (conntrack.Place{}) {
		t.Error("a connection that is not there has a place")
	}
	admit(z, p, 0, conntrack.Admission{Revision: rules})
	place := z.Seek(&u)
	if place == nowhere {
		t.Error("a connection that is there has no place")
	}
	answer := u
	z.IdentifyFlow(&answer, back(p, 0).Flow)
	if z.Seek(&answer) != place {
		t.Error("its answers are looked for elsewhere")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for port := range uint16(5000) {
			admit(z, pkt(17, port+2000, 53, 0), 0, conntrack.Admission{Revision: rules})
		}
	}()
	var other conntrack.Tuple
	for i := 0; ; i++ {
		z.IdentifyFlow(&other, pkt(17, uint16(2000+i%5000), 53, 0).Flow)
		z.Seek(&other).Fetch()
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestATupleFollowsItsPacket(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	p := pkt(17, 1000, 53, 0)
	var u conntrack.Tuple
	status := func() conntrack.Status {
		z.Identify(&u, p)
		return z.Observe(p, &u, 0, rules).Status
	}
	status()
	z.Admit(p, &u, 0, conntrack.Admission{Revision: rules})
	if got := status(); got != conntrack.Live {
		t.Fatalf("the connection that was admitted: status %d, want %d", got, conntrack.Live)
	}
	own := p.Flow.Src
	p.Flow.Src = netip.MustParseAddr("198.18.0.1") // as NAT does on the way
	if got := status(); got != conntrack.New {
		t.Errorf("with its source rewritten: status %d, want %d", got, conntrack.New)
	}
	p.Flow.Src = own
	if got := status(); got != conntrack.Live {
		t.Errorf("with its own source again: status %d, want %d", got, conntrack.Live)
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
		z.Related(&p, 0)
		z.Fragment(&p, conntrack.In, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
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
