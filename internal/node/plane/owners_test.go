package plane_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
)

// An ownersTest has an interface with connections to others, of which one, old, loses an address
// that next gets, and the other, steady, keeps all its addresses.
type ownersTest struct {
	*planetest.Fixture
	watch, steady, old, next *ec2.Interface
	oldNode                  ec2.NodeID // of old
	moved                    netip.Addr
	elastic                  *ec2.ElasticAddress // whose address moves, if it is elastic
}

// A kindOfAddress says how an address of its kind gets to old, leaves it, and gets to next. do
// applies a request.
type kindOfAddress struct {
	begin       func(f *ownersTest)
	leave, give func(f *ownersTest, do func(state.Request) state.Result)
}

var kindsOfAddress = map[string]kindOfAddress{
	"private": {
		begin: func(f *ownersTest) {
			f.moved = netip.MustParseAddr("10.0.1.50")
			f.old = f.register(f.Do, f.oldNode, state.InterfaceSpec{Private: f.moved}, false)
		},
		leave: (*ownersTest).unregister,
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			f.register(do, planetest.Node, state.InterfaceSpec{Private: f.moved}, false)
		},
	},
	"secondary": {
		begin: func(f *ownersTest) {
			f.moved = netip.MustParseAddr("10.0.1.60")
			f.old = f.register(f.Do, f.oldNode, state.InterfaceSpec{Secondary: []netip.Addr{f.moved}}, false)
		},
		leave: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.UnassignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.old.ID, Addresses: []netip.Addr{f.moved}})
		},
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.next.ID, Addresses: []netip.Addr{f.moved}})
		},
	},
	"public": {
		begin: func(f *ownersTest) {
			f.old = f.register(f.Do, f.oldNode, state.InterfaceSpec{}, true)
			f.moved = f.old.Public
		},
		leave: (*ownersTest).unregister,
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			if next := f.register(do, planetest.Node, state.InterfaceSpec{}, true); next.Public != f.moved {
				f.Fatalf("the next interface gets public address %s, want %s", next.Public, f.moved)
			}
		},
	},
	"elastic": {
		begin: func(f *ownersTest) {
			f.old = f.register(f.Do, f.oldNode, state.InterfaceSpec{}, false)
			f.elastic = f.Do(&state.AllocateAddress{Account: planetest.Dev, Region: planetest.Region}).Elastic
			f.elastic = f.Do(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: f.elastic.ID, Interface: f.old.ID}).Elastic
			f.moved = f.elastic.Public
		},
		leave: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.DisassociateAddress{Account: planetest.Dev, Region: planetest.Region, Association: f.elastic.Association})
		},
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: f.elastic.ID, Interface: f.next.ID})
		},
	},
	"private, then the same address in another network": {
		begin: func(f *ownersTest) {
			f.moved = netip.MustParseAddr("10.0.1.50")
			f.old = f.register(f.Do, f.oldNode, state.InterfaceSpec{Private: f.moved}, false)
		},
		leave: (*ownersTest).unregister,
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			twin := do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: f.VPC.CIDR}).VPC
			subnet := do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: twin.ID, CIDR: f.Public.CIDR}).Subnet
			do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node,
				External: ec2.ExternalDevice{Device: "twin"}, Spec: state.InterfaceSpec{Subnet: subnet.ID, Private: f.moved}})
		},
	},
	"own secondary": { // of the interface that has the connections
		begin: func(f *ownersTest) {
			f.old = f.watch
			f.moved = f.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.watch.ID, Count: 1}).Addresses[0]
		},
		leave: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.UnassignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.watch.ID, Addresses: []netip.Addr{f.moved}})
		},
		give: func(f *ownersTest, do func(state.Request) state.Result) {
			do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.next.ID, Addresses: []netip.Addr{f.moved}})
		},
	},
}

func (f *ownersTest) register(do func(state.Request) state.Result, node ec2.NodeID, spec state.InterfaceSpec, public bool) *ec2.Interface {
	f.Helper()
	spec.Subnet = f.Public.ID
	return do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: node,
		External: ec2.ExternalDevice{Device: fmt.Sprintf("vm%d", f.State.Index())}, Spec: spec, Public: &public}).Interface
}

func (f *ownersTest) unregister(do func(state.Request) state.Result) {
	f.Helper()
	do(&state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: f.old.ID})
	do(&state.ReportInterface{Interface: f.old.ID, Epoch: f.old.Epoch})
	if _, ok := f.State.View().Interface(f.old.ID); ok {
		f.Fatal("the unregistered interface still exists")
	}
}

// sweep ends the quarantine of addresses.
func (f *ownersTest) sweep(do func(state.Request) state.Result) {
	f.Helper()
	f.Now = f.Now.Add(time.Hour)
	do(&state.Sweep{})
}

func newOwnersTest(t *testing.T, k kindOfAddress, oldNode ec2.NodeID) *ownersTest {
	t.Helper()
	f := &ownersTest{Fixture: planetest.New(t), oldNode: oldNode}
	f.begin(k)
	return f
}

// begin makes the interfaces.
func (f *ownersTest) begin(k kindOfAddress) {
	f.Helper()
	f.AddNode("node2")
	group := f.Group("all")
	f.watch = f.Register(planetest.Node, "watch", f.Public, group)
	k.begin(f)
	f.steady = f.register(f.Do, planetest.Node, state.InterfaceSpec{SecondaryCount: 1}, true)
	f.next = f.register(f.Do, planetest.Node, state.InterfaceSpec{}, false)
	f.Elastic(f.steady, f.steady.Secondary[0].Private)
	f.steady, _ = f.View.Interface(f.steady.ID)
}

// connect makes connections of watch with a host, one that watch opens and one that the host opens.
// If the host is watch itself, they are connections with a host beyond the uplink.
func (f *ownersTest) connect(host netip.Addr) {
	f.Helper()
	own, other := f.watch.Private, host
	if f.old == f.watch && host == f.moved {
		own, other = host, netip.MustParseAddr(planetest.Laptop)
	}
	zone := f.Plane.Zone(f.watch.Epoch)
	for d, p := range []*packet.Packet{
		conntrack.In:  {Flow: packet.Flow{Src: other, Dst: own, SrcPort: 40000, DstPort: 53, Protocol: packet.ProtocolUDP}, Segments: 1},
		conntrack.Out: {Flow: packet.Flow{Src: own, Dst: other, SrcPort: 40000, DstPort: 53, Protocol: packet.ProtocolUDP}, Segments: 1},
	} {
		var u conntrack.Tuple
		zone.Identify(&u, p)
		if v := zone.Admit(p, &u, time.Second, conntrack.Admission{Direction: conntrack.Direction(d)}); v.Drops() {
			f.Fatalf("connection with %s: verdict %v", host, v)
		}
	}
}

// connections returns the number of connections of a host.
func (f *ownersTest) connections(host netip.Addr) (n int) {
	for c := range f.Tracker.Connections(2 * time.Second) {
		if c.Flow.Src == host || c.Flow.Dst == host {
			n++
		}
	}
	return n
}

// steadyHosts returns addresses that keep their owner: those of steady, of a host beyond the
// uplink, and one of the network that nobody owns.
func (f *ownersTest) steadyHosts() []netip.Addr {
	s := f.steady.Secondary[0]
	return []netip.Addr{f.steady.Private, f.steady.Public, s.Private, s.Public, netip.MustParseAddr("203.0.113.26"), netip.MustParseAddr("10.0.9.9")}
}

func (f *ownersTest) check(what string, want int) {
	f.Helper()
	if n := f.connections(f.moved); n != want {
		f.Errorf("%s: %d connections of the address that has moved, want %d", what, n, want)
	}
	for _, host := range f.steadyHosts() {
		if n := f.connections(host); n != 2 {
			f.Errorf("%s: %d connections of %s, whose owner is the same, want 2", what, n, host)
		}
	}
}

func (f *ownersTest) snapshot() []byte {
	f.Helper()
	var b bytes.Buffer
	if err := f.State.View().WriteSnapshot(&b); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

func (f *ownersTest) restore(snapshot []byte) {
	f.Helper()
	var err error
	if f.State, err = state.Restore(bytes.NewReader(snapshot)); err != nil {
		f.Fatal(err)
	}
}

// absences are the ways in which a node misses that an address leaves its owner. Each function
// makes the connections, and returns when the node enforces the newest state again.
var absences = map[string]func(f *ownersTest, k kindOfAddress){
	"daemon down": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		f.Stop()
		k.leave(f, f.Decide)
		f.sweep(f.Decide)
		k.give(f, f.Decide)
		f.Restart(f.watch)
	},
	"daemon down, the address has no owner afterwards": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		f.Stop()
		k.leave(f, f.Decide)
		f.Restart(f.watch)
	},
	"partitioned": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		k.leave(f, f.Decide)
		f.sweep(f.Decide)
		k.give(f, f.Decide)
		f.CatchUp()
	},
	"partitioned, then gets a snapshot": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		k.leave(f, f.Decide)
		f.sweep(f.Decide)
		k.give(f, f.Decide)
		f.restore(f.snapshot())
		f.CatchUp()
	},
	"the owner's node is fenced while the daemon is down": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		f.Stop()
		f.Decide(&state.FenceNode{Node: "node2"})
		f.sweep(f.Decide)
		k.give(f, f.Decide)
		f.Restart(f.watch)
	},
	"the owner's node is fenced while this one is partitioned": func(f *ownersTest, k kindOfAddress) {
		f.connectAll()
		f.Decide(&state.FenceNode{Node: "node2"})
		f.sweep(f.Decide)
		k.give(f, f.Decide)
		f.CatchUp()
	},
	// The backup is older than the move, so the address is old's again, and the connections are next's.
	"restored from a backup": func(f *ownersTest, k kindOfAddress) {
		backup := f.snapshot()
		k.leave(f, f.Do)
		f.sweep(f.Do)
		k.give(f, f.Do)
		f.connectAll()
		f.Stop()
		f.restore(backup)
		if _, err := f.State.Apply(f.State.Index()+1<<32, state.Command{Time: f.Now, Request: &state.Recover{Node: ec2.Node{ID: planetest.Node}}}); err != nil {
			f.Fatal(err)
		}
		f.Restart(f.watch)
	},
}

func (f *ownersTest) connectAll() {
	f.Helper()
	for _, host := range append(f.steadyHosts(), f.moved) {
		f.connect(host)
	}
	f.check("before", 2)
}

// TestConnectionsStayWithTheOwnerOfTheirAddress: whatever a node misses, it keeps no connection of an
// address whose owner has changed, and all others.
func TestConnectionsStayWithTheOwnerOfTheirAddress(t *testing.T) {
	for what, absent := range absences {
		for kind, k := range kindsOfAddress {
			fenced := what[:3] == "the"
			if fenced && kind == "own secondary" {
				continue // a fenced node has no interfaces
			}
			t.Run(what+"/"+kind, func(t *testing.T) {
				node := planetest.Node
				if fenced {
					node = "node2"
				}
				f := newOwnersTest(t, k, node)
				absent(f, k)
				f.check("after", 0)
			})
		}
	}
}
