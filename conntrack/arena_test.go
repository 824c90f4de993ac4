package conntrack_test

import (
	"os"
	"path/filepath"
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
		return tr.Usage().Tracked
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
