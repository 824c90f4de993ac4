package conntrack_test

import (
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

// The tests of this file are mirrors of others: the other end, the other direction, the
// neighbour on the other side, every field instead of one.

// one returns the only connection of a tracker.
func one(t *testing.T, tr *conntrack.Tracker, now time.Duration) conntrack.Connection {
	t.Helper()
	var all []conntrack.Connection
	for c := range tr.Connections(now) {
		all = append(all, c)
	}
	if len(all) != 1 {
		t.Fatalf("%d connections, want 1: %+v", len(all), all)
	}
	return all[0]
}

// TestAddressIsForgottenAtEitherEnd: a next owner inherits neither what the last one
// opened nor what others had opened to it, nor a datagram under way in either direction.
func TestAddressIsForgottenAtEitherEnd(t *testing.T) {
	for _, gone := range []netip.Addr{bob, alice} { // who opened the connection, and who answered
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		syn := handshake(t, z, 40000, 0)
		frag := func(from, to int, d conntrack.Direction) verdict.Verdict {
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0, FragID: 7, FragOffset: from, FragLen: to - from, MoreFollow: true}
			if d == conntrack.Out {
				p.Flow = packettest.Reverse(p.Flow)
			}
			if p.HasL4 {
				return z.AdmitFragment(p, d, 0)
			}
			return z.Fragment(p, d, 0)
		}
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if v, w := frag(0, 64, d), frag(64, 128, d); v.Drops() || w.Drops() {
				t.Fatal(v, w)
			}
		}
		if n := tr.Forget([]*conntrack.Zone{z}, func(a netip.Addr) bool { return a == gone }); n != 1 {
			t.Errorf("%s is gone: %d connections forgotten, want 1", gone, n)
		}
		for _, p := range []*packet.Packet{pkt(6, 40000, 22, packet.ACK), back(syn, packet.ACK)} {
			if got := observe(z, p, 0, rules).Status; got != conntrack.New {
				t.Errorf("%s is gone: %v has status %d, want %d", gone, p.Flow, got, conntrack.New)
			}
		}
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if v := frag(128, 192, d); v != verdict.OrphanFragment {
				t.Errorf("%s is gone: a later fragment in direction %d: %v", gone, d, v)
			}
		}
	}
}

// TestFragmentsEqualABitmap compares with the plainest model: eighths that are there, and
// a datagram that is lost as soon as one comes twice, there are too many gaps, or fragments
// disagree about the end.
func TestFragmentsEqualABitmap(t *testing.T) {
	const units, gaps = 24, 4
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	whole, lost := 0, 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 11))
		// The first fragment comes first, or the rest are orphans. The others are a cut of
		// the datagram in random order, in half of the runs with one that does not belong.
		var there [units]bool
		end, dead := 0, false
		type part struct {
			from, to int
			more     bool
		}
		var parts []part
		for at := 1 + r.IntN(4); at < units; {
			to := min(units, at+1+r.IntN(6))
			parts = append(parts, part{at, to, to < units})
			at = to
		}
		first := part{0, parts[0].from, true}
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		if r.IntN(2) == 0 {
			from := r.IntN(units)
			parts = append(parts[:len(parts)/2:len(parts)/2], append([]part{{from, from + 1 + r.IntN(units-from), r.IntN(4) > 0}}, parts[len(parts)/2:]...)...)
		}
		done := false
		for i, f := range append([]part{first}, parts...) {
			if done {
				break // the next one is of another datagram
			}
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: f.from == 0,
				FragID: uint16(seed), FragOffset: f.from * 8, FragLen: (f.to - f.from) * 8, MoreFollow: f.more}
			last, runs := 0, 0
			for u := range units {
				if there[u] {
					last = u + 1
				}
				dead = dead || there[u] && f.from <= u && u < f.to
			}
			switch {
			case f.more:
				dead = dead || end != 0 && f.to > end
			case end != 0 || last > f.to:
				dead = true
			default:
				end = f.to
			}
			for u := f.from; u < f.to; u++ {
				there[u] = true
			}
			for u := range units {
				if there[u] && (u == 0 || !there[u-1]) {
					runs++
				}
			}
			dead = dead || runs > gaps
			want := verdict.Forward
			if dead {
				want = verdict.OverlapFrag
			}
			ask := z.Fragment
			if p.HasL4 {
				ask = z.AdmitFragment
			}
			if got := ask(p, conntrack.In, time.Duration(seed)*time.Minute); got != want {
				t.Fatalf("seed %d, part %d %+v: %v, want %v; %+v %+v", seed, i, f, got, want, first, parts)
			}
			done = !dead && runs == 1 && end != 0 && there[end-1] && end == max(last, f.to)
		}
		if dead {
			lost++
		} else {
			whole++
		}
		if seed%1000 == 999 {
			tr.Sweep(time.Duration(seed) * time.Minute)
		}
	}
	if whole < 1000 || lost < 1000 {
		t.Errorf("%d whole, %d lost: too few of one kind", whole, lost)
	}
}

// TestFragmentOverlapsNeitherNeighbour: whichever of its neighbours a fragment touches, it
// must not reach into the other one.
func TestFragmentOverlapsNeitherNeighbour(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	for i, tt := range []struct {
		from, to int // beside 0-64 and 128-192
		want     verdict.Verdict
	}{
		{64, 128, verdict.Forward}, {64, 120, verdict.Forward}, {72, 128, verdict.Forward}, {72, 120, verdict.Forward},
		{64, 136, verdict.OverlapFrag}, {64, 192, verdict.OverlapFrag}, {64, 200, verdict.OverlapFrag},
		{56, 128, verdict.OverlapFrag}, {8, 128, verdict.OverlapFrag},
		{72, 136, verdict.OverlapFrag}, {72, 200, verdict.OverlapFrag}, {56, 120, verdict.OverlapFrag},
		{136, 144, verdict.OverlapFrag}, {184, 200, verdict.OverlapFrag}, {192, 200, verdict.Forward}, {200, 208, verdict.Forward},
	} {
		frag := func(from, to int) verdict.Verdict {
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0, FragID: uint16(i), FragOffset: from, FragLen: to - from, MoreFollow: true}
			if p.HasL4 {
				return z.AdmitFragment(p, conntrack.In, 0)
			}
			return z.Fragment(p, conntrack.In, 0)
		}
		if v, w := frag(0, 64), frag(128, 192); v.Drops() || w.Drops() {
			t.Fatal(v, w)
		}
		if got := frag(tt.from, tt.to); got != tt.want {
			t.Errorf("%d-%d: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// TestSYNOfTheOtherEndIsANewConnection: one that the rules admit takes nothing over from
// the connection whose ports it has, be that tracked, untracked or cut, and a rule that is
// still there for one is not there for the other.
func TestSYNOfTheOtherEndIsANewConnection(t *testing.T) {
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	for name, old := range map[string]func(t *testing.T, z *conntrack.Zone){
		"tracked": func(t *testing.T, z *conntrack.Zone) { handshake(t, z, 40000, 0) },
		"untracked": func(t *testing.T, z *conntrack.Zone) {
			admit(z, back(pkt(6, 40000, 22, 0), packet.SYN|packet.ACK), 0, conntrack.Admission{Direction: conntrack.Out, Rule: 7, Revision: rules, Untracked: true, Reversed: true})
		},
		"cut": func(t *testing.T, z *conntrack.Zone) {
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
			was := one(t, tr, 0)
			syn := back(pkt(6, 40000, 22, 0), packet.SYN)
			expect(t, z, syn, 1, gone, conntrack.New)
			if v := admit(z, syn, 1, conntrack.Admission{Direction: conntrack.Out, Rule: 8, Revision: gone}); v != verdict.Forward {
				t.Fatal(v)
			}
			now := one(t, tr, 1)
			want := conntrack.Connection{Epoch: 1, Flow: packettest.Reverse(was.Flow), Tracked: true, State: "syn-sent", Rule: 8, Revision: 9}
			now.Age, now.Expires, now.Packets, now.Bytes = 0, 0, [2]uint32{}, [2]uint64{}
			if now != want {
				t.Errorf("it is %+v, want %+v", now, want)
			}
		})
	}
}

// TestNoTornFieldIsAdopted: a process may die between any two writes of an entry. Whatever
// field a decision is made by, an entry with another byte in it is not adopted.
func TestNoTornFieldIsAdopted(t *testing.T) {
	const header, size, covered = 4096, 128, 72 // bytes; what follows is harmless when torn
	c := conntrack.Config{Path: filepath.Join(t.TempDir(), "arena"), Capacity: 64, Untracked: 64, Reserve: 1}
	tr := open(t, c)
	handshake(t, tr.AddZone(11, conntrack.Timeouts{}), 40000, 0)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for i := header; i < len(sound); i += size {
		if sound[i+4] == 11 {
			at = i
		}
	}
	if at == 0 {
		t.Fatal("the connection is not in the file")
	}
	adopted := func(change func(b []byte)) int {
		b := append([]byte(nil), sound...)
		change(b[at : at+size])
		if err := os.WriteFile(c.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tr := open(t, c)
		defer tr.Close()
		return tr.Usage().Tracked
	}
	if n := adopted(func([]byte) {}); n != 1 {
		t.Fatalf("of a sound file %d connections are adopted", n)
	}
	for offset := range covered {
		if offset == 46 || offset == 47 {
			continue // no field
		}
		for _, bits := range []byte{0x01, 0x80} {
			if offset == 0 && bits == 1 {
				continue // always set in a checksum, so that none is zero
			}
			if n := adopted(func(b []byte) { b[offset] ^= bits }); n != 0 {
				t.Errorf("with byte %d of the entry torn (bits %02x) it is adopted", offset, bits)
			}
		}
	}
}

// TestUnaskedAnswerReusesNoTuple: what asks next is often of the same flow as what
// asked before, and the flow of an echo reply, or of a timestamp, is that of the ping before.
func TestUnaskedAnswerReusesNoTuple(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	var u conntrack.Tuple
	status := func(p *packet.Packet) conntrack.Status {
		z.Identify(&u, p)
		return z.Observe(p, &u, 0, rules).Status
	}
	ping := echo(bob, alice, 7, packet.ICMPEcho)
	status(ping)
	if v := z.Admit(ping, &u, 0, conntrack.Admission{Direction: conntrack.In, Revision: rules}); v.Drops() {
		t.Fatal(v)
	}
	for _, tt := range []struct {
		src, dst netip.Addr
		icmpType uint8
		want     conntrack.Status
	}{
		{bob, alice, packet.ICMPEcho, conntrack.Live},
		{bob, alice, packet.ICMPEchoReply, conntrack.New},
		{bob, alice, packet.ICMPTimestamp, conntrack.New},
		{bob, alice, packet.ICMPTimestampReply, conntrack.New},
		{alice, bob, packet.ICMPEchoReply, conntrack.Live},
		{alice, bob, packet.ICMPEcho, conntrack.New},
		{alice, bob, packet.ICMPTimestampReply, conntrack.New},
		{alice, bob, packet.ICMPTimestamp, conntrack.New},
	} {
		status(echo(tt.src, tt.dst, 7, packet.ICMPEcho)) // whose flow the next one has
		if got := status(echo(tt.src, tt.dst, 7, tt.icmpType)); got != tt.want {
			t.Errorf("type %d from %s: status %d, want %d", tt.icmpType, tt.src, got, tt.want)
		}
	}
}

// crowded is a tracker of which a chain holds every hundredth flow, so that within a thousand
// flows each comparison decides, and not the hash alone.
func crowded(t *testing.T) *conntrack.Tracker {
	return open(t, conntrack.Config{Capacity: 64, Untracked: 64, Reserve: 1})
}

// TestAnswerIsOfItsOwnConnection: what differs from an answer by one field is not an answer, at a
// client as at a server.
func TestAnswerIsOfItsOwnConnection(t *testing.T) {
	third := netip.MustParseAddr("192.0.2.1")
	changes := map[string]func(f *packet.Flow){
		"protocol":            func(f *packet.Flow) { f.Protocol ^= packet.ProtocolTCP ^ packet.ProtocolUDP },
		"source port":         func(f *packet.Flow) { f.SrcPort++ },
		"destination port":    func(f *packet.Flow) { f.DstPort++ },
		"pair of ports":       func(f *packet.Flow) { f.SrcPort, f.DstPort = f.DstPort, f.SrcPort },
		"source address":      func(f *packet.Flow) { f.Src = third },
		"destination address": func(f *packet.Flow) { f.Dst = third },
	}
	tr := crowded(t)
	for n := range uint16(2000) {
		protocol, d := uint8(packet.ProtocolTCP), conntrack.Direction(n>>1&1)
		if n&1 == 1 {
			protocol = packet.ProtocolUDP
		}
		z := tr.AddZone(uint64(n+1), conntrack.Timeouts{})
		asks := pkt(protocol, 40000+n, 22, packet.SYN)
		if d == conntrack.Out {
			asks.Flow.Src, asks.Flow.Dst = alice, bob
		}
		admit(z, asks, 0, conntrack.Admission{Direction: d, Revision: rules})
		answer := back(asks, packet.SYN|packet.ACK)
		expect(t, z, answer, 0, rules, conntrack.Live)
		for name, change := range changes {
			for _, sound := range []*packet.Packet{answer, asks} {
				p := *sound
				p.TCPFlags = packet.ACK
				change(&p.Flow)
				if got := observe(z, &p, 0, rules).Status; got != conntrack.New {
					t.Fatalf("direction %d: another %s: %v has status %d, want %d", d, name, p.Flow, got, conntrack.New)
				}
			}
		}
		tr.RemoveZone(z)
	}
}

// TestEqualFlowsOfTwoInterfacesNeverMeet: what one has admitted is nothing to the other.
func TestEqualFlowsOfTwoInterfacesNeverMeet(t *testing.T) {
	tr := crowded(t)
	for n := range uint64(2000) {
		one, two := tr.AddZone(2*n+1, conntrack.Timeouts{}), tr.AddZone(2*n+2, conntrack.Timeouts{})
		syn := pkt(6, 40000, 22, packet.SYN)
		admit(one, syn, 0, conntrack.Admission{Direction: conntrack.In, Revision: rules})
		expect(t, one, back(syn, packet.SYN|packet.ACK), 0, rules, conntrack.Live)
		expect(t, two, back(syn, packet.SYN|packet.ACK), 0, rules, conntrack.New)
		expect(t, two, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.New)
		tr.RemoveZone(one)
		tr.RemoveZone(two)
	}
}

// TestReserveIsThereBesideTheEstablished: one interface may fill all but the shares of others
// with connections that nothing may evict, and theirs are there when they come.
func TestReserveIsThereBesideTheEstablished(t *testing.T) {
	const share = 4096
	tr := open(t, conntrack.Config{Capacity: 16 * share, Untracked: 64, Reserve: share})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	taken := 0
	for n := range 20 * share {
		p := pkt(17, uint16(n), uint16(n>>16), 0)
		if admit(greedy, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
			observe(greedy, back(p, 0), 0, rules)
			taken++
		}
	}
	if taken < 14*share || taken > 15*share {
		t.Errorf("one interface has %d connections, want the capacity less the share of the other, %d", taken, 15*share)
	}
	for port := range uint16(share) {
		if v := admit(modest, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d of a share of %d: %v", port, share, v)
		}
	}
}

// TestNewConnectionBehindTheLastOneIsJudged: on the same ports, after both FINs or a reset,
// it has its own rule and begins anew.
func TestNewConnectionBehindTheLastOneIsJudged(t *testing.T) {
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
		expect(t, z, syn, 2, rules, conntrack.New)
		later := conntrack.Revision{Generation: 12, Shrunk: 5}
		admit(z, syn, 2, conntrack.Admission{Direction: conntrack.In, Rule: 9, Revision: later})
		if c := one(t, tr, 2); c.Rule != 9 || c.Revision != 12 || c.State != "syn-sent" || c.Packets != [2]uint32{1, 0} {
			t.Errorf("after %s: %+v, want a connection by rule 9 that begins", name, c)
		}
	}
}

// TestForgedResetEndsNothing: a sender that guesses ports can send resets. They count as the end only
// where nothing follows.
func TestForgedResetEndsNothing(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	for i := range 50 {
		forged := pkt(6, 40000, 22, packet.RST)
		if i%2 == 1 {
			forged = back(syn, packet.RST|packet.ACK)
		}
		expect(t, z, forged, time.Duration(i)*time.Second, rules, conntrack.Live)
	}
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 55*time.Second, rules, conntrack.Live)
	expect(t, z, back(syn, packet.ACK), time.Hour, rules, conntrack.Live)
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 2*time.Hour, rules, conntrack.Live)
}

// TestHalfOpenConnectionsAreNotEstablished: whatever one end sends alone, so that a flood of
// it stays what goes first.
func TestHalfOpenConnectionsAreNotEstablished(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	admit(z, pkt(6, 1, 22, packet.SYN), 0, conntrack.Admission{Revision: rules})
	for _, flags := range []uint8{packet.ACK, packet.SYN | packet.ACK, packet.ACK | packet.PSH, packet.FIN | packet.ACK, packet.ACK} {
		observe(z, pkt(6, 1, 22, flags), 0, rules)
		if c := one(t, tr, 0); c.State != "syn-sent" {
			t.Errorf("after flags %02x of its originator alone it is %s", flags, c.State)
		}
	}
	expect(t, z, pkt(6, 1, 22, packet.ACK), 29*time.Second, rules, conntrack.Live)
	expect(t, z, pkt(6, 1, 22, packet.ACK), 60*time.Second, rules, conntrack.New)
}

// TestErrorNeedsAConnectionThatLives: one that was cut, or is not tracked, lets no error in.
func TestErrorNeedsAConnectionThatLives(t *testing.T) {
	about := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 1}, ICMPType: packet.ICMPUnreachable, IsICMPError: true, HasQuoted: true, Quoted: packettest.Reverse(pkt(6, 40000, 22, 0).Flow)}
	strict := conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}

	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	if z.Related(about, 0) {
		t.Error("an error about nothing is related")
	}
	handshake(t, z, 40000, 0)
	if !z.Related(about, 0) {
		t.Error("an error about a connection that lives is not related")
	}
	rejudge(z, pkt(6, 40000, 22, packet.ACK), 0, strict, false, 0)
	if z.Related(about, 0) {
		t.Error("an error about a connection that was cut is related")
	}

	z = open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	admit(z, back(pkt(6, 40000, 22, 0), packet.SYN|packet.ACK), 0, conntrack.Admission{Direction: conntrack.Out, Revision: rules, Untracked: true, Reversed: true})
	if z.Related(about, 0) {
		t.Error("an error about a connection that is not tracked is related")
	}
}

// TestFragmentIsOfItsOwnDatagram: a later fragment follows a first one of the same interface,
// direction, addresses, protocol and identification.
func TestFragmentIsOfItsOwnDatagram(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	first := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragID: 7, FragLen: 64, MoreFollow: true}
	if v := z.AdmitFragment(first, conntrack.In, 0); v.Drops() {
		t.Fatal(v)
	}
	later := *first
	later.HasL4, later.FragOffset = false, 64
	third := netip.MustParseAddr("192.0.2.1")
	for name, tt := range map[string]struct {
		zone      *conntrack.Zone
		direction conntrack.Direction
		change    func(p *packet.Packet)
	}{
		"interface":      {other, conntrack.In, func(*packet.Packet) {}},
		"direction":      {z, conntrack.Out, func(*packet.Packet) {}},
		"source":         {z, conntrack.In, func(p *packet.Packet) { p.Flow.Src = third }},
		"destination":    {z, conntrack.In, func(p *packet.Packet) { p.Flow.Dst = third }},
		"both":           {z, conntrack.In, func(p *packet.Packet) { p.Flow = packettest.Reverse(p.Flow) }},
		"protocol":       {z, conntrack.In, func(p *packet.Packet) { p.Flow.Protocol = 6 }},
		"identification": {z, conntrack.In, func(p *packet.Packet) { p.FragID++ }},
	} {
		p := later
		tt.change(&p)
		if v := tt.zone.Fragment(&p, tt.direction, 0); v != verdict.OrphanFragment {
			t.Errorf("of another %s: %v, want %v", name, v, verdict.OrphanFragment)
		}
	}
	if v := z.Fragment(&later, conntrack.In, 29*time.Second); v.Drops() {
		t.Errorf("its own: %v", v)
	}
	later.FragOffset += 64
	if v := z.Fragment(&later, conntrack.In, 30*time.Second); v != verdict.OrphanFragment {
		t.Errorf("its own, too late: %v, want %v", v, verdict.OrphanFragment)
	}
}

// TestFragmentTableIsBounded: interfaces that flood it together are refused, what is under way
// goes on, and a sweep makes room again.
func TestFragmentTableIsBounded(t *testing.T) {
	tr := open(t, conntrack.Config{})
	first := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragLen: 64, MoreFollow: true}
	kept, refused := 0, 0
	var zones []*conntrack.Zone
	for i := range 6 {
		zones = append(zones, tr.AddZone(uint64(i+1), conntrack.Timeouts{}))
		for id := range 1 << 16 {
			first.FragID = uint16(id)
			switch v := zones[i].AdmitFragment(first, conntrack.In, 0); v {
			case verdict.FragmentsFull:
				refused++
			case verdict.Forward:
				kept++
			default:
				t.Fatal(v)
			}
		}
	}
	if kept != 4096 || refused != 6<<16-4096 {
		t.Errorf("%d datagrams are kept and %d refused, want 4096 and the rest", kept, refused)
	}
	later := *first
	later.HasL4, later.FragOffset, later.FragID = false, 64, 5
	if v := zones[0].Fragment(&later, conntrack.In, 1); v.Drops() {
		t.Errorf("of a datagram under way: %v", v)
	}
	tr.Sweep(time.Minute)
	if v := zones[5].AdmitFragment(first, conntrack.In, time.Minute); v.Drops() {
		t.Errorf("after the flood: %v", v)
	}
}

// TestFloodTakesNoRoomOfAnother: beside one that opens as many connections as it can, all that
// another has within its share are still there, answered or not.
func TestFloodTakesNoRoomOfAnother(t *testing.T) {
	const share = 4096
	tr := open(t, conntrack.Config{Capacity: 16 * share, Untracked: 64, Reserve: share})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	for port := range uint16(share) {
		admit(modest, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules})
	}
	for n := range 200_000 {
		p := pkt(17, uint16(n), uint16(n>>16), 0)
		admit(greedy, p, 0, conntrack.Admission{Revision: rules})
	}
	if u := tr.Usage(); u.Tracked > 16*share || u.Tracked < 14*share {
		t.Errorf("%d connections of a capacity of %d", u.Tracked, 16*share)
	}
	lost := 0
	for port := range uint16(share) {
		if observe(modest, pkt(17, port, 53, 0), 0, rules).Status != conntrack.Live {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d connections are lost beside a flood", lost, share)
	}
}

// TestUnansweredMakesRoom: a connection without an answer is evicted for another interface beyond its
// share, whatever its protocol; what was answered, or established and closed at one end, is not.
func TestUnansweredMakesRoom(t *testing.T) {
	const share = 640
	for name, tt := range map[string]struct {
		packet func(n int) *packet.Packet
		answer func(z *conntrack.Zone, p *packet.Packet)
	}{
		"UDP":  {func(n int) *packet.Packet { return pkt(17, uint16(n), 53, 0) }, func(z *conntrack.Zone, p *packet.Packet) { observe(z, back(p, 0), 0, rules) }},
		"ping": {func(n int) *packet.Packet { return echo(bob, alice, uint16(n), 8) }, func(z *conntrack.Zone, p *packet.Packet) { observe(z, echo(alice, bob, p.Flow.SrcPort, 0), 0, rules) }},
		"TCP": {func(n int) *packet.Packet { return pkt(6, uint16(n), 22, packet.SYN) }, func(z *conntrack.Zone, p *packet.Packet) {
			observe(z, back(p, packet.SYN|packet.ACK), 0, rules)
			observe(z, pkt(6, p.Flow.SrcPort, 22, packet.ACK), 0, rules)
			observe(z, pkt(6, p.Flow.SrcPort, 22, packet.FIN|packet.ACK), 0, rules)
		}},
	} {
		for _, answered := range []bool{false, true} {
			tr := open(t, conntrack.Config{Capacity: 10 * share, Untracked: 64, Reserve: share})
			greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
			for n := range 12 * share {
				p := tt.packet(n)
				if admit(greedy, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward && answered {
					tt.answer(greedy, p)
				}
			}
			refused := 0
			for n := range 2 * share {
				p := pkt(17, uint16(n), 99, 0)
				if admit(modest, p, 0, conntrack.Admission{Revision: rules}) == verdict.TableFull {
					refused++
				} else {
					observe(modest, back(p, 0), 0, rules)
				}
			}
			if answered && refused < share-64 || !answered && refused > 0 {
				t.Errorf("%s, answered %v: another interface is refused %d of %d connections, its share is %d", name, answered, refused, 2*share, share)
			}
		}
	}
}

// TestNewestUntrackedAreRemembered: their table is small, and the oldest make room, so that
// what goes on now is cut when its rule goes.
func TestNewestUntrackedAreRemembered(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 64, Untracked: 640})
	z := tr.AddZone(1, conntrack.Timeouts{})
	answer := func(port uint16) *packet.Packet { return back(pkt(6, port, 80, 0), packet.SYN|packet.ACK) }
	for port := range uint16(20_000) {
		if v := admit(z, answer(port), 0, conntrack.Admission{Direction: conntrack.Out, Revision: rules, Untracked: true, Reversed: true}); v != verdict.Forward {
			t.Fatalf("connection %d: %v", port, v)
		}
		if got := observe(z, pkt(6, port, 80, packet.ACK), 0, rules).Status; got != conntrack.Checked {
			t.Fatalf("connection %d is not remembered: status %d", port, got)
		}
	}
	if u := tr.Usage(); u.Untracked > 640 || u.Untracked < 600 || u.Tracked != 0 {
		t.Errorf("%+v", u)
	}
}

// TestFINOfOneEndEndsNoConnection: it may say so twice, and a connection that is judged again has
// the rule that admits it now.
func TestFINOfOneEndEndsNoConnection(t *testing.T) {
	for _, side := range []string{"originator", "other end"} {
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
			if c := one(t, tr, 0); c.State != "closing" {
				t.Errorf("after the FIN of the %s it is %s", side, c.State)
			}
		}
		expect(t, z, other, 0, rules, conntrack.Live)
		if c := one(t, tr, 0); c.State != "time-wait" {
			t.Errorf("after both FINs it is %s", c.State)
		}
	}
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	strict := conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}
	p := pkt(6, 40000, 22, packet.ACK)
	expect(t, z, p, 0, strict, conntrack.Stale)
	if v := rejudge(z, p, 0, strict, true, 8); v != verdict.Forward {
		t.Fatal(v)
	}
	if c := one(t, tr, 0); c.Rule != 8 || c.Revision != 9 || c.Blocked {
		t.Errorf("judged again it is %+v", c)
	}
}
