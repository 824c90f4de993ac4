package plane

import (
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
	vswitch "palisade/switch"
)

// This file carries networks into the switch: EC2-Classic's flat one, and those of VPCs with
// their subnets and routes.

// setNetworks puts in force every network of which anything has changed.
func (p *Plane) setNetworks(edit *vswitch.Edit, changes state.Changes) {
	changed := map[ec2.VNI]bool{}
	vpc := func(id ec2.VPCID) {
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
		vpc(either(c).VPC)
	}
	for _, c := range changes.RouteTables {
		vpc(either(c).VPC)
	}
	for _, c := range changes.Gateways {
		for _, g := range []*ec2.InternetGateway{c.Before, c.After} {
			if g != nil {
				vpc(g.VPC)
			}
		}
	}
	for vni := range changed {
		if n, ok := p.view.Network(vni); ok {
			edit.Network(p.network(n))
		}
	}
}

// either is a row that is or was.
func either[T any](c state.Change[T]) *T {
	if c.After != nil {
		return c.After
	}
	return c.Before
}

// removeNetworks forgets networks whose interfaces are gone by now.
func (p *Plane) removeNetworks(edit *vswitch.Edit, changes []state.Change[ec2.Network]) {
	for _, c := range changes {
		if c.After == nil {
			edit.RemoveNetwork(vswitch.VNI(c.Before.VNI))
			delete(p.lost, c.Before.VNI)
		}
	}
}

func (p *Plane) network(n *ec2.Network) vswitch.Network {
	network := vswitch.Network{
		VNI: vswitch.VNI(n.VNI), Prefix: n.Prefix, Gateway: n.Gateway, MTU: p.mtu, Strict: n.Mode == ec2.TrackStrict,
	}
	if n.VPC == "" {
		return network
	}
	for s := range p.view.SubnetsIn(n.VPC) {
		subnet := vswitch.Subnet{Prefix: s.CIDR, Gateway: s.Gateway()}
		if table := p.view.RouteTableOf(s); table != nil {
			for _, r := range table.Routes {
				subnet.Routes = append(subnet.Routes, vswitch.Route{Prefix: r.Destination, Target: p.target(n.VPC, r)})
			}
		}
		network.Subnets = append(network.Subnets, subnet)
	}
	return network
}

// target is where a route leads. One to a gateway that is not attached to the VPC, or is
// no more, is a black hole.
func (p *Plane) target(vpc ec2.VPCID, r ec2.Route) vswitch.Target {
	if g, ok := p.view.InternetGateway(r.Gateway); ok && g.VPC == vpc {
		return vswitch.Internet
	}
	return vswitch.Nowhere
}

// setOutside says which addresses are the cluster's own, and which ports lead to other nodes
// and to the rest.
func (p *Plane) setOutside(edit *vswitch.Edit) {
	var pools []netip.Prefix
	for n := range p.view.Networks() {
		pools = append(pools, n.PublicPools...)
	}
	edit.PublicPools(pools)
	edit.Uplink(p.uplink)
	edit.Tunnel(p.tunnel)
}
