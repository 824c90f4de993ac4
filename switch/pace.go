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
	// slowWrite is the processor time that a write to an instance's device may take: fifty times
	// the usual. slowByte and slowPacket are added for each byte and packet of the frame. They
	// depend on the sender, and must not make the receiver's port count as slow.
	slowWrite  = 100 * time.Microsecond
	slowByte   = time.Nanosecond
	slowPacket = 3 * time.Microsecond
	// Slow writes to a port may take one part in slowShare of the poller's time, and slowBurst at
	// once, because a single write may be slow by chance. A port that exceeds both gets at most one
	// frame in slowEvery.
	slowShare = 10
	slowBurst = 10 * time.Millisecond
	slowEvery = 10 * time.Millisecond
	// watchFor is how long each write to a port is timed after a slow write to it.
	watchFor = time.Minute
	// timedWrites is how many writes are timed, whatever port they are to, after some frames took
	// so long that one of their receivers must be slow.
	timedWrites = 4 * checkEvery
)

// A pace limits the time that writes to one port may take from the other ports.
//
// A write into a TAP runs the network stack of its receiver, with packet filters that the
// receiver's root chooses (packet(7)). So an instance can make each write to it a thousand times as
// expensive as usual, and cause many writes, through its neighbours or by ARP requests. Timing each
// write would cost too much. So a poller times writes for a while after some frames took too long
// together, and then goes on with the writes to a port that proved slow. A frame to such a port is
// dropped if its next write is not due.
//
// The time of a write is the processor time of the poller's thread, so a thread that had to wait
// makes no port slow. The pollers share a pace without a lock: two writes at a time may overwrite
// each other's values, which are nearly equal.
type pace struct {
	watch  atomic.Int64 // writes are timed until then; 0: they are not
	next   atomic.Int64 // when the next write is due
	owed   atomic.Int64 // time of slow writes, minus what was allowed
	owedAt atomic.Int64 // when owed was computed
}

// timesWrites reports whether the next write to a port may have to be timed, which is rare. The
// function write calls it before beginWrite, because the compiler inlines it.
func (f *frame) timesWrites(to *Port) bool { return f.writesToTime != 0 || to.pace.watch.Load() != 0 }

// beginWrite reports whether a frame may be written to a port now. The caller passes begin to
// endWrite; it is 0 if the write is not timed.
func (f *frame) beginWrite(to *Port) (begin time.Duration, ok bool) {
	failpoint.Reach()
	if !f.timesWrites(to) || to.kind != InstancePort {
		return 0, true
	}
	if f.writesToTime > 0 {
		f.writesToTime--
	}
	if int64(monotonic()) < to.pace.next.Load() {
		return 0, false
	}
	return threadTime(), true
}

// endWrite charges the port for a write that was timed.
func (f *frame) endWrite(to *Port, begin time.Duration, bytes, packets int) {
	if begin == 0 {
		return
	}
	usual := time.Duration(bytes)*slowByte + time.Duration(packets)*slowPacket
	to.pace.recordWrite(threadTime()-begin, usual, monotonic())
}

// overShare returns the verdict of a frame to a slow port whose next write is not due.
func (f *frame) overShare() verdict.Verdict { return verdict.OverShare }

// recordWrite charges a write for the time that it took, if that exceeds what its bytes and packets
// may take.
func (p *pace) recordWrite(cost, usual, now time.Duration) {
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

// threadTime returns the processor time that the calling thread has used.
func threadTime() time.Duration {
	var ts unix.Timespec
	// The call bypasses the scheduler of goroutines. It cannot fail for this clock.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	return time.Duration(ts.Nano())
}
