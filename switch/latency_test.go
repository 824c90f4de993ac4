package vswitch

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// TestProcessorsStayAwakeWhileAPollerWorks reads from the kernel which latency is in force.
func TestProcessorsStayAwakeWhileAPollerWorks(t *testing.T) {
	netnstest.NeedRoot(t)
	const device = "/dev/cpu_dma_latency"
	fd, err := unix.Open(device, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := latencyRequest{fd: fd}
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
		t.Fatalf("another process has requested latency 0 at %s, so this test cannot see its own request", device)
	}
	now := time.Hour
	work := func(batches int) {
		for range batches {
			now += 10 * time.Microsecond
			a.beforeBatch(now)
		}
	}
	expect := func(want uint32, when string) {
		t.Helper()
		if got := inForce(); got != want {
			t.Errorf("%s: the latency in force is %d us, want %d", when, got, want)
		}
	}
	for range 3 {
		work(busyBatches - 1)
		expect(before, "a few packets, and a sleep")
		a.beforeSleep(now)
	}
	work(busyBatches + 1)
	expect(noLatency, "work all the time")
	a.beforeSleep(now)
	expect(before, "asleep")
	now += shortSleep / 2
	work(1)
	expect(noLatency, "work again, somewhat late")
	a.beforeSleep(now)
	now += 2 * shortSleep
	work(1)
	expect(before, "work again, much later")
}

func TestHaltRequestsNoLatency(t *testing.T) {
	a := newLatencyRequest(true)
	for range 2 * busyBatches {
		a.beforeBatch(0)
	}
	if a.fd >= 0 || a.active {
		t.Errorf("with halt newLatencyRequest returned %+v, want no descriptor", a)
	}
	a.beforeSleep(0)
	a.close()
}
