package vswitch

import (
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/nat"
	"palisade/switch/responder"
)

// A NATGateway is what this node has of a NAT gateway whose interface is leased to it.
type NATGateway struct {
	Gateway *nat.Gateway
	Zone    *conntrack.Zone // of the fragments that the network ACL of its subnet has admitted
}

// A translation is what a packet was before a NAT gateway translated it, for the error "fragmentation needed".
type translation struct {
	gateway  *Endpoint // nil: the packet has crossed none
	flow     packet.Flow
	srcMAC   ec2.MAC
	toPublic bool
	at       Attachment // the gateway's place, as network ACLs see it
}

// translate carries a packet through a NAT gateway of this node. A packet to the gateway's own address is an answer
// from outside; any other packet leaves. A packet crosses one gateway only.
func (f *frame) translate(gw *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	n := f.snapshot.networks[gw.network]
	if n == nil || f.crossed.gateway != nil {
		return f.in, f.unreachable()
	}
	c := &f.crossed
	c.gateway, c.flow, c.srcMAC, c.toPublic = gw, f.pkt.Flow, f.pkt.SrcMAC, f.toPublic
	c.at = Attachment{Endpoint: gw, Network: n, Zone: gw.NAT.Zone, subnet: n.SubnetOf(gw.Address)}
	if f.pkt.Flow.Dst == gw.Address {
		return f.enter(n, gw, &c.at)
	}
	return f.exit(n, gw, &c.at)
}

// exit carries a packet from an interface of the gateway's own network to the outside, or into a peered network. The
// routes of the gateway's subnet decide. To the outside the gateway needs a public address.
func (f *frame) exit(n *Network, gw *Endpoint, a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	p := &f.pkt
	if f.sender == nil || f.sender.IsNAT || f.sender.network != gw.network || !n.Contains(p.Flow.Src) || n.Contains(p.Flow.Dst) {
		return f.in, f.badSource()
	}
	if !a.subnet.contains(f.sender.Address) {
		if v := f.aclIn(a); v != verdict.Forward {
			return f.in, v
		}
	}
	target := a.subnet.TargetOf(p.Flow.Dst)
	if target.Kind == Peer && n.peers[target.Peer] != nil {
		return f.exitToPeer(gw, a, f.snapshot.networks[target.Peer])
	}
	if v, ok := f.checkRoute(a.subnet, gw, p.Flow.Dst); !ok {
		return f.in, v
	}
	if !gw.Public.IsValid() {
		if f.trace != nil {
			f.trace.NoPublic = gw
		}
		return f.in, f.unreachable()
	}
	if v := f.translateSource(gw); v != verdict.Forward {
		return f.in, v
	}
	f.trace.crossed(gw, conntrack.Out, p.Flow)
	if v := f.aclOut(a); v != verdict.Forward {
		return f.in, v
	}
	f.enterGateway(gw)
	return f.toInternet(gw.Public)
}

// exitToPeer carries a packet into a peered network, where its source is the gateway's private address, which is in no
// group.
func (f *frame) exitToPeer(gw *Endpoint, a *Attachment, peer *Network) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if peer == nil || peer.Find(f.pkt.Flow.Dst) == nil || peer.Find(f.pkt.Flow.Dst).IsNAT {
		return f.in, f.unreachable()
	}
	if v := f.translateSource(gw); v != verdict.Forward {
		return f.in, v
	}
	f.trace.crossed(gw, conntrack.Out, f.pkt.Flow)
	if v := f.aclOut(a); v != verdict.Forward {
		return f.in, v
	}
	f.from, f.sender = firewall.Source{Addr: f.pkt.Flow.Src}, gw
	f.enterGateway(gw)
	return f.deliver(peer.Find(f.pkt.Flow.Dst))
}

// translateSource gives the packet the gateway's address and a port of it.
func (f *frame) translateSource(gw *Endpoint) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.IsICMPError {
		port, v := gw.NAT.Gateway.OutError(p, f.now)
		if v == verdict.Forward {
			packet.RewriteSource(f.bytes(), p, gw.Address)
			packet.RewriteQuotedDestinationPort(f.bytes(), p, port)
		}
		return v
	}
	port, v := gw.NAT.Gateway.Out(p, f.now, f.trace != nil)
	if v != verdict.Forward {
		if v == verdict.NATUnknown {
			f.answerReset(gw)
		}
		return v
	}
	packet.RewriteSource(f.bytes(), p, gw.Address)
	if p.HasL4 {
		packet.RewriteSourcePort(f.bytes(), p, port)
	}
	return verdict.Forward
}

// enter carries an answer from outside to the interface whose packet it answers.
func (f *frame) enter(n *Network, gw *Endpoint, a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if v := f.aclIn(a); v != verdict.Forward {
		return f.in, v
	}
	p := &f.pkt
	var to nat.Inside
	var v verdict.Verdict
	if p.IsICMPError {
		to, v = gw.NAT.Gateway.InError(p, f.now)
	} else {
		to, v = gw.NAT.Gateway.In(p, f.now, f.trace != nil)
	}
	if v != verdict.Forward {
		return f.in, v
	}
	owner := n.Find(to.Address)
	if owner == nil || owner.IsNAT {
		return f.in, f.unreachable()
	}
	packet.RewriteDestination(f.bytes(), p, to.Address)
	switch {
	case p.IsICMPError:
		packet.RewriteQuotedSourcePort(f.bytes(), p, to.Port)
	case p.HasL4:
		packet.RewriteDestinationPort(f.bytes(), p, to.Port)
	}
	f.trace.crossed(gw, conntrack.In, p.Flow)
	if !a.subnet.contains(to.Address) {
		if v := f.aclOut(a); v != verdict.Forward {
			return f.in, v
		}
	}
	f.from, f.sender, f.toPublic = firewall.Source{Addr: p.Flow.Src}, gw, false
	f.enterGateway(gw)
	return f.deliver(owner)
}

// enterGateway addresses the frame from a NAT gateway to the gateway of its subnet.
func (f *frame) enterGateway(gw *Endpoint) {
	f.pkt.DstMAC, f.pkt.SrcMAC, f.viaGateway = GatewayMAC, gw.MAC, true
	packet.SetMACs(f.bytes(), GatewayMAC, gw.MAC)
}

// untranslate undoes the translation of a packet that is too large to leave, so that its sender sees in the error
// what it has sent. It returns the interface that the sender sent the packet to: the gateway.
func (f *frame) untranslate(to *Endpoint) *Endpoint {
	failpoint.Reach()
	c := &f.crossed
	if c.gateway == nil {
		return to
	}
	p := &f.pkt
	packet.RewriteSource(f.bytes(), p, c.flow.Src)
	packet.RewriteDestination(f.bytes(), p, c.flow.Dst)
	if p.HasL4 && !p.IsICMPError {
		packet.RewriteSourcePort(f.bytes(), p, c.flow.SrcPort)
		packet.RewriteDestinationPort(f.bytes(), p, c.flow.DstPort)
	}
	p.SrcMAC, f.toPublic = c.srcMAC, c.toPublic
	return c.gateway
}

// answerReset ends a TCP connection that the gateway does not know, because it was idle for too long or because the
// gateway has moved from another node (VPC User Guide, "NAT gateway idle timeout").
func (f *frame) answerReset(gw *Endpoint) {
	failpoint.Reach()
	if f.trace != nil || !f.errors.of(f).allow(f.now) {
		return
	}
	b := responder.Reset(f.scratch[offloadLen:], f.bytes(), &f.pkt)
	if b == nil {
		return
	}
	if f.in.kind != TunnelPort {
		packet.SetMACs(b, f.pkt.SrcMAC, GatewayMAC)
		f.emitError(b)
		return
	}
	packet.SetMACs(b, GatewayMAC, gw.MAC)
	clear(f.scratch[:offloadLen])
	p := &f.sending.packet
	*p = packet.Packet{L3: f.pkt.L3, Len: len(b), Segments: 1, Largest: len(b) - f.pkt.L3}
	f.sending.to, f.sending.verdict = f.origin.Node, verdict.Forward
	f.sending.from = packet.Origin{VNI: f.origin.VNI, Epoch: gw.Epoch}
	_ = f.emitTunnel(p, f.scratch[:offloadLen+len(b)]) // the sender tries again
}
