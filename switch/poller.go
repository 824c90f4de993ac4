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
	// spinFor is how long a poller looks again before it sleeps: the answer to what
	// it has just delivered often comes sooner than a sleeper can be woken, and waking
	// one on an idle processor costs the sender more than the frame.
	spinFor = 100 * time.Microsecond
	// priority is the nice value of a poller's thread: above those whose frames it
	// carries, who would else be let finish their time slice first, and not so far above
	// that it interrupts a sender for every frame.
	priority = -5
	// frameSize holds the largest frame a TAP hands over, behind its virtio header.
	frameSize = 10 + 14 + 65535 + 8
)

// The states of a poller besides the generation, plus one, of the batch it works on.
const (
	idle    = 0
	loading = ^uint64(0)
)

// A poller owns some ports: it alone reads from them, and carries each frame to its last
// write. It waits in epoll, not in the runtime's poller, which costs a wake-up and a
// scheduling for every frame.
type poller struct {
	sw     *Switch
	number int // below maxPollers
	epoll  int
	wake   int // an eventfd that ends the wait
	alert  alert
	frame  *frame // what is on its way

	resting []rest // ports that are not looked at for a while

	state   atomic.Uint64 // idle, loading, or generation + 1
	batch   atomic.Uint64 // how many batches were begun
	stopped atomic.Bool

	ports atomic.Pointer[map[int32]*Port] // by descriptor; replaced, never changed
	mu    sync.Mutex                      // guards the replacing
}

func newPoller(s *Switch, number int, halt bool) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make an event: %w", err), unix.Close(epoll))
	}
	p := &poller{sw: s, number: number, epoll: epoll, wake: wake, alert: newAlert(halt), frame: newFrame(s)}
	p.frame.queue = number
	p.ports.Store(&map[int32]*Port{})
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &event); err != nil {
		p.close()
		return nil, fmt.Errorf("watch an event: %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	p.alert.close()
	_ = unix.Close(p.wake)
	_ = unix.Close(p.epoll)
}

func (p *poller) stop() {
	p.stopped.Store(true)
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wake, one[:]) // full means it is awake already
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
	// The descriptor may be gone with its namespace already.
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, port.end.FD(), nil)
	p.change(func(ports map[int32]*Port) { delete(ports, int32(port.end.FD())) })
}

// abandon stops watching a port whose device was deleted: it would be readable for
// ever. Who made the port removes it.
func (p *poller) abandon(port *Port, cause error) {
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, port.end.FD(), nil)
	p.sw.log.Error("a port's device is gone; nothing is read from it any more", "port", port.name, "err", cause)
}

func (p *poller) change(with func(map[int32]*Port)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(*p.ports.Load())
	with(next)
	p.ports.Store(&next)
}

func (p *poller) busy() bool { return p.state.Load() != idle }

// enforced is the generation the poller goes by at least. One that is loading may yet
// take either, so it counts as going by none.
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

// A rest is a port's that is not watched until then.
type rest struct {
	descriptor int
	until      time.Duration
}

// rest stops watching a port until then. One that is removed meanwhile is not watched again,
// because its descriptor is not in the epoll any more.
func (p *poller) rest(port *Port, until time.Duration) {
	p.watch(port.end.FD(), 0)
	p.resting = append(p.resting, rest{port.end.FD(), until})
}

// wakeRested watches again the ports whose rest has ended.
func (p *poller) wakeRested(now time.Duration) {
	p.resting = slices.DeleteFunc(p.resting, func(r rest) bool {
		if now < r.until {
			return false
		}
		p.watch(r.descriptor, unix.EPOLLIN)
		return true
	})
}

func (p *poller) watch(descriptor int, events uint32) {
	event := unix.EpollEvent{Events: events, Fd: int32(descriptor)}
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, descriptor, &event) // it may be gone
}

// restLeft is when the first rest ends, in milliseconds from now; -1 if no port rests.
func (p *poller) restLeft(now time.Duration) int {
	if len(p.resting) == 0 {
		return -1
	}
	first := p.resting[0].until
	for _, r := range p.resting {
		first = min(first, r.until)
	}
	return int(max(0, first-now+time.Millisecond-1) / time.Millisecond)
}

// runPoll is the poller's goroutine.
func (p *poller) runPoll() {
	// Its system calls do not tell the scheduler of goroutines, and its priority is not for
	// others to inherit: the thread ends with it.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority) // without the privilege it goes on as it is
	debug.SetPanicOnFault(true)                          // see runSweep
	events := make([]unix.EpollEvent, 64)
	var lastWork time.Duration
	for !p.stopped.Load() {
		if n := p.wait(events, lastWork); n > 0 {
			lastWork = p.round(events[:n])
		}
	}
}

// round gives each port that is readable a turn, by one Snapshot, and returns when it ended.
// A port that has used more than its share of the time has none, unless all have.
func (p *poller) round(readable []unix.EpollEvent) time.Duration {
	p.batch.Add(1)
	p.state.Store(loading)
	snapshot := p.sw.snapshot.Load()
	p.state.Store(snapshot.Generation + 1)
	now := monotonic()
	p.alert.worked(now)
	if len(p.resting) > 0 {
		p.wakeRested(now)
	}
	ports := *p.ports.Load()
	var first *Port // of those in debt, who owes least
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

// turn carries what a port has, as much as a turn may be, from now on, and returns when it
// ended.
func (p *poller) turn(port *Port, snapshot *Snapshot, now time.Duration) time.Duration {
	p.frame.snapshot, p.frame.now = snapshot, now
	p.drainContained(port)
	end := monotonic()
	if end-now >= longTurn {
		p.frame.suspect = suspectWrites
	}
	port.share.charge(end - now)
	if b := &p.frame.batch; b.vain > 0 && port.kind == InstancePort {
		if long := port.share.chargeVain(b.vain, b.frames, end-now, end); long > 0 {
			p.rest(port, end+long)
		}
	}
	return end
}

func (p *poller) drainContained(port *Port) {
	defer p.contain(port)
	p.drain(p.frame, port)
}

// wait returns how many ports are readable. Shortly after work it looks without
// sleeping.
func (p *poller) wait(events []unix.EpollEvent, lastWork time.Duration) int {
	for lastWork != 0 {
		if n := epollNow(p.epoll, events); n > 0 {
			return n
		}
		now := monotonic()
		if len(p.resting) > 0 {
			p.wakeRested(now)
		}
		if now-lastWork > spinFor {
			break
		}
		// Whoever is to consume the frame may be waiting for this processor.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	p.alert.sleeps(lastWork)
	n, err := unix.EpollWait(p.epoll, events, p.restLeft(monotonic()))
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
			f.batch.vain += f.batch.n
			continue
		}
		if !p.sw.relay {
			f.lookAhead()
		}
		f.carry()
	}
	f.buffer = f.memory
	if err != unix.EAGAIN {
		p.abandon(port, err)
	}
}

// drainTunnel is drain for frames from other nodes, whose device says when a batch ends. A
// datagram that holds none ends here.
func (p *poller) drainTunnel(f *frame, port *Port) {
	failpoint.Reach()
	for f.batch.begin(port, f.now); ; f.carried(1) {
		f.origin = packet.Origin{}
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
		f.batch.group = packet.Joined(f.buffer[:n])
		f.receive(port, n)
	}
}

// monotonic reads the clock that connections are dated by: it survives the process and
// starts anew with the kernel, as the tmpfs that holds them does. The runtime reads the same
// clock without a system call, but only since it began.
func monotonic() time.Duration { return sinceBoot + time.Since(started) }

var started, sinceBoot = func() (time.Time, time.Duration) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Now(), time.Duration(ts.Nano())
}()

// Now is the clock of the data plane.
func Now() time.Duration { return monotonic() }
