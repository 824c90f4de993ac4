package instance

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInstanceHasOnlyListedCapabilities has a second list of the capabilities, so that nobody adds
// one by accident.
func TestInstanceHasOnlyListedCapabilities(t *testing.T) {
	want := []uintptr{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
		unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_AUDIT_WRITE,
	}
	got := slices.Clone(capabilities)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("an instance's root has the capabilities %d, want %d", got, want)
	}
}
