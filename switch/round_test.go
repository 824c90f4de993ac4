package vswitch

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// readable makes the descriptors of ports readable, and returns what an epoll reports of them.
func (b *testbed) readable(names ...string) (events []unix.EpollEvent) {
	for _, name := range names {
		fd := b.ports[name].end.FD()
		_, _ = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1))
		events = append(events, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
	return events
}

// served returns which of the instances' ports were read in a round where all of them had a frame.
func (b *testbed) served(names ...string) (served []string) {
	for _, name := range names {
		b.devices[name].queue = [][]byte{b.datagram("10.10.0.99", 1)}
	}
	b.ports["web"].poller.round(b.readable(names...))
	for _, name := range names {
		if len(b.devices[name].queue) == 0 {
			served = append(served, name)
		}
	}
	return served
}

// TestPortsThatUsedTooMuchTimeWait: they have a turn only if no other port has one, and then the port that
// exceeds its share least; of equal ones the first.
func TestPortsThatUsedTooMuchTimeWait(t *testing.T) {
	for name, tt := range map[string]struct {
		web, app, lone time.Duration // what they have left
		ports, want    []string
	}{
		"all have time":            {0, 0, 0, []string{"web", "app", "lone"}, []string{"web", "app", "lone"}},
		"one used too much":        {-maxDebt, 0, 0, []string{"web", "app", "lone"}, []string{"app", "lone"}},
		"the last used too much":   {0, 0, -maxDebt, []string{"web", "app", "lone"}, []string{"web", "app"}},
		"a single one":             {-maxDebt, 0, 0, []string{"web"}, []string{"web"}},
		"all used too much, first": {-2 * turnTime, -9 * turnTime, -3 * turnTime, []string{"web", "app", "lone"}, []string{"web"}},
		"all used too much, last":  {-9 * turnTime, -3 * turnTime, -2 * turnTime, []string{"web", "app", "lone"}, []string{"lone"}},
		"equally much":             {-9 * turnTime, -9 * turnTime, -9 * turnTime, []string{"app", "web", "lone"}, []string{"app"}},
		"none is readable":         {0, 0, 0, nil, nil},
	} {
		b := newTestbed(t)
		b.ports["web"].share.credit, b.ports["app"].share.credit, b.ports["lone"].share.credit = tt.web, tt.app, tt.lone
		if got := b.served(tt.ports...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v have a turn, want %v", name, got, tt.want)
		}
	}
}

// TestRoundUsesOneSnapshot: from its begin to its end the poller counts as obeying the generation that was
// in force at the begin, and idle it obeys any.
func TestRoundUsesOneSnapshot(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	p := b.ports["web"].poller
	if p.busy() || b.sw.Enforced() != b.generation {
		t.Errorf("an idle poller is busy: %v, and obeys generation %d, want %d", p.busy(), b.sw.Enforced(), b.generation)
	}
	old := b.generation
	b.devices["app"].before = func() {
		if !p.busy() || b.sw.Enforced() != old {
			t.Errorf("in a round the poller is busy: %v, and obeys generation %d, want %d", p.busy(), b.sw.Enforced(), old)
		}
		b.rules("app") // the new rules apply from the next round on
	}
	b.devices["web"].queue = [][]byte{b.datagram("10.10.0.5", 1), b.datagram("10.10.0.5", 2)}
	batch, began := p.batch.Load(), monotonic()
	ended := p.round(b.readable("web"))
	if b.devices["app"].count != 2 || p.batch.Load() != batch+1 || ended < began || ended > monotonic() {
		t.Errorf("%d frames were delivered in %d rounds from %v to %v, want 2 in 1", b.devices["app"].count, p.batch.Load()-batch, began, ended)
	}
	if p.busy() || b.sw.Enforced() != b.generation || p.enforced() != math.MaxUint64 {
		t.Errorf("after the round the poller is busy: %v, and obeys generation %d, want %d", p.busy(), b.sw.Enforced(), b.generation)
	}
	if p.state.Store(loading); b.sw.Enforced() != 0 {
		t.Errorf("a poller that loads a Snapshot obeys generation %d, want none", b.sw.Enforced())
	}
	p.state.Store(idle)
	b.devices["app"].before = nil
	b.devices["web"].queue = [][]byte{b.datagram("10.10.0.5", 3)}
	if p.round(b.readable("web")); b.devices["app"].count != 2 {
		t.Error("a frame was delivered by the rules of an earlier round")
	}
	if ended := p.round([]unix.EpollEvent{{Events: unix.EPOLLIN, Fd: -7}}); ended < began {
		t.Error("a round without a port did not end")
	}
}

// TestTurnIsCharged: with its time, and an instance also with the frames that were not forwarded. The next
// writes are timed after a long turn.
func TestTurnIsCharged(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	passes, dropped := b.datagram("10.10.0.5", 1), b.datagram("10.10.0.99", 1)
	for name, tt := range map[string]struct {
		port    string
		frame   []byte
		owed    time.Duration
		charged bool
		paused  bool
	}{
		"a forwarded frame":             {"web", passes, 0, false, false},
		"a forwarded frame, much owed":  {"web", passes, time.Hour, false, false},
		"no frame, much owed":           {"web", nil, time.Hour, false, false},
		"a dropped frame":               {"web", dropped, 0, true, false},
		"a dropped frame, much owed":    {"web", dropped, time.Hour, true, true},
		"a dropped frame by the uplink": {"uplink", dropped, time.Hour, false, false},
	} {
		for _, long := range []bool{false, true} {
			port, p := b.ports[tt.port], b.ports[tt.port].poller
			if b.devices[tt.port].queue = nil; tt.frame != nil {
				b.devices[tt.port].queue = [][]byte{tt.frame}
			}
			now := monotonic()
			if long {
				now -= longTurn
			}
			port.share = share{unforwarded: tt.owed, unforwardedAt: now}
			p.paused, p.frame.writesToTime = nil, 0
			end := p.turn(port, b.sw.Snapshot(), now)
			took := end - now
			if p.frame.now != now || end > monotonic() || took < 0 || port.share.credit != max(-took, -maxDebt) {
				t.Errorf("%s: the turn from %v to %v leaves %v", name, now, end, port.share.credit)
			}
			if took < longTurn && p.frame.writesToTime != 0 || took >= longTurn && p.frame.writesToTime != timedWrites {
				t.Errorf("%s: after a turn of %v %d writes are timed", name, took, p.frame.writesToTime)
			}
			if charged := port.share.unforwardedAt == end; charged != tt.charged {
				t.Errorf("%s: charged as not forwarded: %v, want %v", name, charged, tt.charged)
			}
			var want []pause
			if tt.paused {
				want = []pause{{port.end.FD(), end + (port.share.unforwarded-unforwardedBurst)*unforwardedShare}}
			}
			if !slices.Equal(p.paused, want) {
				t.Errorf("%s: the pauses are %v, want %v", name, p.paused, want)
			}
		}
	}
}

// TestDroppedFramesAreChargedByTheTimeOfTheTurn: all frames of a turn took it.
func TestDroppedFramesAreChargedByTheTimeOfTheTurn(t *testing.T) {
	b := newTestbed(t)
	b.devices["web"].queue = slices.Repeat([][]byte{b.datagram("10.10.0.99", 1)}, 50)
	port, now := b.ports["web"], monotonic()
	took := port.poller.turn(port, b.sw.Snapshot(), now) - now
	all := port.poller.frame.batch.frames
	if want := time.Duration(all) * min(maxUnforwardedCost, took/time.Duration(all)); port.share.unforwarded != want {
		t.Errorf("%d dropped frames of a turn of %v are charged with %v, want %v", all, took, port.share.unforwarded, want)
	}
}

// TestShutPortIsReadAndDropped: its frames are counted and charged, and it stays watched for its removal.
func TestShutPortIsReadAndDropped(t *testing.T) {
	b := newTestbed(t)
	port, p := b.ports["web"], b.ports["web"].poller
	port.shut.Store(true)
	b.devices["web"].queue = slices.Repeat([][]byte{b.datagram("10.10.0.5", 1), make([]byte, smallFrame+1)}, 20)
	b.readable("web")
	p.turn(port, b.sw.Snapshot(), monotonic())
	var events [8]unix.EpollEvent
	if c := port.Counters(); c.Verdicts[verdict.PortShut] != 40 || p.frame.batch.unforwarded != 40 || epollNow(p.epoll, events[:]) != 1 {
		t.Errorf("of 40 frames %d were counted as those of a shut port and %d charged; %d ports are watched, want 1", c.Verdicts[verdict.PortShut], p.frame.batch.unforwarded, epollNow(p.epoll, events[:]))
	}
}

// TestLookForFramesDoesNotSleep: not even for the millisecond that an epoll can sleep at least. Without an
// epoll nothing is readable.
func TestLookForFramesDoesNotSleep(t *testing.T) {
	p := newTestbed(t).sw.pollers[0]
	var events [8]unix.EpollEvent
	const looks = 2000
	began := time.Now()
	for range looks {
		if n := epollNow(p.epoll, events[:]); n != 0 {
			t.Fatalf("%d ports are readable, want 0", n)
		}
	}
	if took := time.Since(began); took > looks*time.Millisecond/2 {
		t.Errorf("%d looks for frames took %v", looks, took)
	}
	if n := epollNow(-1, events[:]); n != 0 {
		t.Errorf("without an epoll %d ports are readable", n)
	}
}

// TestPausedPortIsWatchedAgainInTime: not before its pause is over, and then by a round, by a poller that
// waits and by Step.
func TestPausedPortIsWatchedAgainInTime(t *testing.T) {
	b := newTestbed(t)
	p := b.ports["web"].poller
	var events [8]unix.EpollEvent
	watched := func() int { return epollNow(p.epoll, events[:]) }
	again := map[string]func(){
		"round": func() { p.round(nil) },
		"wait":  func() { p.wait(events[:], monotonic()+time.Hour) },
		"step": func() {
			b.devices["web"].queue = [][]byte{b.datagram("10.10.0.99", 1)}
			if !b.sw.Step() || len(b.devices["web"].queue) != 0 {
				t.Error("Step did not read the port whose pause is over")
			}
		},
	}
	b.readable("web")
	if n := watched(); n != 1 {
		t.Fatalf("%d ports are readable, want 1", n)
	}
	for name, resume := range again {
		if p.pause(b.ports["web"], monotonic()); watched() != 0 {
			t.Errorf("%s: a paused port is watched", name)
		}
		if resume(); watched() != 1 || len(p.paused) != 0 {
			t.Errorf("%s: the port is not watched after its pause, %d pauses are left", name, len(p.paused))
		}
	}
	now := monotonic()
	p.pause(b.ports["web"], now+time.Hour)
	if p.round(nil); watched() != 0 || len(p.paused) != 1 {
		t.Error("a round ended a pause of an hour")
	}
	b.devices["lone"].queue = [][]byte{b.datagram("10.10.0.99", 1)}
	if b.readable("lone"); !b.sw.Step() || len(b.devices["lone"].queue) != 0 {
		t.Error("Step did not read a port beside one that is paused")
	}
	_, _ = unix.Read(b.ports["lone"].end.FD(), make([]byte, 8))
	p.resumePaused(now + time.Hour - 1)
	if watched() != 0 {
		t.Error("the pause ended a nanosecond before its time")
	}
	if p.resumePaused(now + time.Hour); watched() != 1 {
		t.Error("the pause did not end at its time")
	}
}

// TestPollerSleepsUntilTheFirstPauseEnds: for whole milliseconds, so that it does not wake before.
func TestPollerSleepsUntilTheFirstPauseEnds(t *testing.T) {
	const ms, now = time.Millisecond, time.Hour
	for _, tt := range []struct {
		until []time.Duration
		want  int
	}{
		{nil, -1}, {[]time.Duration{5 * ms}, 5}, {[]time.Duration{5 * ms, 3 * ms, 4 * ms}, 3}, {[]time.Duration{3 * ms, 5 * ms}, 3},
		{[]time.Duration{3*ms + 1}, 4}, {[]time.Duration{1}, 1}, {[]time.Duration{0}, 0}, {[]time.Duration{-time.Minute, ms}, 0},
	} {
		var p poller
		for _, until := range tt.until {
			p.paused = append(p.paused, pause{until: now + until})
		}
		if got := p.pauseLeft(now); got != tt.want {
			t.Errorf("pauses that end in %v: the poller sleeps for %d ms, want %d", tt.until, got, tt.want)
		}
	}
}

// TestPollerSleepsOnlyWithoutWork: while frames may come soon it looks for them, and does not withdraw its
// request for processors that stay awake.
func TestPollerSleepsOnlyWithoutWork(t *testing.T) {
	b := newTestbed(t)
	p := b.ports["web"].poller
	fd, err := unix.Open(filepath.Join(t.TempDir(), "device"), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.latency.close()
	events := make([]unix.EpollEvent, 8)
	for name, tt := range map[string]struct {
		readable   bool
		last, ends time.Duration // of the last work, and of the pause of a port
		n          int
		slept      bool
	}{
		"a frame is there":           {true, 1, 0, 1, false},
		"a frame is there at first":  {true, 0, 0, 1, true},
		"a frame comes soon":         {true, time.Hour, -1, 1, false},
		"no frame after some time":   {false, -time.Hour, 2 * time.Millisecond, 0, true},
		"a frame waits for its time": {true, -time.Hour, -1, 1, true},
	} {
		p.latency = latencyRequest{fd: fd, active: true, batches: 3}
		p.paused = nil
		p.watch(b.ports["web"].end.FD(), unix.EPOLLIN)
		if b.readable("web"); !tt.readable {
			_, _ = unix.Read(b.ports["web"].end.FD(), make([]byte, 8))
		}
		last := tt.last
		if last != 0 {
			last += monotonic()
		}
		if tt.ends != 0 {
			p.pause(b.ports["web"], monotonic()+tt.ends)
		}
		n := p.wait(events, last)
		if n != tt.n || p.latency.active == tt.slept || tt.slept && (p.latency.batches != 0 || p.latency.slept != last) {
			t.Errorf("%s: %d ports are readable, the request is %+v; want %d, slept: %v", name, n, p.latency, tt.n, tt.slept)
		}
		if n == 1 && events[0].Fd != int32(b.ports["web"].end.FD()) {
			t.Errorf("%s: descriptor %d is readable, want that of the port", name, events[0].Fd)
		}
	}
	p.latency.batches, p.latency.active = 0, false
	if p.round(nil); p.latency.batches != 1 {
		t.Errorf("a round counts as %d batches, want 1", p.latency.batches)
	}
}

// TestPortWithoutDeviceIsNotReadAgain: its frames before the failure are forwarded.
func TestPortWithoutDeviceIsNotReadAgain(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	pipe := b.tunnel(1500)
	var events [8]unix.EpollEvent
	p := b.ports["web"].poller
	b.devices["web"].queue, b.devices["web"].empty = [][]byte{b.datagram("10.10.0.5", 1)}, errors.New("gone")
	b.readable("web")
	if !b.sw.Step() || b.devices["app"].count != 1 || epollNow(p.epoll, events[:]) != 0 || b.sw.Step() {
		t.Errorf("%d frames were delivered, want 1, and %d ports are readable, want 0", b.devices["app"].count, epollNow(p.epoll, events[:]))
	}
	b.readable("lone")
	if !b.sw.Step() || epollNow(p.epoll, events[:]) != 1 {
		t.Error("a port that has no more frames is not watched any more")
	}
	_, _ = unix.Read(b.ports["lone"].end.FD(), make([]byte, 8))
	pipe.queue = []received{{err: errors.New("gone")}}
	b.readable("tunnel")
	if !b.sw.Step() || epollNow(p.epoll, events[:]) != 0 {
		t.Error("a tunnel without device is read again")
	}
}

// TestTunnelCountsWhatItReceives: each datagram has a verdict at the tunnel's port, or its frame has one
// where it goes. Frames of a refused interface are dropped, all packets of a joined one.
func TestTunnelCountsWhatItReceives(t *testing.T) {
	b := newTestbed(t)
	pipe := b.tunnel(1500)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	far, bad := packet.Origin{Node: 2, VNI: 1, Epoch: 7}, packet.Origin{Node: 2, VNI: 1, Epoch: 9}
	for range maxPanics {
		b.sw.chargeSender(bad, monotonic())
	}
	f := template(packet.ProtocolUDP, addr("10.10.0.7"), addr("10.10.0.5"), 1, 53)
	f.Payload = make([]byte, 300)
	frame := append(make([]byte, offloadLen), to("far", GatewayMAC, f)...)
	joined := slices.Clone(frame)
	joined[0], joined[1] = 1, 5 // a checksum to compute, and segments of UDP
	binary.NativeEndian.PutUint16(joined[2:], 42)
	binary.NativeEndian.PutUint16(joined[4:], 100)
	binary.NativeEndian.PutUint16(joined[6:], 34)
	binary.NativeEndian.PutUint16(joined[8:], 6)
	putPseudoSum(joined[offloadLen:])
	broken := slices.Clone(joined)
	broken[offloadLen+14] = 0x55 // no IP version that Decode knows
	ok := verdict.Forward
	pipe.queue = []received{{v: verdict.TunnelForged, frame: frame[:60]}, {frame: frame, from: far, v: ok}, {frame: frame, from: bad, v: ok}, {frame: joined, from: bad, v: ok},
		{v: verdict.TunnelForged, frame: frame[:70]}, {frame: broken, from: far, v: ok}, {frame: joined, from: far, v: ok}, {frame: frame, v: ok}, {frame: frame, from: far, v: ok}}
	p := b.ports["tunnel"].poller
	b.turns("web", b.datagram("10.10.0.99", 1), b.datagram("10.10.0.99", 1)) // uses the memory before
	p.turn(b.ports["tunnel"], b.sw.Snapshot(), monotonic())
	at, app := b.ports["tunnel"].Counters(), b.ports["app"].Counters()
	if at.RxFrames != 9 || at.RxBytes != uint64(130+7*len(frame)) || pipe.room != readAheadBytes+frameSize {
		t.Errorf("%d frames of %d bytes were received, the last into %d bytes; want 9 of %d, into %d", at.RxFrames, at.RxBytes, pipe.room, 130+7*len(frame), readAheadBytes+frameSize)
	}
	if at.Verdicts[verdict.TunnelForged] != 2 || at.Verdicts[verdict.PortShut] != 1+3 || at.Verdicts[verdict.TunnelForeign] != 1 || app.Verdicts[verdict.Forward] != 2+3 || b.devices["app"].count != 3 || at.Verdicts[verdict.BadVersion] != 3 {
		t.Errorf("%d packets were forged, %d of a refused interface, %d foreign, %d forwarded, in %d frames; want 2, 4, 1, 5, in 3",
			at.Verdicts[verdict.TunnelForged], at.Verdicts[verdict.PortShut], at.Verdicts[verdict.TunnelForeign], app.Verdicts[verdict.Forward], b.devices["app"].count)
	}
	pipe.queue = []received{{v: verdict.TunnelForged, frame: frame}, {frame: frame, from: bad, v: ok}, {frame: frame, from: far, v: ok}}
	if p.turn(b.ports["tunnel"], b.sw.Snapshot(), monotonic()); p.frame.batch.unchecked != 3 {
		t.Errorf("three datagrams count as %d for the time of the turn", p.frame.batch.unchecked)
	}
}

// TestRemovalWaitsForTheBatch: until the poller is idle, or has begun another batch.
func TestRemovalWaitsForTheBatch(t *testing.T) {
	for name, end := range map[string]func(p *poller){
		"idle":          func(p *poller) { p.state.Store(idle) },
		"another batch": func(p *poller) { p.batch.Add(1) },
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newTestbed(t)
			e := b.sw.Edit(b.generation)
			e.Detach(b.ports["web"])
			b.sw.Publish(e)
			p := b.ports["web"].poller
			p.state.Store(b.generation + 1)
			removed := false
			go func() {
				if err := b.sw.RemovePort(b.ports["web"]); err != nil {
					t.Error(err)
				}
				removed = true
			}()
			time.Sleep(time.Second)
			if synctest.Wait(); removed {
				t.Errorf("%s: the port was removed while the poller was in a batch", name)
			}
			end(p)
			time.Sleep(time.Second)
			if synctest.Wait(); !removed {
				t.Errorf("%s: the port is not removed", name)
			}
			p.state.Store(idle)
		})
	}
}

// TestPortsAreSpreadOverThePollers: evenly, the first poller before the others. A port that cannot be
// watched is not added, and one whose device cannot be closed is removed with an error.
func TestPortsAreSpreadOverThePollers(t *testing.T) {
	b := newTestbed(t)
	sw, err := New(Config{Tracker: b.tracker, Pollers: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sw.Close)
	all := &testbed{t: t, sw: sw, ports: map[string]*Port{}, devices: map[string]*sink{}}
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	loads := func() (n []int) {
		for _, p := range sw.pollers {
			n = append(n, p.load())
		}
		return n
	}
	for i, name := range names {
		all.add(name, InstancePort)
		if got := all.ports[name].poller; got != sw.pollers[i%3] || got.number != i%3 || got.frame.queue != i%3 {
			t.Errorf("port %d is at poller %d, want %d", i, got.number, i%3)
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "file")) // no epoll takes it
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if p, err := sw.AddPort("file", InstancePort, &sink{fd: int(file.Fd())}); err == nil || p != nil {
		t.Error("a port that cannot be watched was added")
	}
	if got := loads(); !slices.Equal(got, []int{3, 2, 2}) || len(sw.Ports()) != len(names) {
		t.Errorf("the pollers have %v of %d ports, want 3, 2 and 2", got, len(sw.Ports()))
	}
	if err := sw.RemovePort(all.ports["b"]); err != nil {
		t.Error(err)
	}
	_ = unix.Close(all.devices["d"].fd)
	if err := sw.RemovePort(all.ports["d"]); !errors.Is(err, unix.EBADF) {
		t.Errorf("the removal of a port whose device cannot be closed: error %v, want %v", err, unix.EBADF)
	}
	var left []string
	for _, p := range sw.Ports() {
		left = append(left, p.Name())
	}
	if got := loads(); !slices.Equal(got, []int{2, 1, 2}) || !slices.Equal(left, []string{"a", "c", "e", "f", "g"}) {
		t.Errorf("the pollers have %v of the ports %v", got, left)
	}
	all.add("h", UplinkPort)
	if p := all.ports["h"]; p.poller != sw.pollers[1] || p.Kind() != UplinkPort || p.index != len(names) {
		t.Errorf("the next port has index %d and is at poller %d, want index %d at poller 1", p.index, p.poller.number, len(names))
	}
	for _, p := range sw.Ports() {
		if err := sw.RemovePort(p); err != nil {
			t.Error(err)
		}
	}
}
