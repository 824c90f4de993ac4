package overlay

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A batch ends after so many reads of the socket, or so many bytes, so that the next port waits for
// at most about 100 us.
const (
	batchReads = 64
	batchBytes = 256 << 10
)

// A receiver holds what was read from the socket and not yet returned as a frame. Only the
// goroutine that calls Receive uses it.
type receiver struct {
	in      [1 << 16]byte // one read of datagrams of one sender, one after the other
	n, size int           // length of them all; length of each but the last
	at      int           // where the next datagram begins in in
	reads   int           // number of reads in this batch
	bytes   int           // bytes read in this batch
	empty   bool          // the socket had no more datagrams to join
	from    sockaddr
	sender  netip.AddrPort
	taken   int           // datagrams in the frame that the last Receive returned
	opened  packet.Origin // sender of the last datagram whose seal was opened
	nonce   [12]byte
	message message

	train packet.Train
	// pending is a datagram that was read after a train and could not be joined to the train. It
	// holds the datagram's frame, or its verdict, for the next call.
	pending struct {
		b       [1 << 16]byte
		n       int
		from    packet.Origin
		marks   packet.Marks
		verdict verdict.Verdict
		full    bool
	}
}

// Receive opens the next datagram and joins the following datagrams to its packet as far as they
// fit. It writes a virtio header and the frame to b. It returns their length, the sender and
// Forward. If v drops, it returns the length of the datagram instead. At the end of a batch err is
// EAGAIN.
func (d *Device) Receive(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error) {
	d.receiver.taken, d.receiver.opened = 0, packet.Origin{}
	failpoint.Reach()
	return d.receiveFrame(b)
}

// Discard forgets all datagrams that were read, including those of the last Receive, and returns
// how many there were and who sent the last one that was opened. Their counters stay recorded.
func (d *Device) Discard() (datagrams int, from packet.Origin) {
	r := &d.receiver
	datagrams = r.taken
	if r.pending.full {
		datagrams++
	}
	if left := r.n - r.at; left > 0 {
		datagrams += (left + r.size - 1) / r.size
	}
	r.at, r.taken, r.pending.full = r.n, 0, false
	r.empty, r.reads, r.bytes = false, 0, 0
	return datagrams, r.opened
}

func (d *Device) receiveFrame(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error) {
	failpoint.Reach()
	r := &d.receiver
	var marks packet.Marks
	if h := &r.pending; h.full {
		h.full, r.taken, r.opened = false, 1, h.from
		n, from, marks, v = h.n, h.from, h.marks, h.verdict
		if v == verdict.Forward {
			n = packet.OffloadLen + copy(b[packet.OffloadLen:], h.b[:n])
		}
	} else {
		datagram, err := d.next()
		if err != nil {
			return 0, from, verdict.Unset, err
		}
		n, from, marks, v = d.openDatagram(datagram, r.sender, b)
	}
	if v != verdict.Forward {
		return n, from, v, nil
	}
	r.train.Begin(b, n, marks)
	for r.train.Open() && d.joinNext(b, from) {
	}
	return r.train.Finish(), from, verdict.Forward, nil
}

// next returns the next datagram, or EAGAIN at the end of a batch. The datagram's memory is valid
// until the next call.
func (d *Device) next() ([]byte, error) {
	failpoint.Reach()
	r := &d.receiver
	if r.at < r.n {
		datagram := r.in[r.at:min(r.at+r.size, r.n)]
		r.at += len(datagram)
		r.taken++
		return datagram, nil
	}
	if r.empty || r.reads >= batchReads || r.bytes >= batchBytes {
		r.empty, r.reads, r.bytes = false, 0, 0
		return nil, unix.EAGAIN
	}
	n, size, err := d.receiveTrain(&r.message, r.in[:], &r.from)
	if err != nil {
		r.reads, r.bytes = 0, 0
		return nil, err
	}
	r.reads, r.bytes = r.reads+1, r.bytes+n
	r.n, r.size, r.at, r.sender = n, size, size, r.from.addrPort()
	r.taken++
	return r.in[:size], nil
}

// associationOf returns the association that a datagram belongs to, or nil, and the datagram's
// header. It accepts datagrams only from the address of the association's node. There is no
// roaming: a seal proves who wrote a datagram, not that answers should go to the address it came
// from. Nodes send from the address that the cluster knows, so a datagram from any other address is
// a replay or a forgery, and is dropped before it costs a decryption.
//
// For VXLAN nothing is proven: the sender's IP address decides, with any port (RFC 7348 §5).
func (d *Device) associationOf(datagram []byte, sender netip.AddrPort) (*association, header) {
	failpoint.Reach()
	if d.form == VXLAN {
		if len(datagram) < vxlanLen {
			return nil, header{} // joinNext relies on this, because it cannot put back an empty datagram
		}
		return d.table.Load().vtep[sender.Addr()], header{marks: packet.Unfinished}
	}
	h, ok := readHeader(datagram)
	if !ok {
		return nil, h
	}
	s := d.table.Load().receive[h.index]
	if s == nil || s.address != sender {
		return nil, h
	}
	return s, h
}

// openDatagram opens a datagram in place and copies its frame to b, behind room for a virtio
// header. It returns the length of both, or the length of the datagram if the verdict is not
// Forward.
func (d *Device) openDatagram(datagram []byte, sender netip.AddrPort, b []byte) (int, packet.Origin, packet.Marks, verdict.Verdict) {
	failpoint.Reach()
	s, h := d.associationOf(datagram, sender)
	if s == nil {
		return len(datagram), packet.Origin{}, 0, unknownDatagram()
	}
	if d.form == VXLAN {
		frame, from, marks, v := s.openVXLAN(b[packet.OffloadLen:], datagram)
		if v != verdict.Forward {
			return len(datagram), from, 0, v
		}
		return packet.OffloadLen + len(frame), from, marks, v
	}
	frame, from, v := d.open(s, &h, datagram[headerLen:headerLen], datagram)
	if v != verdict.Forward {
		return len(datagram), from, 0, v
	}
	return packet.OffloadLen + copy(b[packet.OffloadLen:], frame), from, h.marks, v
}

// open opens a datagram of an association into dst, records its counter and reads its inner header.
// If the verdict is Forward, frame and from are set.
func (d *Device) open(s *association, h *header, dst, datagram []byte) (frame []byte, from packet.Origin, v verdict.Verdict) {
	failpoint.Reach()
	inner, ok := s.openPacket(dst, datagram, &d.receiver.nonce)
	if !ok {
		return nil, from, verdict.TunnelForged
	}
	if !s.seen[h.queue].take(h.counter) {
		return nil, from, verdict.TunnelReplayed
	}
	from.Node = s.node
	if frame, ok = readInner(inner, &from); !ok {
		return nil, from, unknownDatagram()
	}
	d.receiver.opened = from
	return frame, from, verdict.Forward
}

// joinNext opens the next datagram so that its payload lands at the end of the train in b, and
// reports whether the train took it. The datagram's headers overwrite bytes of the train, which
// joinNext restores. It keeps a datagram that was not joined for the next Receive.
func (d *Device) joinNext(b []byte, of packet.Origin) bool {
	failpoint.Reach()
	r := &d.receiver
	datagram, err := d.next()
	if err != nil {
		r.empty = err == unix.EAGAIN
		return false
	}
	s, h := d.associationOf(datagram, r.sender)
	if s == nil {
		r.keepForNext(datagram, packet.Origin{}, 0, unknownDatagram())
		return false
	}
	if s.node != of.Node || h.marks&packet.Unfinished == 0 || !r.train.Room(len(datagram)-d.form.overhead()) {
		r.at -= len(datagram)
		r.taken--
		return false
	}
	end := r.train.End()
	start := end - r.train.HeaderLen()
	first := max(start-innerLen, 0) // the first byte that may be overwritten
	var saved [innerLen + packet.MaxHeaders]byte
	copy(saved[:], b[first:end])
	frame, from, marks, v := d.openAt(b, start, s, &h, datagram)
	joined := v == verdict.Forward && from == of && len(frame) == len(datagram)-d.form.overhead() && r.train.Join(frame, marks)
	switch {
	case joined:
	case v == verdict.Forward:
		r.keepForNext(frame, from, marks, v)
	default:
		r.keepForNext(datagram, from, marks, v)
	}
	copy(b[first:end], saved[:])
	return joined
}

// openAt opens a datagram so that its frame begins at b[start], if an honest sender has sealed it.
// The inner header then lands before the frame. There is no room for the header if the train has
// fewer than ten bytes of payload. Then openAt opens the datagram in place and copies its frame,
// which is no longer than the train.
func (d *Device) openAt(b []byte, start int, s *association, h *header, datagram []byte) (frame []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
	failpoint.Reach()
	switch {
	case d.form == VXLAN:
		return s.openVXLAN(b[start:], datagram)
	case start < innerLen:
		frame, from, v = d.open(s, h, datagram[headerLen:headerLen], datagram)
		return b[start : start+copy(b[start:], frame)], from, h.marks, v
	}
	frame, from, v = d.open(s, h, b[start-innerLen:start-innerLen], datagram)
	return frame, from, h.marks, v
}

// keepForNext keeps a frame, or the verdict of a datagram, for the next Receive.
func (r *receiver) keepForNext(b []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
	failpoint.Reach()
	h := &r.pending
	r.taken--
	h.full, h.from, h.marks, h.verdict, h.n = true, from, marks, v, copy(h.b[:], b)
}

// unknownDatagram returns the verdict of a datagram that belongs to no association, or has an
// unknown format.
func unknownDatagram() verdict.Verdict { return verdict.TunnelUnknown }
