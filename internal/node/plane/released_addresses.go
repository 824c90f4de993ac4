package plane

import (
	"net/netip"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
)

// gone are addresses that lost their owner: leases have ended, or given some back.
type gone struct {
	private map[ec2.VNI]map[netip.Addr]bool
	public  map[netip.Addr]bool
}

func (g *gone) add(vni ec2.VNI, pair ec2.AddressPair) {
	if g.private == nil {
		g.private, g.public = map[ec2.VNI]map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
	if pair.Private.IsValid() {
		if g.private[vni] == nil {
			g.private[vni] = map[netip.Addr]bool{}
		}
		g.private[vni][pair.Private] = true
	}
	if pair.Public.IsValid() {
		g.public[pair.Public] = true
	}
}

// forgetGone drops the connections with addresses that have lost their owner, once no
// packet is under way by a Snapshot that still had them. Tracked connections would outlive
// the lost membership, and the address's next owner would be taken for the last. A private
// address is known in its own network, a public one in all.
func (p *Plane) forgetGone(generation uint64) {
	g := p.gone
	p.gone = gone{}
	if len(g.private)+len(g.public) == 0 {
		return
	}
	for p.sw.Enforced() < generation {
		time.Sleep(50 * time.Microsecond) // a batch under way; it is short
	}
	for vni, addresses := range g.private {
		p.tracker.Forget(p.zones(func(v ec2.VNI) bool { return v == vni }), func(a netip.Addr) bool { return addresses[a] })
	}
	if len(g.public) > 0 {
		p.tracker.Forget(p.zones(func(ec2.VNI) bool { return true }), func(a netip.Addr) bool { return g.public[a] })
	}
}

// ForgetUnleased drops what connections of before this daemon remember of addresses that
// have nobody now.
func (p *Plane) ForgetUnleased() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.view.Networks() {
		leased := map[netip.Addr]bool{}
		for _, ep := range p.endpoints {
			if ep.lease.VNI == n.VNI && !ep.ended {
				for _, a := range ep.lease.Addresses() {
					leased[a.Private] = true
				}
			}
		}
		zones := p.zones(func(v ec2.VNI) bool { return v == n.VNI })
		if len(zones) > 0 {
			p.tracker.Forget(zones, func(a netip.Addr) bool { return n.Prefix.Contains(a) && !leased[a] })
		}
	}
}

// zones are those of this node's interfaces in some networks.
func (p *Plane) zones(in func(ec2.VNI) bool) []*conntrack.Zone {
	var all []*conntrack.Zone
	for _, ep := range p.endpoints {
		if ep.zone != nil && in(ep.lease.VNI) {
			all = append(all, ep.zone)
		}
	}
	return all
}
