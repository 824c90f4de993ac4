package plane

import (
	"net/netip"
	"slices"

	"palisade/ec2"
	vswitch "palisade/switch"
)

// peersOf returns the networks that a VPC exchanges packets with: those of its active peerings.
func (p *Plane) peersOf(vpc *ec2.VPC) (peers []vswitch.PeerNetwork) {
	for c := range p.view.PeeringsIn(vpc.ID) {
		_, other, ok := c.Side(vpc.ID)
		if !ok || !c.Active() {
			continue
		}
		remote, ok := p.view.VPC(other.VPC)
		if !ok {
			continue
		}
		peer := vswitch.PeerNetwork{VNI: vswitch.VNI(remote.VNI), Groups: c.SameRegion()}
		for _, b := range remote.Blocks() {
			peer.Blocks = append(peer.Blocks, b.CIDR)
		}
		peers = append(peers, peer)
	}
	return peers
}

// meetPeers drops the connections of a network with addresses of its new peers: they are left from an earlier
// peering with the same network, and the addresses may have other owners now. It does so before the switch knows the
// peers. Connections of an earlier daemon with peers of the first View stay; forgetFormer compares their owners.
func (p *Plane) meetPeers(vni ec2.VNI, peers []vswitch.PeerNetwork) {
	was := p.peers[vni]
	if len(peers) == 0 {
		delete(p.peers, vni)
		return
	}
	p.peers[vni] = peers
	if p.first {
		return
	}
	var blocks []netip.Prefix
	for _, peer := range peers {
		if !slices.ContainsFunc(was, func(w vswitch.PeerNetwork) bool { return w.VNI == peer.VNI }) {
			blocks = append(blocks, peer.Blocks...)
		}
	}
	if len(blocks) > 0 {
		p.forgetBlocks(vni, blocks)
	}
}

// forgetBlocks drops the connections of a network with addresses of some blocks.
func (p *Plane) forgetBlocks(vni ec2.VNI, blocks []netip.Prefix) {
	p.tracker.Forget(p.zones(func(v ec2.VNI) bool { return v == vni }), func(a netip.Addr) bool {
		return slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) })
	})
}

// withPeers yields a network and its peers.
func (p *Plane) withPeers(vni ec2.VNI) []ec2.VNI {
	all := []ec2.VNI{vni}
	for _, peer := range p.peers[vni] {
		all = append(all, ec2.VNI(peer.VNI))
	}
	return all
}

// lose notes that an address has left a group of a network, whose members rules of its peers may name.
func (p *Plane) lose(vni ec2.VNI, generation uint64) {
	for _, v := range p.withPeers(vni) {
		p.lost[v] = generation
	}
}
