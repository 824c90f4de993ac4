package plane_test

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

func (w *world) prefixList(blocks ...netip.Addr) *ec2.PrefixList {
	w.Helper()
	r := &state.CreatePrefixList{Account: planetest.Dev, Region: planetest.Region, Name: "clients", MaxEntries: 10}
	for _, a := range blocks {
		r.Entries = append(r.Entries, entryOf(a))
	}
	return w.Do(r).PrefixList
}

func entryOf(a netip.Addr) ec2.PrefixEntry { return ec2.PrefixEntry{CIDR: netip.PrefixFrom(a, 32)} }

// change adds and removes entries of a list.
func (w *world) change(id ec2.PrefixListID, added, removed []netip.Addr) {
	w.Helper()
	l, _ := w.View.PrefixList(id)
	r := &state.ModifyPrefixList{Account: planetest.Dev, Region: planetest.Region, List: id, CurrentVersion: &l.Version}
	for _, a := range added {
		r.Add = append(r.Add, entryOf(a))
	}
	for _, a := range removed {
		r.Remove = append(r.Remove, entryOf(a).CIDR)
	}
	w.Do(r)
}

func dnsFrom(l *ec2.PrefixList) state.RuleSpec {
	return state.RuleSpec{Protocol: ec2.UDP, From: 53, To: 53, PrefixList: l.ID}
}

// A changed entry is in force at once, and attaches no port again.
func TestChangedEntryOfAPrefixListIsInForce(t *testing.T) {
	w := newWorld(t)
	l := w.prefixList()
	none := w.Group("none")
	a, b := w.register("a", w.Public, none), w.register("b", w.Public, none)
	server := w.register("server", w.Public, w.Group("servers", dnsFrom(l)))
	port := w.network(w.VPC.VNI).Find(server.Private).Port
	attached := w.Switch.Snapshot().Attachment(port)
	for _, step := range []struct {
		added, removed []netip.Addr
		a, b           bool
	}{
		{nil, nil, false, false},
		{[]netip.Addr{a.Private}, nil, true, false},
		{[]netip.Addr{b.Private}, []netip.Addr{a.Private}, false, true},
		{nil, []netip.Addr{b.Private}, false, false},
	} {
		if len(step.added)+len(step.removed) > 0 {
			w.change(l.ID, step.added, step.removed)
		}
		for n, c := range map[*end]bool{a: step.a, b: step.b} {
			flow := udpFrom(uint16(w.View.Index()), n.Private, server.Private, 53) // a new flow each time
			if got := w.passes(n, flow, server.device); got != c {
				t.Errorf("after +%v -%v a packet from %s passes: %t, want %t", step.added, step.removed, n.Private, got, c)
			}
		}
	}
	if w.Switch.Snapshot().Attachment(port) != attached {
		t.Error("a changed entry attached the port again")
	}
}

// The connections that a list admits are tracked. They outlive a removed entry, except in a strict network.
func TestRemovedEntryJudgesConnectionsAsARevokedRule(t *testing.T) {
	for _, strict := range []bool{false, true} {
		w := newWorld(t)
		if strict {
			w.strict()
		}
		client := w.register("client", w.Public, w.Group("none"))
		other := w.register("other", w.Public, w.Group("others"))
		l := w.prefixList(client.Private, other.Private)
		server := w.register("server", w.Public, w.Group("servers", dnsFrom(l)))
		flow := udp(client.Private, server.Private, 53)
		for _, c := range []*end{client, other} {
			if !w.passes(c, udp(c.Private, server.Private, 53), server.device) {
				t.Fatal("an entry of the list is not admitted")
			}
		}
		w.change(l.ID, nil, []netip.Addr{client.Private})
		if got := w.passes(client, flow, server.device); got == strict {
			t.Errorf("strict network %t: a connection of a removed entry goes on: %t", strict, got)
		}
		if !w.passes(other, udp(other.Private, server.Private, 53), server.device) {
			t.Errorf("strict network %t: a connection of an entry that stays was cut", strict)
		}
		if w.passes(client, udpFrom(41000, client.Private, server.Private, 53), server.device) {
			t.Errorf("strict network %t: a new connection of a removed entry is admitted", strict)
		}
		answer := answerTo(flow)
		if got := w.passes(server, answer, client.device); got == strict {
			t.Errorf("strict network %t: an answer in a connection of a removed entry passes: %t", strict, got)
		}
		w.change(l.ID, []netip.Addr{client.Private}, nil)
		if !w.passes(client, flow, server.device) {
			t.Errorf("strict network %t: the connection is still cut after its entry is back", strict)
		}
	}
}

// An untracked connection whose rule for the whole world was revoked is cut, and an entry of a list that
// admits it lets it go on.
func TestAddedEntryAdmitsACutConnectionAgain(t *testing.T) {
	w := newWorld(t)
	client := w.register("client", w.Public, w.Group("none"))
	l := w.prefixList()
	group := w.Group("servers", dns(planetest.Everywhere), dnsFrom(l))
	server := w.register("server", w.Public, group)
	flow := udp(client.Private, server.Private, 53)
	if !w.passes(client, flow, server.device) || !w.passes(server, answerTo(flow), client.device) {
		t.Fatal("a rule for everybody does not admit a connection")
	}
	w.Do(&state.RevokeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: group}, Rules: []state.RuleSpec{dns(planetest.Everywhere)}})
	if w.passes(client, flow, server.device) {
		t.Error("an untracked connection was not cut with its rule")
	}
	w.change(l.ID, []netip.Addr{client.Private}, nil)
	if !w.passes(client, flow, server.device) {
		t.Error("an entry that admits the connection does not let it go on")
	}
}

// A list can be the destination of egress rules.
func TestEgressRuleWithAPrefixListNamesDestinations(t *testing.T) {
	w := newWorld(t)
	server := w.register("server", w.Public, w.Group("servers", dns(planetest.Everywhere)))
	clients := w.Group("clients")
	client := w.register("client", w.Public, clients)
	open := state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}
	w.Do(&state.RevokeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: clients}, Direction: ec2.Egress, Rules: []state.RuleSpec{open}})
	l := w.prefixList()
	w.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: clients}, Direction: ec2.Egress, Rules: []state.RuleSpec{dnsFrom(l)}})
	if w.passes(client, udp(client.Private, server.Private, 53), server.device) {
		t.Error("an empty list admits a destination")
	}
	w.change(l.ID, []netip.Addr{server.Private}, nil)
	if !w.passes(client, udp(client.Private, server.Private, 53), server.device) {
		t.Error("an entry of the list is no destination")
	}
}

// One View may delete a list, make another, and change the rules that name them.
func TestOneViewChangesListsAndTheirRules(t *testing.T) {
	w := newWorld(t)
	client := w.register("client", w.Public, w.Group("none"))
	l := w.prefixList(client.Private)
	group := w.Group("servers", dnsFrom(l))
	server := w.register("server", w.Public, group)
	sel := state.GroupSelector{ID: group}
	w.Decide(&state.RevokeRules{Account: planetest.Dev, Region: planetest.Region, Group: sel, Rules: []state.RuleSpec{dnsFrom(l)}})
	w.Decide(&state.DeletePrefixList{Account: planetest.Dev, Region: planetest.Region, List: l.ID})
	next := w.Decide(&state.CreatePrefixList{Account: planetest.Dev, Region: planetest.Region, Name: "next", MaxEntries: 2, Entries: []ec2.PrefixEntry{entryOf(server.Private)}}).PrefixList
	w.Decide(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: sel, Rules: []state.RuleSpec{dnsFrom(next)}})
	w.CatchUp()
	if w.passes(client, udp(client.Private, server.Private, 53), server.device) {
		t.Error("an entry of the deleted list is admitted by the rule of another list")
	}
	w.change(next.ID, []netip.Addr{client.Private}, nil)
	if !w.passes(client, udp(client.Private, server.Private, 53), server.device) {
		t.Error("an entry of the new list is not admitted")
	}
}

func answerTo(f packet.Flow) packet.Flow {
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	return f
}

func TestDeletedListIsForgotten(t *testing.T) {
	w := newWorld(t)
	client := w.register("client", w.Public, w.Group("none"))
	l := w.prefixList(client.Private)
	before := w.Switch.Snapshot().Lists()
	w.Do(&state.DeletePrefixList{Account: planetest.Dev, Region: planetest.Region, List: l.ID})
	if w.Switch.Snapshot().Lists() == before || w.Switch.Snapshot().Lists().Entries() != 0 {
		t.Error("the entries of a deleted list are kept")
	}
}

// The entries of a list are routes of the tables that have a route for it.
func TestEntriesOfAListAreRoutes(t *testing.T) {
	w := newWorld(t)
	table := w.View.RouteTableOf(w.Private)
	outside := netip.MustParseAddr("198.51.100.7")
	l := w.prefixList()
	gateway := w.View.RouteTableOf(w.Public).Routes[0].Gateway
	w.Do(&state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: table.ID, Gateway: gateway, PrefixList: l.ID})
	routed := func(a netip.Addr) bool {
		for _, s := range w.network(w.VPC.VNI).Subnets {
			if s.Prefix == w.Private.CIDR {
				return slices.ContainsFunc(s.Routes, func(r vswitch.Route) bool { return r.Prefix.Contains(a) && r.Target.Kind == vswitch.Internet })
			}
		}
		return false
	}
	if routed(outside) {
		t.Error("an empty list routes an address")
	}
	inside := w.Public.CIDR.Addr()
	w.change(l.ID, []netip.Addr{outside, inside}, nil)
	if !routed(outside) || routed(inside) {
		t.Errorf("an added entry is routed: %t, one within the VPC: %t; want only the first", routed(outside), routed(inside))
	}
	w.change(l.ID, nil, []netip.Addr{outside})
	if routed(outside) {
		t.Error("a removed entry is still routed")
	}
}
