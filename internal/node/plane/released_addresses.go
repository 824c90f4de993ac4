package plane

import (
	"net/netip"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
)

// releasedAddresses are the addresses that a View takes from their interfaces, because a lease has
// ended or an address was unassigned.
type releasedAddresses struct {
	private map[ec2.VNI]map[netip.Addr]bool
	public  map[netip.Addr]bool
}

func (r *releasedAddresses) add(vni ec2.VNI, pair ec2.AddressPair) {
	if r.private == nil {
		r.private, r.public = map[ec2.VNI]map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
	if pair.Private.IsValid() {
		if r.private[vni] == nil {
			r.private[vni] = map[netip.Addr]bool{}
		}
		r.private[vni][pair.Private] = true
	}
	if pair.Public.IsValid() {
		r.public[pair.Public] = true
	}
}

// forgetReleased drops the connections of released addresses, once no poller uses a Snapshot that
// still has the addresses. A connection that stayed would also admit packets of the next interface
// that gets the address. Connections of a private address are dropped in its network, those of a
// public address in all networks.
func (p *Plane) forgetReleased(generation uint64) {
	r := p.released
	p.released = releasedAddresses{}
	if len(r.private)+len(r.public) == 0 {
		return
	}
	for p.sw.Enforced() < generation {
		time.Sleep(50 * time.Microsecond) // until pollers finish their batch, which is short
	}
	for vni, addresses := range r.private {
		p.tracker.Forget(p.zones(func(v ec2.VNI) bool { return v == vni }), func(a netip.Addr) bool { return addresses[a] })
	}
	if len(r.public) > 0 {
		p.tracker.Forget(p.zones(func(ec2.VNI) bool { return true }), func(a netip.Addr) bool { return r.public[a] })
	}
}

// ForgetUnleased drops connections that were adopted from the previous daemon if the lease of their
// remote address has ended since.
func (p *Plane) ForgetUnleased() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.view.Networks() {
		leased := map[netip.Addr]bool{}
		for _, l := range p.leases {
			if l.eni.VNI == n.VNI && !l.ended {
				for _, a := range l.eni.Addresses() {
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

// zones returns the zones of this node's interfaces in the networks for which the function in returns
// true.
func (p *Plane) zones(in func(ec2.VNI) bool) []*conntrack.Zone {
	var all []*conntrack.Zone
	for _, l := range p.leases {
		if l.zone != nil && in(l.eni.VNI) {
			all = append(all, l.zone)
		}
	}
	return all
}
