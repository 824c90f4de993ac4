package plane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"palisade/cluster/gossip"
	"palisade/ec2"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// This file is what the plane knows of other nodes: the tunnels to them, and which of their
// addresses they say are down.

// OpenTunnel makes the overlay a port of the switch.
func (p *Plane) OpenTunnel() error {
	if p.overlay == nil {
		return nil
	}
	port, err := p.sw.AddTunnel("tunnel", p.overlay.Device())
	if err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnel = &vswitch.Tunnel{Port: port, MTU: p.mtu}
	return nil
}

// TunnelAddress is where a node has its tunnels: beside its address for calls between nodes, or at
// the port of VXLAN.
func TunnelAddress(peer netip.AddrPort, form overlay.Form) netip.AddrPort {
	if form == overlay.VXLAN {
		return netip.AddrPortFrom(peer.Addr(), overlay.VXLANPort)
	}
	return netip.AddrPortFrom(peer.Addr(), peer.Port()+2)
}

// setPeers tells the overlay which nodes there are. One that was fenced or removed has no
// keys from then on.
func (p *Plane) setPeers() {
	if p.overlay == nil {
		return
	}
	var remotes []overlay.Remote
	for n := range p.view.Nodes() {
		address, err := netip.ParseAddrPort(n.Address)
		if n.ID == p.node || !n.Member() || err != nil {
			continue
		}
		tunnel := TunnelAddress(address, p.overlay.Form())
		remotes = append(remotes, overlay.Remote{Number: n.Number, Node: string(n.ID), Address: tunnel, PublicKey: n.PublicKey})
	}
	p.overlay.SetPeers(remotes)
}

// SetDown takes the addresses out whose own node says that they are down, and puts back
// those that it no longer says it of. It never puts one in that is not leased.
func (p *Plane) SetDown(epochs map[uint64]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view == nil {
		p.down = epochs
		return
	}
	generation := p.sw.Snapshot().Generation
	edit := p.sw.Edit(generation)
	changed := false
	for _, ep := range p.endpoints {
		was, is := p.down[ep.lease.Epoch], epochs[ep.lease.Epoch]
		if ep.ended || was == is || ep.lease.Node == p.node {
			continue
		}
		changed = true
		if is {
			edit.RemoveEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
			p.lost[ep.lease.VNI] = generation
		} else {
			edit.AddEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
		}
	}
	p.down = epochs
	if changed {
		p.publish(edit)
	}
}

// Fail says that a lease of this node has nothing behind it any more, before the state
// can say so.
func (p *Plane) Fail(lease *ec2.Interface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep := p.endpoints[lease.Epoch]; ep != nil && !ep.ended {
		p.failed[lease.Epoch] = true
	}
}

// Presence is what this node tells the others about its leases.
func (p *Plane) Presence() []gossip.Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []gossip.Presence{}
	for _, ep := range p.endpoints {
		if ep.lease.Node != p.node || ep.ended {
			continue
		}
		all = append(all, gossip.Presence{
			Interface: ep.lease.ID, Epoch: ep.lease.Epoch, Private: ep.lease.Private, MAC: ep.lease.MAC,
			Up: !p.failed[ep.lease.Epoch],
		})
	}
	slices.SortFunc(all, func(a, b gossip.Presence) int { return strings.Compare(string(a.Interface), string(b.Interface)) })
	return all
}
