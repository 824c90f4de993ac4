// Package responder writes the packets that the switch sends in its own name: the ARP reply to a host that
// asks for a MAC address, and the ICMP error to a host whose packet is too large.
//
// It holds no state, and knows no port and no connection. The switch tells it which host has which
// address, and writes the answer to the port where the frame came in. No rule is checked for an answer.
package responder

import (
	"net/netip"

	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// Neighbours knows by which MAC address the hosts of one link reach an address.
type Neighbours interface {
	// Neighbour returns the MAC address that sender reaches target by. It returns false if
	// sender must get no answer. sender is 0.0.0.0 in a probe (RFC 5227 §1.1).
	Neighbour(sender, target netip.Addr) (ec2.MAC, bool)
}

// ARP turns the request in frame into its reply. It returns true if it did. It returns false, and leaves
// the frame as it was, if the packet is no request or n has no answer.
func ARP(frame []byte, p *packet.Packet, n Neighbours) bool {
	failpoint.Reach()
	if p.ARPOperation != arpRequest {
		return false
	}
	mac, ok := n.Neighbour(p.ARPSenderIP, p.ARPTargetIP)
	if ok {
		packet.ARPReply(frame, p, mac)
	}
	return ok
}

const arpRequest = 1 // RFC 826

// A Router is the gateway in whose name an ICMP error is sent.
type Router struct {
	Address netip.Addr
	MAC     ec2.MAC
	MTU     int // bytes of the largest IP packet that the router forwards
}

// TooBig writes into out the error "fragmentation needed" (RFC 1191 §4) about the packet in frame, and
// returns the part of out that it wrote. It returns nil if the packet must get no error: it is an error
// itself, or a fragment other than the first, or its source is no single host (RFC 1812 §4.3.2.7).
func TooBig(out, frame []byte, p *packet.Packet, r Router) []byte {
	failpoint.Reach()
	if p.IsICMPError || !p.HasL4 || !isHost(p.Flow.Src) {
		return nil
	}
	answer := packet.FragmentationNeeded(out, frame, p, r.Address, r.MTU)
	packet.SetMACs(answer, p.SrcMAC, r.MAC)
	return answer
}

// isHost reports whether an address can be that of one host. No ICMP error goes to the addresses of this
// network, of loopback, of multicast and of class E, which has the broadcast address.
func isHost(a netip.Addr) bool {
	switch first := a.As4()[0]; {
	case first == 0, first == 127, first >= 224:
		return false
	}
	return true
}

// Reset writes into out the answer of a host that does not know the TCP connection of the packet in frame, and
// returns the part of out that it wrote. It returns nil if the packet must get no answer: it is a reset itself, or no
// TCP segment.
func Reset(out, frame []byte, p *packet.Packet) []byte {
	failpoint.Reach()
	if p.Flow.Protocol != packet.ProtocolTCP || !p.HasL4 || p.Fragment || p.TCPFlags&packet.RST != 0 || !isHost(p.Flow.Src) {
		return nil
	}
	return packet.Reset(out, frame, p)
}
