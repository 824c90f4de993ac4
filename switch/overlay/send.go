package overlay

import (
	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	// maxTrain is the largest number of bytes that go to the kernel at once: the longest payload of
	// IPv4 and UDP.
	maxTrain = 65507
	// maxTrainPieces is the number of datagrams that every Linux accepts at once (UDP_MAX_SEGMENTS,
	// which was 64 before 6.9).
	maxTrainPieces = 64
)

// A sender is the memory of one send queue. Only the poller with that queue uses it.
type sender struct {
	out     [1 << 16]byte // datagrams, one after the other
	nonce   [12]byte
	cutter  packet.Cutter
	message message
}

// Send seals each packet of a frame into a datagram and sends the datagrams to a node. It returns
// Forward, TunnelDown without an association, or TooBig, and the error of the socket. It cuts the frame
// while it seals: it writes the headers of each packet over the end of the previous packet, which
// is sealed already. So only the first packet is copied. For VXLAN each packet is copied and its
// checksum computed.
func (d *Device) Send(queue int, to uint32, from packet.Origin, p *packet.Packet, b []byte) (verdict.Verdict, error) {
	failpoint.Reach()
	s := d.table.Load().send[to]
	if s == nil {
		return verdict.TunnelDown, nil
	}
	if mtu := int(s.mtu.Load()); mtu != 0 {
		if v, ok := packet.Fits(p, mtu); !ok {
			return v, nil
		}
	}
	q := &d.queues[queue]
	var marks packet.Marks
	if p.Partial {
		marks = packet.Unfinished
	}
	frame := b[packet.OffloadLen:]
	if p.Segments > 1 {
		q.cutter.Begin(b, frame, p)
		return verdict.Forward, d.sendPieces(q, s, queue, from, p, frame)
	}
	n := 0
	if d.form == VXLAN {
		n = q.putVXLAN(0, from, frame, p, marks)
	} else {
		n = q.sealCopy(s, queue, 0, from, frame, marks)
	}
	if n == 0 {
		return verdict.Forward, unix.EMSGSIZE
	}
	return verdict.Forward, d.sendTo(q.out[:n], &s.to)
}

// MTU returns how many bytes an IP packet may have that is sent to a node; 0 without an association, or if
// the node named no limit.
func (d *Device) MTU(to uint32) int {
	if s := d.table.Load().send[to]; s != nil {
		return int(s.mtu.Load())
	}
	return 0
}

// sealCopy seals a frame into q.out[at:] and returns the datagram's length; 0 if no nonce is left,
// or no room.
func (q *sender) sealCopy(s *association, queue, at int, from packet.Origin, frame []byte, marks packet.Marks) int {
	failpoint.Reach()
	if at+headerLen+innerLen+len(frame)+tagLen > len(q.out) {
		return 0
	}
	out := q.out[at:]
	plain := out[headerLen : headerLen+innerLen+len(frame)]
	putInner(plain, from)
	copy(plain[innerLen:], frame)
	return len(s.sealPacket(out, plain, &q.nonce, queue, marks))
}

// sendPieces sends the packets that q.cutter cuts the frame into.
func (d *Device) sendPieces(q *sender, s *association, queue int, from packet.Origin, p *packet.Packet, frame []byte) error {
	failpoint.Reach()
	n, size, pieces := 0, 0, 0
	for {
		start, end, ok := q.cutter.Next()
		if !ok {
			return d.flush(q, s, n, size)
		}
		length := d.form.overhead() + end - start
		if pieces == maxTrainPieces || n+length > maxTrain {
			if err := d.flush(q, s, n, size); err != nil {
				return err
			}
			n, pieces = 0, 0
		}
		marks := packet.Unfinished // the packets of a frame that stands for several have no checksums yet
		if end < len(frame) {
			marks |= packet.Followed
		}
		put := 0
		switch {
		case d.form == VXLAN:
			put = q.putVXLAN(n, from, frame[start:end], p, marks)
		case start < innerLen: // no room for the inner header before the packet
			put = q.sealCopy(s, queue, n, from, frame[start:end], marks)
		default:
			plain := frame[start-innerLen : end]
			putInner(plain, from)
			put = len(s.sealPacket(q.out[n:], plain, &q.nonce, queue, marks))
		}
		if put == 0 {
			return unix.EMSGSIZE
		}
		if pieces == 0 {
			size = put
		}
		n, pieces = n+put, pieces+1
	}
}

// flush sends the n bytes of datagrams in q.out; each datagram has size bytes, the last may be
// shorter. If the kernel cannot send several datagrams at once to that node, flush sends them one
// by one from then on.
func (d *Device) flush(q *sender, s *association, n, size int) error {
	failpoint.Reach()
	if n > size && !s.single.Load() {
		err := d.sendTrain(&q.message, q.out[:n], size, &s.to)
		switch err {
		case unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOPROTOOPT: // the kernel and the network device determine which of these errors it is
		default:
			return err
		}
	}
	for at := 0; at < n; at += size {
		if err := d.sendTo(q.out[at:min(at+size, n)], &s.to); err != nil {
			return err
		}
	}
	if n > size {
		s.single.Store(true)
	}
	return nil
}
