package node

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// TestChangesOfRunningInterfaceTakeEffect: each change of a running interface, and of the way
// to it, makes a difference to packets when its answer is there, and none before.
func TestChangesOfRunningInterfaceTakeEffect(t *testing.T) {
	w := newWorld(t, "revoke")
	web, peer := w.launch(w.Public, w.all), w.launch(w.Public, w.all)
	lone := w.launch(w.Private, w.all)
	eni := w.primary(web)
	private, peerAddress := eni.Private.String(), w.primary(peer).Private.String()
	loneAddress := w.primary(lone).Private.String()
	modify := func(change func(*state.ModifyNetworkInterface)) {
		t.Helper()
		r := &state.ModifyNetworkInterface{Account: dev, Region: region, Interface: eni.ID}
		change(r)
		w.do(r)
	}
	groups := func(ids ...ec2.GroupID) {
		t.Helper()
		modify(func(r *state.ModifyNetworkInterface) { r.Groups = ids })
	}

	w.part("groups", func(t *testing.T) {
		// A fellow of the same subnet is filtered as anybody is.
		w.connects(w.of(peer), private, 80, true, "in group all")
		groups(w.none)
		w.connects(w.of(peer), private, 80, false, "in group none")
		w.connects(w.of(web), peerAddress, 80, true, "from group none")
		// As a source a group is its members, now.
		fellows := w.group("fellows")
		db := w.group("db")
		w.permit(db, state.RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, Group: ec2.GroupRef{ID: fellows}})
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{db}})
		w.connects(w.of(web), peerAddress, 80, false, "no fellow")
		groups(w.none, fellows)
		w.connects(w.of(web), peerAddress, 80, true, "a fellow")
		groups(w.none)
		w.connects(w.of(web), peerAddress, 80, false, "no fellow any more")
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.all}})
		groups(w.all)
		w.connects(w.of(peer), private, 80, true, "in group all again")
	})

	w.part("egress", func(t *testing.T) {
		shut := w.group("shut")
		w.permit(shut, planetest.TCP(80, planetest.Everywhere))
		w.do(&state.RevokeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: shut}, Direction: ec2.Egress,
			Rules: []state.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}}})
		w.connects(w.of(web), peerAddress, 80, true, "with egress")
		groups(shut)
		w.connects(w.of(web), peerAddress, 80, false, "without egress")
		w.connects(w.of(peer), private, 80, true, "replies pass without egress")
		// Egress admits at the sender and nowhere else.
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.none}})
		groups(w.all)
		w.connects(w.of(web), peerAddress, 80, false, "with egress, without ingress there")
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.all}})
		w.connects(w.of(web), peerAddress, 80, true, "with both")
	})

	public, association := w.elastic(eni.ID, netip.Addr{})
	w.part("elastic address", func(t *testing.T) {
		w.reaches(w.laptop(), public, true, "associated")
		w.reaches(w.of(web), planetest.Laptop, true, "associated")
		w.do(&state.DisassociateAddress{Account: dev, Region: region, Association: association})
		w.reaches(w.laptop(), public, false, "disassociated")
		w.reaches(w.of(web), planetest.Laptop, false, "disassociated")
		public, association = w.elastic(eni.ID, netip.Addr{})
		w.reaches(w.laptop(), public, true, "associated again")
		// Moved, it leads to the next one, by the first packet.
		view := w.node.plane.View()
		var allocation ec2.AllocationID
		for e := range view.ElasticAddressesOf(dev, region) {
			if e.Public.String() == public {
				allocation = e.ID
			}
		}
		w.do(&state.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: w.primary(peer).ID, AllowReassociation: new(true)})
		w.reaches(w.of(web), planetest.Laptop, false, "moved")
		groups(w.none)
		w.reaches(w.laptop(), public, true, "at the next one, whose group admits")
		groups(w.all)
		association = w.do(&state.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: eni.ID, AllowReassociation: new(true)}).Elastic.Association
		w.reaches(w.laptop(), public, true, "moved back")
	})

	w.part("routes", func(t *testing.T) {
		why := func(want string) {
			t.Helper()
			for _, ends := range [][2]string{{string(web), planetest.Laptop}, {planetest.Laptop, string(web)}} {
				tr, err := w.trace(ends[0], ends[1], "tcp/80")
				if err != nil || tr.Admitted != (want == "") || !strings.Contains(tr.Reason, want) {
					t.Errorf("traced from %s to %s: %+v, %v; want %q", ends[0], ends[1], tr, err, want)
				}
			}
		}
		both := func(want bool, what string) {
			t.Helper()
			w.reaches(w.laptop(), public, want, what)
			w.reaches(w.of(web), planetest.Laptop, want, what)
			w.reaches(w.of(web), loneAddress, true, what+", inside the VPC")
		}
		both(true, "with a route")
		why("")
		w.do(&state.DeleteRoute{Account: dev, Region: region, RouteTable: w.Table.ID, Destination: planetest.Everywhere})
		both(false, "route deleted")
		why("no route to an internet gateway: " + string(w.Public.ID) + " uses " + string(w.Table.ID) + ", which has no route to " + planetest.Laptop)
		w.do(&state.CreateRoute{Account: dev, Region: region, RouteTable: w.Table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24"), Gateway: w.Gateway.ID})
		both(true, "with a narrower route")
		w.do(&state.DeleteRoute{Account: dev, Region: region, RouteTable: w.Table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24")})
		w.do(&state.CreateRoute{Account: dev, Region: region, RouteTable: w.Table.ID, Destination: planetest.Everywhere, Gateway: w.Gateway.ID})
		both(true, "route made again")

		association := w.do(&state.AssociateRouteTable{Account: dev, Region: region, RouteTable: w.Table.ID, Subnet: w.Private.ID}).Association
		lonePublic, _ := w.elastic(w.primary(lone).ID, netip.Addr{})
		w.reaches(w.laptop(), lonePublic, true, "private subnet by the public one's table")
		w.do(&state.DisassociateRouteTable{Account: dev, Region: region, Association: association})
		w.reaches(w.laptop(), lonePublic, false, "private subnet by its own")
		w.reaches(w.of(lone), planetest.Laptop, false, "private subnet by its own")
		w.reaches(w.of(web), lonePublic, false, "between public addresses, without a route back")
	})

	w.part("source check", func(t *testing.T) {
		if out, err := w.in(w.namespace(web), "ip", "address", "add", "192.0.2.9/32", "dev", "lo"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := w.in(w.namespace(peer), "ip", "route", "add", "192.0.2.9/32", "via", private, "dev", "eth0", "onlink"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		foreign := origin{w.namespace(web), "192.0.2.9"}
		unchecked := func(want bool) {
			t.Helper()
			modify(func(r *state.ModifyNetworkInterface) { r.Unchecked = &want })
		}
		w.reaches(w.of(peer), "192.0.2.9", false, "checked")
		w.reaches(foreign, loneAddress, false, "checked")
		unchecked(true)
		w.reaches(w.of(peer), "192.0.2.9", true, "unchecked") // there, and the reply in another's name
		unchecked(false)
		w.reaches(w.of(peer), "192.0.2.9", false, "checked again")
	})

	w.part("gateway", func(t *testing.T) {
		w.reaches(w.laptop(), public, true, "gateway attached")
		w.do(&state.DisassociateAddress{Account: dev, Region: region, Association: association})
		for e := range w.node.plane.View().ElasticAddressesOf(dev, region) {
			if e.Association != "" { // AWS detaches no gateway while public addresses are mapped
				w.do(&state.DisassociateAddress{Account: dev, Region: region, Association: e.Association})
			}
		}
		w.do(&state.DetachInternetGateway{Account: dev, Region: region, Gateway: w.Gateway.ID, VPC: w.VPC.ID})
		w.reaches(w.laptop(), public, false, "gateway detached")
		tr, err := w.trace(string(web), planetest.Laptop, "tcp/80")
		if want := "where 0.0.0.0/0 leads to " + string(w.Gateway.ID) + ", which is not attached"; err != nil || !strings.Contains(tr.Reason, want) {
			t.Errorf("traced %+v, %v; want %q", tr, err, want)
		}
		w.do(&state.AttachInternetGateway{Account: dev, Region: region, Gateway: w.Gateway.ID, VPC: w.VPC.ID})
		public, _ := w.elastic(eni.ID, netip.Addr{})
		w.reaches(w.laptop(), public, true, "gateway attached again")
	})
}
