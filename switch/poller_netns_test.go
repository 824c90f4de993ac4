package vswitch_test

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	vswitch "palisade/switch"
	"palisade/switch/switchtest"
	"palisade/switch/tap"
)

// TestDeletedDeviceDoesNotSpinThePoller: a deleted TAP is readable for ever, and every read of it
// fails.
//
//	poller -- eth0 [namespace], deleted while the poller watches it
func TestDeletedDeviceDoesNotSpinThePoller(t *testing.T) {
	netnstest.NeedRoot(t)
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
	switchtest.ReportFailure(t, func() string { return sw.Describe(vswitch.Now()) })
	go sw.Run(t.Context())
	port, err := sw.AddPort("gone", vswitch.InstancePort, device)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "-n", ns, "link", "del", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("ip link del: %v: %s", err, out)
	}
	if _, err := device.Read(make([]byte, 70000)); err == nil || err == unix.EAGAIN {
		t.Fatalf("the device is still there: %v", err)
	}
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	// A spinning poller uses the processor all the time. Other work of the process, such as garbage
	// collection, does so only at times.
	runtime.GC()
	least := time.Hour
	for range 3 {
		before := used()
		<-time.After(300 * time.Millisecond)
		least = min(least, used()-before)
	}
	if least > 100*time.Millisecond {
		t.Errorf("the process used the processor for %v of 300 ms after its device was deleted, want at most 100 ms", least)
	}
	if err := sw.RemovePort(port); err != nil {
		t.Error(err)
	}
}
