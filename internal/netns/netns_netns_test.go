package netns

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// A process killed inside New or Delete leaves a file that no namespace is bound to.
func TestNewReplacesAnUnboundName(t *testing.T) {
	netnstest.NeedRoot(t)
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

// Somebody laid Dir over itself after a name was made, as `ip netns add` does where nobody
// has shared it before.
func TestDeleteRemovesANameBelowAnotherMount(t *testing.T) {
	netnstest.NeedRoot(t)
	if os.Getenv("PALISADE_TEST_MOUNTS") == "" {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "PALISADE_TEST_MOUNTS=own")
		child.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("in a mount namespace of its own: %v\n%s", err, out)
		}
		return
	}
	const name = "palisade-test-below"
	if err := New(name); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []uintptr{unix.MS_PRIVATE | unix.MS_REC, unix.MS_BIND | unix.MS_REC} {
		if err := unix.Mount(Dir, Dir, "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := Delete(name); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, err := os.Lstat(Path(name)); err == nil {
		os.Remove(Path(name))
		t.Error("the name is still there")
	}
}
