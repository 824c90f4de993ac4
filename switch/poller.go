package vswitch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	// spinFor is how long an idle poller looks for frames before it sleeps. The answer to a frame
	// that it has just delivered often comes sooner than a sleeping thread can be woken, and waking
	// a thread on an idle processor costs the sender more time than sending the frame.
	spinFor = 100 * time.Microsecond
	// priority is the nice value of a poller's thread. It runs the poller before senders and
	// receivers, which otherwise finish their time slice first, but does not let it interrupt a
	// sender for every frame.
	priority = -5
	// frameSize is the largest frame that a TAP returns, with its virtio header.
	frameSize = 10 + 14 + 65535 + 8
)

// The states of a poller that works on no batch. In a batch the state is the generation of its
// Snapshot plus one.
const (
	idle    = 0
	loading = ^uint64(0)
)

// A poller owns some ports: only its goroutine reads from them, and it carries each frame to its
// last write. It waits in an epoll of its own, because Go's network poller costs a wake-up and a
// scheduling for every frame.
//
// Other goroutines use only the atomic fields, and the methods add, remove and stop. mu guards the
// replacement of the map of ports; no other lock is taken within it.
type poller struct {
	sw      *Switch
	number  int // its queue in a TunnelDevice; below maxPollers
	epoll   int
	wake    int // an eventfd that ends the wait in epoll
	latency latencyRequest
	frame   *frame // the frame in the pipeline

	paused []pause // the ports that are not watched at present

	state   atomic.Uint64 // idle, loading, or generation + 1
	batch   atomic.Uint64 // how many batches have begun
	stopped atomic.Bool

	ports atomic.Pointer[map[int32]*Port] // by descriptor; replaced, never changed
	mu    sync.Mutex                      // guards the replacement of ports
}

func newPoller(s *Switch, number int, halt bool) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create an eventfd: %w", err), unix.Close(epoll))
	}
	p := &poller{sw: s, number: number, epoll: epoll, wake: wake, latency: newLatencyRequest(halt, idleDriver, latencyDevice), frame: newFrame(s)}
	p.frame.queue = number
	p.ports.Store(&map[int32]*Port{})
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &event); err != nil {
		p.close()
		return nil, fmt.Errorf("watch the eventfd: %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	p.latency.close()
	_ = unix.Close(p.wake)
	_ = unix.Close(p.epoll)
}

func (p *poller) stop() {
	p.stopped.Store(true)
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wake, one[:]) // fails only when the counter is full; then the poller is awake already
}

func (p *poller) load() int { return len(*p.ports.Load()) }

func (p *poller) add(port *Port) error {
	p.change(func(ports map[int32]*Port) { ports[int32(port.end.FD())] = port })
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(port.end.FD())}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, port.end.FD(), &event); err != nil {
		p.change(func(ports map[int32]*Port) { delete(ports, int32(port.end.FD())) })
		return fmt.Errorf("watch descriptor %d: %w", port.end.FD(), err)
	}
	return nil
}

func (p *poller) remove(port *Port) {
	// Deleting fails if the descriptor is gone with its namespace.
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, port.end.FD(), nil)
	p.change(func(ports map[int32]*Port) { delete(ports, int32(port.end.FD())) })
}

// abandon stops watching a port whose device was deleted, because its descriptor would be readable
// for ever. The caller of AddPort removes the port.
func (p *poller) abandon(port *Port, cause error) {
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, port.end.FD(), nil)
	p.sw.log.Error("port not read any more: its device is gone", "port", port.name, "err", cause)
}

func (p *poller) change(with func(map[int32]*Port)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(*p.ports.Load())
	with(next)
	p.ports.Store(&next)
}

func (p *poller) busy() bool { return p.state.Load() != idle }

// enforced returns the oldest generation that the poller may obey. A poller that loads a Snapshot
// may get the old or the new one, so it counts as obeying none (0).
func (p *poller) enforced() uint64 {
	switch state := p.state.Load(); state {
	case idle:
		return ^uint64(0)
	case loading:
		return 0
	default:
		return state - 1
	}
}

// A pause is a port that is not watched until a time.
type pause struct {
	descriptor int
	until      time.Duration
}

// pause stops watching a port until the given time. A port that is removed before that time is not
// watched again, because its descriptor has left the epoll.
func (p *poller) pause(port *Port, until time.Duration) {
	p.watch(port.end.FD(), 0)
	p.paused = append(p.paused, pause{port.end.FD(), until})
}

// resumePaused watches those ports again whose pause is over.
func (p *poller) resumePaused(now time.Duration) {
	p.paused = slices.DeleteFunc(p.paused, func(r pause) bool {
		if now < r.until {
			return false
		}
		p.watch(r.descriptor, unix.EPOLLIN)
		return true
	})
}

func (p *poller) watch(descriptor int, events uint32) {
	event := unix.EpollEvent{Events: events, Fd: int32(descriptor)}
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, descriptor, &event) // fails if the port was removed
}

// pauseLeft returns the milliseconds until the first pause is over; -1 if no port is paused.
func (p *poller) pauseLeft(now time.Duration) int {
	if len(p.paused) == 0 {
		return -1
	}
	first := p.paused[0].until
	for _, r := range p.paused {
		first = min(first, r.until)
	}
	return int(max(0, first-now+time.Millisecond-1) / time.Millisecond)
}

// runPoll is the poller's goroutine.
func (p *poller) runPoll() {
	// The system calls of a poller bypass the scheduler of goroutines. The thread ends with the
	// goroutine, so that no other goroutine gets its priority.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority) // without the privilege the priority stays 0
	debug.SetPanicOnFault(true)                          // see runSweep
	events := make([]unix.EpollEvent, 64)
	var lastWork time.Duration
	for !p.stopped.Load() {
		if n := p.wait(events, lastWork); n > 0 {
			lastWork = p.round(events[:n])
		}
	}
}

// round gives each readable port a turn, all with one Snapshot, and returns the time when the last
// turn ended. A port that has used more than its share of time gets no turn, unless all ports have.
func (p *poller) round(readable []unix.EpollEvent) time.Duration {
	p.batch.Add(1)
	p.state.Store(loading)
	snapshot := p.sw.snapshot.Load()
	p.state.Store(snapshot.Generation + 1)
	now := monotonic()
	p.latency.beforeBatch(now)
	if len(p.paused) > 0 {
		p.resumePaused(now)
	}
	ports := *p.ports.Load()
	var first *Port // of the ports that have used more than their share: the one that exceeds it least
	served := false
	for _, event := range readable {
		port, ok := ports[event.Fd]
		switch {
		case !ok:
		case port.share.grant(port.kind):
			now, served = p.turn(port, snapshot, now), true
		case first == nil || port.share.credit > first.share.credit:
			first = port
		}
	}
	if !served && first != nil {
		now = p.turn(first, snapshot, now)
	}
	p.state.Store(idle)
	return now
}

// turn reads and forwards the frames of a port, up to the limits of a turn. now is the time when
// the turn begins; turn returns the time when it ends.
func (p *poller) turn(port *Port, snapshot *Snapshot, now time.Duration) time.Duration {
	p.frame.snapshot, p.frame.now = snapshot, now
	p.drainRecovering(port)
	end := monotonic()
	if end-now >= longTurn {
		p.frame.writesToTime = timedWrites
	}
	port.share.charge(end - now)
	if b := &p.frame.batch; b.unforwarded > 0 && port.kind == InstancePort {
		if long := port.share.chargeUnforwarded(b.unforwarded, b.frames, end-now, end); long > 0 {
			p.pause(port, end+long)
		}
	}
	return end
}

func (p *poller) drainRecovering(port *Port) {
	defer p.recoverPanic(port)
	p.drain(p.frame, port)
}

// wait returns how many ports are readable. Until spinFor after the last work it polls without
// sleeping, then it sleeps until a port is readable.
func (p *poller) wait(events []unix.EpollEvent, lastWork time.Duration) int {
	for lastWork != 0 {
		if n := epollNow(p.epoll, events); n > 0 {
			return n
		}
		now := monotonic()
		if len(p.paused) > 0 {
			p.resumePaused(now)
		}
		if now-lastWork > spinFor {
			break
		}
		// The receiver of the last frame may be waiting for this processor.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	p.latency.beforeSleep(lastWork)
	n, err := unix.EpollWait(p.epoll, events, p.pauseLeft(monotonic()))
	if err != nil {
		return 0 // EINTR
	}
	return n
}

func (p *poller) drain(f *frame, port *Port) {
	failpoint.Reach()
	if port.tunnel != nil {
		p.drainTunnel(f, port)
		return
	}
	var err error
	for f.batch.begin(port, f.now); err == nil; {
		err = f.batch.read(f.memory)
		if port.shut.Load() {
			port.count(shutPort(), uint32(f.batch.n))
			f.batch.unforwarded += f.batch.n
			continue
		}
		if !p.sw.relay {
			f.prefetch()
		}
		f.forwardBatch()
	}
	f.buffer = f.memory
	if err != unix.EAGAIN {
		p.abandon(port, err)
	}
}

// drainTunnel reads and forwards frames from other nodes until the device ends the batch. A
// datagram without a frame gets its verdict here.
func (p *poller) drainTunnel(f *frame, port *Port) {
	failpoint.Reach()
	for f.batch.begin(port, f.now); ; f.frameDone(1) {
		n, from, v, err := port.tunnel.Receive(f.buffer)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			p.abandon(port, err)
			return
		}
		port.rxFrames.Add(1)
		port.rxBytes.Add(uint64(n))
		if v != verdict.Forward {
			port.count(v, 1)
			continue
		}
		if p.sw.refuses(from) {
			port.count(shutPort(), uint32(packet.Joined(f.buffer[:n])))
			continue
		}
		f.origin = from
		f.batch.joined = packet.Joined(f.buffer[:n])
		f.receive(port, n)
	}
}

// monotonic reads the clock of the times in connections. Like the tmpfs that holds the connections,
// the clock outlives the process and restarts with the kernel. The runtime reads the same clock
// without a system call, but counts from its own start.
func monotonic() time.Duration { return sinceBoot + time.Since(started) }

var started, sinceBoot = func() (time.Time, time.Duration) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Now(), time.Duration(ts.Nano())
}()

// Now returns the time on the clock of the data plane: the time since the kernel started.
func Now() time.Duration { return monotonic() }
