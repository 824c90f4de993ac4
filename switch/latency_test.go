package vswitch

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// TestAlertIsHeldWhileAPollerDoesNotSleep asks the kernel what is in force.
func TestAlertIsHeldWhileAPollerDoesNotSleep(t *testing.T) {
	netnstest.NeedRoot(t)
	const device = "/dev/cpu_dma_latency"
	fd, err := unix.Open(device, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := alert{fd: fd}
	t.Cleanup(a.close)
	inForce := func() uint32 {
		t.Helper()
		f, err := os.Open(device)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [4]byte
		if _, err := f.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		return binary.NativeEndian.Uint32(b[:])
	}
	before := inForce()
	if before == noLatency {
		t.Fatalf("somebody else holds %s at 0", device)
	}
	now := time.Hour
	work := func(batches int) {
		for range batches {
			now += 10 * time.Microsecond
			a.worked(now)
		}
	}
	expect := func(want uint32, when string) {
		t.Helper()
		if got := inForce(); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}
	for range 3 {
		work(alertAfter - 1)
		expect(before, "a few packets, and a sleep")
		a.sleeps(now)
	}
	work(alertAfter + 1)
	expect(noLatency, "work all the time")
	a.sleeps(now)
	expect(before, "asleep")
	now += alertAgain / 2
	work(1)
	expect(noLatency, "work again, somewhat late")
	a.sleeps(now)
	now += 2 * alertAgain
	work(1)
	expect(before, "work again, much later")
}

// TestAlertIsNotAskedForWhenProcessorsMayHalt: by the configuration.
func TestAlertIsNotAskedForWhenProcessorsMayHalt(t *testing.T) {
	a := newAlert(true)
	for range 2 * alertAfter {
		a.worked(0)
	}
	if a.fd >= 0 || a.held {
		t.Errorf("it holds %+v", a)
	}
	a.sleeps(0)
	a.close()
}
