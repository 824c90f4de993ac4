package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteReplacesContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, c := range []struct {
		data string
		mode os.FileMode
	}{
		{"first", 0o600},
		{"the second is longer", 0o644},
		{"", 0o400},
	} {
		if err := Write(path, []byte(c.data), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != c.data {
			t.Errorf("the file has %q (error %v), want %q", got, err, c.data)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != c.mode {
			t.Errorf("the file has mode %v, want %v", info.Mode().Perm(), c.mode)
		}
	}
	wantOnly(t, filepath.Dir(path), "key")
}

func TestFailedWriteKeepsOldContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := Write(path, []byte("new"), 0o600) // a file cannot replace a directory
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Write over a directory returned %v, want an error that names %s", err, path)
	}
	wantOnly(t, dir, "taken")

	if err := Write(filepath.Join(dir, "absent", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write into a missing directory returned %v, want %v", err, fs.ErrNotExist)
	}
}

func TestRenameMovesADirectory(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "draft"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Rename(filepath.Join(dir, "draft"), filepath.Join(dir, "final")); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "file", "final")
	if err := Rename(filepath.Join(dir, "draft"), filepath.Join(dir, "final")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rename of a missing directory returned %v, want %v", err, fs.ErrNotExist)
	}
}

// wantOnly fails the test unless the directory dir has exactly the names want. A temporary
// file that was left behind fails it too.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("directory %s has the names %q, want %q", dir, got, want)
	}
}
