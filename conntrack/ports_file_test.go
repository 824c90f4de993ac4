package conntrack_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
)

// The file has room for 16,384 ranges, of which each zone needs one for itself. Ranges that were
// dropped leave their room, to this process and to the one after a crash: all ranges in force are known
// after the next crash, again and again.
func TestRoomOfDroppedPortsIsUsedAgain(t *testing.T) {
	const zones, each = 252, 64 // 252 * (1+64) and, for the last zone, 1+3 are 16,384
	opened := func(n int) (all []conntrack.Ports) {
		for i := range uint16(each) {
			all = append(all, conntrack.Ports{Protocol: 17, From: 1000 + 10*i, To: 1000 + 10*i})
		}
		if n == zones {
			all = all[:3]
		}
		return all
	}
	c := inFile(t)
	tr := open(t, c)
	for round := range uint64(3) {
		add := func(tr *conntrack.Tracker, n int) *conntrack.Zone {
			return tr.AddZone(round*1000+uint64(n), conntrack.Timeouts{})
		}
		var added []*conntrack.Zone
		for n := range zones + 1 {
			z := add(tr, n)
			z.SetOpen(opened(n), 0)
			added = append(added, z)
		}
		next, _ := crashed(t, c)
		for n := range zones + 1 {
			z := add(next, n)
			z.SetOpen(nil, 0)
			for _, p := range opened(n) {
				is, _ := z.Lost(17, p.From, 0)
				if beside, _ := z.Lost(17, p.From+1, 0); !is || beside {
					t.Fatalf("round %d, zone %d: port %d is lost: %v, the next one: %v; want true, false", round, n, p.From, is, beside)
				}
			}
		}
		for _, z := range added {
			tr.RemoveZone(z)
		}
		closed(t, next)
		if round%2 == 1 {
			next, c = crashed(t, c)
			closed(t, tr)
			tr = next
		}
	}
	closed(t, tr)
}

func closed(t *testing.T, tr *conntrack.Tracker) {
	t.Helper()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
}

// Ports of a range that was dropped are not lost in the next process.
func TestDroppedPortsAreNotAdoptedAfterACrash(t *testing.T) {
	c := inFile(t)
	z := open(t, c).AddZone(1, conntrack.Timeouts{})
	z.SetOpen(append(both(50, 50, 0), both(60, 60, 0)...), 0)
	z.SetOpen(both(60, 60, 0), 10*second)  // 50 is lost
	z.SetOpen(both(50, 60, 0), 20*second)  // and open again
	z.SetOpen(both(60, 60, 0), 30*second)  // and lost again
	z.SetOpen(both(70, 70, 0), 210*second) // 50 has ended, 60 is lost
	z.SetOpen(both(70, 70, 0), 211*second) // no change
	next, _ := crashed(t, c)
	z = next.AddZone(1, conntrack.Timeouts{})
	lost(t, z, 50, 0, false, false)
	lost(t, z, 60, 389*second, true, false)
	lost(t, z, 60, 390*second, false, false)
	lost(t, z, 70, 0, false, false)
	z.SetOpen(nil, 300*second)
	lost(t, z, 50, 301*second, false, false)
	lost(t, z, 70, 479*second, true, false)
}

// PurgeUnknown removes what an earlier process left of leases without a zone, and nothing of the others.
func TestPurgeUnknownKeepsWhatZonesHave(t *testing.T) {
	c := inFile(t)
	tr := open(t, c)
	for epoch, connections := range map[uint64]uint16{1: 1, 2: 3} {
		z := tr.AddZone(epoch, conntrack.Timeouts{})
		for i := range connections {
			handshake(t, z, 40000+i, 0)
		}
		z.SetOpen(append(both(50, 50, 0), both(60, 60, 0)...), 0)
		z.SetOpen(both(60, 60, 0), 0)
	}
	tr, _ = crashed(t, c)
	kept := tr.AddZone(1, conntrack.Timeouts{})
	if n := tr.PurgeUnknown(); n != 3 {
		t.Errorf("PurgeUnknown removed %d connections, want 3", n)
	}
	expect(t, kept, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
	lost(t, kept, 50, second, true, false)
	lost(t, kept, 60, second, false, false)
	kept.SetOpen(nil, second)
	lost(t, kept, 60, 2*second, true, false)

	late := tr.AddZone(2, conntrack.Timeouts{})
	expect(t, late, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.New)
	late.SetOpen(nil, second)
	lost(t, late, 50, second, false, false)
	lost(t, late, 60, second, false, false)
	if got, want := late.Allowance().Available, tr.AddZone(3, conntrack.Timeouts{}).Allowance().Available; got != want {
		t.Errorf("a zone whose connections were purged can open %d, want %d", got, want)
	}
}

// Slots are not read before they are used, because reading a page of a tmpfs allocates it.
func TestNewFileTakesLittleMemory(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	z := open(t, conntrack.Config{Path: path}).AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 128<<10 || st.Size() < 40<<20 {
		t.Errorf("a file of %d bytes with one connection takes %d, want at most 128 KiB of 40 MiB or more", st.Size(), used)
	}
}

// At the bound of ranges the newest one of a protocol is widened, whatever the order of protocols. What
// includes ranges of several sources is open again only if it is open to the world.
func TestWidenedPortsStayLost(t *testing.T) {
	var opened []conntrack.Ports
	for i := range uint16(100) {
		opened = append(opened, both(1000+10*i, 1000+10*i, 7)...)
	}
	opened = append(opened, both(5000, 5000, 9)...)
	for source, want := range map[uint32]bool{7: true, 9: true, 0: false} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		z.SetOpen(opened, 0)
		z.SetOpen(nil, 0)
		for i := range uint16(100) {
			lost(t, z, 1000+10*i, 0, true, false)
		}
		lost(t, z, 5000, 0, true, false)
		lost(t, z, 1001, 0, false, false)
		lost(t, z, 3000, 0, true, false) // between ports of one range
		lost(t, z, 999, 0, false, false)
		lost(t, z, 5001, 0, false, false)
		z.SetOpen(both(0, 65535, source), second)
		lost(t, z, 1000, second, source == 9, false)
		lost(t, z, 1990, second, want, false)
		lost(t, z, 5000, second, want, false)
	}
}
