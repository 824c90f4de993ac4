package plane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnforcedIndexOnlyAdvances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enforced")
	e, err := OpenEnforcedIndex(path)
	if err != nil || e.index != 0 {
		t.Fatalf("without a file the index is %d, error %v; want 0", e.index, err)
	}
	var was os.FileInfo
	for _, step := range []struct{ to, want uint64 }{{7, 7}, {7, 7}, {3, 7}, {1 << 40, 1 << 40}} {
		before := e.index
		if err := e.advance(step.to); err != nil {
			t.Fatal(err)
		}
		now, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if written := was == nil || !os.SameFile(was, now); written != (step.to > before) {
			t.Errorf("advance(%d) at index %d wrote the file: %v", step.to, before, written)
		}
		was = now
		again, err := OpenEnforcedIndex(path)
		if err != nil || again.index != step.want || e.index != step.want {
			t.Errorf("after advance(%d) the index is %d, on disk %d, error %v; want %d", step.to, e.index, again.index, err, step.want)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("the directory has %v, want one file", files)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := e.advance(1<<40 + 1); err == nil || e.index != 1<<40 {
		t.Errorf("advance in a missing directory: error %v, index %d; want an error and %d", err, e.index, 1<<40)
	}
}

func TestUnreadableEnforcedIndexIsAnError(t *testing.T) {
	if e, err := OpenEnforcedIndex(t.TempDir()); err == nil || e != nil {
		t.Errorf("a directory was opened as the file of the index: %v, error %v", e, err)
	}
}

func TestDamagedEnforcedIndexFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enforced")
	e := &EnforcedIndex{path: path}
	if err := e.advance(0x0102030405060708); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": {}, "cut": whole[:11], "too long": append(whole[:12:12], 0)}
	for bit := range len(whole) * 8 {
		b := append([]byte(nil), whole...)
		b[bit/8] ^= 1 << (bit % 8)
		damaged[fmt.Sprint("bit ", bit)] = b
	}
	for name, data := range damaged {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenEnforcedIndex(path); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
			t.Errorf("file with damage %q: error %v, want one that says the file is damaged", name, err)
		}
	}
}
