package conntrack_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

func TestConnectionsSurviveARestart(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	tr := open(t, conntrack.Config{Path: path})
	kept, dropped := tr.AddZone(11, conntrack.Timeouts{}), tr.AddZone(12, conntrack.Timeouts{})
	handshake(t, kept, 40000, 0)
	handshake(t, kept, 40001, 0)
	handshake(t, dropped, 40000, 0)
	if _, err := conntrack.Open(conntrack.Config{Path: path}); err == nil {
		t.Fatal("a second Open of a file in use succeeded, want an error")
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}

	// Change one byte of one entry.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i += 128 {
		if b[i+40] == 11 && b[i+4] == 0x41 && b[i+5] == 0x9c { // lease 11, port 40001
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
		t.Errorf("PurgeUnknown removed %d connections, want 1", n)
	}
	if u := tr.Usage(); u.Tracked != 1 {
		t.Errorf("usage %+v, want 1 tracked connection", u)
	}
}

// Adopted connections that expired while no process ran count neither as used nor as
// reserved.
func TestConnectionsThatExpireDuringARestartTakeNoRoom(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 640, Untracked: 64, Reserve: 64}
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
		t.Errorf("%d connections fit after the restart, want %d as before it", got, want)
	}
}

// A process may die between any two writes of an entry. An entry with a changed byte in a
// field that decisions depend on is not adopted.
func TestTornEntryIsNotAdopted(t *testing.T) {
	const header, size, covered = 4096, 128, 66 // bytes; the checksum covers the first 66 of an entry
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 64, Untracked: 64, Reserve: 1}
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
		if sound[i+40] == 11 && sound[i+4] != 0 {
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
		n, listed := tr.Usage().Tracked, len(slices.Collect(tr.Connections(0)))
		if purged := tr.PurgeUnknown(); listed != n || purged != n {
			t.Errorf("of %d adopted connections %d are listed, and %d were removed", n, listed, purged)
		}
		return n
	}
	if n := adopted(func([]byte) {}); n != 1 {
		t.Fatalf("%d connections of the unchanged file are adopted, want 1", n)
	}
	for offset := range covered {
		for _, bits := range []byte{0x01, 0x80} {
			if offset == 0 && bits == 1 {
				continue // always set in a checksum, so that no checksum is zero
			}
			if n := adopted(func(b []byte) { b[offset] ^= bits }); n != 0 {
				t.Errorf("the entry is adopted although bits %02x of its byte %d have changed", bits, offset)
			}
		}
	}
}

// An entry that is not where its connection belongs, in the pool of the other kind or in another shard,
// is not adopted.
func TestEntryInAnotherPlaceIsNotAdopted(t *testing.T) {
	const header, size, slots = 4096, 128, 64 * 2 // each shard has one slot of each pool
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 64, Untracked: 64, Reserve: 1}
	tr := open(t, c)
	handshake(t, tr.AddZone(11, conntrack.Timeouts{}), 40000, 0)
	closed(t, tr)
	b, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	entries := b[header : header+slots*size]
	home := 0
	for i := range slots {
		if entries[i*size] != 0 {
			home = i
		}
	}
	sound := append([]byte(nil), entries[home*size:][:size]...)
	for at := range slots {
		clear(entries)
		copy(entries[at*size:], sound)
		if err := os.WriteFile(c.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tr := open(t, c)
		if u := tr.Usage(); u.Tracked+u.Untracked != 0 != (at == home) {
			t.Errorf("in slot %d, which is %d after its own, %+v", at, at-home, u)
		}
		closed(t, tr)
	}
}

// The next process can use all slots that the earlier one did not need.
func TestRestartLeavesRoomForNewConnections(t *testing.T) {
	c := inFile(t)
	c.Ceiling = 640
	open := func(z *conntrack.Zone, first, n uint16) (opened int) {
		for port := range n {
			p := pkt(17, first+port, 53, 0)
			if admit(z, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
				observe(z, back(p, 0), 0, rules)
				opened++
			}
		}
		return opened
	}
	tr, err := conntrack.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	open(tr.AddZone(1, conntrack.Timeouts{}), 0, 40)
	tr, _ = crashed(t, c)
	z := tr.AddZone(1, conntrack.Timeouts{})
	if n := open(z, 1000, 5000); n != 600 {
		t.Errorf("beside 40 adopted connections %d were opened, want 600", n)
	}
}

// A file may have been written with a larger ceiling. A zone that has reached its own evicts nothing of
// a zone with more connections, because it could not use the room.
func TestZoneAtItsCeilingEvictsNothing(t *testing.T) {
	c := inFile(t)
	c.Capacity, c.Ceiling = 6400, 6400
	z := open(t, c).AddZone(1, conntrack.Timeouts{})
	for port := range uint16(1000) {
		admit(z, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules}) // unanswered
	}
	c.Ceiling = 128
	tr, _ := crashed(t, c)
	tr.AddZone(1, conntrack.Timeouts{})
	z = tr.AddZone(2, conntrack.Timeouts{})
	for port := range uint16(1000) {
		p := pkt(17, port, 53, 0)
		if admit(z, p, 0, conntrack.Admission{Revision: rules}) == verdict.Forward {
			observe(z, back(p, 0), 0, rules)
		}
	}
	if u := tr.Usage(); u.Tracked != 1000+128 {
		t.Errorf("%d connections, want the 1000 of one zone and the 128 of the other", u.Tracked)
	}
}

// Adopted connections leave the other zones as much room as they did before.
func TestAdoptedConnectionsUseTheSurplus(t *testing.T) {
	c := inFile(t)
	c.Ceiling = 640
	tr := open(t, c)
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	for port := range uint16(200) {
		admit(z, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules})
	}
	before := other.Allowance().Available
	tr, _ = crashed(t, c)
	other = tr.AddZone(2, conntrack.Timeouts{})
	tr.AddZone(1, conntrack.Timeouts{})
	if got := other.Allowance().Available; got != before || before != 640-200 {
		t.Errorf("a zone beside one with 200 connections could open %d, and after the restart %d; want 440", before, got)
	}
}
