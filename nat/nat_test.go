package nat

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

func udp(n int) *packet.Packet {
	return &packet.Packet{HasL4: true, Segments: 1, Flow: packet.Flow{
		Src: netip.AddrFrom4([4]byte{10, byte(n >> 20), byte(n >> 12), 4}), Dst: netip.MustParseAddr("203.0.113.25"),
		SrcPort: uint16(n), DstPort: 53, Protocol: packet.ProtocolUDP,
	}}
}

func open(t testing.TB, c Config) *Table {
	t.Helper()
	table, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func TestDestinationHas55000Ports(t *testing.T) {
	table := open(t, Config{PerSource: 100_000})
	g := table.Gateway(1)
	taken := make(map[uint16]bool)
	for n := range 55_000 {
		port, v := g.Out(udp(n), 0, false)
		if v != verdict.Forward || port < 1024 || taken[port] {
			t.Fatalf("flow %d is %v with port %d, want 55,000 to pass, each with a port of its own", n, v, port)
		}
		taken[port] = true
	}
	if _, v := g.Out(udp(55_000), 0, false); v != verdict.NATExhausted || g.Usage().Exhausted != 1 {
		t.Errorf("flow 55,001 is %v, counted %d times; want nat-error-port-allocation, counted once", v, g.Usage().Exhausted)
	}
	other := udp(1)
	other.Flow.DstPort = 54
	if _, v := g.Out(other, 0, false); v != verdict.Forward {
		t.Errorf("a flow to another destination is %v", v)
	}
	if _, v := g.Out(udp(55_000), Idle, false); v != verdict.NATExhausted {
		t.Errorf("before the sweep a new flow is %v", v)
	}
	table.Sweep(Idle)
	if _, v := g.Out(udp(55_000), Idle, false); v != verdict.Forward || g.Usage().Translations != 1 {
		t.Errorf("after the sweep a new flow is %v with %d translations", v, g.Usage().Translations)
	}
}

func TestTranslationsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "nat")
	first, err := Open(Config{Path: path, Capacity: 64})
	if err != nil {
		t.Fatal(err)
	}
	port, _ := first.Gateway(1).Out(udp(1), 0, false)
	first.Gateway(2).Out(udp(2), 0, false)
	first.Gateway(3).Out(udp(3), 0, false)
	damaged := &first.entries[2]
	damaged.inside++ // as if the process was killed while it wrote
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, Config{Path: path, Capacity: 64})
	g, third := next.Gateway(1), next.Gateway(3)
	if again, v := g.Out(udp(1), time.Second, false); again != port || v != verdict.Forward || g.Usage().Translations != 1 {
		t.Errorf("the next process has port %d (%v), want %d", again, v, port)
	}
	if third.Usage().Translations != 0 {
		t.Error("a damaged translation was adopted")
	}
	if n := next.PurgeUnknown(); n != 1 {
		t.Errorf("%d translations of unknown gateways were removed, want 1", n)
	}
	if n := next.Forget(func(epoch uint64, end netip.Addr) bool { return epoch == 1 && end == udp(1).Flow.Src }); n != 1 || g.Usage().Translations != 0 {
		t.Errorf("%d translations of a released address were removed, want 1", n)
	}
	next.Remove(g)
	if _, v := g.Out(udp(1), 0, false); v != verdict.NATUnknown {
		t.Errorf("a removed gateway makes a translation: %v", v)
	}
}

func TestFileOfAnotherSizeIsEmptiedAndAnotherFileRefused(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "nat")
	first, err := Open(Config{Path: path, Capacity: 64})
	if err != nil {
		t.Fatal(err)
	}
	first.Gateway(1).Out(udp(1), 0, false)
	first.Close()
	next := open(t, Config{Path: path, Capacity: 65})
	if next.Note() == "" || next.Gateway(1).Usage().Translations != 0 {
		t.Errorf("the note is %q with %d translations, want a note and none", next.Note(), next.Gateway(1).Usage().Translations)
	}
	other := filepath.Join(filepath.Dir(path), "other")
	if err := os.WriteFile(other, []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: other}); err == nil {
		t.Error("a file of something else was opened")
	}
}

func TestPacketsThroughAGatewayAllocateNothing(t *testing.T) {
	table := open(t, Config{Capacity: 1024})
	g := table.Gateway(1)
	now, n := time.Duration(0), 0
	if got := testing.AllocsPerRun(5000, func() {
		n++
		now += time.Second
		p := udp(n % 700)
		port, _ := g.Out(p, now, false)
		p.Flow.Src, p.Flow.Dst, p.Flow.SrcPort, p.Flow.DstPort = p.Flow.Dst, p.Flow.Src, 53, port
		g.In(p, now, false)
	}); got > 1 { // the packet of the test itself
		t.Errorf("a packet allocates %v times", got)
	}
}
