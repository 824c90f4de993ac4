package vswitch

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Subnet is a range of a Network with a gateway and routes of its own. Inside a Subnet
// frames go from neighbour to neighbour or by the gateway; between Subnets by the gateway
// alone. Subnets of one Network do not overlap.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	// Routes say where what is not of the Network's Prefix goes; the longest prefix
	// decides. What none of them covers goes nowhere.
	Routes []Route

	routes *bart.Table[Target]
}

// A Route leads to a Target.
type Route struct {
	Prefix netip.Prefix
	Target Target
}

// A Target is where a route leads.
type Target uint8

const (
	Nowhere  Target = iota // a black hole, as the route to a gateway that is not attached
	Internet               // the uplink, and the public addresses of others
)

// flat is the one Subnet of a network that has a gateway of its own, as EC2-Classic has:
// all of it is on one link, and every way out is open.
func flat(n *Network) Subnet {
	return Subnet{Prefix: n.Prefix, Gateway: n.Gateway, Routes: []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), Internet}}}
}

// setSubnets compiles the routes of a network.
func (n *Network) setSubnets() {
	all := n.Subnets
	if n.Gateway.IsValid() {
		all = []Subnet{flat(n)}
	}
	n.subnets = new(bart.Table[*Subnet])
	for _, s := range all {
		s.routes = new(bart.Table[Target])
		for _, r := range s.Routes {
			s.routes.Insert(r.Prefix, r.Target)
		}
		n.subnets.Insert(s.Prefix, &s)
	}
}

// SubnetOf returns the Subnet that an address is in. An address in none, which nothing
// leases, is in an empty one that leads nowhere.
func (n *Network) SubnetOf(a netip.Addr) *Subnet {
	if n.subnets != nil {
		if s, ok := n.subnets.Lookup(a); ok {
			return s
		}
	}
	return noSubnet
}

var noSubnet = &Subnet{routes: new(bart.Table[Target])}

// contains reports whether an address is on the link of the Subnet.
func (s *Subnet) contains(a netip.Addr) bool { return s.Prefix.Contains(a) }

// Leads says where packets to a far address go.
func (s *Subnet) Leads(far netip.Addr) Target {
	t, _ := s.routes.Lookup(far)
	return t
}
