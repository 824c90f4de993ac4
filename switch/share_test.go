package vswitch

import (
	"testing"
	"time"
)

// TestDebtIsPaidBackByTheTimeThatPasses: of the time that passes one part in share pays, and only what
// exceeds the burst must be waited for.
func TestDebtIsPaidBackByTheTimeThatPasses(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct{ owed, cost, since, now, wait time.Duration }{
		{0, 0, 0, 0, 0},
		{0, 4 * ms, 0, 4 * ms, 0},
		{0, 10 * ms, 0, 10 * ms, 0}, // exactly the burst
		{0, 11 * ms, 0, 11 * ms, 20 * ms},
		{8 * ms, 5 * ms, 0, 13 * ms, 60 * ms},
		{8 * ms, 5 * ms, 60 * ms, 10 * ms, 0},
		{8 * ms, 5 * ms, 40 * ms, 11 * ms, 20 * ms},
		{8 * ms, 5 * ms, time.Hour, 5 * ms, 0}, // time before the debt does not pay for later costs
	} {
		if now, wait := overdraw(tt.owed, tt.cost, tt.since, 20, 10*ms); now != tt.now || wait != tt.wait {
			t.Errorf("%v owed, a cost of %v after %v: %v owed and a wait of %v, want %v and %v", tt.owed, tt.cost, tt.since, now, wait, tt.now, tt.wait)
		}
	}
}

// TestTurnsUseUpThePortsTime: a port may begin a turn while it has time left, and a long turn is paid for
// in the next rounds. Uplink and tunnel have four times as much.
func TestTurnsUseUpThePortsTime(t *testing.T) {
	for kind, round := range map[PortKind]time.Duration{InstancePort: turnTime, UplinkPort: 4 * turnTime, TunnelPort: 4 * turnTime} {
		var s share
		for i, tt := range []struct {
			took    time.Duration // 0: the port has no turn in this round
			granted bool
			left    time.Duration
		}{
			{round - 1, true, 1},
			{0, true, round}, // unused time is not saved
			{2 * round, true, -round},
			{0, false, 0},
			{round, true, 0},
			{round + 1, true, -1},
			{round, true, -1},
			{time.Hour, true, -maxDebt},
			{0, false, round - maxDebt},
		} {
			if got := s.grant(kind); got != tt.granted {
				t.Errorf("port kind %d, round %d: granted is %v, want %v, with %v left", kind, i, got, tt.granted, s.credit)
			}
			if tt.took != 0 {
				s.charge(tt.took)
			}
			if s.credit != tt.left {
				t.Errorf("port kind %d, round %d: %v left, want %v", kind, i, s.credit, tt.left)
			}
		}
	}
}

// TestTurnsGrowAgainAfterALongOne: each turn after a long one may have twice as many frames as the one
// before, until it may have a whole batch.
func TestTurnsGrowAgainAfterALongOne(t *testing.T) {
	var s share
	for i, tt := range []struct {
		took  time.Duration
		limit int // afterwards
	}{
		{longTurn - 1, batchFrames}, {0, batchFrames}, {longTurn, 1}, {0, 2}, {longTurn - 1, 4}, {0, 8}, {longTurn + 1, 1},
		{0, 2}, {0, 4}, {0, 8}, {0, 16}, {0, 32}, {0, batchFrames}, {0, batchFrames},
	} {
		if s.charge(tt.took); s.limit() != tt.limit {
			t.Errorf("turn %d took %v: the next one may have %d frames, want %d", i, tt.took, s.limit(), tt.limit)
		}
	}
	if s.frames != 0 {
		t.Errorf("a whole batch is the limit %d, want none", s.frames)
	}
}

// TestDroppedFramesAreChargedTheirPartOfTheTurn: a turn is charged in the proportion of its dropped frames,
// each with at most maxUnforwardedCost, and pays back one part in unforwardedShare of the time.
func TestDroppedFramesAreChargedTheirPartOfTheTurn(t *testing.T) {
	var s share
	now := time.Hour
	for i, tt := range []struct {
		after        time.Duration
		dropped, all int
		took         time.Duration
		owed, pause  time.Duration
	}{
		{0, 10, 40, 400 * time.Microsecond, 100 * time.Microsecond, 0},
		{0, 64, 64, 640 * time.Microsecond, 740 * time.Microsecond, 0},
		{0, 13, 64, 640 * time.Microsecond, 870 * time.Microsecond, 0},
		{0, 1, 1, time.Second, 890 * time.Microsecond, 0}, // at most maxUnforwardedCost
		{0, 30, 30, 300 * time.Microsecond, 1190 * time.Microsecond, 190 * time.Microsecond * unforwardedShare},
		{2 * time.Millisecond, 1, 10, 100 * time.Microsecond, 1100 * time.Microsecond, 100 * time.Microsecond * unforwardedShare},
		{10 * time.Millisecond, 1, 10, 100 * time.Microsecond, 610 * time.Microsecond, 0},
	} {
		now += tt.after
		if pause := s.chargeUnforwarded(tt.dropped, tt.all, tt.took, now); s.unforwarded != tt.owed || pause != tt.pause {
			t.Errorf("turn %d: %v owed and a pause of %v, want %v and %v", i, s.unforwarded, pause, tt.owed, tt.pause)
		}
	}
}
