package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A drawing is a node's plane without a cluster: what the state decides is applied to it, and
// its ports are in memory. It has an uplink, a VPC as a world has, and a second node in the
// same zone.
type drawing struct {
	*testing.T
	node  testNode
	state *ec2.State
	view  *ec2.View

	testVPC
}

// A testVPC is a VPC 10.0.0.0/16 with a subnet that has a way out and one that has none.
type testVPC struct {
	vpc             *ec2.VPC
	public, private *ec2.Subnet
	table           *ec2.RouteTable // of public
	gateway         *ec2.InternetGateway
}

func newTestVPC(do func(ec2.Request) ec2.Result) (v testVPC) {
	v.vpc = do(&ec2.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	v.public = do(&ec2.CreateSubnet{Account: dev, Region: region, VPC: v.vpc.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}).Subnet
	v.private = do(&ec2.CreateSubnet{Account: dev, Region: region, VPC: v.vpc.ID, CIDR: netip.MustParsePrefix("10.0.2.0/24")}).Subnet
	v.gateway = do(&ec2.CreateInternetGateway{Account: dev, Region: region}).Gateway
	do(&ec2.AttachInternetGateway{Account: dev, Region: region, Gateway: v.gateway.ID, VPC: v.vpc.ID})
	v.table = do(&ec2.CreateRouteTable{Account: dev, Region: region, VPC: v.vpc.ID}).RouteTable
	do(&ec2.CreateRoute{Account: dev, Region: region, RouteTable: v.table.ID, Destination: everywhere, Gateway: v.gateway.ID})
	do(&ec2.AssociateRouteTable{Account: dev, Region: region, RouteTable: v.table.ID, Subnet: v.public.ID})
	return v
}

func newDrawing(t *testing.T) *drawing {
	t.Helper()
	c := nodeConfig(t)
	c.Account = append(c.Account, Account{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", SecretKey: "secret"})
	d := &drawing{T: t, node: newNode(t, c), state: ec2.NewState()}
	t.Cleanup(d.node.plane.close)
	port, err := d.node.sw.AddPort("uplink", vswitch.UplinkPort, d.device())
	if err != nil {
		t.Fatal(err)
	}
	d.node.plane.uplink = &vswitch.Uplink{Port: port, MAC: uplinkMAC("node1"), NextHop: ec2.MAC{2, 0, 0, 0, 0, 1}, MTU: uplinkMTU}
	commands, err := c.bootstrap(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range commands {
		d.decide(cmd.Request)
	}
	d.decide(&ec2.PutNode{Node: ec2.Node{ID: "node2", Zone: "us-east-1a", Role: ec2.Voter, Address: "192.0.2.12:7400"}})
	d.testVPC = newTestVPC(d.do)
	return d
}

func (d *drawing) device() *taptest.Device {
	d.Helper()
	device, err := taptest.New()
	if err != nil {
		d.Fatal(err)
	}
	return device
}

// decide changes the state alone.
func (d *drawing) decide(r ec2.Request) ec2.Result {
	d.Helper()
	result, err := d.state.Apply(d.state.Index()+1, ec2.Command{Time: time.Unix(1e9, 0), Request: r})
	if err != nil {
		d.Fatalf("%T: %v", r, err)
	}
	return result
}

// catchUp puts the state in force, with all that has changed since the last time at once.
func (d *drawing) catchUp() {
	d.Helper()
	d.view = d.state.ViewSince(d.view)
	if err := d.node.plane.apply(d.view); err != nil {
		d.Fatal(err)
	}
}

func (d *drawing) do(r ec2.Request) ec2.Result {
	d.Helper()
	result := d.decide(r)
	d.catchUp()
	return result
}

func (d *drawing) group(name string, rules ...ec2.RuleSpec) ec2.GroupID {
	d.Helper()
	id := d.do(&ec2.CreateSecurityGroup{Account: dev, Region: region, VPC: d.vpc.ID, Name: name, Description: name}).Group.ID
	if len(rules) > 0 {
		d.do(&ec2.AuthorizeRules{Account: dev, Region: region, Group: ec2.GroupSelector{ID: id}, Rules: rules})
	}
	return id
}

// register puts an interface to work at a node; one of this node gets a port.
func (d *drawing) register(node ec2.NodeID, device string, subnet *ec2.Subnet, groups ...ec2.GroupID) *ec2.Interface {
	d.Helper()
	eni := d.do(&ec2.RegisterInterface{Account: dev, Region: region, Node: node, Outside: ec2.Outside{Device: device},
		Spec: ec2.InterfaceSpec{Subnet: subnet.ID, Groups: groups}}).Interface
	if node == "node1" {
		d.plug(eni)
	}
	return eni
}

func (d *drawing) plug(eni *ec2.Interface) {
	d.Helper()
	if err := d.node.plane.attach(eni.Epoch, d.device()); err != nil {
		d.Fatal(err)
	}
}

func (d *drawing) elastic(eni *ec2.Interface, private netip.Addr) netip.Addr {
	d.Helper()
	e := d.do(&ec2.AllocateAddress{Account: dev, Region: region}).Elastic
	d.do(&ec2.AssociateAddress{Account: dev, Region: region, Allocation: e.ID, Interface: eni.ID, Private: private})
	return e.Public
}

// traces imagines a packet and compares its fate, and what is said about it, "" being
// whatever is.
func (d *drawing) traces(from, to, text, verdict, says string) {
	d.Helper()
	got, err := d.node.trace(d.Context(), traceRequest{from, to, text})
	if err != nil {
		d.Errorf("%s from %s to %s: %v", text, from, to, err)
		return
	}
	all := got.Reason + "\n" + got.Admit
	for _, s := range got.Steps {
		all += "\n" + strings.Join(s.Refusals, "\n")
	}
	if got.Verdict != verdict || !strings.Contains(all, says) {
		d.Errorf("%s from %s to %s: %s, %q; want %s, %q", text, from, to, got.Verdict, all, verdict, says)
	}
}

func TestTraceSaysWhyInAVPC(t *testing.T) {
	d := newDrawing(t)
	in := tcp(80, everywhere)
	wide, shut := d.group("wide", in), d.group("shut", in)
	allOut := ec2.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: everywhere}
	d.do(&ec2.RevokeRules{Account: dev, Region: region, Group: ec2.GroupSelector{ID: shut}, Direction: ec2.Egress, Rules: []ec2.RuleSpec{allOut}})
	web, db := d.register("node1", "web", d.public, wide), d.register("node1", "db", d.private, shut)
	w, b := string(web.ID), string(db.ID)
	public, dbPublic := d.elastic(web, netip.Addr{}), d.elastic(db, netip.Addr{})

	d.traces(w, b, "tcp/80", "forward", "")
	d.traces(w, db.Private.String(), "tcp/80", "forward", "")  // an address of the VPC that web is in
	d.traces(web.Private.String(), b, "tcp/80", "forward", "") // or db
	d.traces(w, b, "tcp/81", "no-rule", "ec2-authorize "+string(shut)+" -P tcp -p 81 -s "+web.Private.String()+"/32")
	d.traces(b, w, "tcp/80", "no-rule", "its groups have no egress rule")
	d.traces(b, w, "tcp/80", "no-rule", "ec2-authorize "+string(shut)+" --egress -P tcp -p 80 -s "+web.Private.String()+"/32")
	d.do(&ec2.AuthorizeRules{Account: dev, Region: region, Group: ec2.GroupSelector{ID: shut}, Direction: ec2.Egress, Rules: []ec2.RuleSpec{tcp(443, everywhere)}})
	d.traces(b, w, "tcp/80", "no-rule", "tcp 443 to 0.0.0.0/0")
	d.traces(b, w, "tcp/80", "no-rule", "is for another range")
	d.traces(public.String(), b, "tcp/81", "no-rule", "-s "+web.Private.String()+"/32") // from whoever has it
	d.traces(w, worldLaptop, "tcp/80", "forward", "")
	d.traces(worldLaptop, w, "tcp/80", "forward", "")
	d.traces(worldLaptop, public.String(), "tcp/80", "forward", "")

	none := "no route to an internet gateway: " + string(d.private.ID) + " goes by " + string(d.vpc.RouteTable) + ", which has no route to "
	d.traces(b, worldLaptop, "tcp/443", "not-routed", none+worldLaptop)
	d.traces(worldLaptop, dbPublic.String(), "tcp/80", "not-routed", none+worldLaptop)
	d.traces(w, dbPublic.String(), "tcp/80", "not-routed", none+public.String())
	d.do(&ec2.CreateRoute{Account: dev, Region: region, RouteTable: d.vpc.RouteTable, Destination: everywhere, Gateway: d.gateway.ID})
	d.traces(worldLaptop, dbPublic.String(), "tcp/80", "forward", "")
	d.traces(w, dbPublic.String(), "tcp/80", "forward", "")

	// By each of its addresses, and in another network by its public one.
	more := d.do(&ec2.AssignPrivateAddresses{Account: dev, Region: region, Interface: web.ID, Count: 1}).Addresses[0]
	d.traces(more.String(), b, "tcp/80", "forward", "")
	d.traces(b, more.String(), "tcp/80", "no-rule", "-s "+more.String()+"/32")
	other := &drawing{T: t, node: d.node, state: d.state, view: d.view}
	other.vpc = other.do(&ec2.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	theirs := other.do(&ec2.CreateSubnet{Account: dev, Region: region, VPC: other.vpc.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}).Subnet
	far := other.register("node1", "far", theirs, other.group("far"))
	if _, err := d.node.trace(t.Context(), traceRequest{w, string(far.ID), "tcp/80"}); err == nil || !strings.Contains(err.Error(), "is in another network") {
		t.Errorf("to another VPC: %v", err)
	}
	d.view = other.view
	d.traces(string(far.ID), w, "tcp/80", "not-routed", "which has no route to "+public.String())
}

// TestPlaneFollowsAnInterfaceThroughItsLives: a lease is known by its epoch, and one that
// begins anew has nothing of the last, whatever a View has missed in between.
func TestPlaneFollowsAnInterfaceThroughItsLives(t *testing.T) {
	d := newDrawing(t)
	wide := d.group("wide", tcp(80, everywhere))
	own := d.do(&ec2.CreateNetworkInterface{Account: dev, Region: region, Spec: ec2.InterfaceSpec{Subnet: d.public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	register := &ec2.RegisterInterface{Account: dev, Region: region, Node: "node1", Outside: ec2.Outside{Device: "vm0"}, Interface: own.ID}
	unregister := &ec2.UnregisterInterface{Account: dev, Region: region, Interface: own.ID}
	found := func() *vswitch.Endpoint {
		n, _ := d.node.sw.Snapshot().Network(vswitch.VNI(d.vpc.VNI))
		return n.Find(own.Private)
	}
	if found() != nil {
		t.Error("an idle interface is a member")
	}
	first := d.do(register).Interface
	d.plug(first)
	if err := d.node.plane.attach(first.Epoch, d.device()); err == nil {
		t.Error("it has two ports")
	}
	ports := len(d.node.sw.Ports())

	// Away and back, in one View. The old port is still open, and is nobody's.
	d.decide(unregister)
	d.decide(&ec2.ReportInterface{Interface: own.ID, Epoch: first.Epoch})
	second := d.decide(register).Interface
	d.catchUp()
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port != nil {
		t.Errorf("found %+v, want epoch %d without a port", e, second.Epoch)
	}
	d.plug(second)
	if err := d.node.plane.detach(first.Epoch); err != nil || len(d.node.sw.Ports()) != ports {
		t.Errorf("%d ports, want %d: %v", len(d.node.sw.Ports()), ports, err)
	}
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port == nil {
		t.Errorf("the old port's end has taken the new lease along: %+v", e)
	}

	// Its port goes, and another comes, under the same lease.
	if err := d.node.plane.detach(second.Epoch); err != nil || found() != nil {
		t.Errorf("without a port it is found as %+v, %v", found(), err)
	}
	d.plug(second)
	if found() == nil {
		t.Error("with another port it is not found")
	}

	// A port that is opened when the lease has ended is refused.
	d.do(unregister)
	if err := d.node.plane.attach(second.Epoch, d.device()); err == nil {
		t.Error("an ended lease has got a port")
	}
	if err := d.node.plane.detach(second.Epoch); err != nil || len(d.node.plane.endpoints) != 0 {
		t.Errorf("%d endpoints are left, %v", len(d.node.plane.endpoints), err)
	}
	if p := d.node.plane.presence(); len(p) != 0 {
		t.Errorf("presence of %+v", p)
	}
}

// TestPlaneFollowsOthersInPlace: what changes of another node's interface is in force here.
func TestPlaneFollowsOthersInPlace(t *testing.T) {
	d := newDrawing(t)
	fellows, wide := d.group("fellows"), d.group("wide")
	far := d.register("node2", "vm0", d.public, wide)
	vni := vswitch.VNI(d.vpc.VNI)
	find := func(a netip.Addr) *vswitch.Endpoint {
		n, _ := d.node.sw.Snapshot().Network(vni)
		return n.Find(a)
	}
	node2, _ := d.view.Node("node2")
	if e := find(far.Private); e == nil || e.Node != node2.Number || e.Unchecked {
		t.Fatalf("found %+v, want it at node %d", e, node2.Number)
	}
	lost := d.node.plane.lost[d.vpc.VNI]
	modify := func(r ec2.ModifyNetworkInterface) {
		t.Helper()
		r.Account, r.Region, r.Interface = dev, region, far.ID
		d.do(&r)
	}
	modify(ec2.ModifyNetworkInterface{Groups: []ec2.GroupID{wide, fellows}})
	if e := find(far.Private); len(e.Groups) != 2 || d.node.plane.lost[d.vpc.VNI] != lost {
		t.Errorf("of two groups it is in %v; a membership was lost at %d", e.Groups, d.node.plane.lost[d.vpc.VNI])
	}
	modify(ec2.ModifyNetworkInterface{Groups: []ec2.GroupID{fellows}})
	if e := find(far.Private); len(e.Groups) != 1 || d.node.plane.lost[d.vpc.VNI] != d.view.Index() {
		t.Errorf("of one group it is in %v; a membership was lost at %d, want %d", e.Groups, d.node.plane.lost[d.vpc.VNI], d.view.Index())
	}
	modify(ec2.ModifyNetworkInterface{Unchecked: new(true)})
	if !find(far.Private).Unchecked {
		t.Error("it is checked")
	}
	more := d.do(&ec2.AssignPrivateAddresses{Account: dev, Region: region, Interface: far.ID, Count: 1}).Addresses[0]
	public := d.elastic(far, more)
	if e := find(more); e == nil || e != find(far.Private) || d.node.sw.Snapshot().Public(public) != e || e.PrivateOf(public) != more {
		t.Errorf("its further address is %+v's", e)
	}

	// What its own node says is down stays away, whatever else changes of it.
	d.node.plane.setDown(map[uint64]bool{far.Epoch: true})
	if find(far.Private) != nil || find(more) != nil || d.node.sw.Snapshot().Public(public) != nil {
		t.Error("it is down and found")
	}
	modify(ec2.ModifyNetworkInterface{Groups: []ec2.GroupID{wide}})
	if find(far.Private) != nil {
		t.Error("it is down, has changed, and is found")
	}
	d.node.plane.setDown(nil)
	if e := find(far.Private); e == nil || !slices.Equal(e.Groups, find(more).Groups) || len(e.Groups) != 1 {
		t.Errorf("up again it is %+v", e)
	}
	d.do(&ec2.UnassignPrivateAddresses{Account: dev, Region: region, Interface: far.ID, Addresses: []netip.Addr{more}})
	if find(more) != nil || d.node.sw.Snapshot().Public(public) != nil || find(far.Private) == nil {
		t.Error("an address that it gave back is its own still")
	}
}

// TestPlaneForgetsANetwork: and its number is never another's, so nothing of it comes back.
func TestPlaneForgetsANetwork(t *testing.T) {
	d := newDrawing(t)
	vpc := d.do(&ec2.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	if n, ok := d.node.sw.Snapshot().Network(vswitch.VNI(vpc.VNI)); !ok || n.Prefix != vpc.CIDR {
		t.Fatalf("the network is %+v", n)
	}
	d.do(&ec2.DeleteVPC{Account: dev, Region: region, VPC: vpc.ID})
	if _, ok := d.node.sw.Snapshot().Network(vswitch.VNI(vpc.VNI)); ok {
		t.Error("a network that was deleted is there")
	}
	// Made and deleted in one View, nothing is to be done.
	d.decide(&ec2.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.1.0.0/16")})
	d.catchUp()
}
