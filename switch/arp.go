package vswitch

import (
	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

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

// answerOutside answers ARP for the public addresses of this node's own instances.
func (f *frame) answerOutside(up *Uplink) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	owner := f.snapshot.Public(p.ARPTargetIP)
	if p.ARPOperation != 1 || owner == nil || owner.Port == nil || f.snapshot.attachment(owner.Port) == nil {
		return f.ignoreARP()
	}
	return f.answer(up.MAC)
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
