package vswitch

import (
	"net/netip"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Routes decide where a packet goes that an instance sends to its gateway, if the packet is for an address
// outside of the sender's subnet. They decide once, by the table of the sender's subnet; what an interface
// forwards for others is a packet of that interface, and the table of its subnet decides again. The receiver's
// table has no say, so the answer needs a route of its own (VPC User Guide, "Route tables").

// choose finds the receiver of a packet from an instance: f.dst, the interface that has the destination address in
// the sender's network or in a peered one, and f.target, what the route leads to. It is called before the
// egress rules, which may name a group of the receiver.
func (f *frame) choose(a *Attachment) {
	failpoint.Reach()
	dst := f.pkt.Flow.Dst
	f.viaGateway = f.pkt.DstMAC == GatewayMAC
	f.dst, f.next, f.target = a.Network.Find(dst), nil, Target{Kind: Local}
	if !f.viaGateway || f.dst != nil && !a.subnet.inside || a.subnet.contains(dst) {
		return
	}
	f.target = a.subnet.TargetOf(dst)
	switch f.target.Kind {
	case Local:
		return
	case Interface, NAT:
		f.next = a.Network.Find(f.target.Via)
		if f.next != nil && f.next.Owns(dst) {
			f.dst, f.next, f.target = f.next, nil, Target{Kind: Local}
			return
		}
		f.dst = nil // the packet may end anywhere
	case Peer:
		f.dst = nil
		if n := f.snapshot.networks[f.target.Peer]; n != nil && a.Network.peers[n.VNI] != nil {
			f.dst = n.Find(dst)
		}
	default:
		f.dst = nil
	}
	if f.trace != nil {
		f.trace.Routed = &Routed{Endpoint: a.Endpoint, Network: a.Network.VNI, Subnet: a.subnet, Remote: dst}
	}
}

// routeAway carries a packet whose route does not lead to an interface of the network that has its address.
func (f *frame) routeAway(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	switch f.target.Kind {
	case Interface, NAT:
		return f.routeVia(a)
	case Peer:
		return f.routeToPeer(a)
	}
	return f.routeToInternet(a)
}

// routeVia hands a packet to the interface that its route leads to. The interface must forward for others,
// because the packet is not for it.
func (f *frame) routeVia(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	switch {
	case f.next == nil:
		return f.in, f.notRouted(a.subnet, a.Endpoint, f.pkt.Flow.Dst, TargetDown)
	case f.next.Epoch == a.Endpoint.Epoch:
		return f.in, f.notRouted(a.subnet, a.Endpoint, f.pkt.Flow.Dst, LeadsBack)
	case !f.next.Unchecked:
		return f.in, f.notRouted(a.subnet, a.Endpoint, f.pkt.Flow.Dst, TargetChecked)
	}
	if !a.subnet.contains(f.next.Address) {
		if v := f.aclOut(a); v != verdict.Forward {
			return f.in, v
		}
	}
	f.pkt.DstMAC = f.next.MAC // another node finds the receiver by it
	packet.SetMACs(f.bytes(), f.next.MAC, f.pkt.SrcMAC)
	return f.deliver(f.next)
}

// routeToPeer carries a packet into a peered network. A peering is never transitive: only the addresses of the
// sender's own network may use it, also if an interface forwards packets for others (VPC Peering Guide, "VPC
// peering limitations").
func (f *frame) routeToPeer(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	link := a.Network.peers[f.target.Peer]
	switch {
	case link == nil:
		return f.in, f.notRouted(a.subnet, a.Endpoint, f.pkt.Flow.Dst, NoTarget)
	case !a.Network.Contains(f.pkt.Flow.Src):
		return f.in, f.notRouted(a.subnet, a.Endpoint, f.pkt.Flow.Dst, ForeignSource)
	}
	if v := f.aclOut(a); v != verdict.Forward {
		return f.in, v
	}
	if f.dst == nil {
		if f.trace != nil {
			f.trace.Absent = &Absent{f.target.Peer, f.pkt.Flow.Dst}
		}
		return f.in, f.unreachable()
	}
	if !link.Groups {
		f.from.Groups = nil
	}
	return f.deliver(f.dst)
}

// checkRoute checks that the routes of a subnet lead to an internet gateway for a remote address, from which a
// packet to the subnet has come. It returns false and NotRouted if they do not.
func (f *frame) checkRoute(s *Subnet, of *Endpoint, remote netip.Addr) (verdict.Verdict, bool) {
	failpoint.Reach()
	if s.TargetOf(remote).Kind == Internet {
		return verdict.Unset, true
	}
	return f.notRouted(s, of, remote, NoTarget), false
}

// notRouted returns the verdict of a packet that the routes of a subnet do not lead on. of is the interface in the
// subnet, and remote the address at the other end.
func (f *frame) notRouted(s *Subnet, of *Endpoint, remote netip.Addr, why RouteFault) verdict.Verdict {
	if f.trace != nil {
		f.trace.Unrouted = &Unrouted{Routed{Endpoint: of, Network: of.network, Subnet: s, Remote: remote}, why}
	}
	return verdict.NotRouted
}

// A RouteFault says why a route does not lead on.
type RouteFault uint8

const (
	NoTarget      RouteFault = iota // there is no route, or it is a black hole or does not lead to a gateway
	TargetDown                      // no interface that is up has the target's address
	TargetChecked                   // the target forwards nothing: its source/destination check is on
	LeadsBack                       // the target is the sender
	ForeignSource                   // the source is in another network than the sender, and the route leads to a peer
)
