// Package bootfiletest gives tests a directory on a tmpfs, which the files of package bootfile need.
// Only tests import it.
package bootfiletest

import (
	"os"
	"testing"
)

// Dir makes a directory on the tmpfs at /dev/shm, which every Linux system has. It is removed when
// the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "palisade-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
