package vswitch

import (
	"errors"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// maxPollers is the number of send queues of a TunnelDevice.
const maxPollers = 64

// A TunnelDevice carries frames between this node and the others, so that nobody on the underlay
// can read, change, replay or invent one. Package overlay implements it.
type TunnelDevice interface {
	// FD is readable when Receive has something to return.
	FD() int
	// Receive puts the next frame into b, without blocking: n bytes, a virtio header and a frame,
	// which may consist of several packets that arrived one after the other. b must have room for
	// the longest frame. The error EAGAIN means that there is no frame, or that a whole batch was
	// returned; in the second case FD stays readable. A verdict other than Forward is the fate of n
	// bytes that hold no frame from a node of the cluster. Only the port's poller calls Receive.
	Receive(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error)
	// Discard forgets what was read, after a panic in Receive or in the pipeline. It returns the
	// number of datagrams that are lost, those of the last Receive included, and the interface that
	// sent the last one whose seal was opened.
	Discard() (datagrams int, from packet.Origin)
	// Send sends a frame behind its virtio header, both as packet.Sanitize left them and p
	// describes them, to the node with number to. The frame may consist of several packets, each of
	// which must fit into a datagram; Send may overwrite it. A verdict other than Forward says why
	// nothing was sent; an error, that not all of it was. TooBig leaves the frame as it was. queue is
	// below 64, and only one goroutine at a time may use a queue.
	Send(queue int, to uint32, from packet.Origin, p *packet.Packet, b []byte) (verdict.Verdict, error)
	// MTU returns how many bytes an IP packet may have that is sent to a node; 0 if the node has
	// named no limit. The underlay of each node may have another MTU.
	MTU(to uint32) int
	Close() error
}

// A Tunnel is the port to the instances of other nodes.
type Tunnel struct {
	Port *Port
	MTU  int // bytes of the largest IP packet that fits into one datagram of this node's underlay
}

// TunnelPort returns the tunnel in force, or nil.
func (s *Snapshot) TunnelPort() *Tunnel { return s.tunnel }

// A sending is the state of one packet on its way into the tunnel, and the memory for its
// fragments.
type sending struct {
	to      uint32
	from    packet.Origin
	verdict verdict.Verdict
	mtu     int           // of its fragments
	packet  packet.Packet // describes a fragment
	segment func([]byte) error
	send    func([]byte) error
}

func (s *sending) begin(f *frame) {
	s.segment, s.send = f.emitSegment, f.emitFragment
}

var errNoTunnel = errors.New("no tunnel to that node")

// originOf returns the sender as the tunnel names it to another node. The VNI is that of the
// receiver's network, also if the sender is in another network: such a packet was sent to a public
// address, and is delivered within the receiver's network.
func (f *frame) originOf(to *Endpoint) packet.Origin {
	if gw := f.crossed.gateway; gw != nil {
		return packet.Origin{VNI: uint32(to.network), Epoch: gw.Epoch}
	}
	return packet.Origin{VNI: uint32(to.network), Epoch: f.snapshot.attachment(f.in).Endpoint.Epoch}
}

// send sends the packet to the node that has its receiver. It drops a packet that does not come
// from an instance or through a NAT gateway of this node.
func (f *frame) send(to *Endpoint) verdict.Verdict {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if t == nil || to.Node == 0 || f.in.kind != InstancePort && f.crossed.gateway == nil {
		return f.unreachable()
	}
	f.sending.to, f.sending.from, f.sending.verdict = to.Node, f.originOf(to), verdict.Forward
	if _, fits := packet.Fits(&f.pkt, t.MTU); !fits {
		return f.sendFragments(to)
	}
	if f.trace != nil {
		f.trace.sentOnward(f, to)
		return verdict.Forward
	}
	err := f.emitTunnel(&f.pkt, f.buffer[:offloadLen+f.pkt.Len])
	if f.sending.verdict == verdict.TooBig { // for the underlay of that node
		return f.sendFragments(to)
	}
	if f.sending.verdict != verdict.Forward {
		return f.sending.verdict
	}
	return f.written(err)
}

// sendFragments sends a packet that is too large for the tunnel, in fragments; or tells its sender, if it
// may not be fragmented.
func (f *frame) sendFragments(to *Endpoint) verdict.Verdict {
	failpoint.Reach()
	t := f.snapshot.tunnel
	f.sending.mtu, f.sending.verdict = t.MTU, verdict.Forward
	if least := t.Port.tunnel.MTU(to.Node); least != 0 {
		f.sending.mtu = max(minMTU, min(least, t.MTU))
	}
	if v, fits := packet.Fits(&f.pkt, f.sending.mtu); !fits && f.pkt.DontFragment {
		f.answerTooBig(to, f.sending.mtu)
		return v
	}
	if f.trace != nil {
		f.trace.sentOnward(f, to)
		return verdict.Forward
	}
	err := packet.Segment(f.buffer[:offloadLen], f.bytes(), &f.pkt, f.scratch[offloadLen:], f.sending.segment)
	if f.sending.verdict != verdict.Forward {
		return f.sending.verdict
	}
	return f.written(err)
}

// emitSegment fragments one finished packet that is too large for the tunnel and may be fragmented.
func (f *frame) emitSegment(out []byte) error {
	return packet.Fragment(out, f.pkt.L3, f.sending.mtu, f.cutting.piece[offloadLen:], f.sending.send)
}

// emitFragment sends one fragment, which is in f.cutting.piece.
func (f *frame) emitFragment(out []byte) error {
	failpoint.Reach()
	p := &f.sending.packet
	*p = packet.Packet{L3: f.pkt.L3, Len: len(out), Segments: 1, Largest: len(out) - f.pkt.L3}
	clear(f.cutting.piece[:offloadLen])
	return f.emitTunnel(p, f.cutting.piece[:offloadLen+len(out)])
}

// emitTunnel sends a frame behind a virtio header whose packets fit into datagrams.
func (f *frame) emitTunnel(p *packet.Packet, b []byte) error {
	failpoint.Reach()
	port := f.snapshot.tunnel.Port
	v, err := port.tunnel.Send(f.queue, f.sending.to, f.sending.from, p, b)
	if err != nil {
		return err
	}
	if v != verdict.Forward {
		f.sending.verdict = v
		return errNoTunnel
	}
	port.txFrames.Add(1)
	port.txBytes.Add(uint64(p.Len))
	return nil
}
