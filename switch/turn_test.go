package vswitch

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
)

// TestBatchReadsUpToItsLimits: a turn ends with its last frame, its last byte or its time; a batch with a
// large frame, or where memory ends. Each frame begins at a cache line of its own.
func TestBatchReadsUpToItsLimits(t *testing.T) {
	b := newTestbed(t)
	web, batch := b.ports["web"], &b.frame.batch
	gone := errors.New("gone")
	frames := func(n, size int) [][]byte { return slices.Repeat([][]byte{make([]byte, size)}, n) }
	for name, tt := range map[string]struct {
		queue  [][]byte
		after  error // what the device returns when its queue is empty
		limit  int   // 0: a whole batch
		begun  time.Duration
		counts []int // frames of each read of the turn
		want   error
	}{
		"an empty queue":      {nil, unix.EAGAIN, 0, 0, []int{0}, unix.EAGAIN},
		"a few":               {frames(3, 100), unix.EAGAIN, 0, 0, []int{3}, unix.EAGAIN},
		"a device that fails": {frames(3, 100), gone, 0, 0, []int{3}, gone},
		"a limited turn":      {frames(9, 100), gone, 8, 0, []int{8}, unix.EAGAIN},
		"a whole batch":       {frames(batchFrames+1, 100), gone, 0, 0, []int{batchFrames}, unix.EAGAIN},
		"large frames":        {frames(9, batchBytes/4), gone, 0, 0, []int{1, 1, 1, 1, 0}, unix.EAGAIN},
		"barely large frames": {frames(2, smallFrame+1), gone, 0, 0, []int{1, 1, 0}, gone},
		"until memory ends":   {frames(batchFrames, smallFrame), gone, 0, 0, []int{readAheadBytes/smallFrame + 1, batchFrames - readAheadBytes/smallFrame - 1}, unix.EAGAIN},
		"a turn that is over": {frames(1, 100), gone, 0, time.Hour, []int{0}, unix.EAGAIN},
		"lines of cache":      {slices.Concat(frames(1, 63), frames(1, 64), frames(1, 65), frames(1, 128)), gone, 0, 0, []int{4}, gone},
	} {
		b.devices["web"].queue, b.devices["web"].empty = tt.queue, tt.after
		web.share.frames = tt.limit
		before := web.Counters()
		batch.begin(web, monotonic()-tt.begun)
		b.frame.checkTime(monotonic())
		if tt.begun == 0 {
			batch.expired = false // on a busy machine the turn of a few lines may be over
		}
		var err error
		read, bytes := 0, 0
		for i, count := range tt.counts {
			if err != nil {
				t.Fatalf("%s: read %d ended the turn with %v", name, i-1, err)
			}
			err = batch.read(b.frame.memory)
			if batch.n != count {
				t.Errorf("%s: read %d returned %d frames, want %d", name, i, batch.n, count)
			}
			at := 0
			for j, frame := range batch.pending[:batch.n] {
				if frame.at != at || frame.n != len(tt.queue[read]) {
					t.Errorf("%s: frame %d has %d bytes at %d, want %d at %d", name, j, frame.n, frame.at, len(tt.queue[read]), at)
				}
				at += (frame.n + 63) / 64 * 64
				bytes += frame.n
				read++
			}
		}
		if err != tt.want {
			t.Errorf("%s: the last read ended with %v, want %v", name, err, tt.want)
		}
		after := web.Counters()
		if int(after.RxFrames-before.RxFrames) != read || int(after.RxBytes-before.RxBytes) != bytes-read*offloadLen {
			t.Errorf("%s: %d frames of %d bytes are counted, want %d of %d", name, after.RxFrames-before.RxFrames, after.RxBytes-before.RxBytes, read, bytes-read*offloadLen)
		}
	}
}

// TestTurnBeginsWithNothing: what the turn before has left does not count.
func TestTurnBeginsWithNothing(t *testing.T) {
	b := newTestbed(t)
	f := b.frame
	f.batch = batch{frames: 9, bytes: 9, n: 9, next: 9, joined: 9, currentBytes: 9, unchecked: 9, expired: true, unforwarded: 9}
	f.batch.begin(b.ports["web"], time.Hour)
	if got, want := f.batch, (batch{port: b.ports["web"], limit: batchFrames, began: time.Hour, checked: time.Hour}); got != want {
		t.Errorf("a turn begins with %+v, want %+v", got, want)
	}
}

// TestTurnIsCheckedAfterEightPackets: then the turn ends if it took too long, and writes are timed if the
// packets since the last check took too long.
func TestTurnIsCheckedAfterEightPackets(t *testing.T) {
	b := newTestbed(t)
	f := b.frame
	f.batch.begin(b.ports["web"], time.Hour)
	for i, tt := range []struct {
		at      time.Duration
		expired bool
		timed   int
	}{
		{2 * turnTime, false, 0}, {2*turnTime + 1, true, 0}, {2*turnTime + 1 + longTurn, true, 0}, {2*turnTime + 2 + 2*longTurn, true, timedWrites}, {turnTime, false, 0},
	} {
		f.writesToTime = 0
		f.checkTime(time.Hour + tt.at)
		if f.batch.expired != tt.expired || f.writesToTime != tt.timed {
			t.Errorf("check %d: the turn is over: %v, %d writes are timed; want %v and %d", i, f.batch.expired, f.writesToTime, tt.expired, tt.timed)
		}
	}
	for _, packets := range []int{1, 2, 3, checkEvery, 100} {
		f.checkTime(0)
		done := 0
		for ; f.batch.checked == 0 && done < 100; done++ {
			f.batch.n, f.batch.next, f.batch.joined, f.batch.currentBytes = 9, 4, 2, 100
			f.frameDone(packets)
			if f.batch.next != 6 || f.batch.joined != 0 || f.batch.currentBytes != 0 {
				t.Errorf("after the verdict of two joined frames %+v is left, want to go on at 6", f.batch)
			}
		}
		if want := (checkEvery + packets - 1) / packets; done != want {
			t.Errorf("after %d frames of %d packets the clock is read, want after %d", done, packets, want)
		}
	}
}

// uncut builds a datagram from the web to the app that may not be fragmented, so that it can be joined with
// others. size is that of its IP packet.
func (b *testbed) uncut(size int) []byte {
	f := template(packet.ProtocolUDP, addr("10.10.0.4"), addr("10.10.0.5"), 1000, 53)
	f.DontFragment, f.Payload = true, make([]byte, size-28)
	return append(make([]byte, offloadLen), b.of("web", f)...)
}

// TestPacketsOfABatchCountForTheTime: each frame counts, and those of many packets count more.
func TestPacketsOfABatchCountForTheTime(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 1, checkEvery - 1: 1, checkEvery: 2, 3 * checkEvery: 4} {
		b := newTestbed(t)
		b.rules("app", permit(ec2.UDP, 53, 60, "web"))
		b.frame.snapshot = b.sw.Snapshot()
		b.devices["web"].queue = slices.Repeat([][]byte{b.uncut(100)}, n)
		b.frame.batch.begin(b.ports["web"], monotonic())
		_ = b.frame.batch.read(b.frame.memory)
		b.frame.batch.unchecked = -100
		b.frame.forwardBatch()
		if got := b.frame.batch.unchecked + 100; got != want || b.devices["app"].count != 1 {
			t.Errorf("%d datagrams became %d frames that count as %d, want 1 that counts as %d", n, b.devices["app"].count, got, want)
		}
	}
}

// TestLostPacketsOfABatch: after a panic, all packets without a verdict are lost. A joined frame counts as
// its packets.
func TestLostPacketsOfABatch(t *testing.T) {
	b := newTestbed(t)
	for _, tt := range []struct{ read, next, joined, segments, want int }{
		{8, 0, 0, 0, 8}, {8, 3, 0, 0, 5}, {8, 3, 1, 1, 5}, {8, 3, 1, 4, 8}, {8, 3, 2, 2, 5}, {8, 3, 2, 5, 8}, {8, 8, 0, 0, 0}, {1, 0, 1, 40, 40}, {2, 0, 2, 1, 2},
	} {
		f := b.frame
		f.batch.n, f.batch.next, f.batch.joined, f.pkt.Segments = tt.read, tt.next, tt.joined, uint32(tt.segments)
		if got := f.lost(); got != tt.want {
			t.Errorf("%d frames read, %d judged, %d joined, %d packets in the frame: %d lost, want %d", tt.read, tt.next, tt.joined, tt.segments, got, tt.want)
		}
	}
}

// TestBatchFindsConnectionsInBothZones: those of the sender's and of the receiver's interface, once for each
// run of frames of one flow. A malformed frame does not end the search.
func TestBatchFindsConnectionsInBothZones(t *testing.T) {
	b := newTestbed(t)
	b.tunnel(1500)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	known, unknown, far := b.datagram("10.10.0.5", 1), b.datagram("10.10.0.6", 2), b.datagram("10.10.0.7", 3)
	other := b.datagram("10.10.0.5", 4)
	outside := b.datagram("203.0.113.25", 5)
	for _, frame := range [][]byte{known, other, far, outside} {
		b.turns("web", frame)
	}
	f := b.frame
	f.snapshot = b.sw.Snapshot()
	if _, ok := f.decoder.Decode(far[offloadLen:], &f.pkt); !ok {
		t.Fatal("Decode refuses the frame")
	}
	f.judge(f.snapshot.attachment(b.ports["app"]), conntrack.Out, firewall.Source{Addr: f.pkt.Flow.Dst}) // so that the app has a connection of that flow too
	nothing := conntrack.Place{}
	place := func(zone string, frame []byte) conntrack.Place {
		var u conntrack.Tuple
		flow, _ := packet.PeekFlow(frame[offloadLen:])
		b.zones[zone].IdentifyFlow(&u, flow)
		return b.zones[zone].Seek(&u)
	}
	read := func(all ...[]byte) []pendingFrame {
		b.devices["web"].queue = all
		f.batch.begin(b.ports["web"], monotonic())
		_ = f.batch.read(f.memory)
		f.prefetch()
		return f.batch.pending[:f.batch.n]
	}
	type found struct {
		identified bool
		places     [2]conntrack.Place
	}
	both := found{true, [2]conntrack.Place{place("web", known), place("app", known)}}
	want := []found{both, {}, {}, {true, [2]conntrack.Place{place("web", other), place("app", other)}},
		{true, [2]conntrack.Place{place("web", far), nothing}}, {true, [2]conntrack.Place{place("web", outside), nothing}},
		{true, [2]conntrack.Place{place("web", unknown), place("lone", unknown)}}, both}
	if both.places[0] == nothing || both.places[1] == nothing || want[3].places[1] == nothing {
		t.Fatal("the connections are not known")
	}
	got := read(known, known, known[:offloadLen+3], other, far, outside, unknown, known)
	for i, w := range want {
		if g := (found{got[i].identified, got[i].places}); g != w {
			t.Errorf("frame %d: %+v is found, want %+v", i, g, w)
		}
	}
	if got := read(known, other); got[0].places != both.places || !got[1].identified {
		t.Errorf("of two frames %+v is found, want %+v", got, want)
	}
	b.devices["web"].queue = [][]byte{known, other}
	if b.ports["web"].poller.drain(f, b.ports["web"]); !f.batch.pending[0].identified {
		t.Error("a turn does not look for the connections of its frames")
	}
	if got := read(known); got[0].identified {
		t.Error("the connection of a single frame is looked for ahead of it")
	}
	e := b.sw.Edit(b.generation)
	e.Detach(b.ports["web"])
	b.sw.Publish(e)
	f.snapshot = b.sw.Snapshot()
	if got := read(known, other); got[0].identified {
		t.Error("a port without an interface has connections")
	}
}

// TestOnlyFramesThatFitAreJoined: those of an interface whose device takes joined datagrams, up to the MTU
// of its network and of the tunnel.
func TestOnlyFramesThatFitAreJoined(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	f, web := b.frame, b.ports["web"]
	check := func(what string, want int) {
		t.Helper()
		f.snapshot = b.sw.Snapshot()
		if got := f.joinable(web); got != want {
			t.Errorf("%s: frames up to %d bytes are joined, want %d", what, got, want)
		}
	}
	check("a network of 1500", offloadLen+ethernetLen+1500)
	web.offloads = 0
	check("a device without offloads", 0)
	web.offloads = packet.DatagramOffloads
	b.tunnel(2000)
	check("and a tunnel of 2000", offloadLen+ethernetLen+1500)
	e := b.sw.Edit(b.generation)
	e.Tunnel(&Tunnel{Port: b.ports["tunnel"], MTU: 1000})
	b.sw.Publish(e)
	check("and a tunnel of 1000", offloadLen+ethernetLen+1000)

	two := func(size int) (delivered, refused int) {
		frame := b.uncut(size)
		app, web := b.devices["app"].count, b.devices["web"].count
		b.turns("web", frame, frame)
		return b.devices["app"].count - app, b.devices["web"].count - web
	}
	if delivered, _ := two(1000); delivered != 1 {
		t.Errorf("two datagrams of 1000 bytes become %d frames, want 1", delivered)
	}
	if delivered, _ := two(1001); delivered != 2 {
		t.Errorf("two datagrams of 1001 bytes become %d frames, want 2", delivered)
	}
	if _, refused := two(1501); refused != 2 {
		t.Errorf("two datagrams that are too large get %d errors, want 2", refused)
	}
	e = b.sw.Edit(b.generation)
	e.Detach(web)
	b.sw.Publish(e)
	check("no interface", 0)
}
