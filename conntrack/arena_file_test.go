package conntrack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
)

// A file whose connections cannot be adopted is emptied, and Note says why: the node starts, and
// nothing passes that the rules do not admit.
func TestFileThatCannotBeAdoptedIsEmptied(t *testing.T) {
	const boot = 32 // offset of the boot id
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 640, Untracked: 64, Reserve: 64}
	tr := open(t, c)
	handshake(t, tr.AddZone(11, conntrack.Timeouts{}), 40000, 0)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := layout2(t)
	changed := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 4
		return b
	}
	for name, tt := range map[string]struct {
		content []byte
		kept    int
		note    string
	}{
		"unchanged":              {sound, 1, ""},
		"of another boot":        {changed(sound, boot), 0, "another boot"},
		"of another boot, 2":     {changed(sound, boot+15), 0, "another boot"},
		"of a later release":     {changed(sound, 7), 0, "a layout that this release does not know"},
		"truncated":              {sound[:len(sound)-4096], 0, "bytes, not"},
		"too long":               {append(bytes.Clone(sound), 0), 0, "bytes, not"},
		"truncated, layout 2":    {old[:len(old)-1], 0, "bytes, not"},
		"less than a header":     {sound[:12], 0, "only 12 bytes"},
		"empty":                  {nil, 0, ""},
		"header not yet written": {make([]byte, len(sound)), 0, ""},
	} {
		if err := os.WriteFile(c.Path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, again := range []bool{false, true} {
			note := tt.note
			if again {
				note = ""
			}
			tr := open(t, c)
			if n := tr.Usage().Tracked; n != tt.kept || (note == "") != (tr.Note() == "") || !strings.Contains(tr.Note(), note) {
				t.Errorf("%s, opened again: %v: %d connections are kept, the note is %q; want %d and %q", name, again, n, tr.Note(), tt.kept, note)
			}
			tr.Sweep(time.Second) // reads all slots
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that is no file of connections keeps its content.
func TestForeignFileIsRefused(t *testing.T) {
	for _, content := range []string{"name = \"node1\"\n", "short", "palic\x00\x00\x03" + strings.Repeat("x", 8192)} {
		path := arenaOf(t, []byte(content))
		_, err := conntrack.Open(conntrack.Config{Path: path})
		got, _ := os.ReadFile(path)
		if err == nil || !strings.Contains(err.Error(), "not a file of connections") || string(got) != content {
			t.Errorf("Open of a file that begins with %.8q returned error %v and left %.8q, want an error and the file unchanged", content, err, got)
		}
	}
}

// Others may neither read the file, which has the seed of the hash, nor write connections into it.
func TestFileOfConnectionsMustBeSafeFromOthers(t *testing.T) {
	c := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 640, Untracked: 64}
	refused := func(what, want string) {
		t.Helper()
		if _, err := conntrack.Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Open returned error %v, want one that has %q", what, err, want)
		}
	}
	if err := open(t, c).Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(c.Path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("a new file has mode %v, error %v; want 0600", st.Mode(), err)
	}
	os.Chmod(c.Path, 0o644)
	refused("mode 0644", "mode 0644")
	os.Chmod(c.Path, 0o600)
	// The file that replaces one of another size is checked too.
	if err := os.WriteFile(c.Path+".new", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Capacity = 1280
	refused("a file of mode 0644 beside it", "mode 0644")
	os.Remove(c.Path + ".new")
	if err := open(t, c).Close(); err != nil {
		t.Error(err)
	}
	c.Path = "/proc/self/mem"
	refused("not on a tmpfs", "not on a tmpfs")
}

// Too little memory for the table is an error, which leaves the file and the connections in it.
func TestTooLittleMemoryIsAnError(t *testing.T) {
	const huge = 1 << 28 // connections, 38 GiB
	small := conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "small"), Capacity: 640, Untracked: 64}
	tr := open(t, small)
	handshake(t, tr.AddZone(11, conntrack.Timeouts{}), 40000, 0)
	closed(t, tr)
	sound, err := os.ReadFile(small.Path)
	if err != nil {
		t.Fatal(err)
	}
	// A file with the header of a huge one, as sparse as that would be.
	sparse := filepath.Join(filepath.Dir(small.Path), "huge")
	header := bytes.Clone(sound[:4096])
	slots := uint32(huge / 64 * 9 / 8)
	binary.NativeEndian.PutUint32(header[8:], slots)
	if err := errors.Join(os.WriteFile(sparse, header, 0o600), os.Truncate(sparse, int64(len(sound))+64*128*(int64(slots)-640/64*9/8))); err != nil {
		t.Fatal(err)
	}
	limit := limitMemory(t, 4<<30)
	for name, c := range map[string]conntrack.Config{
		"no file":               {Capacity: huge, Untracked: 64},
		"a new file":            {Path: filepath.Join(filepath.Dir(small.Path), "new"), Capacity: huge, Untracked: 64},
		"a file of this size":   {Path: sparse, Capacity: huge, Untracked: 64},
		"a file of that size":   {Path: sparse, Capacity: 640, Untracked: 64},
		"a file that must grow": {Path: small.Path, Capacity: huge, Untracked: 64},
	} {
		if tr, err := conntrack.Open(c); !errors.Is(err, syscall.ENOMEM) {
			t.Errorf("%s: Open returned %v, %v; want an error of too little memory", name, tr, err)
		}
	}
	limit()
	if got, err := os.ReadFile(small.Path); err != nil || !bytes.Equal(got, sound) {
		t.Errorf("the file of connections has changed; error %v", err)
	}
	if f, err := os.Open(sparse); err != nil {
		t.Error(err)
	} else {
		got := make([]byte, len(header))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, header) {
			t.Errorf("the header of the huge file has changed; error %v", err)
		}
		f.Close()
	}
	tr = open(t, small)
	expect(t, tr.AddZone(11, conntrack.Timeouts{}), pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
}

// limitMemory limits the address space of the process to n bytes more than it has. The function that it
// returns ends that.
func limitMemory(t *testing.T, n uint64) func() {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(text))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &was); err != nil {
		t.Fatal(err)
	}
	set := func(l syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_AS, &l); err != nil {
			t.Fatal(err)
		}
	}
	set(syscall.Rlimit{Cur: min(was.Cur, pages*uint64(os.Getpagesize())+n), Max: was.Max})
	return func() { set(was) }
}
