package vswitch_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/internal/netns"
	vswitch "palisade/switch"
	"palisade/switch/tap"
)

// TestDeletedNamespaceDoesNotSpinThePoller: a TAP whose namespace is gone is readable for
// ever, and every read of it fails.
//
//	poller -- eth0 [namespace, deleted under it]
func TestDeletedNamespaceDoesNotSpinThePoller(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, and CI is set")
		}
		t.Skip("needs root: makes network namespaces")
	}
	ns := "pal-gone-" + time.Now().Format("150405.000000")
	if err := netns.New(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(ns) })
	device, err := tap.Open(tap.Config{Name: "eth0", Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := vswitch.New(vswitch.Config{Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	go sw.Run(t.Context())
	port, err := sw.AddPort("gone", vswitch.InstancePort, device)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
		t.Fatalf("ip netns del: %v: %s", err, out)
	}
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	deadline := time.After(5 * time.Second)
	for quiet := false; !quiet; {
		before := used()
		select {
		case <-time.After(200 * time.Millisecond):
			quiet = used()-before < 50*time.Millisecond
		case <-deadline:
			t.Fatal("the poller uses a processor for a device that is gone")
		}
	}
	if err := sw.RemovePort(port); err != nil {
		t.Error(err)
	}
}
