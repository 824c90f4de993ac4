package vswitch

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
)

// A VNI names an address space, as in RFC 7348 §5.
type VNI uint32

// A Snapshot is everything the pipeline goes by at one generation. It is immutable; what
// it shares with the next one is never written.
type Snapshot struct {
	Generation uint64

	networks    map[VNI]*Network
	public      *bart.Table[*Endpoint] // public address -> who has it
	publicPools []netip.Prefix
	attached    []*Attachment // by port index
	uplink      *Uplink
	tunnel      *Tunnel
}

// A Network is one address space. One with a Gateway is flat, a single link; one without
// is divided into Subnets.
type Network struct {
	VNI     VNI
	Prefix  netip.Prefix // what is local, and so on no uplink
	Gateway netip.Addr   // zero: each Subnet has its own
	Subnets []Subnet
	MTU     int // of an IP packet
	Strict  bool

	fdb       *bart.Table[*Endpoint]
	subnets   *bart.Table[*Subnet]
	unchecked map[ec2.MAC]*Endpoint // those that forward for others; replaced, never changed
}

// An Attachment is what a port of an instance may do: it is one Endpoint of one Network,
// with its own connections and the rules of its groups. Attached anew with the same
// Endpoint's Epoch it keeps its connections, whatever else has changed.
type Attachment struct {
	Endpoint *Endpoint
	Network  *Network
	Zone     *conntrack.Zone
	Rules    *firewall.Set
	// Lost is the generation at which an address last left a group of the network.
	// Only a strict network looks at it.
	Lost uint64

	subnet   *Subnet // of Endpoint.Address
	revision conntrack.Revision
	// regrouped is the generation at which the interface got the groups it has.
	regrouped uint64
	closed    []closing
}

// A closing is some UDP ports that were open to the whole world until a moment ago. An
// instance that still answers there is no originator: what it sends from them is let out
// and remembered as no connection, or the revoked side would be let in as its answer.
// What was known of it may be gone, or there never was an answer to know it by.
type closing struct {
	ports firewall.PortRange
	until time.Duration
}

const (
	closingTime = 180 * time.Second // as long as the longest UDP connection idles
	maxClosings = 64                // of a port; beyond, the newest is widened to hold the next
)

func (s *Snapshot) attachment(p *Port) *Attachment {
	if p.index < len(s.attached) {
		return s.attached[p.index]
	}
	return nil
}

// Network returns a network by its VNI.
func (s *Snapshot) Network(v VNI) (*Network, bool) { n, ok := s.networks[v]; return n, ok }

// Attachment returns what a port is attached as, or nil.
func (s *Snapshot) Attachment(p *Port) *Attachment { return s.attachment(p) }

func (s *Snapshot) inPublicPool(a netip.Addr) bool {
	return slices.ContainsFunc(s.publicPools, func(p netip.Prefix) bool { return p.Contains(a) })
}

// An Edit makes the next Snapshot of the current one. It shares all that it does not
// change: an address costs one path of a trie, never a copy of all of them.
type Edit struct {
	next Snapshot
	now  time.Duration
}

// Edit begins the Snapshot of generation.
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

// Network adds a network or changes its settings; its addresses stay.
func (e *Edit) Network(n Network) {
	if old, ok := e.next.networks[n.VNI]; ok {
		n.fdb, n.unchecked = old.fdb, old.unchecked
	} else {
		n.fdb = newAddresses()
	}
	n.setSubnets()
	e.replace(&n)
	for _, a := range e.next.attached { // copied by replace
		if a != nil && a.Network == &n {
			a.subnet = n.SubnetOf(a.Endpoint.Address)
		}
	}
}

// RemoveNetwork forgets a network that no port is attached to any more. What is addressed
// to it from elsewhere goes nowhere.
func (e *Edit) RemoveNetwork(v VNI) { delete(e.next.networks, v) }

// replace puts a network in, under the attachments as well.
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

// PublicPools says which addresses are the cluster's own, leased or not.
func (e *Edit) PublicPools(pools []netip.Prefix) { e.next.publicPools = slices.Clone(pools) }

// Attach opens a port. The attachment's Network is filled in from its VNI.
//
// An interface that changes its groups keeps its connections: those that are tracked live
// on, and those that a group it left admitted without tracking are judged again, whatever
// the tables of its groups have been through since (EC2 User Guide, "Security group
// connection tracking").
func (e *Edit) Attach(p *Port, v VNI, a Attachment) {
	for len(e.next.attached) <= p.index {
		e.next.attached = append(e.next.attached, nil)
	}
	a.Network = e.next.networks[v]
	a.subnet = a.Network.SubnetOf(a.Endpoint.Address)
	a.regrouped = e.next.Generation // connections of an earlier process may be as old as they like
	if old := e.next.attached[p.index]; old != nil {
		if old.Rules.SameGroups(a.Rules) {
			a.regrouped = old.regrouped
		}
		a.closed = e.closed(old, a.Rules)
	}
	a.revision = conntrack.Revision{
		Generation: max(a.Rules.Ingress.Generation, a.Rules.Egress.Generation, a.regrouped),
		Shrunk:     max(a.Rules.Ingress.Shrunk, a.Rules.Egress.Shrunk, a.regrouped),
		Strict:     a.Network.Strict,
	}
	if a.Network.Strict {
		a.revision.Shrunk = max(a.revision.Shrunk, a.Lost)
		a.revision.Generation = max(a.revision.Generation, a.Lost)
	}
	e.next.attached[p.index] = &a
}

// closed are the closings of a port that was attached as old and now goes by rules.
func (e *Edit) closed(old *Attachment, rules *firewall.Set) []closing {
	if len(old.closed) == 0 && old.Rules.Ingress == rules.Ingress {
		return nil
	}
	var all []closing
	for _, c := range old.closed {
		if e.now < c.until {
			all = append(all, c)
		}
	}
	for _, ports := range old.Rules.Ingress.Closed(rules.Ingress, packet.ProtocolUDP) {
		all = append(all, closing{ports, e.now + closingTime})
		if n := len(all); n > maxClosings {
			last, next := all[n-2].ports, all[n-1].ports
			all[n-2] = closing{firewall.PortRange{From: min(last.From, next.From), To: max(last.To, next.To)}, e.now + closingTime}
			all = all[:n-1]
		}
	}
	return all
}

// justClosed reports whether a UDP port was open to the world a moment ago.
func (a *Attachment) justClosed(port uint16, now time.Duration) bool {
	for i := range a.closed {
		if c := &a.closed[i]; c.ports.From <= port && port <= c.ports.To && now < c.until {
			return true
		}
	}
	return false
}

// Detach closes a port: it passes nothing any more.
func (e *Edit) Detach(p *Port) {
	if p.index < len(e.next.attached) {
		e.next.attached[p.index] = nil
	}
}

// Uplink says which port leads outside; nil is none.
func (e *Edit) Uplink(u *Uplink) { e.next.uplink = u }

// Tunnel says which port leads to the other nodes; nil is none.
func (e *Edit) Tunnel(t *Tunnel) {
	if t != nil && t.MTU < minMTU {
		panic(fmt.Sprintf("a tunnel of %d bytes carries no IPv4", t.MTU))
	}
	e.next.tunnel = t
}

// Publish puts the Edit in force. The Edit is used up.
func (s *Switch) Publish(e *Edit) { s.snapshot.Store(&e.next) }
