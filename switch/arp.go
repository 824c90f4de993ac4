package vswitch

import (
	"net/netip"

	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/verdict"
	"palisade/switch/responder"
)

// answerARP writes the reply to an ARP request to the port where the request came in. It returns
// Answered, or the verdict if there is no reply.
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
// interface of its subnet. It returns false for the instance's own addresses, and for a probe that looks
// for duplicates (RFC 5227 §2.1.1), because a reply would tell the instance that the address is taken.
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

// Neighbour returns this node's MAC address on the uplink if target is a public address of an instance or a
// NAT gateway of this node, and false otherwise.
func (s *Snapshot) Neighbour(_, target netip.Addr) (mac ec2.MAC, ok bool) {
	failpoint.Reach()
	owner := s.Public(target)
	if owner == nil || owner.NAT == nil && (owner.Port == nil || s.attachment(owner.Port) == nil) {
		return mac, false
	}
	return s.uplink.MAC, true
}
