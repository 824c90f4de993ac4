package vswitch

import (
	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/internal/packet"
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
	waiting       [batchFrames]waiting
	n             int // of them
}

// A waiting frame is read and not carried on.
type waiting struct {
	at, n      int // where it is in the batch's memory
	identified bool
	tuple      conntrack.Tuple
	places     [2]conntrack.Place // at the sender's interface, and the receiver's
}

func (b *batch) begin(port *Port) { b.port, b.frames, b.bytes = port, 0, 0 }

// read reads frames into memory, one behind the other, until there are none, and then its
// error is the device's; one is large; or there is no room to look further ahead. The end of
// the turn is EAGAIN too.
func (b *batch) read(memory []byte) error {
	b.n = 0
	for at := 0; at <= aheadBytes; {
		if b.frames == batchFrames || b.bytes >= batchBytes {
			return unix.EAGAIN
		}
		n, err := b.port.device.Read(memory[at : at+frameSize])
		if err != nil {
			return err
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

// lookAhead has the connections of the waiting frames fetched, if there are several of
// different flows. Whose they are is a guess until each is decoded and judged.
func (f *frame) lookAhead() {
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

// carry carries the waiting frames on, those of one flow of datagrams together.
func (f *frame) carry() {
	port, all := f.batch.port, f.batch.waiting[:f.batch.n]
	for i := 0; i < len(all); {
		w := &all[i]
		f.buffer = f.memory[w.at:]
		n := w.n
		i++
		if i < len(all) && port.offloads == packet.DatagramOffloads && f.train.Lead(f.buffer, n) {
			// What is joined moves forward, over frames that were joined before it.
			for i < len(all) && f.train.Follow(f.memory[all[i].at:all[i].at+all[i].n]) {
				i++
			}
			n = f.train.Finish()
		}
		if f.sw.relay {
			f.relay(port, n)
			continue
		}
		if w.identified {
			f.tuple = w.tuple
		}
		f.receive(port, n)
	}
}
