package conntrack_test

import (
	"testing"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

func TestFullTableKeepsEstablishedConnections(t *testing.T) {
	// An eviction searches one shard only. In a small shard it may find no connection that
	// may be evicted, so this table is not small.
	tr := open(t, conntrack.Config{Capacity: 6400, Ceiling: 6400, Untracked: 64, Reserve: 640})
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
		t.Errorf("%d tracked connections, want at most the capacity of 6400", u.Tracked)
	}
	for port := range 640 {
		if v := admit(modest, pkt(17, uint16(port), 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Errorf("connection %d within the reserve: verdict %v, want %v", port, v, verdict.Forward)
		}
	}

	// A zone that has filled its own reserve evicts half-open connections of another zone
	// that exceeds its reserve.
	for port := range 2000 {
		p := pkt(17, uint16(port), 54, 0)
		if v := admit(modest, p, 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d beyond the reserve, during a flood of another zone: verdict %v, want %v", port, v, verdict.Forward)
		}
		observe(modest, back(p, 0), 0, rules)
	}
	expect(t, greedy, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)

	// When established connections have filled the room outside the reserves, new
	// connections are refused.
	tr = open(t, conntrack.Config{Capacity: 6400, Ceiling: 6400, Untracked: 64, Reserve: 640})
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
		t.Errorf("%d of 9000 connections are refused, want at least 2500, because the capacity is 6400", full)
	}
	expect(t, greedy, pkt(6, 0, 22, packet.ACK), 0, rules, conntrack.Live)
}

// One zone can fill the table with connections that may not be evicted, except for the
// reserves of other zones.
func TestReserveIsFreeBesideEstablishedConnections(t *testing.T) {
	const reserve = 4096
	tr := open(t, conntrack.Config{Capacity: 16 * reserve, Ceiling: 16 * reserve, Untracked: 64, Reserve: reserve})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	taken := 0
	for n := range 20 * reserve {
		p := pkt(17, uint16(n), uint16(n>>16), 0)
		if admit(greedy, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
			observe(greedy, back(p, 0), 0, rules)
			taken++
		}
	}
	if taken < 14*reserve || taken > 15*reserve {
		t.Errorf("one zone has %d connections, want %d to %d: the capacity without the other zone's reserve", taken, 14*reserve, 15*reserve)
	}
	for port := range uint16(reserve) {
		if v := admit(modest, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d within a reserve of %d: verdict %v, want %v\n%s", port, reserve, v, verdict.Forward, tr.Describe(0))
		}
	}
}

// A zone that opens as many connections as it can evicts no connection within another
// zone's reserve, whether that connection was answered or not.
func TestFloodEvictsNoConnectionOfAnotherZone(t *testing.T) {
	const reserve = 4096
	tr := open(t, conntrack.Config{Capacity: 16 * reserve, Ceiling: 16 * reserve, Untracked: 64, Reserve: reserve})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	for port := range uint16(reserve) {
		admit(modest, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules})
	}
	for n := range 200_000 {
		p := pkt(17, uint16(n), uint16(n>>16), 0)
		admit(greedy, p, 0, conntrack.Admission{Revision: rules})
	}
	if u := tr.Usage(); u.Tracked > 16*reserve || u.Tracked < 14*reserve {
		t.Errorf("%d tracked connections, want %d to %d", u.Tracked, 14*reserve, 16*reserve)
	}
	lost := 0
	for port := range uint16(reserve) {
		if observe(modest, pkt(17, port, 53, 0), 0, rules).Status != conntrack.Live {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("a flood evicted %d of the %d connections within another zone's reserve", lost, reserve)
	}
}

// To make room for another zone, an unanswered connection of any protocol is evicted, even
// if that zone exceeds its reserve. A connection that was answered, or was closed by one
// end only, is not evicted.
func TestUnansweredConnectionsAreEvicted(t *testing.T) {
	const reserve = 640
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
			tr := open(t, conntrack.Config{Capacity: 10 * reserve, Ceiling: 10 * reserve, Untracked: 64, Reserve: reserve})
			greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
			for n := range 12 * reserve {
				p := tt.packet(n)
				if admit(greedy, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward && answered {
					tt.answer(greedy, p)
				}
			}
			refused := 0
			for n := range 2 * reserve {
				p := pkt(17, uint16(n), 99, 0)
				if admit(modest, p, 0, conntrack.Admission{Revision: rules}) == verdict.TableFull {
					refused++
				} else {
					observe(modest, back(p, 0), 0, rules)
				}
			}
			if answered && refused < reserve-64 || !answered && refused > 0 {
				t.Errorf("table full of connections of %s, answered %v: %d of %d connections of another zone with a reserve of %d are refused; want 0 if unanswered, otherwise at least %d", name, answered, refused, 2*reserve, reserve, reserve-64)
			}
		}
	}
}

// A full pool evicts its oldest untracked connections. Those in use stay in it, so that
// they can be blocked when their rule is removed.
func TestNewestUntrackedConnectionsAreKept(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 64, Untracked: 640})
	z := tr.AddZone(1, conntrack.Timeouts{})
	answer := func(port uint16) *packet.Packet { return back(pkt(6, port, 80, 0), packet.SYN|packet.ACK) }
	for port := range uint16(20_000) {
		if v := admit(z, answer(port), 0, conntrack.Admission{Revision: rules, Untracked: true, Reversed: true}); v != verdict.Forward {
			t.Fatalf("connection %d: Admit returned %v, want %v", port, v, verdict.Forward)
		}
		if got := observe(z, pkt(6, port, 80, packet.ACK), 0, rules).Status; got != conntrack.Checked {
			t.Fatalf("connection %d: status %v, want %v", port, got, conntrack.Checked)
		}
	}
	if u := tr.Usage(); u.Untracked > 640 || u.Untracked < 600 || u.Tracked != 0 {
		t.Errorf("usage %+v, want 600 to 640 untracked connections and no tracked one", u)
	}
}

// What a Config does not say: a zone has a reserve of 256 tracked connections, and of a quarter of its
// reserve of untracked ones. Nobody else can take them.
func TestDefaultReserves(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 6400, Ceiling: 6400, Untracked: 6400})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	for n := range 40_000 {
		p := pkt(17, uint16(n), 53, 0)
		if admit(greedy, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
			observe(greedy, back(p, 0), 0, rules) // may not be evicted any more
		}
	}
	if u, a := tr.Usage(), modest.Allowance(); u.Tracked != 6400-256 || a.Available != 256 {
		t.Errorf("a greedy zone has %d connections, and another can open %d; want %d and 256", u.Tracked, a.Available, 6400-256)
	}
	for _, tt := range []struct{ reserve, untracked, want int }{{0, 0, 64}, {400, 0, 100}, {400, 40, 40}} {
		tr := open(t, conntrack.Config{Capacity: 6400, Untracked: 6400, Reserve: tt.reserve, UntrackedReserve: tt.untracked})
		greedy := tr.AddZone(1, conntrack.Timeouts{})
		tr.AddZone(2, conntrack.Timeouts{})
		for n := range 40_000 {
			p := pkt(17, uint16(n), 53, 0)
			admit(greedy, p, 0, conntrack.Admission{Revision: rules, Untracked: true})
			rejudge(greedy, p, 0, revoked, false, 0) // blocked, which may not be evicted
		}
		if u := tr.Usage(); u.Untracked != 6400-tt.want {
			t.Errorf("with %+v a greedy zone has %d untracked connections, want all but %d of 6400", tt, u.Untracked, tt.want)
		}
	}
	if u, a := open(t, conntrack.Config{}).Usage(), open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{}).Allowance(); u.Capacity != 262_144 || a.Available != 65_536 {
		t.Errorf("the default capacity is %d, a zone can open %d; want 262144 and 65536", u.Capacity, a.Available)
	}
}
