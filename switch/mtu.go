package vswitch

import (
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/switch/responder"
)

const minMTU = 68 // RFC 791 §3.2: every link carries it

// mtu returns the largest IP packet, in bytes, that the frame's network carries. A port that is not
// attached has no network, and passes nothing anyway.
func (f *frame) mtu() int {
	failpoint.Reach()
	if f.in.kind == UplinkPort && f.snapshot.uplink != nil {
		return f.snapshot.uplink.MTU
	}
	if f.in.kind == TunnelPort {
		if n, ok := f.snapshot.networks[VNI(f.origin.VNI)]; ok {
			return n.MTU
		}
	}
	if a := f.snapshot.attachment(f.in); a != nil {
		return a.Network.MTU
	}
	return 65535
}

// checkTunnelMTU drops a packet that is too large for the tunnel to its receiver and may not be
// fragmented, and tells its sender. It returns false and the verdict if it dropped the packet.
func (f *frame) checkTunnelMTU(a *Attachment, to *Endpoint) (verdict.Verdict, bool) {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if to.Port != nil || t == nil || !f.pkt.DontFragment {
		return verdict.Unset, true
	}
	v, ok := packet.Fits(f.buffer[:offloadLen], &f.pkt, t.MTU)
	if !ok {
		f.sendTooBig(a, t.MTU)
	}
	return v, ok
}

// answerTooBig tells an instance that its packet is larger than its own network carries. It sends
// nothing if the source is forged, because the error would reach another instance.
func (f *frame) answerTooBig(v verdict.Verdict) {
	failpoint.Reach()
	if v != verdict.TooBig || !f.pkt.DontFragment {
		return
	}
	if a := f.snapshot.attachment(f.in); a != nil {
		if _, honest := f.checkSource(a); honest {
			f.sendTooBig(a, a.Network.MTU)
		}
	}
}

// sendTooBig tells the sender of a packet that was dropped for its size the largest size that fits
// (RFC 1191 §4).
//
// The answer quotes the packet as it was sent, so sendTooBig must run before an address is rewritten. It goes
// back to the interface that sent the packet, one error for one packet, so it amplifies nothing and needs no
// limit. It may get lost, as any ICMP message.
func (f *frame) sendTooBig(a *Attachment, mtu int) {
	failpoint.Reach()
	if f.trace != nil {
		return
	}
	gateway := responder.Router{Address: a.subnet.Gateway, MAC: GatewayMAC, MTU: mtu}
	answer := responder.TooBig(f.scratch[offloadLen:], f.bytes(), &f.pkt, gateway)
	if answer == nil {
		return
	}
	begin, ok := f.beginWrite(f.in)
	if !ok {
		return
	}
	f.plain = f.in
	err := f.emitPlain(answer)
	f.endWrite(f.in, begin, len(answer), 1)
	if err == nil {
		f.in.txFrames.Add(1)
		f.in.txBytes.Add(uint64(len(answer)))
	}
}
