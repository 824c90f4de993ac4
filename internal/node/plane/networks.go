package plane

import (
	"maps"
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	vswitch "palisade/switch"
)

// setNetworks updates in the switch each network that has changed, or whose subnets, routes, targets of routes
// or peerings have changed. A network is that of EC2-Classic, without subnets, or of a VPC.
func (p *Plane) setNetworks(edit *vswitch.Edit, changes state.Changes) {
	changed := map[ec2.VNI]bool{}
	add := func(id ec2.VPCID) {
		if v, ok := p.view.VPC(id); ok {
			changed[v.VNI] = true
		}
	}
	for _, c := range changes.Networks {
		if c.After != nil {
			changed[c.After.VNI] = true
		}
	}
	for _, c := range changes.Subnets {
		add(row(c).VPC)
	}
	for _, c := range changes.ACLs {
		add(row(c).VPC)
	}
	for _, c := range changes.RouteTables {
		add(row(c).VPC)
	}
	for _, c := range changes.PrefixLists {
		for _, table := range p.view.RouteTablesWith(row(c).ID) {
			add(table.VPC)
		}
	}
	for _, c := range changes.Gateways {
		for _, g := range []*ec2.InternetGateway{c.Before, c.After} {
			if g != nil {
				add(g.VPC)
			}
		}
	}
	for _, c := range changes.Interfaces {
		if c.Before == nil || c.After == nil {
			if eni := row(c); p.targets[eni.VNI][eni.ID] {
				changed[eni.VNI] = true
			}
		}
	}
	for _, c := range changes.NATs {
		add(row(c).VPC)
	}
	for _, c := range changes.Peerings {
		add(row(c).Requester.VPC)
		add(row(c).Accepter.VPC)
	}
	for vni := range maps.Clone(changed) { // peers have its blocks
		for _, v := range p.withPeers(vni) {
			changed[v] = true
		}
	}
	for vni := range changed {
		if n, ok := p.view.Network(vni); ok {
			edit.Network(p.network(n))
		}
	}
}

// row returns the row after a change or, if the change removed it, the row before.
func row[T any](c state.Change[T]) *T {
	if c.After != nil {
		return c.After
	}
	return c.Before
}

// removeNetworks removes deleted networks from the switch. Apply calls it after the interfaces of
// these networks are removed.
func (p *Plane) removeNetworks(edit *vswitch.Edit, changes []state.Change[ec2.Network]) {
	for _, c := range changes {
		if c.After == nil {
			edit.RemoveNetwork(vswitch.VNI(c.Before.VNI))
			delete(p.lost, c.Before.VNI)
			delete(p.peers, c.Before.VNI)
			delete(p.targets, c.Before.VNI)
		}
	}
}

func (p *Plane) network(n *ec2.Network) vswitch.Network {
	network := vswitch.Network{
		VNI: vswitch.VNI(n.VNI), Prefix: n.Prefix, Blocks: n.Blocks, Gateway: n.Gateway, MTU: p.mtu, Strict: n.Mode == ec2.TrackStrict, Reset: n.ModeSet,
	}
	vpc, ok := p.view.VPC(n.VPC)
	if !ok {
		return network
	}
	acls := map[string]*firewall.ACL{}
	for s := range p.view.SubnetsIn(n.VPC) {
		row := p.view.NetworkACLOf(vpc, s)
		if acls[row.ID] == nil {
			acls[row.ID] = firewall.CompileACL(row)
		}
		subnet := vswitch.Subnet{Prefix: s.CIDR, Gateway: s.Gateway(), ACL: acls[row.ID]}
		if table := p.view.RouteTableOf(s); table != nil {
			subnet.Routes = p.routes(vpc, table)
		}
		network.Subnets = append(network.Subnets, subnet)
	}
	network.Peers = p.peersOf(vpc)
	p.meetPeers(n.VNI, network.Peers)
	return network
}

// routes returns the routes of a table of a VPC, in the order in which equal ones decide.
func (p *Plane) routes(vpc *ec2.VPC, table *ec2.RouteTable) (routes []vswitch.Route) {
	for _, r := range table.Routes {
		if r.PrefixList == "" {
			routes = append(routes, vswitch.Route{Prefix: r.Destination, Target: p.target(vpc, r)})
		}
	}
	return append(routes, p.listedRoutes(vpc, table)...)
}

// target returns where a route leads. A route that is a black hole drops packets.
func (p *Plane) target(vpc *ec2.VPC, r ec2.Route) vswitch.Target {
	via := r.Interface
	if g, ok := p.view.NATGateway(r.NAT); ok && r.NAT != "" {
		via = g.Interface
	}
	eni, up := p.view.Interface(via)
	if via != "" {
		if p.targets[vpc.VNI] == nil {
			p.targets[vpc.VNI] = map[ec2.InterfaceID]bool{}
		}
		p.targets[vpc.VNI][via] = true
	}
	switch {
	case r.Gateway != "" && p.view.Leads(vpc.ID, r):
		return vswitch.Target{Kind: vswitch.Internet}
	case r.Peering != "" && p.view.Leads(vpc.ID, r):
		c, _ := p.view.Peering(r.Peering)
		if _, other, ok := c.Side(vpc.ID); ok {
			return vswitch.Target{Kind: vswitch.Peer, Peer: vswitch.VNI(other.VNI)}
		}
	case via == "" || !up || eni.VNI != vpc.VNI:
	case r.NAT != "":
		return vswitch.Target{Kind: vswitch.NAT, Via: eni.Private}
	case r.Interface != "": // the switch knows whether the interface is up
		return vswitch.Target{Kind: vswitch.Interface, Via: eni.Private}
	}
	return vswitch.Target{}
}

// setUplink tells the switch the cluster's public addresses, and which ports are the uplink and the
// tunnel.
func (p *Plane) setUplink(edit *vswitch.Edit) {
	var pools []netip.Prefix
	for n := range p.view.Networks() {
		pools = append(pools, n.PublicPools...)
	}
	edit.PublicPools(pools)
	edit.Uplink(p.uplink)
	edit.Tunnel(p.tunnel)
}
