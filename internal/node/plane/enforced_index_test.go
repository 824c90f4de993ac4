package plane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnforcedMarkOnlyAdvances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enforced")
	m, err := OpenEnforcedIndex(path)
	if err != nil || m.index != 0 {
		t.Fatalf("a new mark: %d, %v", m.index, err)
	}
	for _, step := range []struct{ to, want uint64 }{{7, 7}, {7, 7}, {3, 7}, {1 << 40, 1 << 40}} {
		if err := m.advance(step.to); err != nil {
			t.Fatal(err)
		}
		again, err := OpenEnforcedIndex(path)
		if err != nil || again.index != step.want || m.index != step.want {
			t.Errorf("after advance(%d): %d, on disk %d, %v; want %d", step.to, m.index, again.index, err, step.want)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("left beside the mark: %v", files)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := m.advance(1<<40 + 1); err == nil || m.index != 1<<40 {
		t.Errorf("advance without a disk: %v, index %d", err, m.index)
	}
}

func TestDamagedEnforcedMarkIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enforced")
	m := &EnforcedIndex{path: path}
	if err := m.advance(0x0102030405060708); err != nil {
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
			t.Errorf("%s: %v, want that it is damaged", name, err)
		}
	}
}
