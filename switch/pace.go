package vswitch

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
	"palisade/internal/verdict"
)

const (
	// slowWrite is what a write to an instance's device may cost, fifty times the usual. Each
	// of its bytes and packets may cost something besides: who sends them chooses how many
	// there are, and must not make the receiver's port slow.
	slowWrite  = 100 * time.Microsecond
	slowByte   = time.Nanosecond
	slowPacket = 3 * time.Microsecond
	// slowShare is the part of the poller's time that a port's slow writes may take: one of so
	// many. slowBurst of it may come at once, because a write may be slow for once; beyond
	// that a frame is written in slowEvery at the most.
	slowShare = 10
	slowBurst = 10 * time.Millisecond
	slowEvery = 10 * time.Millisecond
	// watchFor is how long each write to a port is timed after the last slow one.
	watchFor = time.Minute
	// suspectWrites is how many writes are timed, to whatever port, after some frames took
	// so long that one of their receivers must be slow.
	suspectWrites = 4 * checkEvery
)

// A pace bounds what writing to a port may cost the others.
//
// Writing into a TAP runs the network stack of its receiver, packet filters of its root's
// choice included (packet(7)). So an instance can make writes to it a thousand times as
// expensive as they should be, and ask for many, of its neighbours or by ARP. Which of many
// writes were slow is not known before they are timed, and timing each would cost more than
// the bound is worth. So a poller times writes for a while after some took too long
// together, and goes on with those to a port that proved slow. What comes for such a port
// before its next write is due is dropped.
//
// Writes are timed by the processor's time of the poller's thread, so that a thread that had
// to wait makes no port slow. Any poller writes; two at a time may overwrite what the other
// has stored, which is near their own.
type pace struct {
	watch  atomic.Int64 // writes are timed until then; 0: they are not
	next   atomic.Int64 // no write before
	owed   atomic.Int64 // what slow writes took, less what was allowed since
	owedAt atomic.Int64 // when that was so
}

// timesWrites reports whether the next write to a port may have to be timed. That is seldom so,
// and write asks it first because the compiler inlines it.
func (f *frame) timesWrites(to *Port) bool { return f.suspect != 0 || to.pace.watch.Load() != 0 }

// beginWrite reports whether a frame may be written to a port now. begin is for endWrite.
func (f *frame) beginWrite(to *Port) (begin time.Duration, ok bool) {
	failpoint.Reach()
	if !f.timesWrites(to) || to.kind != InstancePort {
		return 0, true
	}
	if f.suspect > 0 {
		f.suspect--
	}
	if int64(monotonic()) < to.pace.next.Load() {
		return 0, false
	}
	return threadTime(), true
}

// endWrite accounts for a write, if it was timed.
func (f *frame) endWrite(to *Port, begin time.Duration, bytes, packets int) {
	if begin == 0 {
		return
	}
	usual := time.Duration(bytes)*slowByte + time.Duration(packets)*slowPacket
	to.pace.took(threadTime()-begin, usual, monotonic())
}

// overShare is the verdict of a frame to a slow port whose next write is not due.
func (f *frame) overShare() verdict.Verdict { return verdict.OverShare }

// took records what a write cost, and what its bytes and packets may cost.
func (p *pace) took(cost, usual, now time.Duration) {
	if cost -= usual; cost <= slowWrite {
		if int64(now) > p.watch.Load() {
			p.watch.Store(0)
		}
		return
	}
	owed, wait := overdraw(time.Duration(p.owed.Load()), cost, now-time.Duration(p.owedAt.Load()), slowShare, slowBurst)
	p.owed.Store(int64(owed))
	p.owedAt.Store(int64(now))
	p.watch.Store(int64(now + watchFor))
	if wait > 0 {
		p.next.Store(int64(now + max(slowEvery, wait)))
	}
}

// threadTime is what the calling thread has used of a processor.
func threadTime() time.Duration {
	var ts unix.Timespec
	// Without telling the scheduler, as all calls of a poller. It cannot fail for this clock.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	return time.Duration(ts.Nano())
}
