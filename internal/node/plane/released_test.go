package plane_test

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// The next interface with an address inherits no connection of the previous one, at either end.
func TestConnectionsOfAReleasedAddressAreDropped(t *testing.T) {
	w := newWorld(t)
	w.AddNode("node2")
	wide := w.Group("wide", dns(inside), dns(netip.MustParsePrefix("198.18.0.0/16")), dns(netip.MustParsePrefix(planetest.Laptop+"/32")))
	stays, server, other := w.register("stays", w.Public, wide), w.register("server", w.Public, wide), w.register("other", w.Private, wide)
	far := w.Register("node2", "vm0", w.Public, wide)
	more := w.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: server.ID, Count: 1}).Addresses[0]
	open := func() {
		t.Helper()
		for _, to := range []netip.Addr{server.Private, more} {
			if !w.passes(stays, udp(stays.Private, to, 53), server.device) {
				t.Fatalf("a packet to %s does not pass", to)
			}
		}
		if !w.passes(stays, udp(stays.Private, other.Private, 53), other.device) || !w.passes(other, udp(other.Private, server.Private, 53), server.device) {
			t.Fatal("packets do not pass")
		}
	}
	open()
	has := func(when string, e *end, want ...netip.Addr) {
		t.Helper()
		slices.SortFunc(want, netip.Addr.Compare)
		if got := w.connections(e); !slices.Equal(got, want) {
			t.Errorf("%s: %s has connections with %v, want %v", when, e.Private, got, want)
		}
	}
	has("at first", stays, server.Private, more, other.Private)
	has("at first", server, stays.Private, stays.Private, other.Private)

	// A secondary address leaves: its connections are dropped at both ends, and no others.
	w.Do(&state.UnassignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: server.ID, Addresses: []netip.Addr{more}})
	if got := w.Plane.LostAt(w.VPC.VNI); got != w.View.Index() {
		t.Errorf("after an address left the interface, an address last left a group at %d, want %d", got, w.View.Index())
	}
	has("without the secondary address", stays, server.Private, other.Private)
	has("without the secondary address", server, stays.Private, other.Private)
	// A change that releases nothing drops nothing.
	w.modify(server.Interface, state.ModifyNetworkInterface{Unchecked: new(true)})
	w.unregister(far)
	has("after the lease of an interface without connections ended", stays, server.Private, other.Private)
	// The lease of the primary address ends.
	w.unregister(server.Interface)
	has("without the lease", stays, other.Private)
	has("without the lease", other, stays.Private)
}

// A public address that goes to another interface takes no connection along: not those that its
// instance opened or answered, nor those of instances that had reached it.
func TestConnectionsOfAReleasedPublicAddressAreDropped(t *testing.T) {
	w := newWorld(t)
	wide := w.Group("wide", dns(inside), dns(netip.MustParsePrefix("198.18.0.0/16")), dns(netip.MustParsePrefix(planetest.Laptop+"/32")))
	server, client, third := w.register("server", w.Public, wide), w.register("client", w.Public, wide), w.register("third", w.Public, wide)
	public, kept := w.Elastic(server.Interface, server.Private), w.Elastic(client.Interface, client.Private)
	if !w.passes(client, udp(client.Private, public, 53), server.device) || !w.passes(client, udp(client.Private, third.Private, 53), third.device) {
		t.Fatal("packets do not pass")
	}
	if got := w.connections(client); !slices.Equal(got, sorted(third.Private, public)) {
		t.Fatalf("the client has connections with %v, want %v and %v", got, third.Private, public)
	}
	release := func(public netip.Addr) {
		t.Helper()
		for e := range w.View.ElasticAddressesOf(planetest.Dev, planetest.Region) {
			if e.Public == public {
				w.Do(&state.DisassociateAddress{Account: planetest.Dev, Region: planetest.Region, Association: e.Association})
			}
		}
	}
	// Another public address changes nothing for these connections.
	spare := w.Elastic(third.Interface, third.Private)
	release(spare)
	if got := w.connections(client); !slices.Equal(got, sorted(third.Private, public)) {
		t.Errorf("after another address was released the client has connections with %v, want %v and %v", got, third.Private, public)
	}
	release(public)
	if got := w.connections(client); !slices.Equal(got, []netip.Addr{third.Private}) {
		t.Errorf("after the address was released the client has connections with %v, want %v", got, third.Private)
	}
	// The next interface with the address keeps its own connections, whatever changes later.
	for e := range w.View.ElasticAddressesOf(planetest.Dev, planetest.Region) {
		if e.Public == public {
			w.Do(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: e.ID, Interface: third.ID})
		}
	}
	if !w.passes(client, udpFrom(40001, client.Private, public, 53), third.device) {
		t.Fatal("a packet to the next interface with the address does not pass")
	}
	w.Group("another")
	w.modify(third.Interface, state.ModifyNetworkInterface{Unchecked: new(true)})
	if got := w.connections(client); !slices.Equal(got, sorted(third.Private, public)) {
		t.Errorf("after other changes the client has connections with %v, want %v and %v", got, third.Private, public)
	}
	w.unregister(third.Interface) // both its addresses are released in one View
	if got := w.connections(client); len(got) != 0 {
		t.Errorf("after the lease of the third interface ended the client has connections with %v, want none", got)
	}
	if w.Switch.Snapshot().Public(kept) == nil {
		t.Error("the client lost its own public address")
	}
}

func sorted(all ...netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
