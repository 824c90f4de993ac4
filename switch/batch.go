package vswitch

import (
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	// batchFrames and batchBytes bound what is read from one port before the others have
	// their turn and a newer Snapshot is looked for: some 150 us of either small packets
	// or large ones.
	batchFrames = 64
	batchBytes  = 256 << 10
	// aheadBytes bounds what is read before the first of it is carried on, and smallFrame
	// what the next read waits behind: a larger one goes on at once.
	aheadBytes = 64 << 10
	smallFrame = 2 << 10
)

// A batch is what is read from a port in one turn. Small frames that wait there are read
// before the first of them is carried on, so that their connections can be fetched from
// memory together.
type batch struct {
	port          *Port
	frames, bytes int // read in this turn
	limit         int // of frames
	waiting       [batchFrames]waiting
	n             int // of them
	open          int // the first of them that has not met its fate
	group         int // how many packets, joined, are on their way
	current       int // bytes of what is on its way, with its virtio header; 0: nothing is

	began     time.Duration
	checked   time.Duration // when the clock was read last
	unchecked int           // frames since
	spent     bool          // the turn has taken its time

	vain int // frames of the turn that went nowhere
}

// A waiting frame is read and not carried on.
type waiting struct {
	at, n      int // where it is in the batch's memory
	identified bool
	tuple      conntrack.Tuple
	places     [2]conntrack.Place // at the sender's interface, and the receiver's
}

func (b *batch) begin(port *Port, now time.Duration) {
	failpoint.Reach()
	b.port, b.frames, b.bytes, b.limit = port, 0, 0, port.share.limit()
	b.n, b.open, b.group, b.current = 0, 0, 0, 0
	b.began, b.checked, b.unchecked, b.spent = now, now, 0, false
	b.vain = 0
}

// carried says that what was on its way, so many packets, has met its fate. Now and then it
// looks at the clock: a turn that takes too long ends, and the next writes are timed.
func (f *frame) carried(packets int) {
	b := &f.batch
	b.open, b.group, b.current = b.open+b.group, 0, 0
	if b.unchecked += packets; b.unchecked < checkEvery {
		return
	}
	now := monotonic()
	if now-b.checked > longTurn {
		f.suspect = suspectWrites
	}
	b.spent = now-b.began > 2*turnTime
	b.checked, b.unchecked = now, 0
}

// lost is how many packets of a device have been read and have not met their fate. What has
// not been decoded counts as one packet, whatever it may stand for.
func (f *frame) lost() int {
	b := &f.batch
	return b.n - b.open + max(0, int(f.pkt.Segments)-max(1, b.group))
}

// read reads frames into memory, one behind the other, until there are none, and then its
// error is the device's; one is large; or there is no room to look further ahead. The end of
// the turn is EAGAIN too.
func (b *batch) read(memory []byte) error {
	failpoint.Reach()
	b.n, b.open = 0, 0
	for at := 0; at <= aheadBytes; {
		if b.frames >= b.limit || b.bytes >= batchBytes || b.spent {
			return unix.EAGAIN
		}
		n, err := b.port.device.Read(memory[at : at+frameSize])
		if err != nil {
			if !b.lostInDevice(err) {
				return err
			}
			continue
		}
		b.waiting[b.n] = waiting{at: at, n: n}
		b.n++
		b.frames++
		b.bytes += n
		b.port.rxFrames.Add(1)
		b.port.rxBytes.Add(uint64(n - offloadLen))
		if n > smallFrame {
			return nil
		}
		at += (n + 63) &^ 63
	}
	return nil
}

// lostInDevice reports whether a read failed because the device lost one frame, and counts it.
func (b *batch) lostInDevice(err error) bool {
	lost, ok := err.(verdict.Lost)
	if !ok {
		return false
	}
	b.frames++
	b.vain++
	b.port.rxFrames.Add(1)
	b.port.count(verdict.Verdict(lost), 1)
	return true
}

// lookAhead has the connections of the waiting frames fetched, if there are several of
// different flows. Whose they are is a guess until each is decoded and judged.
func (f *frame) lookAhead() {
	failpoint.Reach()
	a := f.snapshot.attachment(f.batch.port)
	if a == nil || f.batch.n < 2 {
		return
	}
	var last packet.Flow
	var receiver *Attachment
	all := f.batch.waiting[:f.batch.n]
	for i := range all {
		w := &all[i]
		flow, ok := packet.PeekFlow(f.memory[w.at+offloadLen : w.at+w.n])
		if !ok || flow == last {
			continue
		}
		w.identified = true
		a.Zone.IdentifyFlow(&w.tuple, flow)
		w.places[0] = a.Zone.Seek(&w.tuple)
		if flow.Dst != last.Dst {
			receiver = nil
			if owner := a.Network.Find(flow.Dst); owner != nil && owner.Port != nil {
				receiver = f.snapshot.attachment(owner.Port)
			}
		}
		if receiver != nil {
			w.places[1] = receiver.Zone.Seek(&w.tuple)
		}
		last = flow
	}
	for i := range all {
		for _, place := range all[i].places {
			place.Fetch()
		}
	}
}

// joinable is how long a frame behind its virtio header may be to be joined with others. One that
// is too large for where it goes is answered by itself, with its own headers in the answer.
func (f *frame) joinable(port *Port) int {
	failpoint.Reach()
	a := f.snapshot.attachment(port)
	if a == nil || port.offloads != packet.DatagramOffloads {
		return 0
	}
	mtu := a.Network.MTU
	if t := f.snapshot.tunnel; t != nil {
		mtu = min(mtu, t.MTU)
	}
	return offloadLen + ethernetLen + mtu
}

// carry carries the waiting frames on, those of one flow of datagrams together.
func (f *frame) carry() {
	failpoint.Reach()
	port, all := f.batch.port, f.batch.waiting[:f.batch.n]
	joinable := 0
	if len(all) > 1 {
		joinable = f.joinable(port)
	}
	for i := 0; i < len(all); {
		w := &all[i]
		f.buffer = f.memory[w.at:]
		n, first := w.n, i
		i++
		if i < len(all) && n <= joinable && f.train.Lead(f.buffer, n) {
			// What is joined moves forward, over frames that were joined before it.
			for i < len(all) && f.train.Follow(f.memory[all[i].at:all[i].at+all[i].n]) {
				i++
			}
			n = f.train.Finish()
		}
		f.batch.group = i - first
		if f.sw.relay {
			f.relay(port, n)
		} else {
			if w.identified {
				f.tuple = w.tuple
			}
			f.receive(port, n)
		}
		f.carried(1 + int(f.pkt.Segments)/checkEvery)
	}
}
