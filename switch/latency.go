package vswitch

import (
	"encoding/binary"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// alertAfter is how many batches without a sleep between them make a poller ask for
// processors that stay awake: more than a few packets and their answers are. One that had
// asked does so again at once if it has slept for less than alertAgain: somebody was late.
const (
	alertAfter = 8
	alertAgain = time.Millisecond
)

// The kernel's values of a request: microseconds that a processor may take to wake up
// (Documentation/power/pm_qos_interface.rst), and the value of no request.
const (
	noLatency  = 0
	anyLatency = 2_000_000_000
)

// An alert keeps the processors of a virtual machine from halting while a poller has work
// all the time: who waits for the next frame is woken by a write to memory then, and not by
// way of the hypervisor, which takes some 20 us. The kernel does the same for a while by
// itself where guest_halt_poll_ns is not 0. The request ends with the descriptor, however
// the process ends. One poller uses it.
type alert struct {
	fd      int // of /dev/cpu_dma_latency; -1: there is nothing to ask for
	batches int // since the last sleep
	held    bool
	slept   time.Duration // when it was last given up
}

// newAlert returns an alert that does nothing where it cannot ask, or need not: processors
// that are not a hypervisor's take less to wake, and their sleep saves power.
func newAlert(halt bool) alert {
	driver, err := os.ReadFile("/sys/devices/system/cpu/cpuidle/current_driver")
	if halt || err != nil || strings.TrimSpace(string(driver)) != "haltpoll" {
		return alert{fd: -1}
	}
	fd, err := unix.Open("/dev/cpu_dma_latency", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return alert{fd: -1} // without the privilege it goes on as it is
	}
	return alert{fd: fd}
}

// worked is called before each batch.
func (a *alert) worked(now time.Duration) {
	if a.held || a.fd < 0 {
		return
	}
	if a.batches++; a.batches >= alertAfter || a.slept != 0 && now-a.slept < alertAgain {
		a.held = a.request(noLatency)
	}
}

// sleeps is called before the poller sleeps.
func (a *alert) sleeps(now time.Duration) {
	a.batches = 0
	if a.held {
		a.held = !a.request(anyLatency)
		a.slept = now
	}
}

func (a *alert) request(latency uint32) bool {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], latency)
	_, err := unix.Write(a.fd, b[:])
	return err == nil
}

func (a *alert) close() {
	if a.fd >= 0 {
		_ = unix.Close(a.fd)
	}
}
