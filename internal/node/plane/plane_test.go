package plane_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	vswitch "palisade/switch"
)

// TestNewLeaseOfInterfaceIsIndependentOfOldLease: the new lease does not get the port of the old
// lease, even if one View both ends the old lease and begins the new one.
func TestNewLeaseOfInterfaceIsIndependentOfOldLease(t *testing.T) {
	f := planetest.New(t)
	wide := f.Group("wide", planetest.TCP(80, planetest.Everywhere))
	own := f.Do(&state.CreateNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Spec: state.InterfaceSpec{Subnet: f.Public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	register := &state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: "node1", External: ec2.ExternalDevice{Device: "vm0"}, Interface: own.ID}
	unregister := &state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: own.ID}
	found := func() *vswitch.Endpoint {
		n, _ := f.Switch.Snapshot().Network(vswitch.VNI(f.VPC.VNI))
		return n.Find(own.Private)
	}
	if found() != nil {
		t.Error("an idle interface has an endpoint")
	}
	first := f.Do(register).Interface
	f.Attach(first)
	if err := f.Plane.Attach(first.Epoch, f.Device()); err == nil {
		t.Error("a second device was attached to one lease")
	}
	ports := len(f.Switch.Ports())

	// One View ends the lease and begins another. The port of the old lease is still open.
	f.Decide(unregister)
	f.Decide(&state.ReportInterface{Interface: own.ID, Epoch: first.Epoch})
	second := f.Decide(register).Interface
	f.CatchUp()
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port != nil {
		t.Errorf("the endpoint is %+v, want epoch %d without a port", e, second.Epoch)
	}
	f.Attach(second)
	if err := f.Plane.Detach(first.Epoch); err != nil || len(f.Switch.Ports()) != ports {
		t.Errorf("after Detach of the old lease the switch has %d ports, want %d; error %v", len(f.Switch.Ports()), ports, err)
	}
	if e := found(); e == nil || e.Epoch != second.Epoch || e.Port == nil {
		t.Errorf("after the old port was removed the endpoint is %+v, want the new lease's endpoint with a port", e)
	}

	// The port is removed and another one added under the same lease.
	if err := f.Plane.Detach(second.Epoch); err != nil || found() != nil {
		t.Errorf("after Detach the endpoint is %+v, error %v; want no endpoint", found(), err)
	}
	f.Attach(second)
	if found() == nil {
		t.Error("there is no endpoint after a device was attached again")
	}

	// A device cannot be attached once the lease has ended.
	f.Do(unregister)
	if err := f.Plane.Attach(second.Epoch, f.Device()); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a device was attached to a lease that has ended, or for another reason not: %v", err)
	}
	if err := f.Plane.Detach(second.Epoch); err != nil || f.Plane.Leases() != 0 {
		t.Errorf("after Detach the plane has %d leases, error %v; want 0", f.Plane.Leases(), err)
	}
	if p := f.Plane.Presence(); len(p) != 0 {
		t.Errorf("the node reports leases %+v, want none", p)
	}
}

func TestChangesOfInterfaceOnAnotherNodeAreInForce(t *testing.T) {
	f := planetest.New(t)
	f.AddNode("node2")
	members, wide := f.Group("members"), f.Group("wide")
	remote := f.Register("node2", "vm0", f.Public, wide)
	vni := vswitch.VNI(f.VPC.VNI)
	find := func(a netip.Addr) *vswitch.Endpoint {
		n, _ := f.Switch.Snapshot().Network(vni)
		return n.Find(a)
	}
	node2, _ := f.View.Node("node2")
	if e := find(remote.Private); e == nil || e.Node != node2.Number || e.Unchecked {
		t.Fatalf("the endpoint is %+v, want one on node %d", e, node2.Number)
	}
	lost := f.Plane.LostAt(f.VPC.VNI)
	modify := func(r state.ModifyNetworkInterface) {
		t.Helper()
		r.Account, r.Region, r.Interface = planetest.Dev, planetest.Region, remote.ID
		f.Do(&r)
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{wide, members}})
	if e := find(remote.Private); len(e.Groups) != 2 || f.Plane.LostAt(f.VPC.VNI) != lost {
		t.Errorf("the endpoint is in %v, want two groups; the last index at which an address left a group is %d, want %d", e.Groups, f.Plane.LostAt(f.VPC.VNI), lost)
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{members}})
	if e := find(remote.Private); len(e.Groups) != 1 || f.Plane.LostAt(f.VPC.VNI) != f.View.Index() {
		t.Errorf("the endpoint is in %v, want one group; the last index at which an address left a group is %d, want %d", e.Groups, f.Plane.LostAt(f.VPC.VNI), f.View.Index())
	}
	modify(state.ModifyNetworkInterface{Unchecked: new(true)})
	if !find(remote.Private).Unchecked {
		t.Error("the endpoint still has the source check")
	}
	more := f.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: remote.ID, Count: 1}).Addresses[0]
	public := f.Elastic(remote, more)
	if e := find(more); e == nil || e != find(remote.Private) || f.Switch.Snapshot().Public(public) != e || e.PrivateOf(public) != more {
		t.Errorf("the endpoint of secondary address %s is %+v, want the interface's endpoint", more, e)
	}

	// A lease that its own node reports down has no endpoint, even if the lease changes.
	f.Plane.SetDown(map[uint64]bool{remote.Epoch: true})
	if find(remote.Private) != nil || find(more) != nil || f.Switch.Snapshot().Public(public) != nil {
		t.Error("an interface that is down has an endpoint")
	}
	modify(state.ModifyNetworkInterface{Groups: []ec2.GroupID{wide}})
	if find(remote.Private) != nil {
		t.Error("an interface that is down has an endpoint after a change")
	}
	f.Plane.SetDown(nil)
	if e := find(remote.Private); e == nil || !slices.Equal(e.Groups, find(more).Groups) || len(e.Groups) != 1 {
		t.Errorf("after the interface is up again its endpoint is %+v, want one in one group, for both addresses", e)
	}
	f.Do(&state.UnassignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: remote.ID, Addresses: []netip.Addr{more}})
	if find(more) != nil || f.Switch.Snapshot().Public(public) != nil || find(remote.Private) == nil {
		t.Error("an unassigned address still leads to the interface")
	}
}

func TestDeletedNetworkIsRemovedFromSwitch(t *testing.T) {
	f := planetest.New(t)
	vpc := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	if n, ok := f.Switch.Snapshot().Network(vswitch.VNI(vpc.VNI)); !ok || n.Prefix != vpc.CIDR {
		t.Fatalf("the network of the new VPC is %+v, want prefix %s", n, vpc.CIDR)
	}
	subnet := f.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: vpc.ID, CIDR: netip.MustParsePrefix("10.1.1.0/24")}).Subnet
	f.AddNode("node2")
	eni := f.Register("node2", "vm0", subnet)
	f.Do(&state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: eni.ID})
	f.Do(&state.ReportInterface{Interface: eni.ID, Epoch: eni.Epoch})
	if f.Plane.LostAt(vpc.VNI) == 0 {
		t.Error("the end of a lease did not take its address from its groups")
	}
	f.Do(&state.DeleteSubnet{Account: planetest.Dev, Region: planetest.Region, Subnet: subnet.ID})
	f.Do(&state.DeleteVPC{Account: planetest.Dev, Region: planetest.Region, VPC: vpc.ID})
	if got := f.Plane.LostAt(vpc.VNI); got != 0 {
		t.Errorf("of the deleted network the plane still knows when an address left a group: %d", got)
	}
	if _, ok := f.Switch.Snapshot().Network(vswitch.VNI(vpc.VNI)); ok {
		t.Error("the switch has the deleted network")
	}
	// The plane ignores a network that is created and deleted between two Views.
	vpc = f.Decide(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	f.Decide(&state.DeleteVPC{Account: planetest.Dev, Region: planetest.Region, VPC: vpc.ID})
	f.CatchUp()
}

// TestSwitchEnforcesNoStateBeforeItsIndexIsOnDisk: if the index cannot be written, as on a full
// disk, the switch keeps its state. If it enforced the new one, the node could enforce an older
// state after a restart. The switch also refuses a state older than the index.
func TestSwitchEnforcesNoStateBeforeItsIndexIsOnDisk(t *testing.T) {
	f := planetest.New(t)
	enforced, older := f.Plane.Enforced(), f.View
	unchanged := func(what string, err error) {
		t.Helper()
		if got := f.Switch.Snapshot().Generation; err == nil || got != enforced || f.Plane.Enforced() != enforced || f.EnforcedIndex.Index() != enforced {
			t.Errorf("%s: error %v; the Snapshot has generation %d, the plane enforces %d and the index is %d; want an error and %d", what, err, got, f.Plane.Enforced(), f.EnforcedIndex.Index(), enforced)
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
		t.Errorf("the index on disk is %d, error %v; want %d", again.Index(), err, enforced)
	}
}

// In a network that is not strict, a change of a group attaches only the ports that have it.
func TestChangeOfAnotherGroupAttachesNoPort(t *testing.T) {
	w := newWorld(t)
	e := w.register("a", w.Public, w.Group("wide", dns(planetest.Everywhere)))
	port := w.network(w.VPC.VNI).Find(e.Private).Port
	attached := func() *vswitch.Attachment { return w.Switch.Snapshot().Attachment(port) }
	before := attached()
	w.Group("other", dns(planetest.Everywhere))
	if attached() != before {
		t.Error("a change of another group attached the port again")
	}
	w.strict()
	before = attached()
	if w.Group("third"); attached() == before {
		t.Error("in a strict network a change did not attach the port again")
	}
}

// A Plane whose tracker is in memory stores no owners, and drops the connections of released addresses.
func TestPlaneWithoutOwnersForgetsReleasedAddresses(t *testing.T) {
	w := newWorld(t)
	w.Stop()
	w.InMemory = true
	w.Restart()
	wide := w.Group("wide", dns(inside))
	client, server := w.register("client", w.Public, wide), w.register("server", w.Public, wide)
	if !w.passes(client, udp(client.Private, server.Private, 53), server.device) {
		t.Fatal("a packet does not pass")
	}
	w.unregister(server.Interface)
	if got := w.connections(client); len(got) != 0 {
		t.Errorf("the client has connections with %v, want none", got)
	}
}
