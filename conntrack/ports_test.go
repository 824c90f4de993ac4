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

const second = time.Second

func lost(t *testing.T, z *conntrack.Zone, port uint16, now time.Duration, want, wantMissing bool) {
	t.Helper()
	for _, protocol := range []uint8{6, 17} {
		isLost, missing := z.Lost(protocol, port, now)
		if isLost != want || missing != wantMissing {
			t.Errorf("protocol %d, port %d at %v: lost %v, missing entries %v; want %v, %v", protocol, port, now, isLost, missing, want, wantMissing)
		}
	}
}

func both(from, to uint16, source uint32) []conntrack.Ports {
	return []conntrack.Ports{{Protocol: 6, From: from, To: to, Source: source}, {Protocol: 17, From: from, To: to, Source: source}}
}

func TestPortsAreLostFor180Seconds(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(both(50, 60, 0), 0)
	lost(t, z, 55, 0, false, false)
	z.SetOpen(both(53, 54, 0), 10*second)
	for port, want := range map[uint16]bool{49: false, 50: true, 52: true, 53: false, 54: false, 55: true, 60: true, 61: false} {
		lost(t, z, port, 10*second, want, false)
		lost(t, z, port, 190*second-2, want, false)
		lost(t, z, port, 190*second, false, false)
	}
	z.SetOpen(both(0, 65535, 0), 20*second) // opened again
	lost(t, z, 55, 20*second, false, false)
	z.SetOpen(nil, 30*second)
	for _, port := range []uint16{0, 55, 65535} {
		lost(t, z, port, 209*second, true, false)
	}
}

// In a strict network the ports are lost for one source, although they stay open to another.
func TestPortsAreLostForEachSource(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(append(both(53, 53, 7), both(53, 53, 9)...), 0)
	z.SetOpen(both(53, 53, 9), 0)
	lost(t, z, 53, 0, true, false)
	z.SetOpen(both(53, 53, 0), 0) // open to the world
	lost(t, z, 53, 0, false, false)
}

// A packet from a lost TCP port renews it. A UDP port is renewed only while a connection may be
// without an entry.
func TestSendersCannotKeepUDPPortsLost(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(both(53, 53, 0), 0)
	z.SetOpen(nil, 0)
	for now := time.Duration(0); now < 600*second; now += 100 * second {
		z.Renew(6, 53, now)
		z.Renew(17, 53, now)
	}
	tcp, _ := z.Lost(6, 53, 600*second)
	udp, _ := z.Lost(17, 53, 181*second)
	if !tcp || udp {
		t.Errorf("TCP port lost at 600 s: %v, UDP port at 181 s: %v; want true, false", tcp, udp)
	}
}

// When an untracked connection finds no room, or its entry is evicted, the ports of a rule that is
// removed are watched until no packet has matched them for 180 s.
func TestLostPortsAreWatchedWhileEntriesAreMissing(t *testing.T) {
	answer := func(z *conntrack.Zone, port uint16, now time.Duration) {
		admit(z, back(pkt(17, port, 53, 0), 0), now, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true})
	}
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	for name, crowd := range map[string]func(z *conntrack.Zone, now time.Duration){
		"no room": func(z *conntrack.Zone, now time.Duration) {
			for port := range uint16(2000) { // blocked entries fill the pool
				answer(z, port, now)
				rejudge(z, pkt(17, port, 53, 0), now, gone, false, 0)
			}
		},
		"evicted": func(z *conntrack.Zone, now time.Duration) {
			for port := range uint16(2000) {
				answer(z, port, now)
			}
		},
	} {
		z := open(t, conntrack.Config{Capacity: 640, Untracked: 640}).AddZone(1, conntrack.Timeouts{})
		z.SetOpen(both(53, 53, 0), 0)
		crowd(z, 10*second)
		z.SetOpen(nil, 100*second)
		lost(t, z, 53, 100*second, true, true)
		now := 100 * second
		for range 10 {
			now += 179 * second
			lost(t, z, 53, now, true, true)
			z.Renew(17, 53, now)
			z.Renew(6, 53, now)
		}
		if t.Failed() {
			t.Fatalf("case %q", name)
		}
		lost(t, z, 53, now+181*second, false, false)
	}
}

// The memory of lost ports is in the file. Ports of rules that were removed while no process ran are
// lost when the next one attaches the interface.
func TestPortsLostWhileNoProcessRanAreKnown(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 640, Untracked: 640}
	tr := open(t, c)
	z := tr.AddZone(1, conntrack.Timeouts{})
	z.SetOpen(append(both(50, 50, 0), both(60, 60, 0)...), 0)
	z.SetOpen(both(60, 60, 0), 10*second)
	for port := range uint16(2000) {
		admit(z, back(pkt(17, port, 53, 0), 0), 10*second, conntrack.Admission{Revision: rules, Untracked: true, Reversed: true})
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr = open(t, c)
	z = tr.AddZone(1, conntrack.Timeouts{})
	lost(t, z, 60, 11*second, false, false)
	z.SetOpen(nil, 100*second)
	lost(t, z, 50, 189*second, true, true)
	lost(t, z, 60, 279*second, true, true)
	tr.RemoveZone(z)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr = open(t, c)
	lost(t, tr.AddZone(1, conntrack.Timeouts{}), 60, 101*second, false, false)
}

// A blocked connection stays until no packet has come for 180 s, however many untracked connections
// its own and other zones open.
func TestBlockedConnectionIsNotEvicted(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 640, Untracked: 640, Reserve: 64})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	untracked := conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true}
	client := pkt(17, 40000, 53, 0)
	admit(z, back(client, 0), 0, untracked)
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	rejudge(z, back(client, 0), 0, gone, false, 0)
	for now := time.Duration(0); now < 1800*second; now += 179 * second {
		for n := range 20_000 {
			p := back(pkt(17, uint16(n), 54, 0), 0)
			admit(z, p, now, untracked)
			admit(other, p, now, untracked)
		}
		expect(t, z, back(client, 0), now, gone, conntrack.Blocked)
	}
	expect(t, z, client, 1790*second+180*second, gone, conntrack.New)
}

// A flood of one zone takes the untracked connections of another zone within its share from it
// neither before nor after they are blocked.
func TestEachZoneHasAShareOfUntrackedConnections(t *testing.T) {
	const share = 64
	tr := open(t, conntrack.Config{Capacity: 6400, Untracked: 1280, UntrackedReserve: share})
	modest, greedy := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	untracked := conntrack.Admission{Rule: 7, Revision: rules, Untracked: true, Reversed: true}
	for port := range uint16(share) {
		admit(modest, back(pkt(17, port, 53, 0), 0), 0, untracked)
	}
	for n := range 200_000 {
		admit(greedy, back(pkt(17, uint16(n), 54+uint16(n>>16), 0), 0), 0, untracked)
	}
	kept := 0
	for port := range uint16(share) {
		if observe(modest, pkt(17, port, 53, 0), 0, rules).Status == conntrack.Checked {
			kept++
		}
	}
	if kept != share {
		t.Errorf("%d of %d untracked connections within the share of a zone are kept, want all", kept, share)
	}

	// The other zone fills the pool with blocked connections, which nobody can evict.
	tr = open(t, conntrack.Config{Capacity: 6400, UntrackedReserve: share})
	modest, greedy = tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	gone := conntrack.Revision{Generation: 9, Shrunk: 9}
	for n := range 100_000 {
		answer := back(pkt(17, uint16(n), 53+uint16(n>>16), 0), 0)
		admit(greedy, answer, 0, untracked)
		rejudge(greedy, answer, 0, gone, false, 0)
	}
	for port := range uint16(share) {
		admit(modest, back(pkt(17, port, 53, 0), 0), 0, untracked)
		if s := observe(modest, pkt(17, port, 53, 0), 0, rules).Status; s != conntrack.Checked {
			t.Fatalf("connection %d within the share of a zone has status %v, want checked", port, s)
		}
	}
}

// A zone has at most the connections of its ceiling, established or not. Its allowance says how many
// it can still open, and how many packets were dropped.
func TestOneZoneCannotFillTheTable(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 6400, Reserve: 64})
	z := tr.AddZone(1, conntrack.Timeouts{})
	if a := z.Allowance(); a.Available != 1600 || a.Exceeded != 0 {
		t.Errorf("the allowance of an empty zone is %+v, want a quarter of 6400 connections", a)
	}
	taken, refused := 0, 0
	for port := range uint16(3000) {
		p := pkt(17, port, 53, 0)
		if admit(z, p, 0, conntrack.Admission{Revision: rules}) == verdict.TableFull {
			refused++
			continue
		}
		observe(z, back(p, 0), 0, rules)
		taken++
	}
	if taken != 1600 || refused != 1400 {
		t.Errorf("%d connections were admitted and %d refused, want 1600 and 1400", taken, refused)
	}
	if a := z.Allowance(); a.Available != 0 || a.Exceeded != 1400 {
		t.Errorf("the allowance of a full zone is %+v, want 0 available, 1400 exceeded", a)
	}
	other := tr.AddZone(2, conntrack.Timeouts{})
	for port := range uint16(1600) {
		if v := admit(other, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d of another zone: %v, want %v", port, v, verdict.Forward)
		}
	}
}

// In a strict network an error about a connection passes only once the rules in force have judged it.
func TestICMPErrorAboutAStaleConnectionIsNotRelated(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	about := back(syn, packet.ACK)
	e := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 1}, IsICMPError: true, ICMPType: 3, HasQuoted: true, Quoted: about.Flow}
	for _, tt := range []struct {
		r    conntrack.Revision
		want bool
	}{
		{rules, true}, {conntrack.Revision{Generation: 9, Shrunk: 9}, true},
		{conntrack.Revision{Generation: 9, Shrunk: 5, Strict: true}, true}, {conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}, false},
	} {
		if got := z.Related(e, conntrack.In, 0, tt.r); got != tt.want {
			t.Errorf("rules of %v: related %v, want %v", tt.r, got, tt.want)
		}
	}
}

// Ports beyond the bound of ranges are lost too, because the newest range is widened.
func TestManyLostPortsAreAllKnown(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	var opened []conntrack.Ports
	for i := range uint16(200) {
		opened = append(opened, conntrack.Ports{Protocol: 17, From: 1000 + 10*i, To: 1001 + 10*i})
	}
	z.SetOpen(append(opened, conntrack.Ports{Protocol: 6, From: 80, To: 80}), 0)
	z.SetOpen(nil, 0)
	if got, _ := z.Lost(6, 80, time.Second); !got {
		t.Error("port 80 of another protocol is not lost")
	}
	for i := range uint16(200) {
		for _, port := range []uint16{1000 + 10*i, 1001 + 10*i} {
			if got, _ := z.Lost(17, port, time.Second); !got {
				t.Errorf("port %d is not lost", port)
			}
		}
	}
	for _, port := range []uint16{999, 1002, 3000} {
		if got, _ := z.Lost(17, port, time.Second); got {
			t.Errorf("port %d is lost, and was never open", port)
		}
	}
}

// If an entry was missing when a packet renewed a range, its UDP ports are watched as long as packets
// match it, also when the ports were lost before.
func TestPortsAreWatchedIfAnEntryIsMissingLater(t *testing.T) {
	z := open(t, conntrack.Config{Capacity: 640, Untracked: 640}).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(both(53, 53, 0), 0)
	z.SetOpen(nil, 0)
	z.Renew(17, 53, 5*second)
	lost(t, z, 53, 179*second, true, false)
	for port := range uint16(2000) { // entries are evicted
		admit(z, back(pkt(17, port, 99, 0), 0), 10*second, conntrack.Admission{Revision: rules, Untracked: true, Reversed: true})
	}
	lost(t, z, 53, 20*second, true, true)
	for now := 20 * second; now < 1000*second; now += 100 * second {
		for _, port := range []uint16{53, 54} {
			z.Renew(17, port, now)
			z.Renew(6, port, now)
		}
		lost(t, z, 53, now+179*second, true, true)
		lost(t, z, 54, now, false, false)
	}
	z.Renew(17, 53, 2000*second) // too late
	lost(t, z, 53, 2000*second, false, false)
}

// A packet renews the range that holds its port, wherever that is among the lost ones, and no other.
func TestPacketRenewsItsOwnRange(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(append(append(both(50, 50, 0), both(60, 60, 0)...), both(70, 70, 0)...), 0)
	z.SetOpen(nil, 0)
	z.Renew(6, 60, 100*second)
	for port, want := range map[uint16]bool{50: false, 60: true, 70: false} {
		if got, _ := z.Lost(6, port, 279*second); got != want {
			t.Errorf("port %d is lost after 279 s: %v, want %v", port, got, want)
		}
	}
	if got, _ := z.Lost(6, 60, 280*second); got {
		t.Error("port 60 is lost for longer than 180 s after its last packet")
	}
}
