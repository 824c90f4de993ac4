package plane_test

import (
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// A peered world has a second VPC, 10.1.0.0/16, and routes of both for each other.
type peeredWorld struct {
	*world
	far     *ec2.VPC
	subnet  *ec2.Subnet
	peering *ec2.VPCPeering
}

func newPeeredWorld(t *testing.T) *peeredWorld {
	w := &peeredWorld{world: newWorld(t)}
	w.far = w.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	w.subnet = w.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: w.far.ID, CIDR: netip.MustParsePrefix("10.1.1.0/24")}).Subnet
	w.peering = w.peer()
	w.Do(w.route(w.Table.ID, "10.1.0.0/16"))
	w.Do(w.route(w.far.RouteTable, "10.0.0.0/16"))
	return w
}

func (w *peeredWorld) peer() *ec2.VPCPeering {
	w.Helper()
	return w.Do(&state.CreateVPCPeering{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, PeerVPC: w.far.ID}).Peering
}

func (w *peeredWorld) accept() {
	w.Helper()
	w.Do(&state.AcceptVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: w.peering.ID})
}

func (w *peeredWorld) route(table ec2.RouteTableID, to string) state.Request {
	return &state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: table, Destination: netip.MustParsePrefix(to), Peering: w.peering.ID}
}

// TestRoutesToPeerPassPacketsWhileThePeeringIsActive: a route can be made before the peering is accepted, and stays when
// it has ended.
func TestRoutesToPeerPassPacketsWhileThePeeringIsActive(t *testing.T) {
	w := newPeeredWorld(t)
	open := w.Group("open", state.RuleSpec{Protocol: ec2.UDP, From: 53, To: 53, Prefix: planetest.Everywhere})
	near := w.register("near", w.Public, open)
	far := w.register("far", w.subnet, w.far.Group)
	flow, back := udp(near.Private, far.Private, 53), udp(far.Private, near.Private, 53)
	check := func(when string, want bool) {
		t.Helper()
		if got := w.passes(far, back, near.device); got != want {
			t.Errorf("%s a packet of the peer passes: %v, want %v", when, got, want)
		}
		for _, v := range []*ec2.VPC{w.VPC, w.far} { // by which packets of other nodes are judged
			if peers := w.network(v.VNI).Peers; (len(peers) == 1) != want {
				t.Errorf("%s the switch has peers %+v of %s", when, peers, v.ID)
			}
		}
	}
	check("before the peering is accepted", false)
	w.accept()
	check("while the peering is active", true)
	if w.passes(near, flow, far.device) {
		t.Error("a packet to the default group of the peer passes, which admits its own members only")
	}
	w.Do(&state.DeleteVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: w.peering.ID})
	check("after the peering has ended", false)
	if got := w.connections(near); len(got) != 0 {
		t.Errorf("after the peering has ended the interface has connections with %v", got)
	}
}

// TestAddressOfPeerIsForgottenWithItsInterface: the next interface that gets the address does not continue the
// connections of the former one.
func TestAddressOfPeerIsForgottenWithItsInterface(t *testing.T) {
	w := newPeeredWorld(t)
	w.accept()
	open := w.Group("open", state.RuleSpec{Protocol: ec2.TCP, From: 22, To: 22, Prefix: netip.MustParsePrefix("10.0.0.0/8")})
	near, other := w.register("near", w.Public, open), w.register("other", w.Public, open)
	far := w.register("far", w.subnet)
	flow := func(from, to *end) packet.Flow {
		return packet.Flow{Src: from.Private, Dst: to.Private, SrcPort: 40000, DstPort: 22, Protocol: packet.ProtocolTCP}
	}
	w.passes(near, flow(near, other), other.device)
	w.passes(far, flow(far, near), near.device)
	if got := w.connections(near); len(got) != 2 {
		t.Fatalf("the interface has connections with %v, want with its neighbour and with the peer", got)
	}
	w.unregister(far.Interface)
	if got := w.connections(near); len(got) != 1 || got[0] != other.Private {
		t.Errorf("after the peer's interface is gone the interface has connections with %v, want with its neighbour alone", got)
	}
}

// TestRouteToInterfaceIsBlackHoleOnceItIsDeleted, also if another interface gets its address.
func TestRouteToInterfaceIsBlackHoleOnceItIsDeleted(t *testing.T) {
	w := newWorld(t)
	web, db := w.register("web", w.Public), w.register("db", w.Private)
	mid := w.register("mid", w.Private)
	w.modify(mid.Interface, state.ModifyNetworkInterface{Unchecked: new(true)})
	w.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: w.VPC.Group},
		Rules: []state.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}}})
	flow := udp(web.Private, db.Private, 53)
	if !w.passes(web, flow, db.device) {
		t.Fatal("without the route the packet does not reach its destination")
	}
	w.Do(&state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: w.Table.ID, Destination: w.Private.CIDR, Interface: mid.ID})
	if !w.passes(web, flow, mid.device) {
		t.Error("with the route the packet does not reach the middlebox")
	}
	w.unregister(mid.Interface)
	if w.passes(web, flow, db.device) {
		t.Error("after the middlebox is deleted the packet reaches its destination, want a black hole")
	}
	idle := w.Do(&state.CreateNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Spec: state.InterfaceSpec{Subnet: w.Private.ID}}).Interface
	w.Do(&state.ReplaceRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: w.Table.ID, Destination: w.Private.CIDR, Interface: idle.ID})
	leads := func() (to vswitch.Target) {
		for _, r := range w.subnets()[w.Public.CIDR.String()] {
			if r.Prefix == w.Private.CIDR {
				to = r.Target
			}
		}
		return to
	}
	if got, want := leads(), (vswitch.Target{Kind: vswitch.Interface, Via: idle.Private}); got != want {
		t.Errorf("the route to another interface leads to %+v, want %+v", got, want)
	}
	w.Do(&state.DeleteNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Interface: idle.ID})
	if got := leads(); got != (vswitch.Target{}) {
		t.Errorf("after the interface is deleted the route leads to %+v, want nowhere", got)
	}
}
