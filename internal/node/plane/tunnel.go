package plane

import (
	"fmt"
	"net/netip"

	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// OpenTunnel makes the overlay's device the tunnel port. In a cluster of one it does nothing.
func (p *Plane) OpenTunnel() error {
	if p.overlay == nil {
		return nil
	}
	return p.AddTunnel(p.overlay.Device())
}

// AddTunnel makes an open device the tunnel port.
func (p *Plane) AddTunnel(d vswitch.TunnelDevice) error {
	port, err := p.sw.AddTunnel("tunnel", d)
	if err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnel = &vswitch.Tunnel{Port: port, MTU: p.mtu}
	return nil
}

// TunnelAddress returns the UDP address of a node's tunnels. peer is the node's address for
// calls between nodes; the tunnels use the port two above peer's, or VXLAN's own port.
func TunnelAddress(peer netip.AddrPort, form overlay.Form) netip.AddrPort {
	if form == overlay.VXLAN {
		return netip.AddrPortFrom(peer.Addr(), overlay.VXLANPort)
	}
	return netip.AddrPortFrom(peer.Addr(), peer.Port()+2)
}

// setPeers tells the overlay which nodes are members; it leaves out its own. It drops the keys of a node that
// was fenced or removed.
func (p *Plane) setPeers() {
	if p.overlay == nil {
		return
	}
	var remotes []overlay.Remote
	for n := range p.view.Nodes() {
		address, err := netip.ParseAddrPort(n.Address)
		if !n.Member() || err != nil {
			continue
		}
		tunnel := TunnelAddress(address, p.overlay.Form())
		remotes = append(remotes, overlay.Remote{Number: n.Number, Node: string(n.ID), Address: tunnel, PublicKey: n.PublicKey})
	}
	p.overlay.SetPeers(remotes)
}
