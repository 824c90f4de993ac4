package netns

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// A process that is killed within New or Delete leaves a file that is not bound to a
// namespace. Delete removes such a file, and New replaces it.
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
		t.Errorf("Delete: %v, want no error", err)
	}
	leaveUnbound()
	if err := New(name); err != nil || !Exists(name) {
		t.Errorf("New over an unbound file: %v, Exists %v; want no error and true", err, Exists(name))
	}
	if err := New(name); err == nil {
		t.Error("New with a name that exists returned no error")
	}
	if err := Delete(name); err != nil || Exists(name) {
		t.Errorf("Delete: %v, Exists %v; want no error and false", err, Exists(name))
	}
}

// Delete also removes a name that became hidden when Dir was mounted over itself. `ip netns
// add` mounts it so if Dir is not shared yet.
func TestDeleteRemovesANameBelowAnotherMount(t *testing.T) {
	netnstest.NeedRoot(t)
	if os.Getenv("PALISADE_TEST_MOUNTS") == "" {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "PALISADE_TEST_MOUNTS=own")
		child.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("the test in a new mount namespace: %v\n%s", err, out)
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
		t.Errorf("Delete: %v, want no error", err)
	}
	if _, err := os.Lstat(Path(name)); err == nil {
		os.Remove(Path(name))
		t.Error("the name still exists after Delete")
	}
}
