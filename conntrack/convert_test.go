package conntrack_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/bootfile"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// layout2 is the file that commit 61b88d2 wrote, with the sizes of layout2Config, and what its
// Connections returned 55 s after the boot: TCP connections in each state, UDP, ICMP, GRE and
// IPv6, tracked and untracked ones, blocked ones of both kinds, in the zones of two leases.
func layout2(t *testing.T) (file []byte, all []conntrack.Connection) {
	t.Helper()
	return layout(t, "layout2", 40)
}

// layout3 is the same for layout 3 and 43 connections. Beside those of layout2, the file has three TCP
// connections that began in layout 3, and the ports that rules had opened. It is of this boot.
func layout3(t *testing.T) (file []byte, all []conntrack.Connection) {
	t.Helper()
	file, all = layout(t, "layout3", 43)
	boot, err := bootfile.Boot()
	if err != nil {
		t.Fatal(err)
	}
	copy(file[32:], boot[:])
	return file, all
}

func layout(t *testing.T, name string, n int) (file []byte, all []conntrack.Connection) {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if file, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var c conntrack.Connection
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) != n {
		t.Fatalf("testdata/%s.json lists %d connections, want %d", name, len(all), n)
	}
	return file, all
}

var layout2Config = conntrack.Config{Capacity: 640, Untracked: 128, Reserve: 64}

// arenaOf writes a file for a Tracker.
func arenaOf(t *testing.T, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(bootfiletest.Dir(t), "arena")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func connectionName(c conntrack.Connection) string {
	return fmt.Sprintf("lease %d, %v, opened from outside: %v", c.Epoch, c.Flow, c.Outside)
}

// compareConnections reports where the connections of a Tracker differ from those wanted.
func compareConnections(t *testing.T, what string, tr *conntrack.Tracker, now time.Duration, want []conntrack.Connection) {
	t.Helper()
	got := map[string]conntrack.Connection{}
	for c := range tr.Connections(now) {
		got[connectionName(c)] = c
	}
	for _, w := range want {
		name := connectionName(w)
		if g, ok := got[name]; !ok {
			t.Errorf("%s: %s is lost", what, name)
		} else if !reflect.DeepEqual(g, w) {
			t.Errorf("%s: %s is %+v, want %+v", what, name, g, w)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("%s: there are further connections: %v", what, slices.Sorted(maps.Keys(got)))
	}
}

// An upgrade from the release of commit 61b88d2 loses no connection, even if the capacity changes
// with it. The converted file is one of the present layout.
func TestConnectionsOfLayout2AreKept(t *testing.T) {
	file, want := layout2(t)
	for _, capacity := range []int{640, 6400, 0} {
		c := layout2Config
		c.Path, c.Capacity = arenaOf(t, file), capacity
		for _, what := range []string{"converted", "opened again"} {
			tr := open(t, c)
			compareConnections(t, fmt.Sprintf("capacity %d, %s", capacity, what), tr, 55*time.Second, want)
			if tr.Note() != "" {
				t.Errorf("capacity %d, %s: the note is %q, want none", capacity, what, tr.Note())
			}
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if left, _ := filepath.Glob(c.Path + "?*"); len(left) > 0 {
			t.Errorf("the conversion left %v", left)
		}
	}
}

// A file of the present layout keeps all, whatever release wrote it. A change of an entry, of a checksum
// or of the hash needs another layout.
func TestFileOfLayout3IsKept(t *testing.T) {
	file, want := layout3(t)
	now := 55 * time.Second
	for _, capacity := range []int{640, 6400} {
		c := layout2Config
		c.Path, c.Capacity = arenaOf(t, file), capacity
		tr := open(t, c)
		compareConnections(t, fmt.Sprintf("capacity %d", capacity), tr, now, want)
		if tr.Note() != "" {
			t.Errorf("capacity %d: the note is %q, want none", capacity, tr.Note())
		}
		z, other := tr.AddZone(11, conntrack.Timeouts{}), tr.AddZone(1<<33+7, conntrack.Timeouts{})
		tr.PurgeUnknown()
		if u := tr.Usage(); u.Tracked+u.Untracked != len(want) {
			t.Errorf("capacity %d: usage %+v, want %d connections", capacity, u, len(want))
		}
		stray := pkt(6, 50000, 22, packet.ACK)
		stray.TCPSeq += 1 << 30
		expect(t, z, stray, now, rules, conntrack.New)
		expect(t, z, pkt(6, 50000, 22, packet.ACK), now, rules, conntrack.Live)
		expect(t, z, back(pkt(6, 50001, 22, 0), packet.FIN|packet.ACK), now, rules, conntrack.Live)
		expect(t, other, pkt(6, 50002, 22, packet.ACK), now, newer, conntrack.Blocked)
		for c := range tr.Connections(now) {
			if c.Flow.SrcPort == 50001 && c.State != "time-wait" {
				t.Errorf("after the FIN of the other end: %v, want time-wait", c)
			}
		}
		lost(t, z, 53, now, true, false)
		lost(t, z, 8050, now, false, false)
		z.SetOpen(nil, now)
		other.SetOpen(nil, now)
		lost(t, z, 8050, now, true, false)
		lost(t, other, 443, now, true, false)
		closed(t, tr)
	}
}

// Converted connections work: replies pass, blocked ones stay blocked, and a connection of which
// one end has sent FIN ends with the FIN of the other.
func TestConvertedConnectionsGoOn(t *testing.T) {
	file, _ := layout2(t)
	c := layout2Config
	c.Path = arenaOf(t, file)
	tr := open(t, c)
	z := tr.AddZone(11, conntrack.Timeouts{})
	now := 55 * time.Second
	shrunk := conntrack.Revision{Generation: 9, Shrunk: 9}
	expect(t, z, pkt(6, 40003, 22, packet.ACK), now, shrunk, conntrack.Live)
	expect(t, z, back(pkt(6, 40003, 22, 0), packet.ACK), now, shrunk, conntrack.Live)
	expect(t, z, back(pkt(17, 40009, 53, 0), 0), now, shrunk, conntrack.Live)
	expect(t, z, pkt(6, 40011, 80, packet.ACK), now, rules, conntrack.Checked)
	expect(t, z, pkt(6, 40012, 80, packet.ACK), now, shrunk, conntrack.Blocked)
	expect(t, z, pkt(17, 40015, 53, 0), now, shrunk, conntrack.Blocked)

	// Bob closed the connection of port 40004, alice that of 40005. A second FIN of the same end
	// changes nothing, one of the other end closes the connection.
	other := tr.AddZone(1<<33+7, conntrack.Timeouts{})
	bob, alice := pkt(6, 40004, 22, packet.FIN|packet.ACK), back(pkt(6, 40005, 22, 0), packet.FIN|packet.ACK)
	expect(t, z, bob, now, shrunk, conntrack.Live)
	expect(t, z, alice, now, shrunk, conntrack.Live)
	expect(t, other, back(bob, packet.FIN|packet.ACK), now, shrunk, conntrack.Live)
	expect(t, other, back(alice, packet.FIN|packet.ACK), now, shrunk, conntrack.Live)
	for c := range tr.Connections(now) {
		want := map[uint64]string{11: "closing", 1<<33 + 7: "time-wait"}[c.Epoch]
		if port := c.Flow.SrcPort; (port == 40004 || port == 40005) && c.State != want {
			t.Errorf("lease %d, port %d: the state is %s, want %s", c.Epoch, port, c.State, want)
		}
	}
}

// Of a damaged file of layout 2, each connection with a wrong checksum is lost, and no other.
func TestDamagedConnectionsOfLayout2AreNotKept(t *testing.T) {
	const header, size = 4096, 128
	file, want := layout2(t)
	damaged, kept := 0, 0
	for at := header; at < len(file); at += size {
		if binary.NativeEndian.Uint32(file[at:]) == 0 {
			continue
		}
		for offset := range 72 {
			if offset == 46 || offset == 47 {
				continue // padding
			}
			if (at/size+offset)%9 != 0 {
				continue // a sample
			}
			b := slices.Clone(file)
			b[at+offset] ^= 0x40
			c := layout2Config
			c.Path = arenaOf(t, b)
			tr := open(t, c)
			n := len(slices.Collect(tr.Connections(55 * time.Second)))
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			damaged++
			if n == len(want)-1 {
				kept++
			} else {
				t.Errorf("byte %d of a connection has changed: %d connections are kept, want %d", offset, n, len(want)-1)
			}
		}
	}
	for state, want := range map[byte]int{7: len(want), 8: len(want) - 1} { // 7 is the last that exists
		b := slices.Clone(file)
		for at := header; at < len(b); at += size {
			if binary.NativeEndian.Uint32(b[at:]) != 0 {
				b[at+72] = state
				break
			}
		}
		c := layout2Config
		c.Path = arenaOf(t, b)
		tr := open(t, c)
		if n := len(slices.Collect(tr.Connections(55 * time.Second))); n != want {
			t.Errorf("a connection has state %d: %d connections are kept, want %d", state, n, want)
		}
		closed(t, tr)
	}
	if damaged < 40*7 || kept != damaged {
		t.Errorf("%d of %d damaged files lost exactly one connection", kept, damaged)
	}
}

// A file of the present layout with other sizes keeps its connections. If they do not fit, those
// stay that may not be evicted, and Note tells how many are lost.
func TestChangedCapacityKeepsConnections(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	tr := open(t, conntrack.Config{Path: path, Capacity: 6400, Untracked: 640, Reserve: 64, Ceiling: 6400})
	z := tr.AddZone(11, conntrack.Timeouts{})
	for port := range uint16(1000) {
		admit(z, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}) // unanswered
	}
	for port := range uint16(100) {
		handshake(t, z, 40000+port, 0)
	}
	now := time.Second
	all := slices.Collect(tr.Connections(now))
	if len(all) != 1100 {
		t.Fatalf("there are %d connections, want 1100", len(all))
	}
	reopen := func(c conntrack.Config) {
		t.Helper()
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
		c.Path = path
		tr = open(t, c)
	}
	reopen(conntrack.Config{Capacity: 12800, Untracked: 128})
	compareConnections(t, "twice the capacity", tr, now, all)
	reopen(conntrack.Config{Capacity: 640, Untracked: 128})
	established, unanswered := 0, 0
	for c := range tr.Connections(now) {
		if c.State == "established" {
			established++
		} else {
			unanswered++
		}
	}
	if established != 100 || unanswered < 400 {
		t.Errorf("a capacity of 640 keeps %d established and %d unanswered connections, want 100 and at least 400", established, unanswered)
	}
	if want := fmt.Sprintf("%d connections have no room", 1000-unanswered); !strings.Contains(tr.Note(), want) {
		t.Errorf("the note is %q, want that %s", tr.Note(), want)
	}
}

// In a full file no shard has room for a connection of another one, so each connection must stay in
// its shard.
func TestConvertedFileSpreadsConnectionsAsBefore(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 6400, Untracked: 64, Reserve: 1, Ceiling: 6400}
	tr := open(t, c)
	z := tr.AddZone(11, conntrack.Timeouts{})
	for port := range uint16(20_000) {
		if p := pkt(17, port, 53, 0); admit(z, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
			observe(z, back(p, 0), 0, rules)
		}
	}
	full := tr.Usage().Tracked
	if full < 6000 {
		t.Fatalf("the table has %d connections, want almost 6400", full)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	c.Untracked = 640
	tr = open(t, c)
	if n := tr.Usage().Tracked; n != full || tr.Note() != "" {
		t.Errorf("%d of %d connections are left, the note is %q; want all", n, full, tr.Note())
	}
}

// The process is killed at any moment of a conversion. The next one has all connections.
func TestKillDuringConversionLosesNoConnection(t *testing.T) {
	if path := os.Getenv("CONNTRACK_CONVERT"); path != "" {
		fmt.Println("begins")
		conntrack.Open(conntrack.Config{Path: path, Capacity: 131_072})
		time.Sleep(time.Minute)
		return
	}
	original := filepath.Join(bootfiletest.Dir(t), "arena")
	tr := open(t, conntrack.Config{Path: original, Capacity: 65_536, Ceiling: 65_536})
	z := tr.AddZone(11, conntrack.Timeouts{})
	const connections = 40_000
	for port := range uint16(connections) {
		if v := admit(z, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}); v != verdict.Forward {
			t.Fatalf("connection %d: verdict %v, want %v", port, v, verdict.Forward)
		}
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	during := 0
	for n := range 15 {
		path := arenaOf(t, file)
		child := exec.Command(os.Args[0], "-test.run=^TestKillDuringConversionLosesNoConnection$")
		child.Env = append(os.Environ(), "CONNTRACK_CONVERT="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(n) * 2 * time.Millisecond)
		child.Process.Kill()
		child.Wait()
		if _, err := os.Stat(path + ".new"); err == nil {
			during++
		}
		tr := open(t, conntrack.Config{Path: path, Capacity: 131_072})
		if u := tr.Usage(); u.Tracked != connections {
			t.Errorf("killed after %d ms: %d connections are left, want %d", 2*n, u.Tracked, connections)
		}
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if during == 0 {
		t.Error("no process was killed during its conversion")
	}
}

// If the new file is smaller, blocked connections stay in each pool, so that none of them passes again,
// and the established ones in that of tracked connections. Others stay as far as there is room.
func TestBlockedConnectionsStayInASmallerFile(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	tr := open(t, conntrack.Config{Path: path, Capacity: 6400, Untracked: 6400, Reserve: 64, Ceiling: 6400})
	z := tr.AddZone(11, conntrack.Timeouts{})
	stale := conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}
	for _, kind := range []conntrack.Admission{{Revision: rules}, {Revision: rules, Untracked: true}} {
		first := uint16(53)
		if kind.Untracked {
			first = 54
		}
		for port := range uint16(2200) {
			p := pkt(17, port, first, 0)
			admit(z, p, 0, kind)
			if kind.Untracked {
				observe(z, back(p, 0), 0, rules) // answered
			}
			if port >= 2000 {
				rejudge(z, p, 0, stale, false, 0)
			}
		}
	}
	z.SetOpen(both(53, 53, 0), 0)
	closed(t, tr)
	tr = open(t, conntrack.Config{Path: path, Capacity: 1280, Untracked: 1280})
	z = tr.AddZone(11, conntrack.Timeouts{})
	z.SetOpen(nil, 1000*second)
	lost(t, z, 53, 1001*second, true, false)
	blocked, other := map[bool]int{}, map[bool]int{}
	for c := range tr.Connections(second) {
		if c.Blocked {
			blocked[c.Tracked]++
		} else {
			other[c.Tracked]++
		}
	}
	if blocked[true] != 200 || blocked[false] != 200 || other[true] < 800 || other[false] < 800 {
		t.Errorf("blocked connections that are left, by whether they are tracked: %v, want 200 of each; others: %v, want at least 800 of each", blocked, other)
	}
}
