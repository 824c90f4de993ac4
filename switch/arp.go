package vswitch

import (
	"net/netip"

	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/verdict"
	"palisade/switch/responder"
)

// answerARP sends the reply to an ARP request back to the port that it came from.
func (f *frame) answerARP(n responder.Neighbours) verdict.Verdict {
	failpoint.Reach()
	if !responder.ARP(f.bytes(), &f.pkt, n) {
		return f.ignoreARP()
	}
	if v := f.write(f.in); v != verdict.Forward {
		return v
	}
	return verdict.Answered
}

// Neighbour returns the MAC address by which an instance reaches the gateway of its subnet, or another
// interface of its subnet. It has no answer about the instance's own addresses, nor for a probe that looks
// for duplicates (RFC 5227 §2.1.1): an answer would say that the address is taken.
func (a *Attachment) Neighbour(sender, target netip.Addr) (mac ec2.MAC, ok bool) {
	failpoint.Reach()
	if sender.IsUnspecified() || a.Endpoint.Owns(target) {
		return mac, false
	}
	if target == a.subnet.Gateway {
		return GatewayMAC, true
	}
	owner := a.Network.Find(target)
	if owner == nil || !a.subnet.contains(target) {
		return mac, false
	}
	return owner.MAC, true
}

// Neighbour returns the MAC address of this node on the uplink, for the public addresses of the instances
// of this node.
func (s *Snapshot) Neighbour(_, target netip.Addr) (mac ec2.MAC, ok bool) {
	failpoint.Reach()
	owner := s.Public(target)
	if owner == nil || owner.Port == nil || s.attachment(owner.Port) == nil {
		return mac, false
	}
	return s.uplink.MAC, true
}
