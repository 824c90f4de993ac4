package node

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// A changeTest changes a running interface, that of web, and observes packets from and to it. peer is
// in the same subnet, lone in the private subnet; public is the public address of web.
type changeTest struct {
	*world
	web, peer, lone                   ec2.InstanceID
	eni                               *ec2.Interface // of web
	private, peerAddress, loneAddress string
	public                            string
	association                       ec2.AssociationID
}

// TestChangesOfRunningInterfaceTakeEffect: each change of a running interface and of its routes is in
// force for packets when the change is answered.
func TestChangesOfRunningInterfaceTakeEffect(t *testing.T) {
	w := newWorld(t, "revoke")
	c := &changeTest{world: w, web: w.launch(w.Public, w.all), peer: w.launch(w.Public, w.all), lone: w.launch(w.Private, w.all)}
	c.eni = w.primary(c.web)
	c.private, c.peerAddress, c.loneAddress = c.eni.Private.String(), w.primary(c.peer).Private.String(), w.primary(c.lone).Private.String()
	w.subtest("groups", c.changeGroups)
	w.subtest("egress", c.changeEgress)
	c.public, c.association = w.elastic(c.eni.ID, netip.Addr{})
	w.subtest("elastic address", c.changeElasticAddress)
	w.subtest("routes", c.changeRoutes)
	w.subtest("source check", c.changeSourceCheck)
	w.subtest("gateway", c.changeGateway)
}

func (c *changeTest) modify(change func(*state.ModifyNetworkInterface)) {
	c.t.Helper()
	r := &state.ModifyNetworkInterface{Account: dev, Region: region, Interface: c.eni.ID}
	change(r)
	c.do(r)
}

// setGroups changes the groups of web.
func (c *changeTest) setGroups(ids ...ec2.GroupID) {
	c.t.Helper()
	c.modify(func(r *state.ModifyNetworkInterface) { r.Groups = ids })
}

func (c *changeTest) changeGroups(t *testing.T) {
	// A host in the same subnet is filtered too.
	c.connects(c.of(c.peer), c.private, 80, true, "in group all")
	c.setGroups(c.none)
	c.connects(c.of(c.peer), c.private, 80, false, "in group none")
	c.connects(c.of(c.web), c.peerAddress, 80, true, "from group none")
	// A rule with a group as its source admits the present members of that group.
	clients := c.group("clients")
	db := c.group("db")
	c.permit(db, state.RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, Group: ec2.GroupRef{ID: clients}})
	c.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: c.primary(c.peer).ID, Groups: []ec2.GroupID{db}})
	c.connects(c.of(c.web), c.peerAddress, 80, false, "not in the source group")
	c.setGroups(c.none, clients)
	c.connects(c.of(c.web), c.peerAddress, 80, true, "in the source group")
	c.setGroups(c.none)
	c.connects(c.of(c.web), c.peerAddress, 80, false, "no longer in the source group")
	c.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: c.primary(c.peer).ID, Groups: []ec2.GroupID{c.all}})
	c.setGroups(c.all)
	c.connects(c.of(c.peer), c.private, 80, true, "in group all again")
}

func (c *changeTest) changeEgress(t *testing.T) {
	shut := c.group("shut")
	c.permit(shut, planetest.TCP(80, planetest.Everywhere))
	c.do(&state.RevokeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: shut}, Direction: ec2.Egress,
		Rules: []state.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}}})
	c.connects(c.of(c.web), c.peerAddress, 80, true, "with egress")
	c.setGroups(shut)
	c.connects(c.of(c.web), c.peerAddress, 80, false, "without egress")
	c.connects(c.of(c.peer), c.private, 80, true, "replies pass without egress")
	// An egress rule of the sender does not replace an ingress rule of the receiver.
	c.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: c.primary(c.peer).ID, Groups: []ec2.GroupID{c.none}})
	c.setGroups(c.all)
	c.connects(c.of(c.web), c.peerAddress, 80, false, "with egress, without ingress at the receiver")
	c.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: c.primary(c.peer).ID, Groups: []ec2.GroupID{c.all}})
	c.connects(c.of(c.web), c.peerAddress, 80, true, "with both")
}

func (c *changeTest) changeElasticAddress(t *testing.T) {
	c.reaches(c.laptop(), c.public, true, "associated")
	c.reaches(c.of(c.web), planetest.Laptop, true, "associated")
	c.do(&state.DisassociateAddress{Account: dev, Region: region, Association: c.association})
	c.reaches(c.laptop(), c.public, false, "disassociated")
	c.reaches(c.of(c.web), planetest.Laptop, false, "disassociated")
	c.public, c.association = c.elastic(c.eni.ID, netip.Addr{})
	c.reaches(c.laptop(), c.public, true, "associated again")
	// Once the address is associated with the peer, the first packet to the address reaches the peer.
	view := c.node.plane.View()
	var allocation ec2.AllocationID
	for e := range view.ElasticAddressesOf(dev, region) {
		if e.Public.String() == c.public {
			allocation = e.ID
		}
	}
	c.do(&state.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: c.primary(c.peer).ID, AllowReassociation: new(true)})
	c.reaches(c.of(c.web), planetest.Laptop, false, "moved")
	c.setGroups(c.none)
	c.reaches(c.laptop(), c.public, true, "moved to the peer, whose group admits it")
	c.setGroups(c.all)
	c.association = c.do(&state.AssociateAddress{Account: dev, Region: region, Allocation: allocation, Interface: c.eni.ID, AllowReassociation: new(true)}).Elastic.Association
	c.reaches(c.laptop(), c.public, true, "moved back")
}

func (c *changeTest) changeRoutes(t *testing.T) {
	checkReason := func(want string) {
		t.Helper()
		for _, ends := range [][2]string{{string(c.web), planetest.Laptop}, {planetest.Laptop, string(c.web)}} {
			tr, err := c.trace(ends[0], ends[1], "tcp/80")
			if err != nil || tr.Admitted != (want == "") || !strings.Contains(tr.Reason, want) {
				t.Errorf("trace from %s to %s: %+v, error %v; want reason %q", ends[0], ends[1], tr, err, want)
			}
		}
	}
	both := func(want bool, what string) {
		t.Helper()
		c.reaches(c.laptop(), c.public, want, what)
		c.reaches(c.of(c.web), planetest.Laptop, want, what)
		c.reaches(c.of(c.web), c.loneAddress, true, what+", inside the VPC")
	}
	both(true, "with a route")
	checkReason("")
	c.do(&state.DeleteRoute{Account: dev, Region: region, RouteTable: c.Table.ID, Destination: planetest.Everywhere})
	both(false, "route deleted")
	checkReason(string(c.web) + ": its subnet has no route to a gateway: " + string(c.Public.ID) + " uses " + string(c.Table.ID) + ", which has no route to " + planetest.Laptop)
	c.do(&state.CreateRoute{Account: dev, Region: region, RouteTable: c.Table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24"), Gateway: c.Gateway.ID})
	both(true, "with a narrower route")
	c.do(&state.DeleteRoute{Account: dev, Region: region, RouteTable: c.Table.ID, Destination: netip.MustParsePrefix("203.0.113.0/24")})
	c.do(&state.CreateRoute{Account: dev, Region: region, RouteTable: c.Table.ID, Destination: planetest.Everywhere, Gateway: c.Gateway.ID})
	both(true, "route made again")

	association := c.do(&state.AssociateRouteTable{Account: dev, Region: region, RouteTable: c.Table.ID, Subnet: c.Private.ID}).Association
	lonePublic, _ := c.elastic(c.primary(c.lone).ID, netip.Addr{})
	c.reaches(c.laptop(), lonePublic, true, "private subnet with the route table of the public one")
	c.do(&state.DisassociateRouteTable{Account: dev, Region: region, Association: association})
	c.reaches(c.laptop(), lonePublic, false, "private subnet with its own route table")
	c.reaches(c.of(c.lone), planetest.Laptop, false, "private subnet with its own route table")
	c.reaches(c.of(c.web), lonePublic, false, "between public addresses, without a route back")
}

func (c *changeTest) changeSourceCheck(t *testing.T) {
	if out, err := c.in(c.namespace(c.web), "ip", "address", "add", "192.0.2.9/32", "dev", "lo"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := c.in(c.namespace(c.peer), "ip", "route", "add", "192.0.2.9/32", "via", c.private, "dev", "eth0", "onlink"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	foreign := origin{c.namespace(c.web), "192.0.2.9"}
	unchecked := func(want bool) {
		t.Helper()
		c.modify(func(r *state.ModifyNetworkInterface) { r.Unchecked = &want })
	}
	c.reaches(c.of(c.peer), "192.0.2.9", false, "checked")
	c.reaches(foreign, c.loneAddress, false, "checked")
	unchecked(true)
	c.reaches(c.of(c.peer), "192.0.2.9", true, "unchecked") // the request, and the reply with a foreign source
	unchecked(false)
	c.reaches(c.of(c.peer), "192.0.2.9", false, "checked again")
}

func (c *changeTest) changeGateway(t *testing.T) {
	c.reaches(c.laptop(), c.public, true, "gateway attached")
	c.do(&state.DisassociateAddress{Account: dev, Region: region, Association: c.association})
	for e := range c.node.plane.View().ElasticAddressesOf(dev, region) {
		if e.Association != "" { // AWS detaches no gateway while public addresses are mapped
			c.do(&state.DisassociateAddress{Account: dev, Region: region, Association: e.Association})
		}
	}
	c.do(&state.DetachInternetGateway{Account: dev, Region: region, Gateway: c.Gateway.ID, VPC: c.VPC.ID})
	c.reaches(c.laptop(), c.public, false, "gateway detached")
	tr, err := c.trace(string(c.web), planetest.Laptop, "tcp/80")
	if want := "where 0.0.0.0/0 leads to " + string(c.Gateway.ID) + ", which is not attached"; err != nil || !strings.Contains(tr.Reason, want) {
		t.Errorf("trace from web to the laptop: %+v, error %v; want reason %q", tr, err, want)
	}
	c.do(&state.AttachInternetGateway{Account: dev, Region: region, Gateway: c.Gateway.ID, VPC: c.VPC.ID})
	c.public, _ = c.elastic(c.eni.ID, netip.Addr{})
	c.reaches(c.laptop(), c.public, true, "gateway attached again")
}
