package plane

import (
	"net/netip"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// A connection of an interface whose other end is in a peered VPC ends with the peering: the address may later be
// that of a host elsewhere, or of another interface after the VPCs are peered again.

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
	for len(ended) > 0 && p.sw.Enforced() < generation {
		time.Sleep(50 * time.Microsecond) // until pollers finish their batch, which is short
	}
	for _, e := range ended {
		p.forgetBlocks(e.vni, e.blocks)
	}
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

// isNear reports whether a private address is one of a network or of its peers. If it is neither, a connection of
// the network with an interface that had the address went through a peering that has ended.
func (p *Plane) isNear(vni ec2.VNI, a netip.Addr) bool {
	for _, v := range p.withPeers(vni) {
		if n, ok := p.view.Network(v); ok && n.Contains(a) {
			return true
		}
	}
	return false
}
