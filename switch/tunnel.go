package vswitch

import (
	"errors"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// maxPollers is how many queues a TunnelDevice has.
const maxPollers = 64

// A TunnelDevice carries frames between this node and the others, so that nobody on the
// way can read, change, replay or invent one. Package overlay has the real one.
type TunnelDevice interface {
	// FD is readable when Receive has something.
	FD() int
	// Receive opens what came next into b, without blocking: n bytes, a virtio header and
	// a frame, which may stand for several packets that came one behind the other. b has
	// room for the longest. EAGAIN is none, or enough for one batch: then FD tells of the
	// rest. A verdict other than Forward is the fate of n bytes that hold no frame from a
	// node of the cluster. Only the port's poller calls it.
	Receive(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error)
	// Discard forgets what was read, behind a panic in Receive or in what was done with its
	// frame. It says how many datagrams that was, those of the last Receive included, and
	// which interface sent the last one whose seal was opened.
	Discard() (datagrams int, from packet.Origin)
	// Send carries a frame behind its virtio header, both as packet.Sanitize left them and
	// as p says, to the node with the number to. It may stand for several packets, each of
	// which fits, and is not to be used any more. A verdict other than Forward says why
	// there is no way; an error, that the way did not take all of it. queue is below 64,
	// and no two goroutines use one at a time.
	Send(queue int, to uint32, from packet.Origin, p *packet.Packet, b []byte) (verdict.Verdict, error)
	Close() error
}

// A Tunnel is the port to the instances of other nodes.
type Tunnel struct {
	Port *Port
	MTU  int // of an IP packet that fits into one datagram of the underlay
}

// TunnelPort returns the tunnel in force, or nil.
func (s *Snapshot) TunnelPort() *Tunnel { return s.tunnel }

// A sending is a packet on its way into the tunnel.
type sending struct {
	to      uint32
	from    packet.Origin
	verdict verdict.Verdict
	packet  packet.Packet // a fragment's
	piece   []byte        // a fragment, behind a virtio header
	segment func([]byte) error
	send    func([]byte) error
}

func (s *sending) begin(f *frame) {
	s.piece = make([]byte, len(f.scratch))
	s.segment, s.send = f.emitSegment, f.emitFragment
}

var errNoWay = errors.New("no way to that node")

// originOf is what the tunnel says of a packet to an instance of another node. The network
// is the receiver's: from another one the packet comes by public addresses.
func (f *frame) originOf(to *Endpoint) packet.Origin {
	return packet.Origin{VNI: uint32(to.network), Epoch: f.snapshot.attachment(f.in).Endpoint.Epoch}
}

// send carries the packet to the node that has its receiver. Only what an instance of this
// node sends goes there.
func (f *frame) send(to *Endpoint) verdict.Verdict {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if t == nil || to.Node == 0 || f.in.kind != InstancePort {
		return f.unreachable()
	}
	if f.trace != nil {
		f.trace.wentOn(f, to)
		return verdict.Forward
	}
	f.sending.to, f.sending.from, f.sending.verdict = to.Node, f.originOf(to), verdict.Forward
	var err error
	if _, fits := packet.Fits(f.buffer[:offloadLen], &f.pkt, t.MTU); fits {
		err = f.emitTunnel(&f.pkt, f.buffer[:offloadLen+f.pkt.Len])
	} else {
		err = packet.Segment(f.buffer[:offloadLen], f.bytes(), &f.pkt, f.scratch[offloadLen:], f.sending.segment)
	}
	if f.sending.verdict != verdict.Forward {
		return f.sending.verdict
	}
	return f.written(err)
}

// emitSegment takes one finished packet of what is too long for the tunnel and may be cut.
func (f *frame) emitSegment(out []byte) error {
	return packet.Fragment(out, f.pkt.L3, f.snapshot.tunnel.MTU, f.sending.piece[offloadLen:], f.sending.send)
}

// emitFragment takes one that fits, in f.sending.piece.
func (f *frame) emitFragment(out []byte) error {
	failpoint.Reach()
	p := &f.sending.packet
	*p = packet.Packet{L3: f.pkt.L3, Len: len(out), Segments: 1}
	clear(f.sending.piece[:offloadLen])
	return f.emitTunnel(p, f.sending.piece[:offloadLen+len(out)])
}

// emitTunnel takes what fits, behind a virtio header.
func (f *frame) emitTunnel(p *packet.Packet, b []byte) error {
	failpoint.Reach()
	port := f.snapshot.tunnel.Port
	v, err := port.tunnel.Send(f.queue, f.sending.to, f.sending.from, p, b)
	if err != nil {
		return err
	}
	if v != verdict.Forward {
		f.sending.verdict = v
		return errNoWay
	}
	port.txFrames.Add(1)
	port.txBytes.Add(uint64(p.Len))
	return nil
}
