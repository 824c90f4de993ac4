package vswitch

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
)

// A VNI names the address space of a network (RFC 7348 §5).
type VNI uint32

// A Snapshot is everything the pipeline decides by, at one generation. It is immutable, and so is
// all that it shares with the next one; any goroutine may read it.
type Snapshot struct {
	Generation uint64

	networks    map[VNI]*Network
	public      *bart.Table[*Endpoint] // by public address
	publicPools []netip.Prefix
	attached    []*Attachment // by port index
	uplink      *Uplink
	tunnel      *Tunnel
	lists       *firewall.Lists
}

// A Network is one address space. With a Gateway it is flat, a single link; without, it is divided
// into Subnets.
type Network struct {
	VNI     VNI
	Prefix  netip.Prefix   // private addresses of the network
	Blocks  []netip.Prefix // further private addresses of it
	Gateway netip.Addr     // zero: each Subnet has its own
	Subnets []Subnet
	Peers   []PeerNetwork
	MTU     int  // of the devices of its interfaces, unless their Attachments say otherwise
	Strict  bool // revoked rules cut tracked connections too
	// Reset is the generation at which Strict last changed. Older connections are checked again:
	// their rules may have been revoked before the network became Strict, or may have been revoked
	// while it was and the connections sent nothing meanwhile.
	Reset uint64

	fdb       *bart.Table[*Endpoint]
	subnets   *bart.Table[*Subnet]
	unchecked map[ec2.MAC]*Endpoint // interfaces that forward for others; replaced, never changed
	peers     map[VNI]*PeerNetwork
	peersBy   *bart.Table[[]*PeerNetwork] // by their addresses
}

// An Attachment makes a port the port of one Endpoint of one Network, with the Endpoint's own
// connections and the rules of its groups. A new Attachment with the same Zone keeps the
// connections.
//
// The caller of Attach fills the exported fields, and changes none afterwards.
type Attachment struct {
	Endpoint *Endpoint
	Network  *Network
	Zone     *conntrack.Zone
	Rules    *firewall.Set
	// Lost is the generation at which an address last left a group of the network. Only a Strict
	// network uses it.
	Lost uint64
	// MTU is that of the port's device, in bytes of an IP packet. Default: the Network's MTU.
	MTU int

	subnet   *Subnet            // the Subnet of Endpoint.Address
	mtu      int                // MTU, or the Network's; bytes of the largest IP packet that leaves by the port
	revision conntrack.Revision // of the rules without the prefix lists that they name; see frame.revision
	listed   bool               // Rules name prefix lists
	// regrouped is the generation at which the interface got its current groups.
	regrouped uint64
}

func (s *Snapshot) attachment(p *Port) *Attachment {
	if p.index < len(s.attached) {
		return s.attached[p.index]
	}
	return nil
}

// Network returns the network with a VNI.
func (s *Snapshot) Network(v VNI) (*Network, bool) { n, ok := s.networks[v]; return n, ok }

// Attachment returns the attachment of a port, or nil.
func (s *Snapshot) Attachment(p *Port) *Attachment { return s.attachment(p) }

// Lists returns the prefix lists that rules name.
func (s *Snapshot) Lists() *firewall.Lists { return s.lists }

func (s *Snapshot) inPublicPool(a netip.Addr) bool {
	return slices.ContainsFunc(s.publicPools, func(p netip.Prefix) bool { return p.Contains(a) })
}

// An Edit builds the next Snapshot from the one in force. The two share all that the Edit does not
// change: a new address costs one path of a trie, not a copy of all addresses. Only the goroutine
// that called Switch.Edit uses it, until Publish.
type Edit struct {
	next Snapshot
	now  time.Duration
}

// Edit begins the Snapshot of a generation.
func (s *Switch) Edit(generation uint64) *Edit {
	current := s.snapshot.Load()
	e := &Edit{next: *current, now: monotonic()}
	e.next.Generation = generation
	e.next.networks = maps.Clone(current.networks)
	e.next.attached = slices.Clone(current.attached)
	if e.next.networks == nil {
		e.next.networks = map[VNI]*Network{}
	}
	if e.next.public == nil {
		e.next.public = newAddresses()
	}
	return e
}

// Network adds a network, or changes its settings and keeps its addresses.
func (e *Edit) Network(n Network) {
	if old, ok := e.next.networks[n.VNI]; ok {
		n.fdb, n.unchecked = old.fdb, old.unchecked
	} else {
		n.fdb = newAddresses()
	}
	n.setSubnets()
	n.setPeers()
	e.replace(&n)
	for _, a := range e.next.attached { // the method replace has copied the Attachments
		if a != nil && a.Network == &n {
			a.subnet = n.SubnetOf(a.Endpoint.Address)
			a.mtu = max(minMTU, cmp.Or(a.MTU, n.MTU))
			a.setRevision()
			a.Zone.SetOpen(openPorts(a.Rules, n.Strict, e.next.lists), e.now)
		}
	}
}

// RemoveNetwork removes a network that no port is attached to any more. Packets to its addresses
// are dropped.
func (e *Edit) RemoveNetwork(v VNI) { delete(e.next.networks, v) }

// replace puts a network in place of the one with the same VNI, also in the Attachments.
func (e *Edit) replace(n *Network) {
	e.next.networks[n.VNI] = n
	for i, a := range e.next.attached {
		if a != nil && a.Network.VNI == n.VNI {
			moved := *a
			moved.Network = n
			e.next.attached[i] = &moved
		}
	}
}

// Lists sets the prefix lists that rules name. Ports of strict networks must be attached again after a
// list has lost an entry.
func (e *Edit) Lists(lists *firewall.Lists) { e.next.lists = lists }

// PublicPools sets the ranges of the cluster's public addresses, leased or not.
func (e *Edit) PublicPools(pools []netip.Prefix) { e.next.publicPools = slices.Clone(pools) }

// Attach opens a port. It sets a.Network to the network v.
//
// An interface whose groups change keeps its connections. Tracked ones stay. Untracked ones that an
// earlier group admitted are checked against the new groups, whether or not rules have changed
// since (EC2 User Guide, "Security group connection tracking").
func (e *Edit) Attach(p *Port, v VNI, a Attachment) {
	for len(e.next.attached) <= p.index {
		e.next.attached = append(e.next.attached, nil)
	}
	a.Network = e.next.networks[v]
	a.subnet = a.Network.SubnetOf(a.Endpoint.Address)
	a.mtu = max(minMTU, cmp.Or(a.MTU, a.Network.MTU))
	a.regrouped = e.next.Generation // an earlier process may have stored connections at any generation
	if old := e.next.attached[p.index]; old != nil {
		if old.Rules.SameGroups(a.Rules) {
			a.regrouped = old.regrouped
		}
	}
	a.setRevision()
	e.next.attached[p.index] = &a
	a.Zone.SetOpen(openPorts(a.Rules, a.Network.Strict, e.next.lists), e.now)
}

// setRevision sets the revision of the Attachment's rules in its Network.
func (a *Attachment) setRevision() {
	a.listed = a.Rules.UsesLists()
	a.revision = conntrack.Revision{
		Generation: max(a.Rules.Ingress.Generation, a.Rules.Egress.Generation, a.regrouped, a.Network.Reset),
		Shrunk:     max(a.Rules.Ingress.Shrunk, a.Rules.Egress.Shrunk, a.regrouped),
		Reset:      a.Network.Reset,
		Strict:     a.Network.Strict,
	}
	if a.Network.Strict {
		a.revision.Shrunk = max(a.revision.Shrunk, a.Lost)
		a.revision.Generation = max(a.revision.Generation, a.Lost)
	}
}

// Detach closes a port, which then passes nothing.
func (e *Edit) Detach(p *Port) {
	if p.index < len(e.next.attached) {
		e.next.attached[p.index] = nil
	}
}

// Uplink sets the uplink; nil removes it.
func (e *Edit) Uplink(u *Uplink) { e.next.uplink = u }

// Tunnel sets the tunnel to the other nodes; nil removes it.
func (e *Edit) Tunnel(t *Tunnel) {
	if t != nil && t.MTU < minMTU {
		panic(fmt.Sprintf("a tunnel with an MTU of %d bytes carries no IPv4", t.MTU))
	}
	e.next.tunnel = t
}

// Publish puts the Edit's Snapshot in force. The Edit must not be used again.
func (s *Switch) Publish(e *Edit) { s.snapshot.Store(&e.next) }
