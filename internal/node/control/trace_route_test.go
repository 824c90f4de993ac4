package control

import (
	"net/netip"
	"testing"

	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// follows traces a packet, and checks which route it took.
func (v *traceTest) follows(from, to, route string) {
	v.Helper()
	got, err := v.server.trace(v.Context(), traceRequest{from, to, "tcp/80"})
	if err != nil || got.Route != route || !got.Admitted {
		v.Errorf("trace from %s to %s: %+v, error %v; want it delivered by the route %q", from, to, got, err, route)
	}
}

// TestTraceNamesTheRoute: the one that led the packet on, or why it did not.
func TestTraceNamesTheRoute(t *testing.T) {
	f := &traceTest{Fixture: planetest.New(t)}
	f.server = newServer(f.Fixture)
	open := f.Group("open", planetest.TCP(80, planetest.Everywhere))
	web, db, mid := f.Register("node1", "web", f.Public, open), f.Register("node1", "db", f.Private, open), f.Register("node1", "mid", f.Private, open)
	far := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	subnet := f.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: far.ID, CIDR: netip.MustParsePrefix("10.1.1.0/24")}).Subnet
	peerGroup := f.Do(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: far.ID, Name: "open", Description: "open"}).Group.ID
	f.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: peerGroup}, Rules: []state.RuleSpec{planetest.TCP(80, planetest.Everywhere)}})
	peer := f.Register("node1", "peer", subnet, peerGroup)
	w, d, p := string(web.ID), string(db.ID), string(peer.ID)
	uses := string(f.Public.ID) + " uses " + string(f.Table.ID) + ", where "

	f.follows(w, d, "")
	route := state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: f.Table.ID, Destination: f.Private.CIDR, Interface: mid.ID}
	f.Do(&route)
	f.traces(w, d, "tcp/80", "not-routed", w+": its subnet's route leads nowhere: "+uses+"10.0.2.0/24 leads to "+string(mid.ID)+", which forwards nothing: its source/destination check is on")
	f.Do(&state.ModifyNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Interface: mid.ID, Unchecked: new(true)})
	f.follows(w, d, uses+"10.0.2.0/24 leads to "+string(mid.ID))
	f.Do(&state.DeleteRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: f.Table.ID, Destination: f.Private.CIDR})

	pcx := f.Do(&state.CreateVPCPeering{Account: planetest.Dev, Region: planetest.Region, VPC: f.VPC.ID, PeerVPC: far.ID}).Peering
	f.traces(w, p, "tcp/80", "no-route", p+" has no public address, and "+w+" is in another network")
	f.Do(&state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: f.Table.ID, Destination: far.CIDR, Peering: pcx.ID})
	leads := uses + "10.1.0.0/16 leads to " + string(pcx.ID)
	f.traces(w, peer.Private.String(), "tcp/80", "not-routed", leads+", which is not active: it is pending-acceptance")
	f.Do(&state.AcceptVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: pcx.ID})
	f.follows(w, p, leads)
	f.follows(w, peer.Private.String(), leads)
	f.traces(w, "10.1.1.99", "tcp/80", "no-route", "no interface in "+string(far.ID)+" has 10.1.1.99")
	f.traces(p, w, "tcp/80", "no-route", w+" has no public address, and "+p+" is in another network") // no route back
	f.Do(&state.DeleteVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: pcx.ID})
	f.traces(w, peer.Private.String(), "tcp/80", "not-routed", leads+", which is not active: it is deleted")

	f.Do(&state.DetachInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: f.Gateway.ID, VPC: f.VPC.ID})
	f.traces(w, planetest.Laptop, "tcp/80", "not-routed", uses+"0.0.0.0/0 leads to "+string(f.Gateway.ID)+", which is not attached to "+string(f.VPC.ID))
}
