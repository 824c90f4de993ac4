package oracle

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/verdict"
	"palisade/nat"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

const ops = ec2.AccountID("210987654321") // the owner of the third VPC

var (
	publicPool = netip.MustParsePrefix("198.18.0.0/16")
	nextHop    = ec2.MAC{2, 0, 0, 0, 0, 1}
	nodeNames  = [2]ec2.NodeID{planetest.Node, "node2"}
)

// A node is one node with its interfaces, uplink and tunnel, all in memory.
type node struct {
	plane   *plane.Plane
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	nat     *nat.Table
	uplink  *taptest.Device
	wire    *wire
	devices map[uint64]*taptest.Device // by epoch
	counted [verdict.Count]uint64
}

// A world is a state and two nodes that enforce it.
type world struct {
	testing.TB
	r     *rand.Rand
	state *state.State
	view  *state.View
	now   time.Time
	nodes [2]*node

	// What the requests have made and may still exist.
	vpcs    []*ec2.VPC
	subnets []*ec2.Subnet
	groups  map[ec2.VPCID][]ec2.GroupID
	tables  map[ec2.VPCID][]ec2.RouteTableID

	done, refused map[string]int // requests, by type
	probes        int
	changed       uint64               // index of the last request that may have changed what groups admit
	lost          map[uint64][]opening // by epoch
}

// newNode makes a node whose plane has no state yet.
func newNode(t testing.TB, name ec2.NodeID, number uint32) *node {
	t.Helper()
	index, err := plane.OpenEnforcedIndex(filepath.Join(bootfiletest.Dir(t), "enforced"))
	check(t, err)
	n := &node{devices: map[uint64]*taptest.Device{}}
	n.tracker, err = conntrack.Open(conntrack.Config{})
	check(t, err)
	n.nat, err = nat.Open(nat.Config{Capacity: 4096})
	check(t, err)
	quiet := slog.New(slog.DiscardHandler)
	n.sw, err = vswitch.New(vswitch.Config{Tracker: n.tracker, Pollers: 1, Logger: quiet})
	check(t, err)
	n.plane = plane.New(plane.Config{Node: name, MTU: 1500, Switch: n.sw, Tracker: n.tracker, NAT: n.nat, EnforcedIndex: index, Logger: quiet})
	n.uplink, err = taptest.New()
	check(t, err)
	check(t, n.plane.AddUplink(n.uplink, nextHop))
	n.wire, err = newWire(number)
	check(t, err)
	check(t, n.plane.AddTunnel(n.wire))
	return n
}

func (n *node) close(t testing.TB) {
	t.Helper()
	n.plane.Close()
	n.sw.Close()
	check(t, n.tracker.Close())
	check(t, n.nat.Close())
}

// attach gives every active interface of a node a port, and takes the ports of those that have ended.
func (n *node) attach(t testing.TB, view *state.View, name ec2.NodeID) {
	t.Helper()
	active := map[uint64]bool{}
	for eni := range view.Interfaces() {
		if eni.State != ec2.Active || eni.Node != name {
			continue
		}
		active[eni.Epoch] = true
		if n.devices[eni.Epoch] == nil {
			d, err := taptest.New()
			check(t, err)
			check(t, n.plane.Attach(eni.Epoch, d))
			n.devices[eni.Epoch] = d
		}
	}
	for epoch := range n.devices {
		if !active[epoch] {
			check(t, n.plane.Detach(epoch))
			delete(n.devices, epoch)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld makes two nodes and a state with three VPCs, of two accounts.
func newWorld(t testing.TB, r *rand.Rand) *world {
	t.Helper()
	w := emptyWorld(t, r, ec2.Settings{})
	w.build()
	return w
}

// emptyWorld makes two nodes and a state with three accounts, and settings other than the default ones.
func emptyWorld(t testing.TB, r *rand.Rand, settings ec2.Settings) *world {
	t.Helper()
	w := &world{
		TB: t, r: r, state: state.NewState(), now: time.Unix(1e9, 0), groups: map[ec2.VPCID][]ec2.GroupID{},
		tables: map[ec2.VPCID][]ec2.RouteTableID{}, done: map[string]int{}, refused: map[string]int{},
		lost: map[uint64][]opening{},
	}
	for i := range w.nodes {
		w.nodes[i] = newNode(t, nodeNames[i], uint32(i+1))
	}
	w.nodes[0].wire.other, w.nodes[1].wire.other = w.nodes[1].wire, w.nodes[0].wire
	for _, c := range planetest.Bootstrap() {
		if b, ok := c.Request.(*state.Bootstrap); ok {
			b.Settings = settings
		}
		w.must(c.Request)
	}
	w.must(&state.PutNode{Node: ec2.Node{ID: nodeNames[1], Zone: "us-east-1a", Role: ec2.Voter, Address: "192.0.2.12:7400"}})
	w.must(&state.CreateAccount{ID: ops, Name: "ops", Platform: ec2.VPCOnly, AccessKey: "AKIDOPS", Secret: "secret"})
	for i, name := range nodeNames {
		n, _ := w.view.Node(name)
		w.nodes[i].wire.number = n.Number
	}
	return w
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.close(w)
	}
}

// build makes the VPCs, each with two subnets, an internet gateway, three groups and a second route table, and
// the interfaces.
func (w *world) build() {
	for i, account := range []ec2.AccountID{planetest.Dev, planetest.Dev, ops} {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		vpc := w.must(&state.CreateVPC{Account: account, Region: planetest.Region, CIDR: block}).VPC
		w.vpcs = append(w.vpcs, vpc)
		for j := range 2 {
			cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j), 0}), 24)
			s := w.must(&state.CreateSubnet{Account: account, Region: planetest.Region, VPC: vpc.ID, CIDR: cidr}).Subnet
			w.subnets = append(w.subnets, s)
		}
		g := w.must(&state.CreateInternetGateway{Account: account, Region: planetest.Region}).Gateway
		w.must(&state.AttachInternetGateway{Account: account, Region: planetest.Region, Gateway: g.ID, VPC: vpc.ID})
		w.must(&state.CreateRoute{Account: account, Region: planetest.Region, RouteTable: vpc.RouteTable, Destination: planetest.Everywhere, Gateway: g.ID})
		t := w.must(&state.CreateRouteTable{Account: account, Region: planetest.Region, VPC: vpc.ID}).RouteTable
		w.tables[vpc.ID] = []ec2.RouteTableID{vpc.RouteTable, t.ID}
		for _, name := range []string{"web", "app", "db"} {
			id := w.must(&state.CreateSecurityGroup{Account: account, Region: planetest.Region, VPC: vpc.ID, Name: name, Description: name}).Group.ID
			w.groups[vpc.ID] = append(w.groups[vpc.ID], id)
			w.authorize(account, id, ec2.Ingress, state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: netip.MustParsePrefix("10.0.0.0/14")})
		}
	}
	if w.r.IntN(2) == 0 {
		w.connect(w.vpcs[0], w.vpcs[w.r.IntN(2)+1])
	}
	for i, s := range w.subnets {
		for range 2 {
			w.register(s, nodeNames[w.r.IntN(2)])
		}
		if i%2 == 0 {
			w.register(s, nodeNames[w.r.IntN(2)])
		}
	}
	v := w.vpcs[w.r.IntN(3)]
	box := w.interfaceIn(v)
	w.must(&state.ModifyNetworkInterface{Account: v.Account, Region: v.Region, Interface: box.ID, Unchecked: new(true)})
	w.must(&state.CreateRoute{Account: v.Account, Region: v.Region, RouteTable: v.RouteTable, Destination: netip.MustParsePrefix("203.0.113.0/25"), Interface: box.ID})
	private := w.vpcs[w.r.IntN(3)].ID // its gateway can be detached
	for eni := range w.view.Interfaces() {
		if w.r.IntN(2) == 0 && (eni.VPC != private || w.r.IntN(8) == 0) {
			w.elastic(eni)
		}
	}
}

// connect peers two VPCs, with routes in both main tables.
func (w *world) connect(a, b *ec2.VPC) {
	p := w.must(&state.CreateVPCPeering{Account: a.Account, Region: a.Region, VPC: a.ID, PeerAccount: b.Account, PeerVPC: b.ID}).Peering
	w.must(&state.AcceptVPCPeering{Account: b.Account, Region: b.Region, Peering: p.ID})
	w.must(&state.CreateRoute{Account: a.Account, Region: a.Region, RouteTable: a.RouteTable, Destination: b.CIDR, Peering: p.ID})
	w.must(&state.CreateRoute{Account: b.Account, Region: b.Region, RouteTable: b.RouteTable, Destination: a.CIDR, Peering: p.ID})
}

func (w *world) register(s *ec2.Subnet, on ec2.NodeID) {
	groups := w.groups[s.VPC]
	some := []ec2.GroupID{groups[w.r.IntN(len(groups))]}
	if g := groups[w.r.IntN(len(groups))]; g != some[0] && w.r.IntN(2) == 0 {
		some = append(some, g)
	}
	device := ec2.ExternalDevice{Device: "vm" + string(rune('a'+len(w.nodes[0].devices)+len(w.nodes[1].devices)))}
	w.must(&state.RegisterInterface{Account: s.Account, Region: s.Region, Node: on, External: device,
		Spec: state.InterfaceSpec{Subnet: s.ID, Groups: some, SecondaryCount: w.r.IntN(2)}})
}

// elastic gives one of an interface's addresses a public one.
func (w *world) elastic(eni *ec2.Interface) {
	made, err := w.do(&state.AllocateAddress{Account: eni.Account, Region: eni.Region})
	if err != nil { // the account has as many as it may have
		return
	}
	w.must(&state.AssociateAddress{Account: eni.Account, Region: eni.Region, Allocation: made.Elastic.ID, Interface: eni.ID, Private: pick(w, eni.Addresses()...).Private})
}

func (w *world) authorize(account ec2.AccountID, g ec2.GroupID, d ec2.Direction, rules ...state.RuleSpec) {
	w.do(&state.AuthorizeRules{Account: account, Region: planetest.Region, Group: state.GroupSelector{ID: g}, Direction: d, Rules: rules})
}

// must carries out a request that EC2 does not refuse.
func (w *world) must(r state.Request) state.Result {
	w.Helper()
	result, err := w.do(r)
	if err != nil {
		w.Fatalf("%T: %v", r, err)
	}
	return result
}

// do carries out a request, on both nodes.
func (w *world) do(r state.Request) (state.Result, error) {
	w.Helper()
	before := w.openings()
	result, err := w.state.Apply(w.state.Index()+1, state.Command{Time: w.now, Request: r})
	name := typeName(r)
	if _, refused := errors.AsType[*ec2.Error](err); refused {
		w.refused[name]++
		return result, err
	}
	w.done[name]++
	if !slices.Contains(keepsGroups, name) {
		w.changed = w.state.Index()
	}
	w.view = w.state.ViewSince(w.view)
	for i, n := range w.nodes {
		check(w, n.plane.Apply(w.view))
		n.attach(w, w.view, nodeNames[i])
		n.count()
	}
	w.noticeLost(before)
	return result, nil
}

// keepsGroups are the requests that leave alone what groups admit.
var keepsGroups = []string{
	"CreateACLEntry", "ReplaceACLEntry", "DeleteACLEntry", "CreateNetworkACL", "ReplaceACLAssociation", "CreateRoute", "ReplaceRoute", "DeleteRoute",
	"AssociateRouteTable", "DisassociateRouteTable", "AttachInternetGateway", "DetachInternetGateway",
}
