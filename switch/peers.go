package vswitch

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// A PeerNetwork is another network whose interfaces exchange packets with those of a Network, where the routes of
// the sender's subnet lead there.
type PeerNetwork struct {
	VNI VNI
	// Blocks are the private addresses of that network. Two peers of a Network may have the same.
	Blocks []netip.Prefix
	// Groups: rules for groups of one network admit interfaces of the other, because both are in one region.
	Groups bool
}

// setPeers compiles the peers of a network.
func (n *Network) setPeers() {
	n.peers, n.peersBy = nil, nil
	if len(n.Peers) == 0 {
		return
	}
	n.peers, n.peersBy = make(map[VNI]*PeerNetwork, len(n.Peers)), new(bart.Table[[]*PeerNetwork])
	for i := range n.Peers {
		n.peers[n.Peers[i].VNI] = &n.Peers[i]
	}
	for _, p := range n.Peers {
		for _, block := range p.Blocks {
			if _, ok := n.peersBy.Get(block); !ok {
				n.peersBy.Insert(block, n.peersWith(block))
			}
		}
	}
}

// peersWith returns the peers that have all addresses of a block.
func (n *Network) peersWith(block netip.Prefix) (all []*PeerNetwork) {
	for i := range n.Peers {
		if slices.ContainsFunc(n.Peers[i].Blocks, func(p netip.Prefix) bool { return p.Bits() <= block.Bits() && p.Contains(block.Addr()) }) {
			all = append(all, &n.Peers[i])
		}
	}
	return all
}

// isFromPeer reports whether an interface of a peer of n, the receiver's network, sent a frame that came by the
// tunnel, from an address of the peer. If so it sets f.sender, and the groups of f.from. Several peers may have
// the address; which of them it is, the sender's lease says.
func (f *frame) isFromPeer(n *Network, address netip.Addr) bool {
	failpoint.Reach()
	if n.peersBy == nil || f.pkt.EtherType == packet.EtherTypeARP {
		return false
	}
	peers, _ := n.peersBy.Lookup(address)
	for _, p := range peers {
		sender := f.snapshot.networks[p.VNI]
		if sender == nil {
			continue
		}
		if e := sender.Find(address); f.isOrigin(e) {
			f.sender = e
			if p.Groups {
				f.from.Groups = e.Groups
			}
			return true
		}
		if e := sender.unchecked[f.pkt.SrcMAC]; f.isOrigin(e) {
			f.sender = e
			return true
		}
	}
	return false
}

// isInternal reports whether the packet was sent by an interface of network n.
func (f *frame) isInternal(n *Network) bool { return f.sender != nil && f.sender.network == n.VNI }
