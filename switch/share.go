package vswitch

import "time"

const (
	// turnTime is the time that a port may use in a round while other ports wait: about the time of
	// a full batch.
	turnTime = 250 * time.Microsecond
	// After a turn of longTurn or more the next turn of the port is short, and the next writes are
	// timed.
	longTurn = 4 * turnTime
	// maxDebt bounds how long a port waits for the others. A turn may be long through no fault of
	// the port, for example because another process had the processor.
	maxDebt = 16 * turnTime
	// Frames of an instance that are not forwarded may take one part in unforwardedShare of the
	// poller's time. That is some ten thousand frames a second, as many as a port scan sends. They
	// may take unforwardedBurst at once. After that the port is paused.
	unforwardedShare = 20
	unforwardedBurst = time.Millisecond
	// maxUnforwardedCost is the most time that is charged for one frame that is not forwarded. No
	// such frame takes longer by itself. If the turn took longer, another of its frames had a slow
	// receiver (see pace).
	maxUnforwardedCost = 20 * time.Microsecond
	// checkEvery is how many frames of a batch are forwarded between two reads of the clock.
	checkEvery = 8
)

// A share is a port's part of the time of its poller: deficit round robin, counted in time
// (Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin", 1995). A frame may
// be expensive for many reasons: it is cut into a thousand segments, its connection is new, its
// receiver's kernel is slow. Each port is charged the time of its turns. Only the port's poller
// uses it.
type share struct {
	credit time.Duration
	frames int // limit of the next turn; 0: a whole batch

	unforwarded   time.Duration // time spent on frames that were not forwarded, minus what was allowed
	unforwardedAt time.Duration // when unforwarded was computed
}

// chargeUnforwarded charges the port for the frames of a turn that were not forwarded. dropped is
// their number; all is the number of all frames of the turn, and took the time for all of them. It
// returns how long the port must be paused. During the pause the port's queue fills, and then the
// kernel drops frames at the cost of the sender. Without the pause the sender could keep the node
// busy, on processors that its neighbours need.
func (s *share) chargeUnforwarded(dropped, all int, took, now time.Duration) (pause time.Duration) {
	cost := time.Duration(dropped) * min(maxUnforwardedCost, took/time.Duration(all))
	s.unforwarded, pause = overdraw(s.unforwarded, cost, now-s.unforwardedAt, unforwardedShare, unforwardedBurst)
	s.unforwardedAt = now
	return pause
}

// overdraw adds a cost to the time owed to a poller. Of the time since the last call, one part in
// share pays the debt back. overdraw returns the new debt, and how long to wait until it is at most
// burst.
func overdraw(owed, cost, since, share, burst time.Duration) (now, wait time.Duration) {
	now = max(0, owed-since/share) + cost
	return now, max(0, now-burst) * share
}

// grant gives the port its time for one round, and reports whether it may have a turn. The uplink
// and the tunnel get more, because they carry the frames of many instances.
func (s *share) grant(kind PortKind) bool {
	credit := turnTime
	if kind != InstancePort {
		credit *= 4
	}
	s.credit = min(s.credit+credit, credit)
	return s.credit > 0
}

// charge charges the port for the time of a turn. After a long turn the next turn may have one
// frame. Each following turn that is not long may have twice as many as the one before.
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

// limit returns how many frames the port's turn may have.
func (s *share) limit() int {
	if s.frames == 0 {
		return batchFrames
	}
	return s.frames
}
