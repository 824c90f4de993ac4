package node

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
)

// TestEveryChangeInPlaceIsSeenInPackets: each change of a running interface, and of the way
// to it, makes a difference to packets when its answer is there, and none before.
func TestEveryChangeInPlaceIsSeenInPackets(t *testing.T) {
	w := newWorld(t, "revoke")
	web, peer := w.launch(w.public, w.all), w.launch(w.public, w.all)
	lone := w.launch(w.private, w.all)
	eni := w.primary(web)
	private, peerAddress := eni.Private.String(), w.primary(peer).Private.String()
	loneAddress := w.primary(lone).Private.String()
	modify := func(change func(*ec2.ModifyNetworkInterface)) {
		t.Helper()
		r := &ec2.ModifyNetworkInterface{Account: dev, Region: region, Interface: eni.ID}
		change(r)
		w.do(r)
	}
	groups := func(ids ...ec2.GroupID) {
		t.Helper()
		modify(func(r *ec2.ModifyNetworkInterface) { r.Groups = ids })
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
		w.permit(db, ec2.RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, Group: ec2.GroupRef{ID: fellows}})
		w.do(&ec2.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{db}})
		w.connects(w.of(web), peerAddress, 80, false, "no fellow")
		groups(w.none, fellows)
		w.connects(w.of(web), peerAddress, 80, true, "a fellow")
		groups(w.none)
		w.connects(w.of(web), peerAddress, 80, false, "no fellow any more")
		w.do(&ec2.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.all}})
		groups(w.all)
		w.connects(w.of(peer), private, 80, true, "in group all again")
	})

	w.part("egress", func(t *testing.T) {
		shut := w.group("shut")
		w.permit(shut, tcp(80, everywhere))
		w.do(&ec2.RevokeRules{Account: dev, Region: region, Group: ec2.GroupSelector{ID: shut}, Direction: ec2.Egress,
			Rules: []ec2.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: everywhere}}})
		w.connects(w.of(web), peerAddress, 80, true, "with egress")
		groups(shut)
		w.connects(w.of(web), peerAddress, 80, false, "without egress")
		w.connects(w.of(peer), private, 80, true, "replies pass without egress")
		// Egress admits at the sender and nowhere else.
		w.do(&ec2.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.none}})
		groups(w.all)
		w.connects(w.of(web), peerAddress, 80, false, "with egress, without ingress there")
		w.do(&ec2.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(peer).ID, Groups: []ec2.GroupID{w.all}})
		w.connects(w.of(web), peerAddress, 80, true, "with both")
	})

	public, association := w.elastic(eni.ID, netip.Addr{})
	w.part("elastic address", func(t *testing.T) {
		w.reaches(w.laptop(), public, true, "associated")
		w.reaches(w.of(web), worldLaptop, true, "associated")
		w.do(&ec2.DisassociateAddress{Account: dev, Region: region, Association: association})
		w.reaches(w.laptop(), public, false, "disassociated")
		w.reaches(w.of(web), worldLaptop, false, "disassociated")
		public, association = w.elastic(eni.ID, netip.Addr{})
		w.reaches(w.laptop(), public, true, "associated again")
		// Moved, it leads to the next one, by the first packet.
		view := w.node.plane.inForce()
		var allocation ec2.AllocationID
		for e := range view.ElasticAddressesOf(dev, region) {
			if e.Public.String() == public {
				allocation = e.ID
			}
		}
		w.do(&ec2.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: w.primary(peer).ID, AllowReassociation: new(true)})
		w.reaches(w.of(web), worldLaptop, false, "moved")
		groups(w.none)
		w.reaches(w.laptop(), public, true, "at the next one, whose group admits")
		groups(w.all)
		association = w.do(&ec2.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: eni.ID, AllowReassociation: new(true)}).Elastic.Association
		w.reaches(w.laptop(), public, true, "moved back")
	})

	w.part("routes", func(t *testing.T) {
		why := func(want string) {
			t.Helper()
			for _, ends := range [][2]string{{string(web), worldLaptop}, {worldLaptop, string(web)}} {
				tr, err := w.node.trace(t.Context(), traceRequest{ends[0], ends[1], "tcp/80"})
				if err != nil || tr.Admitted != (want == "") || !strings.Contains(tr.Reason, want) {
					t.Errorf("traced from %s to %s: %+v, %v; want %q", ends[0], ends[1], tr, err, want)
				}
			}
		}
		both := func(want bool, what string) {
			t.Helper()
			w.reaches(w.laptop(), public, want, what)
			w.reaches(w.of(web), worldLaptop, want, what)
			w.reaches(w.of(web), loneAddress, true, what+", inside the VPC")
		}
		both(true, "with a route")
		why("")
		w.do(&ec2.DeleteRoute{Account: dev, Region: region, RouteTable: w.table.ID, Destination: everywhere})
		both(false, "route deleted")
		why("no route to an internet gateway: " + string(w.public.ID) + " goes by " + string(w.table.ID) + ", which has no route to " + worldLaptop)
		w.do(&ec2.CreateRoute{Account: dev, Region: region, RouteTable: w.table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24"), Gateway: w.gateway.ID})
		both(true, "with a narrower route")
		w.do(&ec2.DeleteRoute{Account: dev, Region: region, RouteTable: w.table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24")})
		w.do(&ec2.CreateRoute{Account: dev, Region: region, RouteTable: w.table.ID, Destination: everywhere, Gateway: w.gateway.ID})
		both(true, "route made again")

		association := w.do(&ec2.AssociateRouteTable{Account: dev, Region: region, RouteTable: w.table.ID, Subnet: w.private.ID}).Association
		lonePublic, _ := w.elastic(w.primary(lone).ID, netip.Addr{})
		w.reaches(w.laptop(), lonePublic, true, "private subnet by the public one's table")
		w.do(&ec2.DisassociateRouteTable{Account: dev, Region: region, Association: association})
		w.reaches(w.laptop(), lonePublic, false, "private subnet by its own")
		w.reaches(w.of(lone), worldLaptop, false, "private subnet by its own")
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
			modify(func(r *ec2.ModifyNetworkInterface) { r.Unchecked = &want })
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
		w.do(&ec2.DisassociateAddress{Account: dev, Region: region, Association: association})
		for e := range w.node.plane.inForce().ElasticAddressesOf(dev, region) {
			if e.Association != "" { // AWS detaches no gateway while public addresses are mapped
				w.do(&ec2.DisassociateAddress{Account: dev, Region: region, Association: e.Association})
			}
		}
		w.do(&ec2.DetachInternetGateway{Account: dev, Region: region, Gateway: w.gateway.ID, VPC: w.vpc.ID})
		w.reaches(w.laptop(), public, false, "gateway detached")
		tr, err := w.node.trace(t.Context(), traceRequest{string(web), worldLaptop, "tcp/80"})
		if want := "where 0.0.0.0/0 leads to " + string(w.gateway.ID) + ", which is not attached"; err != nil || !strings.Contains(tr.Reason, want) {
			t.Errorf("traced %+v, %v; want %q", tr, err, want)
		}
		w.do(&ec2.AttachInternetGateway{Account: dev, Region: region, Gateway: w.gateway.ID, VPC: w.vpc.ID})
		public, _ := w.elastic(eni.ID, netip.Addr{})
		w.reaches(w.laptop(), public, true, "gateway attached again")
	})
}
