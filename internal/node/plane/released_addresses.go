package plane

import (
	"net/netip"
	"slices"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
)

// releasedAddresses are the addresses that a View takes from their interfaces, because a lease has
// ended or an address was unassigned.
type releasedAddresses map[owned]bool

func (r releasedAddresses) add(vni ec2.VNI, pair ec2.AddressPair) {
	for _, of := range ownedBy(vni, pair) {
		r[of] = true
	}
}

// ownedBy returns the addresses of a pair in a network that are not zero.
func ownedBy(vni ec2.VNI, pair ec2.AddressPair) (all []owned) {
	if pair.Private.IsValid() {
		all = append(all, owned{vni, pair.Private})
	}
	if pair.Public.IsValid() {
		all = append(all, owned{0, pair.Public})
	}
	return all
}

// owners returns the owner of each address that an active lease owns.
func (p *Plane) owners() map[owned]uint64 {
	all := make(map[owned]uint64, 2*len(p.leases))
	for epoch, l := range p.leases {
		if l.ended {
			continue
		}
		for _, pair := range l.eni.Addresses() {
			for _, of := range ownedBy(l.eni.VNI, pair) {
				all[of] = epoch
			}
		}
	}
	return all
}

// forgetFormer drops the connections that an earlier daemon has left in the tracker, if the owner of
// an address of theirs is not the one that it was then. It is called before the first Snapshot with
// ports, so that no packet meets them. Connections of a private address are compared in the network
// of their interface and in its peers. An address that no lease owned or owns, such as a host beyond the uplink,
// keeps its connections.
func (p *Plane) forgetFormer() error {
	p.gained = nil
	if p.ownersFile == nil {
		return nil // the tracker is in memory: there was no earlier daemon
	}
	now, was := p.owners(), p.ownersFile.stored
	sameCluster := p.ownersFile.ofCluster(p.view.Seed())
	elsewhere := privateAddresses(was)
	former := func(epoch uint64, a netip.Addr) bool {
		l := p.leases[epoch]
		switch {
		case l == nil:
			return true // the lease has ended
		case was == nil:
			return p.unleased(now, l.eni.VNI, a)
		}
		return !sameCluster || was[owned{0, a}] != now[owned{0, a}] || elsewhere[a] && !p.isNear(l.eni.VNI, a) ||
			slices.ContainsFunc(p.withPeers(l.eni.VNI), func(v ec2.VNI) bool { return was[owned{v, a}] != now[owned{v, a}] })
	}
	if n := p.tracker.ForgetAdopted(former) + p.nat.Forget(former); n > 0 {
		p.log.Info("connections of addresses that have another owner now, or none, dropped", "connections", n)
	}
	return p.ownersFile.replace(now)
}

// unleased reports whether an address belongs to the cluster and to no lease. A release that stored
// no owners ran before: whether the owner is still the same is not known.
func (p *Plane) unleased(owners map[owned]uint64, vni ec2.VNI, a netip.Addr) bool {
	if n, ok := p.view.Network(vni); ok && n.Contains(a) {
		return owners[owned{vni, a}] == nobody
	}
	for n := range p.view.Networks() {
		for _, pool := range n.PublicPools {
			if pool.Contains(a) {
				return owners[owned{0, a}] == nobody
			}
		}
	}
	return false
}

// storeCluster stores the owners for the cluster of the View, if the cluster has begun since the View
// before. The first View of a new cluster has no seed.
func (p *Plane) storeCluster(before *state.View) error {
	if p.ownersFile == nil || before.Seed() == p.view.Seed() {
		return nil
	}
	p.ownersFile.ofCluster(p.view.Seed())
	return p.ownersFile.replace(p.owners())
}

// storeChanging stores, before a Snapshot is published, that connections of the released addresses
// are not those of one owner until forgetReleased has dropped them.
func (p *Plane) storeChanging() error {
	if p.ownersFile == nil || len(p.released) == 0 {
		return nil
	}
	var some []ownership
	for of := range p.released {
		some = append(some, ownership{of, changing})
	}
	return p.ownersFile.add(some)
}

// storeOwners stores the new owners of released and gained addresses.
func (p *Plane) storeOwners(released releasedAddresses) {
	gained := p.gained
	p.gained = nil
	if p.ownersFile == nil || len(released)+len(gained) == 0 {
		return
	}
	var some []ownership
	for of := range released {
		some = append(some, ownership{of, nobody})
	}
	err := p.ownersFile.add(append(some, gained...))
	if err == nil && p.ownersFile.end > p.ownersFile.rewriteAt {
		err = p.ownersFile.replace(p.owners())
	}
	if err != nil {
		p.log.Warn("the next daemon will drop the connections of addresses that have changed their owner", "err", err)
	}
}

// forgetReleased drops the connections of released addresses, once no poller uses a Snapshot that
// still has the addresses. A connection that stayed would also admit packets of the next interface
// that gets the address. Connections of a private address are dropped in its network and its peers,
// those of a public address in all networks.
func (p *Plane) forgetReleased(generation uint64) {
	r := p.released
	p.released = releasedAddresses{}
	if len(r) > 0 {
		for p.sw.Enforced() < generation {
			time.Sleep(50 * time.Microsecond) // until pollers finish their batch, which is short
		}
	}
	private, public := map[ec2.VNI]map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for of := range r {
		switch {
		case of.vni == 0:
			public[of.address] = true
		case private[of.vni] == nil:
			private[of.vni] = map[netip.Addr]bool{of.address: true}
		default:
			private[of.vni][of.address] = true
		}
	}
	for vni, addresses := range private {
		networks := p.withPeers(vni)
		p.tracker.Forget(p.zones(func(v ec2.VNI) bool { return slices.Contains(networks, v) }), func(a netip.Addr) bool { return addresses[a] })
	}
	if len(public) > 0 {
		p.tracker.Forget(p.zones(func(ec2.VNI) bool { return true }), func(a netip.Addr) bool { return public[a] })
	}
	p.forgetTranslations(private, public)
	p.removeClosed()
	p.storeOwners(r)
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
