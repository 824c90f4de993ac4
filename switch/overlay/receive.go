package overlay

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A batch ends after so many reads of the socket, or so many bytes, so that a short frame of
// another port does not wait for more than some 100 us.
const (
	batchReads = 64
	batchBytes = 256 << 10
)

// A receiver is what was read from the socket and is not a frame yet.
type receiver struct {
	in      [1 << 16]byte // datagrams of one sender, one behind the other
	n, size int           // bytes of them; of each but the last
	at      int           // where the next one begins
	reads   int           // of this batch
	bytes   int           // of them
	empty   bool          // the socket, when a train wanted more
	from    sockaddr
	sender  netip.AddrPort
	taken   int           // datagrams by the last Receive
	opened  packet.Origin // of the last of them whose seal was opened
	nonce   [12]byte
	message message

	train packet.Train
	// What was opened behind a train and is not of it, or the fate of what was not.
	held struct {
		b       [1 << 16]byte
		n       int
		from    packet.Origin
		marks   packet.Marks
		verdict verdict.Verdict
		full    bool
	}
}

// Receive opens the next datagram, and joins to its packet those behind it that fit.
func (d *Device) Receive(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error) {
	d.receiver.taken, d.receiver.opened = 0, packet.Origin{}
	failpoint.Reach()
	return d.receiveFrame(b)
}

// Discard forgets what was read, what the last Receive returned included. The counters of what
// was opened stay taken.
func (d *Device) Discard() (datagrams int, from packet.Origin) {
	r := &d.receiver
	datagrams = r.taken
	if r.held.full {
		datagrams++
	}
	if left := r.n - r.at; left > 0 {
		datagrams += (left + r.size - 1) / r.size
	}
	r.at, r.taken, r.held.full = r.n, 0, false
	r.empty, r.reads, r.bytes = false, 0, 0
	return datagrams, r.opened
}

func (d *Device) receiveFrame(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error) {
	failpoint.Reach()
	r := &d.receiver
	var marks packet.Marks
	if h := &r.held; h.full {
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

// next is the next datagram. It stays where it is until the one after it is asked for.
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

// sessionOf finds whose datagram it is. It takes them only from the address that the
// session's node has: there is no roaming. A seal proves who wrote a datagram, not that
// the address it came from is to be answered. Nodes send from the address that the cluster
// knows them by, so nothing honest comes from elsewhere, and a flood from elsewhere costs
// no decryption.
//
// In the form of VXLAN nothing is proved: the address is all there is, and the port is any
// (RFC 7348 §5).
func (d *Device) sessionOf(datagram []byte, sender netip.AddrPort) (*session, header) {
	failpoint.Reach()
	if d.form == VXLAN {
		if len(datagram) < vxlanLen {
			return nil, header{} // one of no bytes cannot be put back to be read again
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

// openDatagram opens a datagram in place and copies the frame in it behind the room for a
// virtio header in b.
func (d *Device) openDatagram(datagram []byte, sender netip.AddrPort, b []byte) (int, packet.Origin, packet.Marks, verdict.Verdict) {
	failpoint.Reach()
	s, h := d.sessionOf(datagram, sender)
	if s == nil {
		return len(datagram), packet.Origin{}, 0, notOurs()
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

// open opens a datagram of a session into dst, takes its counter and reads its inner header.
func (d *Device) open(s *session, h *header, dst, datagram []byte) (frame []byte, from packet.Origin, v verdict.Verdict) {
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
		return nil, from, notOurs()
	}
	d.receiver.opened = from
	return frame, from, verdict.Forward
}

// joinNext opens the next datagram so that its payload comes to stand where the train in b
// goes on, and reports whether it was joined. What it overwrites before is put back. What
// is not joined is held for the next Receive.
func (d *Device) joinNext(b []byte, of packet.Origin) bool {
	failpoint.Reach()
	r := &d.receiver
	datagram, err := d.next()
	if err != nil {
		r.empty = err == unix.EAGAIN
		return false
	}
	s, h := d.sessionOf(datagram, r.sender)
	if s == nil {
		r.hold(datagram, packet.Origin{}, 0, notOurs())
		return false
	}
	if s.node != of.Node || h.marks&packet.Unfinished == 0 || !r.train.Room(len(datagram)-d.form.overhead()) {
		r.at -= len(datagram)
		r.taken--
		return false
	}
	end := r.train.End()
	start := end - r.train.HeaderLen()
	first := max(start-innerLen, 0) // of the bytes that may be overwritten
	var saved [innerLen + packet.MaxHeaders]byte
	copy(saved[:], b[first:end])
	frame, from, marks, v := d.openAt(b, start, s, &h, datagram)
	joined := v == verdict.Forward && from == of && len(frame) == len(datagram)-d.form.overhead() && r.train.Join(frame, marks)
	switch {
	case joined:
	case v == verdict.Forward:
		r.hold(frame, from, marks, v)
	default:
		r.hold(datagram, from, marks, v)
	}
	copy(b[first:end], saved[:])
	return joined
}

// openAt opens a datagram so that the frame in it begins at b[start], if it was sealed by a
// sound sender. The inner header is opened too and comes to stand before the frame. Behind
// fewer than ten bytes of payload there is no room for it; then the datagram is opened in
// place and the frame, which is no longer than its train, is copied.
func (d *Device) openAt(b []byte, start int, s *session, h *header, datagram []byte) (frame []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
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

// hold keeps a frame, or the fate of a datagram, for the next Receive.
func (r *receiver) hold(b []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
	failpoint.Reach()
	h := &r.held
	r.taken--
	h.full, h.from, h.marks, h.verdict, h.n = true, from, marks, v, copy(h.b[:], b)
}

// notOurs is the fate of what no peer sent to a session, or in no form that is known.
func notOurs() verdict.Verdict { return verdict.TunnelUnknown }
