package plane

import (
	"net/netip"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/nat"
	vswitch "palisade/switch"
)

// openGateway makes the NAT gateway of a lease at this node, and announces its public address. It returns nil for
// any other lease.
func (p *Plane) openGateway(eni *ec2.Interface) *vswitch.NATGateway {
	if eni.NATGateway == "" || eni.Node != p.node {
		return nil
	}
	if eni.Public.IsValid() {
		p.announce = append(p.announce, eni.Public)
	}
	return &vswitch.NATGateway{Gateway: p.nat.Gateway(eni.Epoch), Zone: p.tracker.AddZone(eni.Epoch, conntrack.Timeouts{})}
}

// closeGateway removes a gateway with its translations at once. Its zone is removed once no poller uses a Snapshot
// that has the gateway.
func (p *Plane) closeGateway(g *vswitch.NATGateway) {
	p.nat.Remove(g.Gateway)
	p.closed = append(p.closed, g.Zone)
}

// removeClosed removes the zones of closed gateways. No poller uses a Snapshot that has them any more.
func (p *Plane) removeClosed() {
	for _, z := range p.closed {
		p.tracker.RemoveZone(z)
	}
	p.closed = nil
}

// forgetTranslations drops the translations of released addresses: of private ones behind a gateway of their
// network, and to public ones.
func (p *Plane) forgetTranslations(private map[ec2.VNI]map[netip.Addr]bool, public map[netip.Addr]bool) {
	if len(private)+len(public) == 0 {
		return
	}
	networks := p.gatewayNetworks()
	p.nat.Forget(func(epoch uint64, end netip.Addr) bool { return public[end] || private[networks[epoch]][end] })
}

// gatewayNetworks returns the networks of the gateways at this node, by epoch.
func (p *Plane) gatewayNetworks() map[uint64]ec2.VNI {
	networks := make(map[uint64]ec2.VNI)
	for epoch, l := range p.leases {
		if l.gateway != nil {
			networks[epoch] = l.eni.VNI
		}
	}
	return networks
}

// Gateways returns how much of its bounds each NAT gateway at this node uses.
func (p *Plane) Gateways() map[ec2.NATGatewayID]nat.Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[ec2.NATGatewayID]nat.Usage)
	for _, l := range p.leases {
		if l.gateway != nil && !l.ended {
			all[l.eni.NATGateway] = l.gateway.Gateway.Usage()
		}
	}
	return all
}
