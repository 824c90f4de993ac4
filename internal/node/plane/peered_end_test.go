package plane_test

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// An endingWorld has a second VPC, 10.20.0.0/16, with an interface there, and two in the first VPC.
type endingWorld struct {
	*world
	vpc               *ec2.VPC
	subnet            *ec2.Subnet
	wide              ec2.GroupID // of the second VPC
	peer, here, local *end
}

func newEndingWorld(t *testing.T) *endingWorld {
	w := &endingWorld{world: newWorld(t)}
	all := dns(netip.MustParsePrefix("10.0.0.0/8"))
	w.vpc = w.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.20.0.0/16")}).VPC
	w.subnet = w.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: w.vpc.ID, CIDR: netip.MustParsePrefix("10.20.1.0/24")}).Subnet
	w.wide = w.Do(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: w.vpc.ID, Name: "wide", Description: "x"}).Group.ID
	w.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: w.wide}, Rules: []state.RuleSpec{all}})
	w.peer = w.register("peer", w.subnet, w.wide)
	group := w.Group("here", all)
	w.here, w.local = w.register("here", w.Private, group), w.register("local", w.Private, group)
	return w
}

// connect peers the VPCs, routes them to each other, and opens a connection from the peer and one from a
// neighbour.
func (w *endingWorld) connect() ec2.PeeringID {
	w.Helper()
	p := w.Do(&state.CreateVPCPeering{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, PeerVPC: w.vpc.ID}).Peering
	w.Do(&state.AcceptVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: p.ID})
	for table, to := range map[ec2.RouteTableID]string{w.vpc.RouteTable: "10.0.0.0/16", w.VPC.RouteTable: "10.20.0.0/16"} {
		route := &state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: table, Destination: netip.MustParsePrefix(to), Peering: p.ID}
		w.Do(route)
	}
	if !w.passes(w.peer, udp(w.peer.Private, w.here.Private, 53), w.here.device) || !w.passes(w.local, udp(w.local.Private, w.here.Private, 53), w.here.device) {
		w.Fatal("packets do not pass")
	}
	w.has("after packets of both", w.peer.Private, w.local.Private)
	return p.ID
}

func (w *endingWorld) disconnect(p ec2.PeeringID) {
	w.Decide(&state.DeleteVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: p})
	for table, to := range map[ec2.RouteTableID]string{w.vpc.RouteTable: "10.0.0.0/16", w.VPC.RouteTable: "10.20.0.0/16"} {
		w.Decide(&state.DeleteRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: table, Destination: netip.MustParsePrefix(to)})
	}
}

func (w *endingWorld) has(when string, remote ...netip.Addr) {
	w.Helper()
	slices.SortFunc(remote, netip.Addr.Compare)
	if got := w.connections(w.here); !slices.Equal(got, remote) {
		w.Errorf("%s: %s has connections with %v, want %v", when, w.here.Private, got, remote)
	}
}

// A peered VPC's address may later be that of a host elsewhere, or of another interface.
func TestConnectionsEndWithTheirPeering(t *testing.T) {
	w := newEndingWorld(t)
	p := w.connect()
	w.disconnect(p)
	w.CatchUp()
	w.has("after the peering was deleted", w.local.Private)

	p = w.connect()
	w.unregister(w.peer.Interface)
	w.has("after the peer's lease ended", w.local.Private)
	w.peer = w.register("peer2", w.subnet, w.wide)
	w.disconnect(p)
	w.CatchUp()

	w.connect()
	w.Stop()
	w.Restart(w.here.Interface, w.local.Interface, w.peer.Interface)
	w.has("after a restart", w.peer.Private, w.local.Private)
}

func TestConnectionsOfAPeeringThatEndedWhileTheDaemonWasDown(t *testing.T) {
	w := newEndingWorld(t)
	p := w.connect()
	w.Stop()
	w.disconnect(p)
	w.Restart(w.here.Interface, w.local.Interface)
	w.has("after a restart", w.local.Private)
}

// In strict mode an address that leaves a group of a peer is a change for the rules that name the group.
func TestAddressOfAPeerLeavesAGroup(t *testing.T) {
	w := newEndingWorld(t)
	w.connect()
	w.modify(w.peer.Interface, state.ModifyNetworkInterface{Groups: []ec2.GroupID{w.vpc.Group}})
	if got := w.Plane.LostAt(w.VPC.VNI); got != w.View.Index() {
		t.Errorf("an address last left a group that rules of the VPC may name at %d, want %d", got, w.View.Index())
	}
}
