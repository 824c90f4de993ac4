package netns

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// A process that is killed within New or Delete leaves a file that is not bound to a namespace.
func TestNewReplacesAnUnboundName(t *testing.T) {
	netnstest.NeedRoot(t)
	const name = "palisade-test-half"
	t.Cleanup(func() { Delete(name) })
	leaveUnbound := func() {
		t.Helper()
		if err := os.MkdirAll(Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(Path(name), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	leaveUnbound()
	if Exists(name) {
		t.Error("Exists is true for a file that is not bound to a namespace")
	}
	if err := Delete(name); err != nil {
		t.Errorf("Delete: %v", err)
	}
	leaveUnbound()
	if err := New(name); err != nil || !Exists(name) {
		t.Errorf("New: %v, exists %v", err, Exists(name))
	}
	if err := New(name); err == nil {
		t.Error("New succeeded with a name that exists")
	}
	if err := Delete(name); err != nil || Exists(name) {
		t.Errorf("Delete: %v, exists %v", err, Exists(name))
	}
}

// Dir was mounted over itself after a name was created, as `ip netns add` does if Dir is not
// shared yet.
func TestDeleteRemovesANameBelowAnotherMount(t *testing.T) {
	netnstest.NeedRoot(t)
	if os.Getenv("PALISADE_TEST_MOUNTS") == "" {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "PALISADE_TEST_MOUNTS=own")
		child.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("in a new mount namespace: %v\n%s", err, out)
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
		t.Error("the name still exists")
	}
}
