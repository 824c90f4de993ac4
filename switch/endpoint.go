package vswitch

import (
	"maps"
	"net/netip"

	"github.com/gaissmai/bart"

	"palisade/ec2"
	"palisade/firewall"
)

// An Endpoint is an interface, at whatever node, and its addresses.
type Endpoint struct {
	Epoch   uint64 // of the lease
	Address netip.Addr
	Public  netip.Addr // of Address; zero: none
	Further []Pair     // besides Address, in the same Subnet
	MAC     ec2.MAC
	Groups  []firewall.GroupNumber
	Port    *Port // nil where it is not on this node
	// Node is the number of the other node that has it; 0 where it is on this one or
	// on none.
	Node uint32
	// Unchecked: it forwards for others (EC2 User Guide, "Source/destination checking"):
	// it sends in any name, and gets what its neighbours address to its MAC, whoever
	// the packet is for. In another's name it is a member of no group.
	Unchecked bool

	network VNI // set by AddEndpoint
}

// A Pair is a private address and the public one that goes with it, if any.
type Pair struct{ Private, Public netip.Addr }

// Owns reports whether a private address is the Endpoint's.
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

// PublicOf is the public address of a private one; zero if it has none, or is not the
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

// PrivateOf is the private address behind a public one of the Endpoint's.
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

// pairs are all its addresses, the primary one first.
func (e *Endpoint) pairs() []Pair {
	return append([]Pair{{e.Address, e.Public}}, e.Further...)
}

// Find returns the owner of an address of the network, or nil.
func (n *Network) Find(a netip.Addr) *Endpoint {
	if n.fdb == nil {
		return nil
	}
	e, _ := n.fdb.Lookup(a)
	return e
}

// Public returns the owner of a public address, or nil.
func (s *Snapshot) Public(a netip.Addr) *Endpoint {
	if s.public == nil {
		return nil
	}
	e, _ := s.public.Lookup(a)
	return e
}

// AddEndpoint gives the addresses of an interface their owner. An Endpoint belongs to one
// network, and once it is added it is only read: for a change, remove it and add another.
func (e *Edit) AddEndpoint(v VNI, ep *Endpoint) {
	n := *e.next.networks[v]
	if ep.network != v { // one that is in force already is only read
		ep.network = v
	}
	for _, p := range ep.pairs() {
		n.fdb = n.fdb.InsertPersist(host(p.Private), ep)
		if p.Public.IsValid() {
			e.next.public = e.next.public.InsertPersist(host(p.Public), ep)
		}
	}
	if ep.Unchecked {
		n.setUnchecked(ep.MAC, ep)
	}
	e.replace(&n)
}

// RemoveEndpoint takes the addresses of an interface away, as far as the lease of epoch
// still has them.
func (e *Edit) RemoveEndpoint(v VNI, ep *Endpoint) {
	n := *e.next.networks[v]
	for _, p := range ep.pairs() {
		if now := n.Find(p.Private); now != nil && now.Epoch == ep.Epoch {
			n.fdb = n.fdb.DeletePersist(host(p.Private))
		}
		if now := e.next.Public(p.Public); p.Public.IsValid() && now != nil && now.Epoch == ep.Epoch {
			e.next.public = e.next.public.DeletePersist(host(p.Public))
		}
	}
	if now := n.unchecked[ep.MAC]; now != nil && now.Epoch == ep.Epoch {
		n.setUnchecked(ep.MAC, nil)
	}
	e.replace(&n)
}

// setUnchecked changes who forwards under a MAC. There are few, so all are copied.
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

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func newAddresses() *bart.Table[*Endpoint] { return new(bart.Table[*Endpoint]) }
