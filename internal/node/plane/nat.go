package plane

import (
	"net/netip"
	"slices"
	"strings"

	"palisade/conntrack"
	"palisade/ec2"
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

// GatewayUsage is how much of its bounds a NAT gateway at this node uses.
type GatewayUsage struct {
	NAT          ec2.NATGatewayID `json:"nat_gateway"`
	Translations int              `json:"translations"`
	Exhausted    uint64           `json:"error_port_allocation"` // packets that got no port
}

// Gateways returns the usage of each NAT gateway at this node, sorted by id.
func (p *Plane) Gateways() (all []GatewayUsage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.leases {
		if l.gateway != nil && !l.ended {
			u := l.gateway.Gateway.Usage()
			all = append(all, GatewayUsage{l.eni.NATGateway, u.Translations, u.Exhausted})
		}
	}
	slices.SortFunc(all, func(a, b GatewayUsage) int { return strings.Compare(string(a.NAT), string(b.NAT)) })
	return all
}
