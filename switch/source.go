package vswitch

import (
	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// checkSource holds what an instance sends against its lease: nobody speaks for anybody
// else, nor to more than one.
func (f *frame) checkSource(a *Attachment) (verdict.Verdict, bool) {
	failpoint.Reach()
	p := &f.pkt
	switch {
	case p.SrcMAC != a.Endpoint.MAC:
		return verdict.SpoofedMAC, false
	case p.EtherType == packet.EtherTypeARP:
		if p.ARPSender != a.Endpoint.MAC || !p.ARPSenderIP.IsUnspecified() && !a.Endpoint.Owns(p.ARPSenderIP) {
			return verdict.SpoofedARP, false
		}
		return verdict.Unset, true
	case !a.Endpoint.Owns(p.Flow.Src) && (!a.Endpoint.Unchecked || unroutable(p.Flow.Src)):
		return verdict.SpoofedIP, false
	case f.isDHCPServer():
		return f.noServer(), false
	case !p.DstMAC.IsUnicast() || unroutable(p.Flow.Dst):
		return f.toMany(), false
	}
	return verdict.Unset, true
}

// isDHCPServer reports whether a packet is one of a DHCP server (RFC 2131 §4.1), which would
// tell an instance its address and gateway.
func (f *frame) isDHCPServer() bool {
	p := &f.pkt
	return p.Flow.Protocol == packet.ProtocolUDP && p.HasL4 && p.Flow.SrcPort == 67
}

func (f *frame) noServer() verdict.Verdict { return verdict.DHCPServer }

// answerARP answers for the gateway of the asker's subnet and for every address of that
// subnet that has an owner. It is silent about the asker's own addresses and to probes for
// duplicates (RFC 5227 §2.1.1), which an answer would tell that the address is taken.
func (f *frame) answerARP(a *Attachment) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.ARPOperation != 1 || p.ARPSenderIP.IsUnspecified() || a.Endpoint.Owns(p.ARPTargetIP) {
		return f.ignoreARP()
	}
	if p.ARPTargetIP == a.subnet.Gateway {
		return f.answer(GatewayMAC)
	}
	owner := a.Network.Find(p.ARPTargetIP)
	if owner == nil || !a.subnet.contains(p.ARPTargetIP) {
		return f.ignoreARP()
	}
	return f.answer(owner.MAC)
}

// answer sends the ARP reply back where the request came from.
func (f *frame) answer(mac ec2.MAC) verdict.Verdict {
	failpoint.Reach()
	packet.ARPReply(f.bytes(), &f.pkt, mac)
	if v := f.write(f.in); v != verdict.Forward {
		return v
	}
	return verdict.Answered
}
