package vswitch

import (
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/switch/responder"
)

const minMTU = 68 // RFC 791 §3.2: what every link carries

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

// checkSize finds what would not fit into the tunnel to its receiver and may not be cut.
func (f *frame) checkSize(a *Attachment, to *Endpoint) (verdict.Verdict, bool) {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if to.Port != nil || t == nil || !f.pkt.DontFragment {
		return verdict.Unset, true
	}
	v, ok := packet.Fits(f.buffer[:offloadLen], &f.pkt, t.MTU)
	if !ok {
		f.tellSize(a, t.MTU)
	}
	return v, ok
}

// explainSize tells an instance whose packet is larger than its own network takes.
func (f *frame) explainSize(v verdict.Verdict) {
	failpoint.Reach()
	if v != verdict.TooBig || !f.pkt.DontFragment {
		return
	}
	if a := f.snapshot.attachment(f.in); a != nil {
		if _, honest := f.checkSource(a); honest {
			f.tellSize(a, a.Network.MTU)
		}
	}
}

// tellSize tells the sender of a packet that was dropped for its size which size fits (RFC 1191 §4).
//
// The answer quotes the packet as it was sent, so tellSize must run before an address is rewritten. It goes
// back to the interface that sent the packet, one for one, so it amplifies nothing and needs no limit. It
// may get lost, as any ICMP message.
func (f *frame) tellSize(a *Attachment, mtu int) {
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
