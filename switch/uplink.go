package vswitch

import (
	"fmt"
	"net/netip"

	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

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
		return f.in, f.answerOutside(up)
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

func (f *frame) unattached() verdict.Verdict { v, _ := f.ready(nil); return v }

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

// Announce tells the segment behind the uplink that a public address is here now, so
// that its neighbours forget where it was. It does nothing without an uplink.
func (s *Switch) Announce(address netip.Addr) error {
	up := s.snapshot.Load().uplink
	if up == nil {
		return nil
	}
	buffer := make([]byte, offloadLen+64)
	frame := packet.Announcement(buffer[offloadLen:], up.MAC, address)
	if err := up.Port.device.Write(buffer[:offloadLen+len(frame)]); err != nil {
		return fmt.Errorf("announce %s: %w", address, err)
	}
	return nil
}
