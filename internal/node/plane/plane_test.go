package plane_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	vswitch "palisade/switch"
)

// TestPlaneFollowsAnInterfaceThroughItsLives: a lease is known by its epoch, and one that
// begins anew has nothing of the last, whatever a View has missed in between.
func TestPlaneFollowsAnInterfaceThroughItsLives(t *testing.T) {
	f := planetest.New(t)
	wide := f.Group("wide", planetest.TCP(80, planetest.Everywhere))
	own := f.Do(&state.CreateNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Spec: state.InterfaceSpec{Subnet: f.Public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	register := &state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: "node1", Outside: ec2.Outside{Device: "vm0"}, Interface: own.ID}
	unregister := &state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: own.ID}
	found := func() *vswitch.Endpoint {
		n, _ := f.Switch.Snapshot().Network(vswitch.VNI(f.VPC.VNI))
		return n.Find(own.Private)
	}
	if found() != nil {
		t.Error("an idle interface is a member")
	}
	first := f.Do(register).Interface
	f.Attach(first)
	if err := f.Plane.Attach(first.Epoch, f.Device()); err == nil {
		t.Error("it has two ports")
	}
	ports := len(f.Switch.Ports())

	// Away and back, in one View. The old port is still open, and is nobody's.
	f.Decide(unregister)
	f.Decide(&state.ReportInterface{Interface: own.ID, Epoch: first.Epoch})
	second := f.Decide(register).Interface
	f.CatchUp()
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port != nil {
		t.Errorf("found %+v, want epoch %d without a port", e, second.Epoch)
	}
	f.Attach(second)
	if err := f.Plane.Detach(first.Epoch); err != nil || len(f.Switch.Ports()) != ports {
		t.Errorf("%d ports, want %d: %v", len(f.Switch.Ports()), ports, err)
	}
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port == nil {
		t.Errorf("the old port's end has taken the new lease along: %+v", e)
	}

	// Its port goes, and another comes, under the same lease.
	if err := f.Plane.Detach(second.Epoch); err != nil || found() != nil {
		t.Errorf("without a port it is found as %+v, %v", found(), err)
	}
	f.Attach(second)
	if found() == nil {
		t.Error("with another port it is not found")
	}

	// A port that is opened when the lease has ended is refused.
	f.Do(unregister)
	if err := f.Plane.Attach(second.Epoch, f.Device()); err == nil {
		t.Error("an ended lease has got a port")
	}
	if err := f.Plane.Detach(second.Epoch); err != nil || f.Plane.Endpoints() != 0 {
		t.Errorf("%d endpoints are left, %v", f.Plane.Endpoints(), err)
	}
	if p := f.Plane.Presence(); len(p) != 0 {
		t.Errorf("presence of %+v", p)
	}
}

// TestPlaneFollowsOthersInPlace: what changes of another node's interface is in force here.
func TestPlaneFollowsOthersInPlace(t *testing.T) {
	f := planetest.New(t)
	f.AddNode("node2")
	fellows, wide := f.Group("fellows"), f.Group("wide")
	far := f.Register("node2", "vm0", f.Public, wide)
	vni := vswitch.VNI(f.VPC.VNI)
	find := func(a netip.Addr) *vswitch.Endpoint {
		n, _ := f.Switch.Snapshot().Network(vni)
		return n.Find(a)
	}
	node2, _ := f.View.Node("node2")
	if e := find(far.Private); e == nil || e.Node != node2.Number || e.Unchecked {
		t.Fatalf("found %+v, want it at node %d", e, node2.Number)
	}
	lost := f.Plane.LostAt(f.VPC.VNI)
	modify := func(r state.ModifyNetworkInterface) {
		t.Helper()
		r.Account, r.Region, r.Interface = planetest.Dev, planetest.Region, far.ID
		f.Do(&r)
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{wide, fellows}})
	if e := find(far.Private); len(e.Groups) != 2 || f.Plane.LostAt(f.VPC.VNI) != lost {
		t.Errorf("of two groups it is in %v; a membership was lost at %d", e.Groups, f.Plane.LostAt(f.VPC.VNI))
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{fellows}})
	if e := find(far.Private); len(e.Groups) != 1 || f.Plane.LostAt(f.VPC.VNI) != f.View.Index() {
		t.Errorf("of one group it is in %v; a membership was lost at %d, want %d", e.Groups, f.Plane.LostAt(f.VPC.VNI), f.View.Index())
	}
	modify(state.ModifyNetworkInterface{Unchecked: new(true)})
	if !find(far.Private).Unchecked {
		t.Error("it is checked")
	}
	more := f.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: far.ID, Count: 1}).Addresses[0]
	public := f.Elastic(far, more)
	if e := find(more); e == nil || e != find(far.Private) || f.Switch.Snapshot().Public(public) != e || e.PrivateOf(public) != more {
		t.Errorf("its further address is %+v's", e)
	}

	// What its own node says is down stays away, whatever else changes of it.
	f.Plane.SetDown(map[uint64]bool{far.Epoch: true})
	if find(far.Private) != nil || find(more) != nil || f.Switch.Snapshot().Public(public) != nil {
		t.Error("it is down and found")
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{wide}})
	if find(far.Private) != nil {
		t.Error("it is down, has changed, and is found")
	}
	f.Plane.SetDown(nil)
	if e := find(far.Private); e == nil || !slices.Equal(e.Groups, find(more).Groups) || len(e.Groups) != 1 {
		t.Errorf("up again it is %+v", e)
	}
	f.Do(&state.UnassignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: far.ID, Addresses: []netip.Addr{more}})
	if find(more) != nil || f.Switch.Snapshot().Public(public) != nil || find(far.Private) == nil {
		t.Error("an address that it gave back is its own still")
	}
}

// TestPlaneForgetsANetwork: and its number is never another's, so nothing of it comes back.
func TestPlaneForgetsANetwork(t *testing.T) {
	f := planetest.New(t)
	vpc := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	if n, ok := f.Switch.Snapshot().Network(vswitch.VNI(vpc.VNI)); !ok || n.Prefix != vpc.CIDR {
		t.Fatalf("the network is %+v", n)
	}
	f.Do(&state.DeleteVPC{Account: planetest.Dev, Region: planetest.Region, VPC: vpc.ID})
	if _, ok := f.Switch.Snapshot().Network(vswitch.VNI(vpc.VNI)); ok {
		t.Error("a network that was deleted is there")
	}
	// Made and deleted in one View, nothing is to be done.
	f.Decide(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")})
	f.CatchUp()
}

// TestNothingIsEnforcedThatIsNotMarked: the mark comes first. If it cannot be written, by a
// full disk or a crash in between, the switch keeps the state it has, so that a node that
// restarts never enforces less than it has enforced before. Nor does it take an older state
// than the mark names.
func TestNothingIsEnforcedThatIsNotMarked(t *testing.T) {
	f := planetest.New(t)
	enforced, older := f.Plane.Enforced(), f.View
	unchanged := func(what string, err error) {
		t.Helper()
		if got := f.Switch.Snapshot().Generation; err == nil || got != enforced || f.Plane.Enforced() != enforced || f.EnforcedIndex.Index() != enforced {
			t.Errorf("%s: %v; the switch enforces %d, settled is %d, and the mark is at %d; want an error and %d", what, err, got, f.Plane.Enforced(), f.EnforcedIndex.Index(), enforced)
		}
	}
	path := f.EnforcedIndex.Path()
	if err := os.Rename(filepath.Dir(path), filepath.Dir(path)+".away"); err != nil {
		t.Fatal(err)
	}
	f.Decide(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: f.VPC.ID, Name: "after", Description: "after"})
	unchanged("without a disk", f.Plane.Apply(f.State.ViewSince(f.View)))
	if err := os.Rename(filepath.Dir(path)+".away", filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	f.CatchUp()
	enforced = f.Plane.Enforced()
	unchanged("an older state", f.Plane.Apply(older))
	if again, err := plane.OpenEnforcedIndex(path); err != nil || again.Index() != enforced {
		t.Errorf("on disk the mark is at %d, %v; want %d", again.Index(), err, enforced)
	}
}
