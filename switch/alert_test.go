package vswitch

import (
	"encoding/binary"
	"os"
	"testing"

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
	for range 3 { // single packets, each behind a sleep
		for range alertAfter - 1 {
			a.worked()
		}
		if now := inForce(); now != before {
			t.Fatalf("%d after %d batches, want %d as before", now, alertAfter-1, before)
		}
		a.sleeps()
	}
	for range alertAfter + 1 {
		a.worked()
	}
	if now := inForce(); now != noLatency {
		t.Errorf("%d while the poller has work all the time, want %d", now, noLatency)
	}
	a.sleeps()
	if now := inForce(); now != before {
		t.Errorf("%d once the poller sleeps, want %d as before", now, before)
	}
}

// TestAlertIsNotAskedForWhenProcessorsMayHalt: by the configuration.
func TestAlertIsNotAskedForWhenProcessorsMayHalt(t *testing.T) {
	a := newAlert(true)
	for range 2 * alertAfter {
		a.worked()
	}
	if a.fd >= 0 || a.held {
		t.Errorf("it holds %+v", a)
	}
	a.sleeps()
	a.close()
}
