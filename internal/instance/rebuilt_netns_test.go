package instance

import (
	"os"
	"testing"
)

// TestInstanceStartsAfterBinaryIsReplaced replaces the file of the running binary by another, as a build does
// while a daemon runs. An instance that starts then has a copy of the running binary, which it cannot change.
func TestInstanceStartsAfterBinaryIsReplaced(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	s := newSpec(t, "rebuilt", DefaultImage)
	boot(t, s)
	if out, code := inside(t, s, "sh", "-c", "echo x >>"+initPath); code == 0 {
		t.Errorf("the instance changed its init: %s", out)
	}
}
