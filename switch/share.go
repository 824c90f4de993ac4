package vswitch

import "time"

const (
	// turnTime is what a port may use of its poller in a round, while other ports wait: about
	// what a full batch of small packets, or of large ones, takes.
	turnTime = 250 * time.Microsecond
	// longTurn is a turn that is out of proportion. The port's next one is short, and the next
	// writes are timed.
	longTurn = 4 * turnTime
	// maxDebt bounds how long a port waits for the others. A turn may be long through no
	// fault of the port: another process had the processor.
	maxDebt = 16 * turnTime
	// vainShare is the part of a poller's time that the frames of an instance may take which
	// go nowhere: one of so many. It is enough for some ten thousand of them a second, as a
	// scan sends. vainBurst may come at once; then the port rests.
	vainShare = 20
	vainBurst = time.Millisecond
	// maxVain is what one of them may be charged. It is more than any takes by itself; what a turn
	// took is otherwise due to another frame of it, whose receiver is slow (see pace).
	maxVain = 20 * time.Microsecond
	// checkEvery is how many frames of a batch are carried between two looks at the clock.
	checkEvery = 8
)

// A share is a port's part of the time of its poller: deficit round robin, counted in time
// (Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin", 1995). A
// frame may be expensive for many reasons: it is cut into a thousand segments, its
// connection is new, its receiver's kernel is slow. Each port is charged what its turns
// took. It is the poller's own.
type share struct {
	credit time.Duration
	frames int // of the next turn at the most; 0: a whole batch

	vain   time.Duration // spent on frames that went nowhere, beyond what was allowed
	vainAt time.Duration // when that was so
}

// chargeVain takes what was spent, until now, on the frames of a turn that went nowhere: so many
// of all its frames, which took so long together. It returns how long the port has to rest. Its
// queue fills meanwhile, and the kernel drops what comes then at the expense of the sender, who
// would else have the node work for nothing whenever no other port waits, on processors that its
// neighbours could use.
func (s *share) chargeVain(vain, all int, took, now time.Duration) (rest time.Duration) {
	cost := time.Duration(vain) * min(maxVain, took/time.Duration(all))
	s.vain, rest = overdraw(s.vain, cost, now-s.vainAt, vainShare, vainBurst)
	s.vainAt = now
	return rest
}

// overdraw adds a cost to what is owed to a poller, of which one part in share was paid in the
// time since. It returns what is owed now, and how long it takes until that is no more than burst.
func overdraw(owed, cost, since, share, burst time.Duration) (now, wait time.Duration) {
	now = max(0, owed-since/share) + cost
	return now, max(0, now-burst) * share
}

// grant gives the port its time for one round and reports whether it may have a turn.
// Ports that carry the frames of many instances get more.
func (s *share) grant(kind PortKind) bool {
	credit := turnTime
	if kind != InstancePort {
		credit *= 4
	}
	s.credit = min(s.credit+credit, credit)
	return s.credit > 0
}

// charge takes what a turn took. After a long one the next is of one frame, and those
// behind it grow again as long as they are not long.
func (s *share) charge(took time.Duration) {
	s.credit = max(s.credit-took, -maxDebt)
	switch {
	case took >= longTurn:
		s.frames = 1
	case s.frames > 0:
		if s.frames *= 2; s.frames >= batchFrames {
			s.frames = 0
		}
	}
}

// limit is how many frames the port's turn may have.
func (s *share) limit() int {
	if s.frames == 0 {
		return batchFrames
	}
	return s.frames
}
