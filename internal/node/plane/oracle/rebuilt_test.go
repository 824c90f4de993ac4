package oracle

import (
	"net/netip"
	"reflect"
	"slices"

	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// compareRebuilt checks that the tables of a node, which its plane has changed step by step, are those of a
// node that is given the whole state at once.
func (w *world) compareRebuilt() {
	w.Helper()
	i := w.r.IntN(len(w.nodes))
	fresh := newNode(w.TB, nodeNames[i], w.nodes[i].wire.number)
	defer fresh.close(w)
	view := w.state.ViewSince(nil)
	check(w, fresh.plane.Apply(view))
	fresh.attach(w, view, nodeNames[i])
	is, want := w.nodes[i].sw.Snapshot(), fresh.sw.Snapshot()
	for n := range view.Networks() {
		a, _ := is.Network(vswitch.VNI(n.VNI))
		b, _ := want.Network(vswitch.VNI(n.VNI))
		if a, b := exported(*a), exported(*b); !reflect.DeepEqual(a, b) {
			w.Fatalf("at index %d the network %d is\n%+v\nbuilt from nothing it is\n%+v", view.Index(), n.VNI, a, b)
		}
	}
	for eni := range view.Interfaces() {
		w.compareEndpoints(eni, is, want)
	}
	sets := w.nodes[i].sets()
	for epoch, set := range fresh.sets() {
		w.compareSets(epoch, sets[epoch], set, is, want)
	}
}

// exported returns the fields of a Network that the plane fills.
func exported(n vswitch.Network) []any {
	var subnets []any
	for _, s := range n.Subnets {
		subnets = append(subnets, s.Prefix, s.Gateway, s.Routes, s.ACL)
	}
	return append(subnets, n.VNI, n.Prefix, n.Blocks, n.Gateway, n.MTU, n.Strict, n.Reset)
}

func (w *world) compareEndpoints(eni *ec2.Interface, is, want *vswitch.Snapshot) {
	w.Helper()
	for _, pair := range eni.Addresses() {
		for _, of := range [][2]*vswitch.Endpoint{
			{is.Owner(vswitch.VNI(eni.VNI), pair.Private), want.Owner(vswitch.VNI(eni.VNI), pair.Private)},
			{is.Public(pair.Public), want.Public(pair.Public)},
		} {
			a, b := of[0], of[1]
			switch {
			case a == nil && b == nil:
			case a == nil || b == nil || a.Epoch != b.Epoch || a.Address != b.Address || a.Public != b.Public || !reflect.DeepEqual(a.Further, b.Further),
				a.MAC != b.MAC || a.Node != b.Node || a.Unchecked != b.Unchecked || len(a.Groups) != len(b.Groups) || (a.Port == nil) != (b.Port == nil):
				w.Fatalf("at index %d the endpoint of %s is\n%+v\nbuilt from nothing it is\n%+v", w.view.Index(), eni.ID, a, b)
			}
		}
	}
}

// sets returns the rules of each port, by epoch.
func (n *node) sets() map[uint64]*firewall.Set {
	all := map[uint64]*firewall.Set{}
	for _, p := range n.sw.Ports() {
		if a := n.sw.Snapshot().Attachment(p); a != nil {
			all[a.Endpoint.Epoch] = a.Rules
		}
	}
	return all
}

// compareSets checks that two sets of compiled rules hold the same rules, and decide the same about random
// packets.
func (w *world) compareSets(epoch uint64, a, b *firewall.Set, is, want *vswitch.Snapshot) {
	w.Helper()
	if a == nil {
		w.Fatalf("at index %d the port with epoch %d has no rules", w.view.Index(), epoch)
	}
	for _, t := range [][2]*firewall.Table{{a.Ingress, b.Ingress}, {a.Egress, b.Egress}} {
		if is, want := serials(t[0]), serials(t[1]); !reflect.DeepEqual(is, want) {
			w.Fatalf("at index %d the rules at epoch %d are %v, built from nothing they are %v", w.view.Index(), epoch, is, want)
		}
		for range 10 {
			peer, protocol, key := pick(w, w.interfaces()...), pick(w, uint8(packet.ProtocolTCP), packet.ProtocolUDP, packet.ProtocolICMP), pick(w, uint16(22), 53, 80, 1000, 8<<8)
			from, from2 := firewall.Source{Addr: w.addressIn(w.block()), Lists: is.Lists()}, firewall.Source{Lists: want.Lists()}
			if w.r.IntN(2) == 0 {
				from.Addr, from.Groups = peer.Private, is.Owner(vswitch.VNI(peer.VNI), peer.Private).Groups
				from2.Groups = want.Owner(vswitch.VNI(peer.VNI), peer.Private).Groups
			}
			from2.Addr = from.Addr
			x, y := t[0].Match(protocol, key, from), t[1].Match(protocol, key, from2)
			if x.Rule != y.Rule && namesList(t[0], x.Rule) && namesList(t[1], y.Rule) {
				x.Rule = y.Rule // two lists have the same block, and either is a reason
			}
			if x != y {
				w.Fatalf("at index %d the rules at epoch %d say of a packet from %s, protocol %d, key %d: %v; built from nothing they say: %v",
					w.view.Index(), epoch, from.Addr, protocol, key, x, y)
			}
		}
	}
}

// namesList reports whether a rule of a table names a prefix list.
func namesList(t *firewall.Table, serial uint64) bool {
	return slices.ContainsFunc(t.Rules(), func(r firewall.Ref) bool { return r.Rule.Serial == serial && r.Rule.Source.IsPrefixList() })
}

func serials(t *firewall.Table) (all []uint64) {
	for _, r := range t.Rules() {
		all = append(all, r.Rule.Serial)
	}
	return all
}

// addressIn returns a random address of a block.
func (w *world) addressIn(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		if w.r.IntN(2) == 0 {
			a[bit/8] |= 1 << (7 - bit%8)
		}
	}
	return netip.AddrFrom4(a)
}
