package vswitch

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// TestProcessorsStayAwakeWhileAPollerWorks reads from the kernel which latency is in force.
func TestProcessorsStayAwakeWhileAPollerWorks(t *testing.T) {
	netnstest.NeedRoot(t)
	fd, err := unix.Open(latencyDevice, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := latencyRequest{fd: fd}
	t.Cleanup(a.close)
	inForce := func() uint32 {
		t.Helper()
		f, err := os.Open(latencyDevice)
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
		t.Fatalf("another process has requested latency 0 at %s, so this test cannot see its own request", latencyDevice)
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

// TestLatencyIsRequestedOnlyInAVirtualMachine: without the privilege, with halt, or where processors
// wake by themselves there is no request.
func TestLatencyIsRequestedOnlyInAVirtualMachine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	virtual, real, device := file("virtual", "haltpoll\n"), file("real", "intel_idle\n"), file("device", "")
	for name, tt := range map[string]struct {
		halt           bool
		driver, device string
		want           bool
	}{
		"a virtual machine":               {false, virtual, device, true},
		"a virtual machine that may halt": {true, virtual, device, false},
		"a machine":                       {false, real, device, false},
		"no driver":                       {false, filepath.Join(dir, "none"), device, false},
		"no device":                       {false, virtual, filepath.Join(dir, "none"), false},
	} {
		a := newLatencyRequest(tt.halt, tt.driver, tt.device)
		if (a.fd > 2) != tt.want || !tt.want && a.fd != -1 {
			t.Errorf("%s: descriptor %d, want one: %v", name, a.fd, tt.want)
		}
		for range 2 * busyBatches {
			a.beforeBatch(0)
		}
		if a.active != tt.want || a.batches > 0 != tt.want {
			t.Errorf("%s: active after much work: %v, want %v; %d batches are counted", name, a.active, tt.want, a.batches)
		}
		a.beforeSleep(0)
		a.close()
		if err := unix.Fsync(a.fd); err != unix.EBADF {
			t.Errorf("%s: after close the descriptor is open, error %v", name, err)
		}
	}
}

// TestLatencyRequestFollowsTheWork has what is written to the device: a request when the poller has worked
// for busyBatches batches, or again soon after a sleep, and its end before a sleep.
func TestLatencyRequestFollowsTheWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	a := latencyRequest{fd: fd}
	t.Cleanup(func() { a.close() })
	const soon, late = shortSleep - 1, shortSleep
	now := time.Duration(1)
	written := 0
	for i, tt := range []struct {
		after   time.Duration
		batches int // 0: the poller sleeps
		want    []uint32
	}{
		{0, busyBatches - 1, nil}, {0, 0, nil}, // little work, and a clock that has just begun
		{soon, busyBatches - 1, nil}, {0, 1, []uint32{noLatency}}, {0, 100, nil}, {0, 0, []uint32{anyLatency}},
		{soon, 1, []uint32{noLatency}}, {0, 0, []uint32{anyLatency}},
		{late, busyBatches - 1, nil}, {0, 0, nil}, {0, busyBatches - 1, nil}, {0, 1, []uint32{noLatency}}, {late, 0, []uint32{anyLatency}},
		{soon, 1, []uint32{noLatency}},
	} {
		now += tt.after
		for range tt.batches {
			a.beforeBatch(now)
		}
		if tt.batches == 0 {
			a.beforeSleep(now)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for ; written+4 <= len(text); written += 4 {
			got = append(got, binary.NativeEndian.Uint32(text[written:]))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("step %d: %d us were written, want %d", i, got, tt.want)
		}
	}
}

// TestRefusedLatencyRequestIsMadeAgain: only what the kernel took counts as requested or withdrawn.
func TestRefusedLatencyRequestIsMadeAgain(t *testing.T) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0) // a write to it fails
	if err != nil {
		t.Fatal(err)
	}
	a := latencyRequest{fd: fd, batches: busyBatches}
	t.Cleanup(a.close)
	if a.beforeBatch(time.Hour); a.active {
		t.Error("a request that failed counts as made")
	}
	a.active = true
	if a.beforeSleep(time.Hour); !a.active {
		t.Error("a request counts as withdrawn, although that failed")
	}
}
