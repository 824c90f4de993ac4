package vswitch

import (
	"net/netip"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// receive handles one frame of n bytes, read from in, which the switch may have joined from
// f.batch.group packets. It runs on in's poller.
func (f *frame) receive(in *Port, n int) {
	failpoint.Reach()
	f.in, f.from, f.viaGateway = in, firewall.Source{}, false
	f.batch.current, f.pkt.Segments = n, 0
	at, v := f.forward(f.buffer[:n])
	if v != verdict.Forward {
		f.batch.vain += f.batch.group
	}
	// What was joined and then refused by Decode is still as many packets.
	at.count(v, max(f.pkt.Segments, uint32(f.batch.group)))
}

// forward is the life of a frame. It returns the frame's verdict and the port that the
// verdict concerns: where the frame came in, or, from deliver on, where it was to leave.
func (f *frame) forward(b []byte) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if v, ok := f.decode(b); !ok {
		f.explainSize(v)
		return f.in, v
	}
	switch f.in.kind {
	case UplinkPort:
		return f.forwardInbound()
	case TunnelPort:
		return f.forwardTunnelled()
	}
	a := f.snapshot.attachment(f.in)
	if v, ok := f.ready(a); !ok {
		return f.in, v
	}
	if v, ok := f.checkSource(a); !ok {
		return f.in, v
	}
	if f.pkt.EtherType == packet.EtherTypeARP {
		return f.in, f.answerARP(a)
	}
	f.dst = a.Network.Find(f.pkt.Flow.Dst)
	if v := f.judge(a, conntrack.Out, f.peer()); v != verdict.Forward {
		return f.in, v
	}
	return f.route(a)
}

// decode reads the frame, and its virtio header anew. The MTU is that of the network it
// came from; a port that is not attached has none and passes nothing anyway.
func (f *frame) decode(b []byte) (verdict.Verdict, bool) {
	failpoint.Reach()
	if v, ok := f.decoder.Decode(b[min(offloadLen, len(b)):], &f.pkt); !ok {
		return v, false
	}
	return packet.Sanitize(b[:offloadLen], &f.pkt, f.mtu())
}

// ready fails closed: a port without an attachment passes nothing.
func (f *frame) ready(a *Attachment) (verdict.Verdict, bool) {
	if a == nil {
		return verdict.NotReady, false
	}
	return verdict.Unset, true
}

// peer is the far end of a packet that leaves an instance, as egress rules see it. What is
// handed to somebody else, who forwards, goes to no member, whoever it is for.
func (f *frame) peer() firewall.Source {
	peer := firewall.Source{Addr: f.pkt.Flow.Dst}
	if f.dst != nil && (f.pkt.DstMAC == GatewayMAC || f.pkt.DstMAC == f.dst.MAC) {
		peer.Groups = f.dst.Groups
	}
	return peer
}

// route finds who is to have the packet: an instance of the network, the owner of a
// public address, or the world outside.
func (f *frame) route(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	f.from = firewall.Source{Addr: f.pkt.Flow.Src}
	if a.Endpoint.Owns(f.pkt.Flow.Src) {
		f.from.Groups = a.Endpoint.Groups
	}
	dst := f.pkt.Flow.Dst
	f.viaGateway = f.pkt.DstMAC == GatewayMAC
	owner := f.forwarder(a.Network)
	switch {
	case owner != nil && a.subnet.contains(owner.Address):
	case !a.Network.Prefix.Contains(dst):
		return f.routeOutside(a)
	default:
		if owner = f.dst; owner == nil {
			return f.in, f.nobody(a.Network)
		}
		if !f.viaGateway && (f.pkt.DstMAC != owner.MAC || !a.subnet.contains(dst)) {
			return f.in, f.misaddressed()
		}
	}
	if v, ok := f.checkSize(a, owner); !ok {
		return f.in, v
	}
	return f.deliver(owner)
}

// forwarder is the interface that a frame is handed to by its MAC and that forwards for
// others, so that the packet need not be its own.
func (f *frame) forwarder(n *Network) *Endpoint {
	if f.viaGateway || len(n.unchecked) == 0 {
		return nil
	}
	return n.unchecked[f.pkt.DstMAC]
}

// nobody is the verdict of a packet to an address of the network that nobody has.
func (f *frame) nobody(n *Network) verdict.Verdict {
	if f.pkt.Flow.Dst == n.SubnetOf(f.pkt.Flow.Dst).Gateway {
		return verdict.GatewayLocal
	}
	return f.unreachable()
}

// routeOutside carries a packet out of its network: to the owner of a public address,
// with both ends rewritten here as AWS does, or through the uplink. What has no public
// address has no way out.
func (f *frame) routeOutside(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	p := &f.pkt
	if !f.viaGateway {
		return f.in, f.misaddressed()
	}
	if v, ok := f.checkRoute(a.subnet, a.Endpoint, p.Flow.Dst); !ok {
		return f.in, v
	}
	public := a.Endpoint.PublicOf(p.Flow.Src)
	if !public.IsValid() {
		return f.in, f.unreachable()
	}
	if owner := f.snapshot.Public(p.Flow.Dst); owner != nil {
		if v, ok := f.checkSize(a, owner); !ok {
			return f.in, v
		}
		packet.RewriteSource(f.bytes(), p, public)
		packet.RewriteDestination(f.bytes(), p, owner.PrivateOf(p.Flow.Dst))
		f.from = firewall.Source{Addr: p.Flow.Src}
		return f.deliverFromOutside(f.snapshot.networks[owner.network], owner)
	}
	up := f.snapshot.uplink
	if up == nil || f.snapshot.inPublicPool(p.Flow.Dst) || p.Flow.Dst.IsLinkLocalUnicast() {
		return f.in, f.unreachable()
	}
	packet.RewriteSource(f.bytes(), p, public)
	packet.SetMACs(f.bytes(), up.NextHop, up.MAC)
	return up.Port, f.write(up.Port)
}

// checkRoute holds what comes from or goes to a far address against the routes of a subnet,
// which let it out by an internet gateway or not.
func (f *frame) checkRoute(s *Subnet, of *Endpoint, far netip.Addr) (verdict.Verdict, bool) {
	failpoint.Reach()
	if s.Leads(far) == Internet {
		return verdict.Unset, true
	}
	if f.trace != nil {
		f.trace.Unrouted = &Unrouted{Endpoint: of, Network: of.network, Subnet: s, Far: far}
	}
	return verdict.NotRouted, false
}

// forwardInbound is the life of a frame from outside: 1:1 NAT to the instance that has
// the public address, and that instance's rules. Its source is a CIDR source, never a
// member of a group, whatever it says.
func (f *frame) forwardInbound() (*Port, verdict.Verdict) {
	failpoint.Reach()
	up := f.snapshot.uplink
	if up == nil || up.Port != f.in {
		return f.in, f.unattached()
	}
	p := &f.pkt
	if p.EtherType == packet.EtherTypeARP {
		return f.in, f.answerARP(f.snapshot)
	}
	if !p.DstMAC.IsUnicast() || unroutable(p.Flow.Dst) {
		return f.in, f.toMany()
	}
	if p.DstMAC != up.MAC {
		return f.in, f.misaddressed()
	}
	owner := f.snapshot.Public(p.Flow.Dst)
	if owner == nil || owner.Port == nil {
		return f.in, f.unreachable()
	}
	if v, ok := f.checkOutsideSource(); !ok {
		return f.in, v
	}
	packet.RewriteDestination(f.bytes(), p, owner.PrivateOf(p.Flow.Dst))
	f.from = firewall.Source{Addr: p.Flow.Src}
	f.viaGateway = true
	return f.deliverFromOutside(f.snapshot.networks[owner.network], owner)
}

func (f *frame) unattached() verdict.Verdict { v, _ := f.ready(nil); return v }

// deliverFromOutside delivers what has reached a public address, and has its private one
// as destination by now. A source within the network is not outside of it, leased or not;
// and what the receiver's subnet has no route to is not answered, and so not let in.
func (f *frame) deliverFromOutside(n *Network, to *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if n == nil || n.Prefix.Contains(f.pkt.Flow.Src) {
		return f.in, f.impossible()
	}
	if v, ok := f.checkRoute(n.SubnetOf(f.pkt.Flow.Dst), to, f.pkt.Flow.Src); !ok {
		return f.in, v
	}
	return f.deliver(to)
}

// forwardTunnelled is the life of a frame from another node. That node has asked the rules
// of the sender; those of the receiver are asked here. There is no transit: what came by
// the tunnel ends at an instance of this node or nowhere.
func (f *frame) forwardTunnelled() (*Port, verdict.Verdict) {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if t == nil || t.Port != f.in {
		return f.in, f.unattached()
	}
	byPublic, v, ok := f.checkOrigin()
	if !ok {
		return f.in, v
	}
	if f.pkt.EtherType == packet.EtherTypeARP {
		return f.in, f.ignoreARP() // every node answers by itself
	}
	if f.isDHCPServer() {
		return f.in, f.noServer() // its node has not checked it
	}
	n := f.snapshot.networks[VNI(f.origin.VNI)]
	f.viaGateway = f.pkt.DstMAC == GatewayMAC
	owner := f.forwarder(n)
	if owner == nil {
		owner = n.Find(f.pkt.Flow.Dst)
	}
	switch {
	case owner == nil || byPublic && !owner.PublicOf(f.pkt.Flow.Dst).IsValid():
		return f.in, f.unreachable()
	case !f.viaGateway && (f.pkt.DstMAC != owner.MAC || byPublic):
		return f.in, f.misaddressed()
	}
	if byPublic {
		return f.deliverFromOutside(n, owner)
	}
	return f.deliver(owner) // send refuses it if the owner is not here
}

// deliver hands the packet to an instance of this node, if its rules admit it, or to the
// node that has the instance, where its rules are asked.
func (f *frame) deliver(to *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if to.Port == nil {
		return f.in, f.send(to)
	}
	if to.Port.shut.Load() {
		return to.Port, shutPort()
	}
	a := f.snapshot.attachment(to.Port)
	if v, ok := f.ready(a); !ok {
		return to.Port, v
	}
	if v := f.judge(a, conntrack.In, f.from); v != verdict.Forward {
		return to.Port, v
	}
	src := f.pkt.SrcMAC
	if f.viaGateway {
		src = GatewayMAC
	}
	packet.SetMACs(f.bytes(), to.MAC, src)
	return to.Port, f.write(to.Port)
}

// Each dropping verdict has one function that makes it; these are shared.

func (f *frame) unreachable() verdict.Verdict { return verdict.NoRoute }

func (f *frame) misaddressed() verdict.Verdict { return verdict.WrongMAC }

func (f *frame) toMany() verdict.Verdict { return verdict.NotUnicast }

func (f *frame) ignoreARP() verdict.Verdict { return verdict.ARPIgnored }
