package vswitch

import (
	"encoding/binary"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A poller that works busyBatches batches without a sleep asks for processors that stay awake. A few
// packets and their answers take fewer batches. After a sleep shorter than shortSleep it asks again
// at once, because the traffic has not stopped.
const (
	busyBatches = 8
	shortSleep  = time.Millisecond
)

// The values of a request to the kernel: the microseconds that a processor may take to wake up
// (Documentation/power/pm_qos_interface.rst), and the value that requests nothing.
const (
	noLatency  = 0
	anyLatency = 2_000_000_000
)

// A latencyRequest keeps the processors of a virtual machine from halting while a poller has work
// all the time. A thread that waits for the next frame is then woken by a write to memory, and not
// through the hypervisor, which takes some 20 us. The kernel does the same by itself for a while if
// guest_halt_poll_ns is not 0. The request ends with the descriptor, however the process ends. Only
// its poller uses it.
type latencyRequest struct {
	fd      int // of /dev/cpu_dma_latency; -1: nothing is requested
	batches int // since the last sleep
	active  bool
	slept   time.Duration // when the request was last withdrawn
}

// The kernel's name for the driver of idle processors, and the device that takes the request.
const (
	idleDriver    = "/sys/devices/system/cpu/cpuidle/current_driver"
	latencyDevice = "/dev/cpu_dma_latency"
)

// newLatencyRequest returns a request that does nothing if halt is true, if the process lacks the
// privilege, or outside of a virtual machine, where a processor wakes faster and its sleep saves
// power.
func newLatencyRequest(halt bool, driverFile, device string) latencyRequest {
	driver, _ := os.ReadFile(driverFile) // there is none without a driver
	if halt || strings.TrimSpace(string(driver)) != "haltpoll" {
		return latencyRequest{fd: -1}
	}
	fd, err := unix.Open(device, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return latencyRequest{fd: -1} // without the privilege the processors halt when they are idle
	}
	return latencyRequest{fd: fd}
}

// beforeBatch, called before each batch, begins the request when the poller has worked long enough.
func (r *latencyRequest) beforeBatch(now time.Duration) {
	if r.active || r.fd < 0 {
		return
	}
	if r.batches++; r.batches >= busyBatches || r.slept != 0 && now-r.slept < shortSleep {
		r.active = r.set(noLatency)
	}
}

// beforeSleep, called before the poller sleeps, withdraws the request.
func (r *latencyRequest) beforeSleep(now time.Duration) {
	r.batches = 0
	if r.active {
		r.active = !r.set(anyLatency)
		r.slept = now
	}
}

func (r *latencyRequest) set(latency uint32) bool {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], latency)
	_, err := unix.Write(r.fd, b[:])
	return err == nil
}

func (r *latencyRequest) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
}
