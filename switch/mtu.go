package vswitch

import (
	"encoding/binary"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/switch/responder"
)

const minMTU = 68 // RFC 791 §3.2: every link carries it

// The switch is a router where packets leave it: at an instance, at the uplink and at a tunnel. Each
// has its own MTU. A packet that is larger is fragmented, if it may be, after it was judged; otherwise
// its sender gets the error "fragmentation needed" (RFC 791 §3.2, RFC 1812 §4.2.2.7 and §5.2.7). What
// comes in may have any size.

// leave writes the frame to a port that takes packets of up to mtu bytes. to is the interface that the
// port belongs to; nil for the uplink.
func (f *frame) leave(port *Port, to *Endpoint, mtu int) verdict.Verdict {
	failpoint.Reach()
	v, fits := packet.Fits(&f.pkt, mtu)
	switch {
	case fits:
		return f.write(port)
	case f.pkt.DontFragment:
		f.answerTooBig(to, mtu)
		return v
	}
	return f.writeFragments(port, mtu)
}

// writeFragments writes the packets of the frame to a port in fragments of up to mtu bytes.
func (f *frame) writeFragments(to *Port, mtu int) verdict.Verdict {
	failpoint.Reach()
	if f.trace != nil {
		return verdict.Forward
	}
	begin, ok := f.beginWrite(to)
	if !ok {
		return f.overShare()
	}
	f.plain, f.cutting.mtu = to, mtu
	err := packet.Segment(f.buffer[:offloadLen], f.bytes(), &f.pkt, f.scratch[offloadLen:], f.cutting.segment)
	f.endWrite(to, begin, f.pkt.Len, f.pkt.Len/mtu+int(f.pkt.Segments))
	if err == nil {
		to.txFrames.Add(1)
		to.txBytes.Add(uint64(f.pkt.Len))
	}
	return f.written(err)
}

// A cutting is the memory for one fragment, behind a virtio header, and where fragments go.
type cutting struct {
	mtu     int
	piece   []byte
	segment func([]byte) error
	emit    func([]byte) error
}

func (c *cutting) begin(f *frame) {
	c.piece = make([]byte, frameSize)
	c.segment, c.emit = f.cutSegment, f.emitPiece
}

// cutSegment fragments one finished packet.
func (f *frame) cutSegment(out []byte) error {
	return packet.Fragment(out, f.pkt.L3, f.cutting.mtu, f.cutting.piece[offloadLen:], f.cutting.emit)
}

// emitPiece writes one fragment, which is in f.cutting.piece.
func (f *frame) emitPiece(out []byte) error {
	failpoint.Reach()
	clear(f.cutting.piece[:offloadLen])
	return f.plain.device.Write(f.cutting.piece[:offloadLen+len(out)])
}

// answerTooBig tells the sender of a packet that was dropped for its size the largest size that fits
// (RFC 1191 §4). to is the interface that the packet was for; nil for a host outside.
//
// The sender must see in the quote the packet as it was sent, so the translation of addresses is undone in
// the frame. An instance of this node gets the error from its gateway. A host outside gets it from the
// public address that it sent to, and an instance of another node from the address that it sent to:
// another node accepts from this one only addresses of interfaces that are leased to this one.
func (f *frame) answerTooBig(to *Endpoint, mtu int) {
	failpoint.Reach()
	if f.trace != nil || !f.errors.of(f).allow(f.now) {
		return
	}
	to = f.untranslate(to)
	switch f.in.kind {
	case InstancePort:
		a := f.snapshot.attachment(f.in)
		if private := a.Endpoint.PrivateOf(f.pkt.Flow.Src); private.IsValid() {
			packet.RewriteSource(f.bytes(), &f.pkt, private)
		}
		f.restoreDestination(to)
		f.emitError(f.tooBig(responder.Router{Address: a.subnet.Gateway, MAC: GatewayMAC, MTU: mtu}))
	case UplinkPort:
		f.restoreDestination(to)
		f.emitError(f.tooBig(responder.Router{Address: f.pkt.Flow.Dst, MAC: f.snapshot.uplink.MAC, MTU: mtu}))
	case TunnelPort:
		f.answerTunnel(to, mtu)
	}
}

func (f *frame) restoreDestination(to *Endpoint) {
	if f.toPublic && to != nil {
		packet.RewriteDestination(f.bytes(), &f.pkt, to.PublicOf(f.pkt.Flow.Dst))
	}
}

func (f *frame) tooBig(r responder.Router) []byte {
	return responder.TooBig(f.scratch[offloadLen:], f.bytes(), &f.pkt, r)
}

// emitError writes an ICMP error, which is in f.scratch, to the port where the frame came in.
func (f *frame) emitError(b []byte) {
	failpoint.Reach()
	if b == nil {
		return
	}
	begin, ok := f.beginWrite(f.in)
	if !ok {
		return
	}
	f.plain = f.in
	err := f.emitPlain(b)
	f.endWrite(f.in, begin, len(b), 1)
	if err == nil {
		f.in.txFrames.Add(1)
		f.in.txBytes.Add(uint64(len(b)))
	}
}

// answerTunnel sends the error to the node of the sender, as if the interface to had sent it. That node
// judges it like any packet of to: it passes only if it is about a packet that its receiver sent.
func (f *frame) answerTunnel(to *Endpoint, mtu int) {
	failpoint.Reach()
	origin := packet.Origin{VNI: f.origin.VNI, Epoch: to.Epoch}
	hop := GatewayMAC
	sender := f.snapshot.Public(f.pkt.Flow.Src)
	switch n := f.snapshot.networks[VNI(f.origin.VNI)]; {
	case f.sender != nil && f.sender.network != n.VNI:
		origin.VNI = uint32(f.sender.network)
	case f.toPublic && sender != nil:
		origin.VNI = uint32(sender.network)
		packet.RewriteSource(f.bytes(), &f.pkt, sender.PrivateOf(f.pkt.Flow.Src))
		f.restoreDestination(to)
	case n.unchecked[f.pkt.SrcMAC] != nil:
		hop = f.pkt.SrcMAC // it may have sent from any address
	}
	b := f.tooBig(responder.Router{Address: f.pkt.Flow.Dst, MAC: to.MAC, MTU: mtu})
	if b == nil {
		return
	}
	packet.SetMACs(b, hop, to.MAC)
	clear(f.scratch[:offloadLen])
	p := &f.sending.packet
	*p = packet.Packet{L3: f.pkt.L3, Len: len(b), Segments: 1, Largest: len(b) - f.pkt.L3}
	f.sending.to, f.sending.from, f.sending.verdict = f.origin.Node, origin, verdict.Forward
	_ = f.emitTunnel(p, f.scratch[:offloadLen+len(b)]) // as any ICMP message, the error may get lost
}

const (
	errorEvery = time.Millisecond       // the rate of errors to one sender, in the long run
	errorBurst = 200 * time.Millisecond // as many errors at once as are due in this time
)

// An errorBudget limits the ICMP errors to a sender (RFC 1812 §4.3.2.8). It is the time until which it is
// used up.
type errorBudget time.Duration

// allow reports whether an error may be sent now, and counts it.
func (b *errorBudget) allow(now time.Duration) bool {
	failpoint.Reach()
	until := time.Duration(*b)
	if until > now+errorBurst {
		return false
	}
	*b = errorBudget(max(until, now) + errorEvery)
	return true
}

// errorBudgets has the budgets of the senders outside and at other nodes. Those whose addresses have the
// same hash share one; a sender cannot know whose. It belongs to one poller.
type errorBudgets struct {
	byHash [1 << 10]errorBudget
	seed   uint32 // random and odd
}

// of returns the budget of the frame's sender. Each port of an instance has its own, so that no instance
// uses up another's.
func (e *errorBudgets) of(f *frame) *errorBudget {
	failpoint.Reach()
	if f.in.kind == InstancePort {
		return &f.in.errors
	}
	src := f.pkt.Flow.Src.As4()
	return &e.byHash[binary.BigEndian.Uint32(src[:])*e.seed>>22]
}
