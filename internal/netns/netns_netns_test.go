package netns

import (
	"os"
	"testing"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test makes namespaces and must run as root; where CI is set it may not be skipped")
	}
	t.Skip("makes namespaces: run it as root")
}

// A process killed inside New or Delete leaves a file that no namespace is bound to.
func TestHalfMadeNameIsNoObstacle(t *testing.T) {
	needRoot(t)
	const name = "palisade-test-half"
	t.Cleanup(func() { Delete(name) })
	half := func() {
		t.Helper()
		if err := os.MkdirAll(Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(Path(name), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	half()
	if Exists(name) {
		t.Error("a file that no namespace is bound to exists as one")
	}
	if err := Delete(name); err != nil {
		t.Errorf("Delete: %v", err)
	}
	half()
	if err := New(name); err != nil || !Exists(name) {
		t.Errorf("New: %v, exists %v", err, Exists(name))
	}
	if err := New(name); err == nil {
		t.Error("a namespace was made twice")
	}
	if err := Delete(name); err != nil || Exists(name) {
		t.Errorf("Delete: %v, exists %v", err, Exists(name))
	}
}
