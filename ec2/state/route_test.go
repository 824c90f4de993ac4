package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// routes returns the routes of a table in its order: "0.0.0.0/0 igw-…, …".
func (r *replay) routes(id ec2.RouteTableID) string {
	rt, ok := r.state.View().RouteTable(id)
	if !ok {
		return "no table"
	}
	var list []string
	for _, route := range rt.Routes {
		list = append(list, route.Destination.String()+" "+string(route.Gateway))
	}
	return strings.Join(list, ", ")
}

func (r *replay) attachedGateway(vpc *ec2.VPC) *ec2.InternetGateway {
	r.t.Helper()
	g := r.must(&CreateInternetGateway{Account: vpc.Account, Region: vpc.Region}).Gateway
	return r.must(&AttachInternetGateway{vpc.Account, vpc.Region, g.ID, vpc.ID}).Gateway
}

func TestGatewayIsAttachedToOneVPC(t *testing.T) {
	r := newVPCReplay(t)
	a, b := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	g := r.attachedGateway(a)
	free := r.must(&CreateInternetGateway{Account: albert, Region: east, Tags: map[string]string{"k": "v"}}).Gateway
	if free.VPC != "" || g.VPC != a.ID || r.tags(string(free.ID)) != "k=v" {
		t.Errorf("the gateways are %+v and %+v, want the first attached and the second tagged", g, free)
	}
	r.refused(&AttachInternetGateway{albert, east, g.ID, a.ID}, "Resource.AlreadyAssociated")
	r.refused(&AttachInternetGateway{albert, east, g.ID, b.ID}, "Resource.AlreadyAssociated")
	r.refused(&AttachInternetGateway{albert, east, free.ID, a.ID}, "InvalidParameterValue")
	r.refused(&AttachInternetGateway{albert, east, "igw-0a1b2c3d", b.ID}, "InvalidInternetGatewayID.NotFound")
	r.refused(&AttachInternetGateway{albert, east, free.ID, "vpc-0a1b2c3d"}, "InvalidVpcID.NotFound")
	r.refused(&AttachInternetGateway{mary, east, free.ID, b.ID}, "InvalidInternetGatewayID.NotFound")
	r.refused(&DetachInternetGateway{albert, east, free.ID, b.ID}, "Gateway.NotAttached")
	r.refused(&DetachInternetGateway{albert, east, g.ID, b.ID}, "Gateway.NotAttached")
	r.refused(&DeleteInternetGateway{albert, east, g.ID}, "DependencyViolation")
	r.must(&DeleteInternetGateway{albert, east, free.ID})
	if r.tags(string(free.ID)) != "" {
		t.Error("a deleted gateway still has tags")
	}
	r.must(&DetachInternetGateway{albert, east, g.ID, a.ID})
	r.must(&AttachInternetGateway{albert, east, g.ID, b.ID})
	for range 4 {
		r.must(&CreateInternetGateway{Account: albert, Region: east})
	}
	r.refused(&CreateInternetGateway{Account: albert, Region: east}, "InternetGatewayLimitExceeded")
}

func TestRouteLeadsToGatewayOfItsVPC(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	g, theirs := r.attachedGateway(vpc), r.attachedGateway(other)
	rt := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable
	create := func(to string, g ec2.GatewayID) Request {
		return &CreateRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: cidr(to), Gateway: g}
	}
	replace := func(to string, g ec2.GatewayID) Request {
		return &ReplaceRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: cidr(to), Gateway: g}
	}
	for _, to := range []string{"0.0.0.0/0", "203.0.113.0/24", "203.0.0.0/16", "10.0.0.0/8"} {
		r.must(create(to, g.ID))
	}
	id := string(g.ID)
	if got, want := r.routes(rt.ID), "0.0.0.0/0 "+id+", 10.0.0.0/8 "+id+", 203.0.0.0/16 "+id+", 203.0.113.0/24 "+id; got != want {
		t.Errorf("routes are %s, want %s", got, want)
	}
	for _, c := range []struct {
		req  Request
		code string
	}{
		{create("0.0.0.0/0", g.ID), "RouteAlreadyExists"},
		{create("10.0.0.0/16", g.ID), "RouteAlreadyExists"},
		{create("10.0.1.0/24", g.ID), "InvalidParameterValue"},
		{create("198.51.100.0/24", theirs.ID), "InvalidParameterValue"},
		{create("198.51.100.0/24", "igw-0a1b2c3d"), "InvalidGatewayID.NotFound"},
		{create("198.51.100.0/24", ""), "MissingParameter"},
		{create("198.51.100.1/24", g.ID), "InvalidParameterValue"},
		{create("::/0", g.ID), "InvalidParameterValue"},
		{&CreateRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: netip.Prefix{}, Gateway: g.ID}, "MissingParameter"},
		{&CreateRoute{Account: albert, Region: east, RouteTable: "rtb-0a1b2c3d", Destination: allIPv4, Gateway: g.ID}, "InvalidRouteTableID.NotFound"},
		{&CreateRoute{Account: mary, Region: east, RouteTable: rt.ID, Destination: allIPv4, Gateway: g.ID}, "InvalidRouteTableID.NotFound"},
		{replace("198.51.100.0/24", g.ID), "InvalidParameterValue"},
		{replace("0.0.0.0/0", theirs.ID), "InvalidParameterValue"},
		{replace("10.0.0.0/16", g.ID), "InvalidParameterValue"},
		{&DeleteRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: cidr("198.51.100.0/24")}, "InvalidRoute.NotFound"},
		{&DeleteRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: cidr("10.0.0.0/16")}, "InvalidParameterValue"},
	} {
		r.refused(c.req, c.code)
	}

	// Another gateway replaces the first one. Routes to the first one are black holes until they
	// are replaced.
	r.must(&DetachInternetGateway{albert, east, g.ID, vpc.ID})
	r.must(&DeleteInternetGateway{albert, east, g.ID})
	next := r.attachedGateway(vpc)
	r.must(replace("0.0.0.0/0", next.ID))
	for _, to := range []string{"10.0.0.0/8", "203.0.0.0/16"} {
		r.must(&DeleteRoute{Account: albert, Region: east, RouteTable: rt.ID, Destination: cidr(to)})
	}
	if got, want := r.routes(rt.ID), "0.0.0.0/0 "+string(next.ID)+", 203.0.113.0/24 "+id; got != want {
		t.Errorf("routes are %s, want %s", got, want)
	}
	for n := range 48 {
		r.must(create(fmt.Sprintf("198.51.100.%d/32", n), next.ID))
	}
	r.refused(create("198.51.100.48/32", next.ID), "RouteLimitExceeded")
}

// TestRouteLeadsToEachKindOfTarget: each with the errors of its kind, and as a black hole once the target is gone.
func TestRouteLeadsToEachKindOfTarget(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.1.0.0/16")
	subnet, far := r.subnet(vpc, "10.0.1.0/24", "us-east-1a"), r.subnet(other, "10.1.1.0/24", "us-east-1a")
	rt := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable.ID
	newInterface := func(s *ec2.Subnet) *ec2.Interface {
		return r.must(&CreateNetworkInterface{Account: albert, Region: east, Spec: InterfaceSpec{Subnet: s.ID}}).Interface
	}
	eni, foreign := newInterface(subnet), newInterface(far)
	in := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Subnet: subnet.ID}).Instances[0].After
	stranger := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Subnet: far.ID}).Instances[0].After
	create := func(to string, change func(*CreateRoute)) Request {
		c := &CreateRoute{Account: albert, Region: east, RouteTable: rt, Destination: cidr(to)}
		change(c)
		return c
	}
	via := func(to string, id ec2.InterfaceID) Request {
		return create(to, func(c *CreateRoute) { c.Interface = id })
	}
	by := func(to string, id ec2.InstanceID) Request {
		return create(to, func(c *CreateRoute) { c.Instance = id })
	}
	peer := func(to string, id ec2.PeeringID) Request { return create(to, func(c *CreateRoute) { c.Peering = id }) }
	for _, c := range []struct {
		req  Request
		code string
	}{
		{via("10.0.0.0/16", eni.ID), "RouteAlreadyExists"},
		{via("10.0.1.0/25", eni.ID), "InvalidParameterValue"}, // no subnet
		{via("192.0.2.0/24", foreign.ID), "InvalidParameterValue"},
		{via("192.0.2.0/24", "eni-0a1b2c3d"), "InvalidNetworkInterfaceID.NotFound"},
		{by("192.0.2.0/24", stranger.ID), "InvalidParameterValue"},
		{by("192.0.2.0/24", "i-0a1b2c3d"), "InvalidInstanceID.NotFound"},
		{peer("192.0.2.0/24", "pcx-0a1b2c3d"), "InvalidVpcPeeringConnectionID.NotFound"},
		{create("192.0.2.0/24", func(c *CreateRoute) { c.NAT = "nat-0a1b2c3d" }), "InvalidNatGatewayID.NotFound"},
		{create("10.0.1.0/24", func(c *CreateRoute) { c.NAT = "nat-0a1b2c3d" }), "InvalidParameterValue"},
		{create("10.0.1.0/24", func(c *CreateRoute) { c.Peering = "pcx-0a1b2c3d" }), "InvalidParameterValue"},
		{create("192.0.2.0/24", func(c *CreateRoute) { c.Interface, c.Instance = eni.ID, in.ID }), "InvalidParameterCombination"},
		{create("192.0.2.0/24", func(c *CreateRoute) { c.Interface, c.PrefixList = eni.ID, "pl-0a1b2c3d" }), "InvalidParameterCombination"},
	} {
		r.refused(c.req, c.code)
	}
	r.must(via("10.0.1.0/24", eni.ID))
	r.must(by("0.0.0.0/0", in.ID))
	leads := func() (list []bool) {
		v := r.state.View()
		table, _ := v.RouteTable(rt)
		for _, route := range table.Routes {
			list = append(list, v.Leads(vpc.ID, route))
		}
		return list
	}
	table, _ := r.state.View().RouteTable(rt)
	if got, want := table.Routes[0], (ec2.Route{Destination: cidr("0.0.0.0/0"), Instance: in.ID, Interface: in.Interface}); got != want {
		t.Errorf("the route to the instance is %+v, want %+v", got, want)
	}
	if got := leads(); !slices.Equal(got, []bool{true, false}) {
		t.Errorf("the routes to a running instance and a detached interface lead somewhere: %v", got)
	}
	r.must(&AttachNetworkInterface{Account: albert, Region: east, Interface: eni.ID, Instance: in.ID, DeviceIndex: 1})
	if got := leads(); !slices.Equal(got, []bool{true, true}) {
		t.Errorf("after the interface is attached the routes lead somewhere: %v", got)
	}
	r.refused(by("192.0.2.0/24", in.ID), "InvalidInstanceID")
	r.must(via("192.0.2.0/24", in.Interface))
	r.must(&TerminateInstances{Account: albert, Region: east, Instances: []ec2.InstanceID{in.ID}})
	if got := leads(); slices.Contains(got, true) {
		t.Errorf("after the instance is terminated the routes lead somewhere: %v", got)
	}
}

func TestLocalRouteIsReplacedByInterface(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	eni := r.must(&CreateNetworkInterface{Account: albert, Region: east, Spec: InterfaceSpec{Subnet: r.subnet(vpc, "10.0.1.0/24", "us-east-1a").ID}}).Interface
	replace := func(to string, change func(*ReplaceRoute)) Request {
		c := &ReplaceRoute{Account: albert, Region: east, RouteTable: vpc.RouteTable, Destination: cidr(to)}
		change(c)
		return c
	}
	via := func(c *ReplaceRoute) { c.Interface = eni.ID }
	local := func(c *ReplaceRoute) { c.Local = true }
	r.must(replace("10.0.0.0/16", local))
	r.must(replace("10.0.0.0/16", via))
	r.must(replace("10.0.0.0/16", via))
	if table, _ := r.state.View().RouteTable(vpc.RouteTable); len(table.Routes) != 1 || table.Routes[0].Interface != eni.ID {
		t.Errorf("the routes are %+v, want one in place of the local one", table.Routes)
	}
	r.refused(&DeleteRoute{Account: albert, Region: east, RouteTable: vpc.RouteTable, Destination: cidr("10.0.0.0/16")}, "InvalidParameterValue")
	r.refused(replace("10.0.1.0/24", via), "InvalidParameterValue") // there is none
	r.refused(replace("10.0.1.0/24", local), "InvalidParameterValue")
	r.refused(replace("10.0.0.0/16", func(c *ReplaceRoute) { c.Local, c.Interface = true, eni.ID }), "InvalidParameterCombination")
	r.must(replace("10.0.0.0/16", local))
	if got := r.routes(vpc.RouteTable); got != "" {
		t.Errorf("the routes are %s, want the local one alone", got)
	}
}

func TestSubnetHasOneRouteTable(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	a, b := r.subnet(vpc, "10.0.1.0/24", "us-east-1a"), r.subnet(vpc, "10.0.2.0/24", "us-east-1a")
	stranger := r.subnet(other, "10.0.1.0/24", "us-east-1a")
	one := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable
	two := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable
	table := func(s *ec2.Subnet) ec2.RouteTableID { return r.state.View().RouteTableOf(s).ID }

	made := r.must(&AssociateRouteTable{albert, east, one.ID, a.ID}).Association
	if again := r.must(&AssociateRouteTable{albert, east, one.ID, a.ID}).Association; again != made {
		t.Errorf("the repeated association is %s, want %s", again, made)
	}
	if table(a) != one.ID || table(b) != vpc.RouteTable {
		t.Errorf("the subnets have tables %s and %s, want the associated one and the main one", table(a), table(b))
	}
	r.refused(&AssociateRouteTable{albert, east, two.ID, a.ID}, "Resource.AlreadyAssociated")
	r.refused(&AssociateRouteTable{albert, east, one.ID, stranger.ID}, "InvalidParameterValue")
	r.refused(&AssociateRouteTable{albert, east, one.ID, "subnet-0a1b2c3d"}, "InvalidSubnetID.NotFound")
	r.refused(&DeleteRouteTable{albert, east, one.ID}, "DependencyViolation")

	moved := r.must(&ReplaceRouteTableAssociation{albert, east, made, two.ID}).Association
	if moved == made || table(a) != two.ID {
		t.Errorf("association %s was replaced by %s, and the subnet has table %s, want a new association and table %s", made, moved, table(a), two.ID)
	}
	r.refused(&DisassociateRouteTable{albert, east, made}, "InvalidAssociationID.NotFound")
	r.refused(&ReplaceRouteTableAssociation{albert, east, made, one.ID}, "InvalidAssociationID.NotFound")
	r.refused(&ReplaceRouteTableAssociation{albert, east, moved, "rtb-0a1b2c3d"}, "InvalidRouteTableID.NotFound")
	r.refused(&ReplaceRouteTableAssociation{albert, east, moved, other.RouteTable}, "InvalidParameterValue")
	if same := r.must(&ReplaceRouteTableAssociation{albert, east, moved, two.ID}).Association; same != moved {
		t.Errorf("the association replaced by itself is %s, want %s", same, moved)
	}
	r.must(&DeleteRouteTable{albert, east, one.ID})
	r.must(&DisassociateRouteTable{albert, east, moved})
	if table(a) != vpc.RouteTable {
		t.Errorf("the subnet has table %s, want the main table", table(a))
	}

	// Another table becomes the main one.
	main, _ := r.state.View().RouteTable(vpc.RouteTable)
	r.refused(&DisassociateRouteTable{albert, east, main.Main}, "InvalidParameterValue")
	r.refused(&DeleteRouteTable{albert, east, main.ID}, "DependencyViolation")
	now := r.must(&ReplaceRouteTableAssociation{albert, east, main.Main, two.ID})
	if v, _ := r.state.View().VPC(vpc.ID); v.RouteTable != two.ID || now.RouteTable.Main != now.Association || table(b) != two.ID {
		t.Errorf("the main table is %s, and table %s has the main association %s, want that table and %s", v.RouteTable, two.ID, now.RouteTable.Main, now.Association)
	}
	r.must(&DeleteRouteTable{albert, east, main.ID})
	r.refused(&DeleteRouteTable{albert, east, two.ID}, "DependencyViolation")
}

func TestRouteTablesAreLimitedAndIdempotent(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	create := func(v ec2.VPCID, token string) Request {
		return &CreateRouteTable{Account: albert, Region: east, VPC: v, ClientToken: token, Tags: map[string]string{"k": "v"}}
	}
	made := r.must(create(vpc.ID, "token")).RouteTable
	if again := r.must(create(vpc.ID, "token")).RouteTable; again.ID != made.ID {
		t.Errorf("one client token made tables %s and %s, want one", made.ID, again.ID)
	}
	r.refused(create(other.ID, "token"), "IdempotentParameterMismatch")
	r.refused(create(other.ID, strings.Repeat("x", 65)), "InvalidParameterValue")
	if n := len(slices.Collect(r.state.View().RouteTablesOf(albert, east))); n != 3 {
		t.Errorf("there are %d route tables, want 3", n)
	}
	for range 198 {
		r.must(create(vpc.ID, ""))
	}
	r.refused(create(vpc.ID, ""), "RouteTableLimitExceeded")
	r.must(create(other.ID, ""))
}
