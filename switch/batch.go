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
	// batchFrames and batchBytes bound what is read from one port before the other ports have their
	// turn and a newer Snapshot is loaded. Forwarding that much takes some 150 us.
	batchFrames = 64
	batchBytes  = 256 << 10
	// readAheadBytes bounds how much is read before the first of the frames is forwarded. A frame
	// larger than smallFrame is forwarded at once, before the next read.
	readAheadBytes = 64 << 10
	smallFrame     = 2 << 10
)

// A batch is what one turn reads from a port. Small frames in the port's queue are read before the
// first of them is forwarded, so that their connections are fetched from memory together. A batch
// is part of its poller's frame, and only that poller uses it.
type batch struct {
	port          *Port
	frames, bytes int // read in this turn
	limit         int // how many frames the turn may read
	pending       [batchFrames]pendingFrame
	n             int // how many pending frames there are
	next          int // the first pending frame that has no verdict yet
	joined        int // how many pending frames were joined into the frame in the pipeline
	currentBytes  int // length of the frame in the pipeline, with its virtio header; 0: there is none

	began     time.Duration
	checked   time.Duration // when the clock was read last
	unchecked int           // packets since then
	expired   bool          // the turn has used up its time

	unforwarded int // frames of the turn that were not forwarded
}

// A pendingFrame is a frame that was read and is not yet forwarded.
type pendingFrame struct {
	at, n      int // position and length in the batch's memory
	identified bool
	tuple      conntrack.Tuple
	places     [2]conntrack.Place // of the connection, in the zones of the sender's and the receiver's interface
}

func (b *batch) begin(port *Port, now time.Duration) {
	failpoint.Reach()
	b.port, b.frames, b.bytes, b.limit = port, 0, 0, port.share.limit()
	b.n, b.next, b.joined, b.currentBytes = 0, 0, 0, 0
	b.began, b.checked, b.unchecked, b.expired = now, now, 0, false
	b.unforwarded = 0
}

// frameDone notes that the frame in the pipeline has its verdict. packets is how many packets the
// frame counts as. After every checkEvery packets frameDone reads the clock.
func (f *frame) frameDone(packets int) {
	b := &f.batch
	b.next, b.joined, b.currentBytes = b.next+b.joined, 0, 0
	if b.unchecked += packets; b.unchecked >= checkEvery {
		f.checkTime(monotonic())
	}
}

// checkTime ends a turn that takes too long, and starts timing writes if the packets since the last
// call took too long.
func (f *frame) checkTime(now time.Duration) {
	b := &f.batch
	if now-b.checked > longTurn {
		f.writesToTime = timedWrites
	}
	b.expired = now-b.began > 2*turnTime
	b.checked, b.unchecked = now, 0
}

// lost returns how many packets were read from a device and have no verdict yet. A frame that was
// not decoded counts as one packet.
func (f *frame) lost() int {
	b := &f.batch
	return b.n - b.next + max(0, int(f.pkt.Segments)-max(1, b.joined))
}

// read reads frames into memory, one after the other. It returns nil when it has read a large frame
// or memory has no room for another one, the device's error when the device has no more frames, and
// EAGAIN at the end of the turn.
func (b *batch) read(memory []byte) error {
	failpoint.Reach()
	b.n, b.next = 0, 0
	for at := 0; at <= readAheadBytes; {
		if b.frames >= b.limit || b.bytes >= batchBytes || b.expired {
			return unix.EAGAIN
		}
		n, err := b.port.device.Read(memory[at : at+frameSize])
		if err != nil {
			if !b.lostInDevice(err) {
				return err
			}
			continue
		}
		b.pending[b.n] = pendingFrame{at: at, n: n}
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

// lostInDevice reports whether a read failed because the device lost one frame, and counts that
// frame.
func (b *batch) lostInDevice(err error) bool {
	lost, ok := err.(verdict.Lost)
	if !ok {
		return false
	}
	b.frames++
	b.unforwarded++
	b.port.rxFrames.Add(1)
	b.port.count(verdict.Verdict(lost), 1)
	return true
}

// prefetch loads the connections of the pending frames into the processor's cache, if there are at
// least two frames. The frames are not checked yet, so a connection may be loaded that is not
// needed.
func (f *frame) prefetch() {
	failpoint.Reach()
	a := f.snapshot.attachment(f.batch.port)
	if a == nil || f.batch.n < 2 {
		return
	}
	var last packet.Flow
	var receiver *Attachment
	all := f.batch.pending[:f.batch.n]
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

// joinable returns the largest length, with the virtio header, of a frame from the port that may be
// joined with others; 0 if no frame may. A frame larger than an MTU stays alone, because the error
// that its sender gets must quote the headers of that frame.
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

// forwardBatch forwards the pending frames. Datagrams of one flow that follow each other are joined
// into one frame.
func (f *frame) forwardBatch() {
	failpoint.Reach()
	port, all := f.batch.port, f.batch.pending[:f.batch.n]
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
			// Joining moves the payload of a frame towards the start of memory, over the frames
			// joined before it.
			for i < len(all) && f.train.Follow(f.memory[all[i].at:all[i].at+all[i].n]) {
				i++
			}
			n = f.train.Finish()
		}
		f.batch.joined = i - first
		if f.sw.relay {
			f.relay(port, n)
		} else {
			if w.identified {
				f.tuple = w.tuple
			}
			f.receive(port, n)
		}
		f.frameDone(1 + int(f.pkt.Segments)/checkEvery)
	}
}
