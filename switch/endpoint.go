package vswitch

import (
	"maps"
	"net/netip"

	"github.com/gaissmai/bart"

	"palisade/ec2"
	"palisade/firewall"
)

// An Endpoint is the forwarding entry of an interface: its addresses, and the port or node that has
// it. Once it was added to an Edit, nobody may change it.
type Endpoint struct {
	Epoch   uint64 // of the lease
	Address netip.Addr
	Public  netip.Addr // the public address of Address; zero if it has none
	Further []Pair     // the interface's other addresses, in the Subnet of Address
	MAC     ec2.MAC
	Groups  []firewall.GroupNumber
	Port    *Port // nil if the interface is not on this node
	// Node is the number of the other node that has the interface; 0 if this node or none has it.
	Node uint32
	// Unchecked: the interface forwards for others (EC2 User Guide, "Source/destination checking").
	// It may send from any address, and receives all packets that its neighbours address to its
	// MAC. A packet that it sends from an address of another interface matches no rule for a group.
	Unchecked bool
	// IsNAT: the interface is that of a NAT gateway. NAT is the gateway if this node has it.
	IsNAT bool
	NAT   *NATGateway

	network VNI // set by AddEndpoint
}

// A Pair is a private address and its public one, if it has one.
type Pair struct{ Private, Public netip.Addr }

// Owns reports whether a private address belongs to the Endpoint.
func (e *Endpoint) Owns(a netip.Addr) bool {
	if a == e.Address {
		return true
	}
	for i := range e.Further {
		if e.Further[i].Private == a {
			return true
		}
	}
	return false
}

// PublicOf returns the public address of a private one; zero if it has none, or is not the
// Endpoint's.
func (e *Endpoint) PublicOf(private netip.Addr) netip.Addr {
	if private == e.Address {
		return e.Public
	}
	for i := range e.Further {
		if e.Further[i].Private == private {
			return e.Further[i].Public
		}
	}
	return netip.Addr{}
}

// PrivateOf returns the private address of a public one of the Endpoint; zero if it is not the
// Endpoint's.
func (e *Endpoint) PrivateOf(public netip.Addr) netip.Addr {
	if public == e.Public {
		return e.Address
	}
	for i := range e.Further {
		if e.Further[i].Public == public {
			return e.Further[i].Private
		}
	}
	return netip.Addr{}
}

// pairs returns all addresses of the Endpoint, the primary one first.
func (e *Endpoint) pairs() []Pair {
	return append([]Pair{{e.Address, e.Public}}, e.Further...)
}

// Find returns the Endpoint that has an address of the network, or nil.
func (n *Network) Find(a netip.Addr) *Endpoint {
	if n.fdb == nil {
		return nil
	}
	e, _ := n.fdb.Lookup(a)
	return e
}

// Public returns the Endpoint that has a public address, or nil.
func (s *Snapshot) Public(a netip.Addr) *Endpoint {
	if s.public == nil {
		return nil
	}
	e, _ := s.public.Lookup(a)
	return e
}

// AddEndpoint adds the addresses of an interface to a network. To change an Endpoint, remove it and
// add a new one.
func (e *Edit) AddEndpoint(v VNI, ep *Endpoint) {
	n := *e.next.networks[v]
	if ep.network != v { // an Endpoint that is in force must not be written
		ep.network = v
	}
	for _, p := range ep.pairs() {
		n.fdb = n.fdb.InsertPersist(hostPrefix(p.Private), ep)
		if p.Public.IsValid() {
			e.next.public = e.next.public.InsertPersist(hostPrefix(p.Public), ep)
		}
	}
	if ep.Unchecked {
		n.setUnchecked(ep.MAC, ep)
	}
	e.replace(&n)
}

// RemoveEndpoint removes the addresses of an interface. An address stays if it was leased again, so
// that another Epoch has it.
func (e *Edit) RemoveEndpoint(v VNI, ep *Endpoint) {
	n := *e.next.networks[v]
	for _, p := range ep.pairs() {
		if now := n.Find(p.Private); now != nil && now.Epoch == ep.Epoch {
			n.fdb = n.fdb.DeletePersist(hostPrefix(p.Private))
		}
		if now := e.next.Public(p.Public); p.Public.IsValid() && now != nil && now.Epoch == ep.Epoch {
			e.next.public = e.next.public.DeletePersist(hostPrefix(p.Public))
		}
	}
	if now := n.unchecked[ep.MAC]; now != nil && now.Epoch == ep.Epoch {
		n.setUnchecked(ep.MAC, nil)
	}
	e.replace(&n)
}

// setUnchecked sets or removes the interface that forwards for others under a MAC address. It
// copies the map, which is small.
func (n *Network) setUnchecked(mac ec2.MAC, ep *Endpoint) {
	n.unchecked = maps.Clone(n.unchecked)
	if ep == nil {
		delete(n.unchecked, mac)
		return
	}
	if n.unchecked == nil {
		n.unchecked = map[ec2.MAC]*Endpoint{}
	}
	n.unchecked[mac] = ep
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func newAddresses() *bart.Table[*Endpoint] { return new(bart.Table[*Endpoint]) }
