package vswitch

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"palisade/firewall"
)

// A Subnet is a range of a Network with its own gateway and routes. Hosts of one Subnet reach each
// other directly or through the gateway, hosts of other Subnets only through the gateway. The
// Subnets of a Network do not overlap.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	// Routes lead to addresses outside of the Network. The longest prefix decides, and among equal
	// ones the first. Each block of the Network has a route to Local, the last among equals; so a
	// Route for a block, or for a part of one, leads away what is sent to other Subnets. A packet
	// without a route is dropped.
	Routes []Route
	// ACL judges the packets that enter the Subnet and that leave it, not those within it. Nil admits
	// all, as in EC2-Classic, which has no ACLs.
	ACL *firewall.ACL

	routes *bart.Table[Target]
	inside bool // a Route leads away what is sent to addresses of the Network
}

// A Route leads packets for a range of addresses to a Target.
type Route struct {
	Prefix netip.Prefix
	Target Target
}

// A Target is where a route leads to.
type Target struct {
	Kind Kind
	Peer VNI        // the network of a Peer
	Via  netip.Addr // the private address, in the network, of an Interface or NAT gateway
}

// A Kind is what a route leads to.
type Kind uint8

const (
	Nowhere   Kind = iota // a black hole, such as a route to a gateway that is not attached
	Internet              // the uplink, and the public addresses of other instances
	Local                 // the interfaces of the network itself
	Peer                  // the interfaces of another network, as long as the two are peers
	Interface             // an interface of the network, which forwards for others
	NAT                   // a NAT gateway of the network
)

// flat returns the only Subnet of a network that has a gateway itself, as EC2-Classic has. All its
// hosts are on one link, and it has a default route.
func flat(n *Network) Subnet {
	return Subnet{Prefix: n.Prefix, Gateway: n.Gateway, Routes: []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), Target{Kind: Internet}}}}
}

// setSubnets compiles the routes of a network.
func (n *Network) setSubnets() {
	all := n.Subnets
	if n.Gateway.IsValid() {
		all = []Subnet{flat(n)}
	}
	n.subnets = new(bart.Table[*Subnet])
	for _, s := range all {
		s.setRoutes(n)
		n.subnets.Insert(s.Prefix, &s)
	}
}

// setRoutes compiles the routes of a Subnet of n. The last route inserted for a prefix remains.
func (s *Subnet) setRoutes(n *Network) {
	s.routes = new(bart.Table[Target])
	for _, block := range append([]netip.Prefix{n.Prefix}, n.Blocks...) {
		s.routes.Insert(block, Target{Kind: Local})
	}
	for _, r := range slices.Backward(s.Routes) {
		s.routes.Insert(r.Prefix, r.Target)
		s.inside = s.inside || n.routesInside(r.Prefix)
	}
}

// routesInside reports whether a range of addresses is a block of the network, or within one.
func (n *Network) routesInside(p netip.Prefix) bool {
	within := func(block netip.Prefix) bool { return block.Bits() <= p.Bits() && block.Contains(p.Addr()) }
	return within(n.Prefix) || slices.ContainsFunc(n.Blocks, within)
}

// Contains reports whether an address is a private one of the network, leased or not.
func (n *Network) Contains(a netip.Addr) bool {
	return n.Prefix.Contains(a) || len(n.Blocks) > 0 && n.inBlock(a)
}

func (n *Network) inBlock(a netip.Addr) bool {
	for _, p := range n.Blocks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// SubnetOf returns the Subnet that an address is in. For an address in none, which no interface
// leases, it returns an empty Subnet without routes.
func (n *Network) SubnetOf(a netip.Addr) *Subnet {
	if n.subnets != nil {
		if s, ok := n.subnets.Lookup(a); ok {
			return s
		}
	}
	return noSubnet
}

var noSubnet = &Subnet{routes: new(bart.Table[Target])}

// contains reports whether an address is in the Subnet.
func (s *Subnet) contains(a netip.Addr) bool { return s.Prefix.Contains(a) }

// TargetOf returns where packets to an address outside of the Subnet go.
func (s *Subnet) TargetOf(remote netip.Addr) Target {
	t, _ := s.routes.Lookup(remote)
	return t
}
