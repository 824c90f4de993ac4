package vswitch

import (
	"net/netip"

	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// checkSource checks a frame from an instance against its lease: an instance may send from its own
// addresses only, and to unicast addresses only. It returns false and the verdict if the frame must
// be dropped.
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
		return f.refuseDHCPServer(), false
	case !p.DstMAC.IsUnicast() || unroutable(p.Flow.Dst):
		return f.notUnicast(), false
	}
	return verdict.Unset, true
}

// isDHCPServer reports whether the packet is from a DHCP server (RFC 2131 §4.1). An instance that
// acts as one could give its neighbours a false address and gateway.
func (f *frame) isDHCPServer() bool {
	p := &f.pkt
	return p.Flow.Protocol == packet.ProtocolUDP && p.HasL4 && p.Flow.SrcPort == 67
}

func (f *frame) refuseDHCPServer() verdict.Verdict { return verdict.DHCPServer }

// checkUplinkSource drops a frame whose source cannot come by the uplink: one of the cluster's own
// public addresses, or an address that never leaves its link. It also drops an ICMP error to owner about a
// packet that cannot have left by the uplink.
func (f *frame) checkUplinkSource(owner *Endpoint) (verdict.Verdict, bool) {
	failpoint.Reach()
	src := f.pkt.Flow.Src
	switch {
	case unroutable(src) || src.IsLinkLocalUnicast(),
		f.snapshot.inPublicPool(src) && !f.isRouterError(),
		f.pkt.HasQuoted && f.quotesInside(owner):
		return f.badSource(), false
	}
	return verdict.Unset, true
}

// isRouterError reports whether the packet is an ICMP error from an address that no interface has. A
// router on the segment behind the uplink has an address there, which is often that of the public pool.
// Its errors pass only if they are about a connection, whatever the rules admit; see judgeError.
func (f *frame) isRouterError() bool {
	return f.pkt.HasQuoted && f.snapshot.Public(f.pkt.Flow.Src) == nil
}

// quotesInside reports whether an ICMP error from outside quotes a packet that stayed inside of the cluster:
// from a private address of the receiver, or to a public address of the cluster. Otherwise the error would
// reach its receiver as one about a connection with another instance.
func (f *frame) quotesInside(receiver *Endpoint) bool {
	return receiver.Owns(f.pkt.Quoted.Src) || f.snapshot.inPublicPool(f.pkt.Quoted.Dst)
}

func (f *frame) badSource() verdict.Verdict { return verdict.BadSource }

// checkOrigin checks a frame from another node against the leases, as checkSource does for an
// instance of this node. A node may send only from interfaces that are leased to it, and an
// interface only from its own addresses, unless it forwards for others.
//
// It also sets f.sender, and f.from, the source as the receiver's rules see it: the interface with its groups; or
// its public address without groups (fromPublic), which reaches public addresses only; or, from an
// interface that forwards for others, any address without groups; or an interface of a peered network.
func (f *frame) checkOrigin() (fromPublic bool, v verdict.Verdict, ok bool) {
	failpoint.Reach()
	p := &f.pkt
	address := p.Flow.Src
	if p.EtherType == packet.EtherTypeARP {
		address = p.ARPSenderIP
	}
	f.from, f.sender = firewall.Source{Addr: address}, nil
	n := f.snapshot.networks[VNI(f.origin.VNI)]
	switch {
	case n == nil:
		return false, verdict.TunnelForeign, false
	case f.isOrigin(n.Find(address)):
		f.sender = n.Find(address)
		f.from.Groups = f.sender.Groups
		return false, verdict.Unset, true
	case f.isOrigin(f.snapshot.Public(address)):
		return true, verdict.Unset, true
	case f.isOrigin(n.unchecked[p.SrcMAC]) && p.EtherType != packet.EtherTypeARP && !unroutable(address):
		f.sender = n.unchecked[p.SrcMAC]
		return false, verdict.Unset, true
	case f.isFromPeer(n, address):
		return false, verdict.Unset, true
	}
	return false, verdict.TunnelForeign, false
}

// isOrigin reports whether e is the interface that sent the frame, and is leased to the node that
// sent the frame here.
func (f *frame) isOrigin(e *Endpoint) bool {
	o := &f.origin
	return e != nil && o.Node != 0 && e.Node == o.Node && (o.Unnamed || e.Epoch == o.Epoch) && e.MAC == f.pkt.SrcMAC
}

// unroutable reports whether no instance may send from or to the address.
func unroutable(a netip.Addr) bool {
	return a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
