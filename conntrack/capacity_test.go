package conntrack_test

import (
	"testing"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

func TestFullTableKeepsEstablishedConnections(t *testing.T) {
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

// TestReserveIsFreeBesideEstablishedConnections: one interface may fill all but the shares of others
// with connections that nothing may evict, and theirs are there when they come.
func TestReserveIsFreeBesideEstablishedConnections(t *testing.T) {
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

// TestFloodEvictsNoConnectionOfAnotherZone: beside one that opens as many connections as it can, all that
// another has within its share are still there, answered or not.
func TestFloodEvictsNoConnectionOfAnotherZone(t *testing.T) {
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

// TestUnansweredConnectionsAreEvicted: a connection without an answer is evicted for another interface beyond its
// share, whatever its protocol; what was answered, or established and closed at one end, is not.
func TestUnansweredConnectionsAreEvicted(t *testing.T) {
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

// TestNewestUntrackedConnectionsAreKept: their table is small, and the oldest make room, so that
// what goes on now is cut when its rule goes.
func TestNewestUntrackedConnectionsAreKept(t *testing.T) {
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
