package plane

import (
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
)

// A connection of an interface may have its other end in a peered VPC. What this package does with connections
// when an address changes its owner is for them too, and they end with their peering: the address may later be
// that of a host elsewhere, or of another interface after the VPCs are peered again.

// peersOf returns the networks that a network is peered with.
func (p *Plane) peersOf(vni ec2.VNI) (peers []ec2.VNI) {
	n, ok := p.view.Network(vni)
	if !ok || n.VPC == "" {
		return nil
	}
	for x := range p.view.PeeringsIn(n.VPC) {
		if _, other, _ := x.Side(n.VPC); x.Active() {
			peers = append(peers, other.VNI)
		}
	}
	return peers
}

// lose notes that an address has left a group of a network, also for the networks whose rules may name the group.
func (p *Plane) lose(vni ec2.VNI, generation uint64) {
	p.lost[vni] = generation
	for _, peer := range p.peersOf(vni) {
		p.lost[peer] = generation
	}
}

// An endedPeering is a network with the private addresses of another that it is not peered with any more.
type endedPeering struct {
	vni    ec2.VNI
	blocks []netip.Prefix
}

// endedPeerings returns both sides of each peering that was active in the View before and is not any more.
func (p *Plane) endedPeerings(before *state.View, changes []state.Change[ec2.VPCPeering]) (all []endedPeering) {
	if before == nil {
		return nil // forgetFormer compares owners
	}
	for _, c := range changes {
		if c.Before == nil || !c.Before.Active() || c.After != nil && c.After.Active() {
			continue
		}
		for _, side := range []ec2.PeeringSide{c.Before.Requester, c.Before.Accepter} {
			_, other, _ := c.Before.Side(side.VPC)
			if n, ok := before.Network(other.VNI); ok {
				all = append(all, endedPeering{side.VNI, append([]netip.Prefix{n.Prefix}, n.Blocks...)})
			}
		}
	}
	return all
}

// forgetPeerings drops the connections through peerings that have ended, once no poller uses a Snapshot that still
// has the peerings.
func (p *Plane) forgetPeerings(ended []endedPeering, generation uint64) {
	if len(ended) > 0 {
		p.waitForPollers(generation)
	}
	for _, e := range ended {
		p.tracker.Forget(p.zones(func(v ec2.VNI) bool { return v == e.vni }), func(a netip.Addr) bool {
			for _, b := range e.blocks {
				if b.Contains(a) {
					return true
				}
			}
			return false
		})
	}
}

// peersChanged reports whether an address was, when the daemon before stopped, the private one of an interface in
// another network, and is not now that of the same interface in a peered one.
func (p *Plane) peersChanged(was, now map[owned]uint64, vni ec2.VNI, a netip.Addr, elsewhere map[netip.Addr]bool) bool {
	if n, ok := p.view.Network(vni); ok && n.Contains(a) || !elsewhere[a] {
		return false
	}
	same := false
	for _, peer := range p.peersOf(vni) {
		of := owned{peer, a}
		if was[of] != now[of] {
			return true
		}
		same = same || now[of] != nobody
	}
	return !same
}

// privateAddresses returns the private addresses that have an owner.
func privateAddresses(owners map[owned]uint64) map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	for of, by := range owners {
		if of.vni != 0 && by != nobody {
			all[of.address] = true
		}
	}
	return all
}
