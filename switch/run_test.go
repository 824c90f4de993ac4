package vswitch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/verdict"
	"palisade/switch/tap/taptest"
)

// descriptors returns how many descriptors the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestSwitchThatCannotBeMadeLeavesNothingOpen: New fails when the process may open no more descriptors,
// whichever of them is the first that it does not get. Close frees all of a switch that never ran.
func TestSwitchThatCannotBeMadeLeavesNothingOpen(t *testing.T) {
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	before := descriptors(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	next, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(next)
	for more := range 5 {
		few := limit
		few.Cur = uint64(next + more)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Tracker: tracker, Pollers: 3, Halt: true})
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if err == nil || s != nil {
			t.Errorf("a switch was made with %d descriptors", more)
		}
		if n := descriptors(t); n > before { // switches of earlier tests may still be closing theirs
			t.Errorf("with %d descriptors: %d are open, want %d", more, n, before)
		}
	}
	s, err := New(Config{Tracker: tracker, Pollers: 3, Halt: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.pollers[1].latency.fd, err = unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n := descriptors(t); n > before {
		t.Errorf("after Close %d descriptors are open, want %d", n, before)
	}
	s, err = New(Config{Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	if want := min(4, max(1, runtime.NumCPU()/2)); len(s.pollers) != want {
		t.Errorf("with %d processors there are %d pollers, want %d", runtime.NumCPU(), len(s.pollers), want)
	}
	s.Close()
}

// hasThreadOf reports whether a thread of the process has a nice value.
func hasThreadOf(t *testing.T, nice int) bool {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, _ := strconv.Atoi(thread.Name())
		if is, err := unix.Getpriority(unix.PRIO_PROCESS, id); err == nil && 20-is == nice { // the system call returns 20 - nice
			return true
		}
	}
	return false
}

// TestRunForwardsUntilItEnds: a fault in the connections' file costs only the frames of its batch, panics are
// logged, and at the end all goroutines have ended and all descriptors are closed.
func TestRunForwardsUntilItEnds(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	b := newTestbedWith(t, conntrack.Config{Path: path})
	b.rules("app", permit(ec2.UDP, 53, 60, "web")) // tracked
	logged := make(chan struct{}, 10)
	b.sw.panics.reports <- func() { logged <- struct{}{} }
	arrived := make(chan struct{}, 10)
	b.devices["app"].before = func() { arrived <- struct{}{} }
	device, err := taptest.New()
	if err != nil {
		t.Fatal(err)
	}
	port, err := b.sw.AddPort("tap", InstancePort, device) // beside the web's other one
	if err != nil {
		t.Fatal(err)
	}
	e := b.sw.Edit(b.generation)
	e.Attach(port, 1, Attachment{Endpoint: b.owners["web"], Zone: b.zones["web"], Rules: b.sets["web"]})
	b.sw.Publish(e)
	frame := b.datagram("10.10.0.5", 1)[offloadLen:]
	if err := device.Send(frame); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.sw.Run(ctx) }()
	for what, c := range map[string]chan struct{}{"a frame was delivered": arrived, "a panic was logged": logged} {
		select {
		case <-c:
		case <-time.After(30 * time.Second):
			t.Fatalf("within 30 s no %s", what)
		}
	}
	if os.Geteuid() == 0 && !hasThreadOf(t, priority) {
		t.Errorf("no thread has the priority %d of a poller", priority)
	}
	p := b.sw.pollers[0]
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := device.Send(frame); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); port.Counters().Verdicts[verdict.PipelinePanicked] == 0; {
		if time.Now().After(until) {
			t.Fatal("the fault was not counted within 30 s")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := unix.FcntlInt(uintptr(p.epoll), unix.F_GETFD, 0); err != unix.EBADF || p.busy() {
		t.Errorf("after Run the poller has its epoll, error %v, and is busy: %v", err, p.busy())
	}
}

// A lineCounter counts the lines of a log.
type lineCounter struct{ atomic.Int64 }

func (c *lineCounter) Write(line []byte) (int, error) {
	c.Add(1)
	return len(line), nil
}

// TestIdleConnectionsAreFreed: by a sweep in each sweepInterval, also after one that faults.
func TestIdleConnectionsAreFreed(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	synctest.Test(t, func(t *testing.T) {
		tracker, err := conntrack.Open(conntrack.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		b := newTestbedOn(t, tracker)
		var failed lineCounter
		b.sw.log = slog.New(slog.NewTextHandler(&failed, nil))
		b.rules("app", permit(ec2.UDP, 53, 60, "web"))
		b.expect("web", b.datagram("10.10.0.5", 1)[offloadLen:], "app", verdict.Forward)
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go b.sw.runSweep(ctx)
		time.Sleep(sweepInterval - 1)
		for i := range 4 {
			if synctest.Wait(); failed.Load() != int64(i) {
				t.Errorf("before sweep %d the log has %d that failed", i+1, failed.Load())
			}
			time.Sleep(sweepInterval)
		}
		cancel()
	})
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	b.expect("web", b.datagram("10.10.0.5", 1)[offloadLen:], "app", verdict.Forward) // when the kernel started, so long ago
	if n := b.tracker.Usage().Tracked; n != 2 {
		t.Fatalf("%d connections are tracked, want 2", n)
	}
	b.sw.log = nil // a sweep that succeeds logs nothing
	if b.sw.sweep(); b.tracker.Usage().Tracked != 0 {
		t.Errorf("%d connections are left after the sweep, want 0", b.tracker.Usage().Tracked)
	}
}
