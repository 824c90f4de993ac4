package conntrack_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const million = 1_000_000

// millionth returns a packet of one of a million flows, from bob's networks to alice.
func millionth(n int, flags uint8) *packet.Packet {
	p := pkt(packet.ProtocolTCP, uint16(1024+n%50_000), 22, flags)
	p.Flow.Src = netip.AddrFrom4([4]byte{203, 0, 113, byte(n / 50_000)})
	return p
}

// openMillion makes a Tracker with a million established connections in a file.
func openMillion(t testing.TB) (path string, tr *conntrack.Tracker, z *conntrack.Zone) {
	t.Helper()
	path = filepath.Join(bootfiletest.Dir(t), "arena")
	tr = open(t, conntrack.Config{Path: path, Capacity: million, Ceiling: million})
	t.Cleanup(func() { tr.Close() })
	z = tr.AddZone(1, conntrack.Timeouts{})
	for n := range million {
		syn := millionth(n, packet.SYN)
		if v := admit(z, syn, 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d: verdict %v, want %v", n, v, verdict.Forward)
		}
		observe(z, back(syn, packet.SYN|packet.ACK), 0, rules)
		observe(z, millionth(n, packet.ACK), 0, rules)
	}
	if u := tr.Usage(); u.Tracked != million {
		t.Fatalf("there are %d connections, want %d", u.Tracked, million)
	}
	return path, tr, z
}

// resident returns the resident memory of the process in bytes, with its files (proc_pid_statm(5)).
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestMillionConnectionsTakeAtMost160BytesEach counts the file, the index and what else the process
// has in memory for them. Even if all pages of the file are resident, as after a restart, a
// connection of either pool takes no more.
func TestMillionConnectionsTakeAtMost160BytesEach(t *testing.T) {
	const limit = 160
	before := resident(t)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	heap := m.HeapAlloc
	path, tr, _ := openMillion(t)
	each := float64(resident(t)-before) / million
	runtime.ReadMemStats(&m)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const untracked = 65_536 // the default
	mapped := float64(st.Size()+int64(m.HeapAlloc)-int64(heap)) / (million + untracked)
	t.Logf("resident: %.1f bytes each; file and heap: %.1f bytes for each of %d connections that fit", each, mapped, million+untracked)
	if each > limit || mapped > limit || each < 128 {
		t.Errorf("a connection takes %.1f bytes, or %.1f if the whole file is resident; want 128 to %d", each, mapped, limit)
	}
	runtime.KeepAlive(tr)
}
