package vswitch

import (
	"net/netip"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// receive handles one frame of n bytes that was read from in. The frame may consist of
// f.batch.joined packets, joined after the read. receive runs on in's poller.
func (f *frame) receive(in *Port, n int) {
	failpoint.Reach()
	f.in, f.from, f.sender, f.viaGateway = in, firewall.Source{}, nil, false
	f.batch.currentBytes, f.pkt.Segments = n, 0
	at, v := f.forward(f.buffer[:n])
	if v != verdict.Forward {
		f.batch.unforwarded += f.batch.joined
	}
	// A joined frame that Decode refuses still counts as all its packets.
	packets := max(f.pkt.Segments, uint32(f.batch.joined))
	if v == verdict.ACLDenied {
		at.countDenial(f.deniedBy, packets)
	}
	at.count(v, packets)
}

// forward carries a frame from an instance's port, and calls forwardFromUplink or forwardFromTunnel
// for all other frames. It returns the frame's verdict and the port that the verdict concerns: the
// port where the frame came in, or, from deliver on, the port it was to leave by.
func (f *frame) forward(b []byte) (*Port, verdict.Verdict) {
	failpoint.Reach()
	f.toPublic, f.crossed.gateway = false, nil
	if v, ok := f.decode(b); !ok {
		return f.in, v
	}
	switch f.in.kind {
	case UplinkPort:
		return f.forwardFromUplink()
	case TunnelPort:
		return f.forwardFromTunnel()
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
	f.choose(a)
	if v := f.judge(a, conntrack.Out, f.peer(a.Network)); v != verdict.Forward {
		return f.in, v
	}
	return f.route(a)
}

// decode reads the headers into f.pkt and rebuilds the virtio header. It returns false and the
// verdict for a malformed frame.
func (f *frame) decode(b []byte) (verdict.Verdict, bool) {
	failpoint.Reach()
	if v, ok := f.decoder.Decode(b[min(offloadLen, len(b)):], &f.pkt); !ok {
		return v, false
	}
	return packet.Sanitize(b[:offloadLen], &f.pkt)
}

// ready returns false and NotReady for a port without an attachment, which passes nothing (fail
// closed).
func (f *frame) ready(a *Attachment) (verdict.Verdict, bool) {
	if a == nil {
		return verdict.NotReady, false
	}
	return verdict.Unset, true
}

// peer returns the destination of a packet that leaves an instance, as egress rules see it. The
// destination has its groups only if the packet goes straight to it: a packet that is handed to
// another interface, which forwards it, may end anywhere. An interface of a peered network has its
// groups if the peering is one of a single region.
func (f *frame) peer(n *Network) firewall.Source {
	peer := firewall.Source{Addr: f.pkt.Flow.Dst}
	switch {
	case f.dst == nil:
	case f.target.Kind == Peer:
		if n.peers[f.target.Peer].Groups {
			peer.Groups = f.dst.Groups
		}
	case f.pkt.DstMAC == f.dst.MAC || n.unchecked[f.pkt.DstMAC] == nil:
		peer.Groups = f.dst.Groups
	}
	return peer
}

// route finds the receiver of a packet from an instance, and delivers the packet to it: an
// interface of the network or of a peered one, an interface that forwards for others, the owner of a
// public address, or the router behind the uplink.
func (f *frame) route(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	f.from, f.sender = firewall.Source{Addr: f.pkt.Flow.Src}, a.Endpoint
	if a.Endpoint.Owns(f.pkt.Flow.Src) {
		f.from.Groups = a.Endpoint.Groups
	}
	dst := f.pkt.Flow.Dst
	owner := f.forwarder(a.Network)
	switch {
	case owner != nil && a.subnet.contains(owner.Address):
	case f.target.Kind != Local:
		return f.routeAway(a)
	case !f.viaGateway && !a.Network.Contains(dst):
		return f.in, f.misaddressed()
	default:
		if owner = f.dst; owner == nil {
			return f.in, f.unassigned(a.Network)
		}
		if !f.viaGateway && (a.Network.unchecked[f.pkt.DstMAC] != nil || !a.subnet.contains(dst)) {
			return f.in, f.misaddressed()
		}
		if !a.subnet.contains(dst) {
			if v := f.aclOut(a); v != verdict.Forward {
				return f.in, v
			}
		}
		f.readdress(owner)
	}
	return f.deliver(owner)
}

// readdress writes the owner's MAC address into a frame whose sender believes that another interface has the
// address. An address can move from one interface to another (EC2 User Guide, "Secondary private IPv4
// addresses"), and a neighbour may send to the MAC address of the former owner as long as its ARP cache has it: minutes, if
// it thinks that it gets answers. The sender gains nothing: its frame goes where one with the right MAC address goes.
func (f *frame) readdress(owner *Endpoint) {
	failpoint.Reach()
	if f.viaGateway || f.pkt.DstMAC == owner.MAC {
		return
	}
	f.pkt.DstMAC = owner.MAC
	packet.SetMACs(f.bytes(), owner.MAC, f.pkt.SrcMAC)
}

// forwarder returns the interface that the frame is addressed to by its MAC address, if that
// interface forwards for others and so may receive packets to any address; nil otherwise.
func (f *frame) forwarder(n *Network) *Endpoint {
	failpoint.Reach()
	if f.viaGateway || len(n.unchecked) == 0 {
		return nil
	}
	e := n.unchecked[f.pkt.DstMAC]
	if e != nil && e.IsNAT && f.in.kind == InstancePort {
		return nil // routes alone lead to a NAT gateway
	}
	return e
}

// unassigned returns the verdict of a packet to an address of the network that no interface has.
func (f *frame) unassigned(n *Network) verdict.Verdict {
	if f.pkt.Flow.Dst == n.SubnetOf(f.pkt.Flow.Dst).Gateway {
		return verdict.GatewayLocal
	}
	if f.trace != nil {
		f.trace.Absent = &Absent{n.VNI, f.pkt.Flow.Dst}
	}
	return f.unreachable()
}

// routeToInternet carries a packet out of its network. If the destination is a public address of
// the cluster, both ends are rewritten here, as AWS does. Otherwise the source is rewritten and the
// packet leaves by the uplink. A packet without a route to an internet gateway, or whose source has no
// public address, is dropped.
func (f *frame) routeToInternet(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	p := &f.pkt
	if v := f.aclOut(a); v != verdict.Forward {
		return f.in, v
	}
	if f.target.Kind != Internet {
		return f.in, f.notRouted(a.subnet, a.Endpoint, p.Flow.Dst, NoTarget)
	}
	public := a.Endpoint.PublicOf(p.Flow.Src)
	if !public.IsValid() {
		if f.trace != nil {
			f.trace.NoPublic = a.Endpoint
		}
		return f.in, f.unreachable()
	}
	return f.toInternet(public)
}

// toInternet carries a packet out of its network under a public address.
func (f *frame) toInternet(public netip.Addr) (*Port, verdict.Verdict) {
	failpoint.Reach()
	p := &f.pkt
	if owner := f.snapshot.Public(p.Flow.Dst); owner != nil {
		f.toPublic = true
		packet.RewriteSource(f.bytes(), p, public)
		packet.RewriteDestination(f.bytes(), p, owner.PrivateOf(p.Flow.Dst))
		f.from, f.sender = firewall.Source{Addr: p.Flow.Src}, nil
		return f.deliverFromInternet(f.snapshot.networks[owner.network], owner)
	}
	up := f.snapshot.uplink
	if up == nil || f.snapshot.inPublicPool(p.Flow.Dst) || p.Flow.Dst.IsLinkLocalUnicast() {
		return f.in, f.unreachable()
	}
	packet.RewriteSource(f.bytes(), p, public)
	packet.SetMACs(f.bytes(), up.NextHop, up.MAC)
	return up.Port, f.leave(up.Port, nil, up.MTU)
}

// forwardFromUplink carries a frame from the uplink: 1:1 NAT to the instance that has the public
// address, then the ingress rules of that instance. The source matches rules by CIDR alone: no
// address makes it a member of a group.
func (f *frame) forwardFromUplink() (*Port, verdict.Verdict) {
	failpoint.Reach()
	up := f.snapshot.uplink
	if up == nil || up.Port != f.in {
		return f.in, f.notReady()
	}
	p := &f.pkt
	if p.EtherType == packet.EtherTypeARP {
		return f.in, f.answerARP(f.snapshot)
	}
	if !p.DstMAC.IsUnicast() || unroutable(p.Flow.Dst) {
		return f.in, f.notUnicast()
	}
	if p.DstMAC != up.MAC {
		return f.in, f.misaddressed()
	}
	owner := f.snapshot.Public(p.Flow.Dst)
	if owner == nil || owner.Port == nil && owner.NAT == nil {
		return f.in, f.unreachable()
	}
	if v, ok := f.checkUplinkSource(owner); !ok {
		return f.in, v
	}
	packet.RewriteDestination(f.bytes(), p, owner.PrivateOf(p.Flow.Dst))
	f.from = firewall.Source{Addr: p.Flow.Src}
	f.viaGateway, f.toPublic = true, true
	return f.deliverFromInternet(f.snapshot.networks[owner.network], owner)
}

func (f *frame) notReady() verdict.Verdict { v, _ := f.ready(nil); return v }

// deliverFromInternet delivers a packet that was sent to a public address, after the NAT to the
// private one. It drops a packet whose source lies within the network, because no such packet comes
// from outside of it. It also drops a packet that the receiver could not answer, because the
// receiver's subnet has no route back.
func (f *frame) deliverFromInternet(n *Network, to *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if n == nil || n.Contains(f.pkt.Flow.Src) {
		return f.in, f.badSource()
	}
	if v, ok := f.checkRoute(n.SubnetOf(f.pkt.Flow.Dst), to, f.pkt.Flow.Src); !ok {
		return f.in, v
	}
	return f.deliver(to)
}

// forwardFromTunnel carries a frame from another node. That node has checked the sender's egress
// rules; the receiver's ingress rules are checked here. There is no transit: the packet ends at an
// instance of this node or is dropped.
func (f *frame) forwardFromTunnel() (*Port, verdict.Verdict) {
	failpoint.Reach()
	t := f.snapshot.tunnel
	if t == nil || t.Port != f.in {
		return f.in, f.notReady()
	}
	fromPublic, v, ok := f.checkOrigin()
	if !ok {
		return f.in, v
	}
	if f.pkt.EtherType == packet.EtherTypeARP {
		return f.in, f.ignoreARP() // every node answers its own instances
	}
	if f.isDHCPServer() {
		return f.in, f.refuseDHCPServer() // the sending node may not have checked it
	}
	n := f.snapshot.networks[VNI(f.origin.VNI)]
	f.viaGateway = f.pkt.DstMAC == GatewayMAC
	owner := f.forwarder(n)
	if owner == nil {
		owner = n.Find(f.pkt.Flow.Dst)
	}
	switch {
	case owner == nil || fromPublic && !owner.PublicOf(f.pkt.Flow.Dst).IsValid():
		return f.in, f.unreachable()
	case !f.viaGateway && (f.pkt.DstMAC != owner.MAC || !f.isInternal(n)):
		return f.in, f.misaddressed()
	}
	if !f.viaGateway && owner.Unchecked && !n.SubnetOf(owner.Address).contains(f.sender.Address) {
		f.viaGateway = true // a route led to owner
	}
	if fromPublic {
		f.toPublic = true
		return f.deliverFromInternet(n, owner)
	}
	return f.deliver(owner) // if the owner is on another node, send drops the packet
}

// deliver hands the packet to an instance of this node if its ingress rules admit it, or to a NAT gateway. For an
// interface of another node it sends the packet there, and that node checks the ingress rules.
func (f *frame) deliver(to *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if to.NAT != nil {
		return f.translate(to)
	}
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
	if !f.isInternal(a.Network) || !a.subnet.contains(f.sender.Address) {
		if v := f.aclIn(a); v != verdict.Forward {
			return to.Port, v
		}
	}
	if v := f.judge(a, conntrack.In, f.from); v != verdict.Forward {
		return to.Port, v
	}
	src := f.pkt.SrcMAC
	if f.viaGateway {
		src = GatewayMAC
	}
	packet.SetMACs(f.bytes(), to.MAC, src)
	return to.Port, f.leave(to.Port, to, a.mtu)
}

// Each dropping verdict is made by one function. Those below have several callers.

func (f *frame) unreachable() verdict.Verdict { return verdict.NoRoute }

func (f *frame) misaddressed() verdict.Verdict { return verdict.WrongMAC }

func (f *frame) notUnicast() verdict.Verdict { return verdict.NotUnicast }

func (f *frame) ignoreARP() verdict.Verdict { return verdict.ARPIgnored }
