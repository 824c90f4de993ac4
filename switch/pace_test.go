package vswitch

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/verdict"
)

// burn keeps the thread's processor busy for d.
func burn(d time.Duration) {
	for end := threadTime() + d; threadTime() < end; {
	}
}

// TestSlowPortIsWrittenToSeldom: of the frames to a port whose writes are slow, few are written and
// the others are dropped as over-share. Its neighbour gets all frames. When writes are quick again
// all frames are written.
func TestSlowPortIsWrittenToSeldom(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "0.0.0.0/0"))
	cost := 3 * time.Millisecond
	b.devices["app"].before = func() {
		if b.devices["app"].last = nil; cost > 0 {
			burn(cost)
		}
	}
	var both [][]byte
	for i := range 64 {
		to := "10.10.0.5" // the app, which is slow
		if i%2 == 0 {
			to = "10.10.0.6"
		}
		both = append(both, b.datagram(to, i))
	}
	const rounds = 40
	began := threadTime()
	for range rounds {
		b.turns("web", both...)
	}
	took := threadTime() - began
	app, lone := b.ports["app"].Counters(), b.ports["lone"].Counters()
	if app.TxFrames == 0 || app.Verdicts[verdict.OverShare] == 0 || app.TxFrames+app.Verdicts[verdict.OverShare] != 32*rounds {
		t.Errorf("%d frames were written to the slow port and %d dropped; want some of each, together %d", app.TxFrames, app.Verdicts[verdict.OverShare], 32*rounds)
	}
	if lone.TxFrames != 32*rounds || lone.Verdicts[verdict.OverShare] != 0 {
		t.Errorf("%d frames were written to the neighbour of the slow port, want %d", lone.TxFrames, 32*rounds)
	}
	// The first frames are written before the port is known to be slow.
	if most := cost*(checkEvery+timedWrites/2) + took/slowShare; took > most+50*time.Millisecond {
		t.Errorf("%d frames to a port whose writes take %v each took %v, want at most %v", 32*rounds, cost, took, most+50*time.Millisecond)
	}

	cost = 0
	deadline := time.Now().Add(20 * time.Second)
	for quick := uint64(0); quick < 32; {
		before := b.ports["app"].Counters().TxFrames
		b.turns("web", both...)
		quick = b.ports["app"].Counters().TxFrames - before
		if time.Now().After(deadline) {
			t.Fatalf("20 s after the writes to the port became quick, %d of 32 frames are written to it, want all", quick)
		}
	}
}

// TestOnlyRepeatedSlowWritesLimitAPort: a port is not limited for a single slow write, for a thread
// that had to wait, or for large frames.
func TestOnlyRepeatedSlowWritesLimitAPort(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var p pace
	now := time.Hour
	for range 50 { // in 50 ms
		now += time.Millisecond
		p.recordWrite(250*time.Microsecond, 0, now)
	}
	if p.next.Load() != 0 {
		t.Error("12 ms of slow writes in 50 ms limit the port, although 15 ms are allowed")
	}
	now += time.Minute
	p.recordWrite(7*time.Millisecond, 0, now)
	if p.next.Load() != 0 {
		t.Error("one slow write limits the port")
	}
	p.recordWrite(7*time.Millisecond, 0, now)
	if got, want := time.Duration(p.next.Load()), now+4*time.Millisecond*slowShare; got != want {
		t.Errorf("after 14 ms the next write is due in %v, want %v", got-now, want-now)
	}
	writes := 0
	for end := now + 10*time.Second; now < end; now += 100 * time.Microsecond {
		if now >= time.Duration(p.next.Load()) {
			p.recordWrite(7*time.Millisecond, 0, now)
			writes++
		}
	}
	if writes < 130 || writes > 150 {
		t.Errorf("%d writes of 7 ms in 10 s, want 130 to 150, a tenth of the time", writes)
	}
	var large pace
	for range 1000 {
		large.recordWrite(150*time.Microsecond, 65_000*slowByte, time.Second)
		large.recordWrite(4*time.Millisecond, 1364*slowPacket, time.Second)
	}
	if large.next.Load() != 0 {
		t.Error("large frames, or frames of many packets, limit the port")
	}
	before := threadTime()
	time.Sleep(20 * time.Millisecond)
	if used := threadTime() - before; used > 10*time.Millisecond {
		t.Errorf("a thread that slept for 20 ms used the processor for %v, want at most 10 ms", used)
	}
}

// TestWritesAreChargedToTheirPort has what each write leaves behind: the debt, until when writes are timed,
// and when the next one is due.
func TestWritesAreChargedToTheirPort(t *testing.T) {
	const ms, us = time.Millisecond, time.Microsecond
	var p pace
	for i, tt := range []struct {
		at, cost, usual   time.Duration
		owed, watch, next time.Duration
	}{
		{time.Second, slowWrite + us, us, 0, 0, 0}, // as much as is usual
		{time.Second, slowWrite + 2*us, us, slowWrite + us, time.Second + watchFor, 0},
		{2 * time.Second, slowBurst, 0, slowBurst, 2*time.Second + watchFor, 0}, // the debt was paid back
		{2 * time.Second, us, 0, slowBurst, 2*time.Second + watchFor, 0},
		{2 * time.Second, 200 * us, 0, slowBurst + 200*us, 2*time.Second + watchFor, 2*time.Second + slowEvery}, // at least slowEvery
		{2 * time.Second, 5 * ms, ms, slowBurst + 4200*us, 2*time.Second + watchFor, 2*time.Second + 4200*us*slowShare},
		{2*time.Second + 50*ms, 200 * us, 0, slowBurst - 600*us, 2*time.Second + 50*ms + watchFor, 2*time.Second + 4200*us*slowShare},
		{2*time.Second + 50*ms + watchFor, us, 0, slowBurst - 600*us, 2*time.Second + 50*ms + watchFor, 2*time.Second + 4200*us*slowShare},
		{2*time.Second + 51*ms + watchFor, us, 0, slowBurst - 600*us, 0, 2*time.Second + 4200*us*slowShare}, // no longer timed
	} {
		p.recordWrite(tt.cost, tt.usual, tt.at)
		if owed, watch, next := time.Duration(p.owed.Load()), time.Duration(p.watch.Load()), time.Duration(p.next.Load()); owed != tt.owed || watch != tt.watch || next != tt.next {
			t.Errorf("write %d: %v owed, timed until %v, the next due at %v; want %v, %v and %v", i, owed, watch, next, tt.owed, tt.watch, tt.next)
		}
	}
}

// TestOnlyWritesToSuspectsAreTimed: writes are timed after slow frames, to any instance, and for a while to
// a port that proved slow; never to the uplink, which is no instance's. A port whose next write is not due
// gets none.
func TestOnlyWritesToSuspectsAreTimed(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newTestbed(t)
	burn(time.Millisecond) // so that the thread's time is not 0
	far := monotonic() + time.Hour
	for name, tt := range map[string]struct {
		to          string
		toTime      int // writes to be timed, whatever port they are to
		watch, next time.Duration
		timed, ok   bool
		left        int
	}{
		"usual":                             {"app", 0, 0, 0, false, true, 0},
		"usual, not due by an earlier time": {"app", 0, 0, far, false, true, 0},
		"after slow frames":                 {"app", 5, 0, 0, true, true, 4},
		"the last one after slow frames":    {"app", 1, 0, 0, true, true, 0},
		"to a slow port":                    {"app", 0, 1, 0, true, true, 0},
		"to a slow port, due":               {"app", 3, far, 1, true, true, 2},
		"to a slow port, not due":           {"app", 3, far, far, false, false, 2},
		"to the uplink":                     {"uplink", 5, far, far, false, true, 5},
	} {
		port, f := b.ports[tt.to], b.frame
		f.writesToTime = tt.toTime
		port.pace = pace{}
		port.pace.watch.Store(int64(tt.watch))
		port.pace.next.Store(int64(tt.next))
		begin, ok := f.beginWrite(port)
		if (begin != 0) != tt.timed || ok != tt.ok || f.writesToTime != tt.left {
			t.Errorf("%s: timed from %v, may write: %v, %d more to be timed; want timed: %v, %v, %d", name, begin, ok, f.writesToTime, tt.timed, tt.ok, tt.left)
		}
	}
}

// TestWriteMayTakeTimeForItsBytesAndPackets: a write is charged with what it takes beyond that, and one
// that is not timed with nothing.
func TestWriteMayTakeTimeForItsBytesAndPackets(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newTestbed(t)
	burn(5 * time.Millisecond)
	const second = time.Second
	for name, tt := range map[string]struct {
		took           time.Duration
		bytes, packets int
		slow           bool
	}{
		"nothing":                 {0, 0, 0, false},
		"a second":                {second, 1500, 1, true},
		"a second for its bytes":  {second, int(second/slowByte) + 1, 1, false},
		"a second for packets":    {second, 1500, int(second/slowPacket) + 1, false},
		"half for each":           {second, int(second / slowByte / 2), int(second / slowPacket / 2), false},
		"a second for half of it": {second, int(second / slowByte / 2), 1, true},
	} {
		port := b.ports["app"]
		port.pace = pace{}
		b.frame.endWrite(port, threadTime()-tt.took, tt.bytes, tt.packets)
		if slow := port.pace.watch.Load() != 0; slow != tt.slow {
			t.Errorf("%s: the write was slow: %v, want %v", name, slow, tt.slow)
		}
	}
	b.ports["app"].pace = pace{}
	if b.frame.endWrite(b.ports["app"], 0, 0, 0); b.ports["app"].pace.watch.Load() != 0 {
		t.Error("a write that was not timed is charged")
	}
}

// TestPortsShareThePollersTime: a port whose frames are expensive gets fewer turns, so that it uses
// no more time than the others. It gets all turns when no other port waits.
func TestPortsShareThePollersTime(t *testing.T) {
	used := map[string]time.Duration{}
	costs := map[string]time.Duration{"cheap": 100 * time.Microsecond, "dear": 1400 * time.Microsecond, "usual": 200 * time.Microsecond}
	shares := map[string]*share{"cheap": {}, "dear": {}, "usual": {}}
	for range 10_000 {
		for name, s := range shares {
			if s.grant(InstancePort) {
				used[name] += costs[name]
				s.charge(costs[name])
			}
		}
	}
	if used["dear"] > used["usual"]*3/2 || used["dear"] < used["usual"]/2 {
		t.Errorf("the port with long turns used %v, the port with usual turns %v; want about the same", used["dear"], used["usual"])
	}
	var s share
	s.charge(longTurn)
	if s.limit() != 1 {
		t.Errorf("after a long turn the next turn may have %d frames, want 1", s.limit())
	}
	for range 10 {
		s.grant(InstancePort)
		s.charge(turnTime / 10)
	}
	if s.limit() != batchFrames {
		t.Errorf("after short turns the next turn may have %d frames, want %d", s.limit(), batchFrames)
	}
	for range 100 {
		s.charge(time.Hour)
	}
	for waits := 0; !s.grant(InstancePort); waits++ {
		if waits > int(maxDebt/turnTime) {
			t.Fatalf("after long turns the port waits for %d rounds and more, so its debt is not bounded by %v", waits, maxDebt)
		}
	}
}

// TestDroppedFramesPauseTheirPort: an instance that sends only frames that are dropped gets a small
// part of the poller, also when no other port waits, and leaves the processor to its neighbours. A
// port whose frames are delivered is not paused.
func TestDroppedFramesPauseTheirPort(t *testing.T) {
	handled := func(rules ...ec2.Rule) (rests float64, unforwarded uint64) {
		b := newTestbed(t)
		b.rules("app", rules...)
		frame := b.datagram("10.10.0.5", 1)
		queue := make([][]byte, 1<<20)
		for i := range queue {
			queue[i] = frame
		}
		web := b.devices["web"]
		web.queue = queue
		_, _ = unix.Write(web.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // readable from now on
		p := b.ports["web"].poller
		var events [8]unix.EpollEvent
		var rested time.Duration
		began := monotonic()
		for last := began; last < began+300*time.Millisecond && len(web.queue) > 1000; {
			if n := epollNow(p.epoll, events[:]); n > 0 {
				p.round(events[:n])
			}
			now := monotonic()
			if len(p.paused) > 0 {
				rested += now - last
				p.resumePaused(now)
			}
			last = now
		}
		return float64(rested) / float64(monotonic()-began), b.ports["app"].Counters().Verdicts[verdict.NoRule]
	}
	if rests, unforwarded := handled(); rests < 0.8 || unforwarded < 1000 {
		t.Errorf("a port whose frames are all dropped is paused %.0f %% of the time, want about 95; %d frames were dropped, want at least 1000", 100*rests, unforwarded)
	}
	if rests, _ := handled(permit(ec2.UDP, 53, 60, "0.0.0.0/0")); rests > 0 {
		t.Errorf("a port whose frames are all delivered is paused %.0f %% of the time, want 0", 100*rests)
	}
}

// TestSlowReceiverDoesNotPauseTheSender: the time that a frame to a slow port takes is not charged
// to the dropped frames of the same turn.
func TestSlowReceiverDoesNotPauseTheSender(t *testing.T) {
	var s share
	now := time.Hour
	if rest := s.chargeUnforwarded(batchFrames/2, batchFrames, 10*time.Millisecond, now); rest != 0 {
		t.Errorf("the port is paused for %v because of a slow receiver", rest)
	}
	const usual = time.Microsecond
	for range 100 {
		if s.chargeUnforwarded(batchFrames, batchFrames, batchFrames*usual, now) > 0 {
			return
		}
	}
	t.Error("a port is not paused after 100 turns whose frames are all dropped")
}

// TestPauseOfARemovedPortEnds: the end of the pause changes nothing, because another port may have
// the descriptor by then.
func TestPauseOfARemovedPortEnds(t *testing.T) {
	b := newTestbed(t)
	p := b.ports["web"].poller
	now := monotonic()
	p.pause(b.ports["web"], now+time.Second)
	if left := p.pauseLeft(now); left < 999 || left > 1001 {
		t.Errorf("a pause of one second ends in %d ms, want 999 to 1001", left)
	}
	p.resumePaused(now)
	if len(p.paused) != 1 {
		t.Error("a pause of one second ended at once")
	}
	e := b.sw.Edit(b.generation)
	e.Detach(b.ports["web"])
	b.sw.Publish(e)
	if err := b.sw.RemovePort(b.ports["web"]); err != nil {
		t.Fatal(err)
	}
	p.resumePaused(now + time.Second)
	if len(p.paused) != 0 || p.pauseLeft(now) != -1 {
		t.Errorf("after the end of its pause, %d pauses of the removed port are left, want 0", len(p.paused))
	}
}
