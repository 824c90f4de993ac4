package vswitch

import (
	"net/netip"

	"palisade/firewall"
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

// checkOutsideSource drops what cannot come by the uplink: an address of the public pools,
// or one that never leaves its own link.
func (f *frame) checkOutsideSource() (verdict.Verdict, bool) {
	failpoint.Reach()
	src := f.pkt.Flow.Src
	if unroutable(src) || src.IsLinkLocalUnicast() || f.snapshot.inPublicPool(src) {
		return f.impossible(), false
	}
	return verdict.Unset, true
}

func (f *frame) impossible() verdict.Verdict { return verdict.BadSource }

// checkOrigin holds a frame against the lease it was sent by, as checkSource does for an
// instance of this node: no node speaks for an interface that it does not have, and no
// interface for another, unless it forwards for others. It finds out who the receiver's
// rules see: the interface with its groups; the sender's public address, where that stands
// for it, which reaches public addresses only; or whatever one that forwards has said.
func (f *frame) checkOrigin() (byPublic bool, v verdict.Verdict, ok bool) {
	failpoint.Reach()
	p := &f.pkt
	address := p.Flow.Src
	if p.EtherType == packet.EtherTypeARP {
		address = p.ARPSenderIP
	}
	f.from = firewall.Source{Addr: address}
	n := f.snapshot.networks[VNI(f.origin.VNI)]
	switch {
	case n == nil:
		return false, verdict.TunnelForeign, false
	case f.isOrigin(n.Find(address)):
		f.from.Groups = n.Find(address).Groups
		return false, verdict.Unset, true
	case f.isOrigin(f.snapshot.Public(address)):
		return true, verdict.Unset, true
	case f.isOrigin(n.unchecked[p.SrcMAC]) && p.EtherType != packet.EtherTypeARP && !unroutable(address):
		return false, verdict.Unset, true
	}
	return false, verdict.TunnelForeign, false
}

// isOrigin reports whether a frame was sent by an Endpoint of the node that sent it here.
func (f *frame) isOrigin(e *Endpoint) bool {
	o := &f.origin
	return e != nil && o.Node != 0 && e.Node == o.Node && (o.Unnamed || e.Epoch == o.Epoch) && e.MAC == f.pkt.SrcMAC
}

// addresses an instance may never send from or to, in any network.
func unroutable(a netip.Addr) bool {
	return a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
