package state

import (
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
)

// place launches a running instance on each of the three nodes of newTrio, and returns the
// instances.
func (r *replay) place() map[ec2.NodeID]*ec2.Instance {
	r.t.Helper()
	on := make(map[ec2.NodeID]*ec2.Instance)
	for _, i := range r.run(3) {
		r.report(i.ID, ec2.Running)
		on[i.Node] = r.instance(i.ID)
	}
	if len(on) != 3 {
		r.t.Fatalf("three instances are on nodes %v, want one on each", on)
	}
	return on
}

func TestFenceEndsLeasesOfTheNode(t *testing.T) {
	r := newTrio(t)
	var ids [5]ec2.InstanceID // pending, running, stopping, shutting down, stopped
	for n := range ids {
		made := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: "us-east-1b"}).Instances
		ids[n] = made[0].After.ID
		if n > 0 {
			r.report(ids[n], ec2.Running)
		}
	}
	r.must(&StopInstances{albert, east, ids[2:3]})
	r.must(&TerminateInstances{albert, east, ids[3:4]})
	r.must(&StopInstances{albert, east, ids[4:5]})
	r.report(ids[4], ec2.Stopped)
	other := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: "us-east-1a"}).Instances[0].After
	var leases []*ec2.Interface
	for _, id := range ids[:4] {
		leases = append(leases, r.lease(id))
	}

	r.now = r.now.Add(time.Minute)
	result := r.must(&FenceNode{Node: "node3"})
	if len(result.Instances) != 4 || result.Node.State != ec2.Fenced {
		t.Errorf("the fence changed %d instances and node %+v, want 4 and the node fenced", len(result.Instances), result.Node)
	}
	for n, want := range []struct {
		state  ec2.InstanceState
		reason string
	}{
		{ec2.Stopped, "Server.NodeFenced: "},
		{ec2.Stopped, "Server.NodeFenced: "},
		{ec2.Stopped, "Client.UserInitiatedShutdown: "},
		{ec2.Terminated, "Client.UserInitiatedShutdown: "},
		{ec2.Stopped, "Client.UserInitiatedShutdown: "},
	} {
		i := r.instance(ids[n])
		if i.State != want.state || !strings.HasPrefix(i.StateReason, want.reason) || i.Interface != "" {
			t.Errorf("instance %d is %s with interface %q, reason %q; want %s, reason %q", n, i.State, i.Interface, i.StateReason, want.state, want.reason)
		}
		if len(i.Groups) != 1 || r.state.View().ZoneOf(i) != "us-east-1b" {
			t.Errorf("instance %d is %+v, want it with its group and in zone us-east-1b", n, i)
		}
	}
	if i := r.instance(ids[3]); !i.Ended.Equal(r.now) {
		t.Errorf("the terminated instance ended at %s, want %s", i.Ended, r.now)
	}
	if i := r.instance(other.ID); i.State != ec2.Pending || i.Interface == "" {
		t.Errorf("an instance on another node is %s with interface %q, want it unchanged", i.State, i.Interface)
	}
	for _, lease := range leases {
		if _, ok := r.state.View().Interface(lease.ID); ok {
			t.Errorf("interface %s exists after the fence", lease.ID)
		}
		a := first[address](r.state.View().txn(), tableAddress, indexID, addressKey(lease.VNI, lease.Private))
		if a == nil || a.Interface != "" || !a.Freed.Equal(r.now) || a.FreedIndex != r.state.Index() {
			t.Errorf("the row of address %s is %+v, want it in quarantine since index %d", lease.Private, a, r.state.Index())
		}
	}
	before := r.snapshot()
	r.must(&FenceNode{Node: "node3", GossipKey: gossipKey})
	if after := r.snapshot(); string(withoutIndex(before)) != string(withoutIndex(after)) {
		t.Error("a second fence changed the state")
	}
}

// A fenced node may still run and send reports.
func TestReportsOfFencedNodeAreIgnored(t *testing.T) {
	r := newTrio(t)
	i := r.place()["node3"]
	was := r.lease(i.ID)
	r.must(&FenceNode{Node: "node3"})
	reports := func(want ec2.InstanceState) {
		t.Helper()
		for _, s := range []ec2.InstanceState{ec2.Running, ec2.Stopped, ec2.Terminated} {
			before := r.snapshot()
			r.must(&ReportInstance{Instance: i.ID, InterfaceEpoch: was.Epoch, State: s})
			if got := r.instance(i.ID).State; got != want || string(withoutIndex(before)) != string(withoutIndex(r.snapshot())) {
				t.Errorf("a fenced node reported %s and changed a %s instance to %s", s, want, got)
			}
		}
	}
	reports(ec2.Stopped)
	r.must(&StartInstances{albert, east, []ec2.InstanceID{i.ID}})
	reports(ec2.Pending)
	r.report(i.ID, ec2.Running)
	reports(ec2.Running)
}

func TestStartMovesInstanceOfLostNode(t *testing.T) {
	for _, c := range []struct {
		what string
		lose []Request
		lost ec2.NodeID
		want []ec2.NodeID
	}{
		{"in its zone", []Request{&FenceNode{Node: "node2"}}, "node2", []ec2.NodeID{"node1"}},
		{"in another zone, because its own has no node", []Request{&FenceNode{Node: "node3"}}, "node3", []ec2.NodeID{"node1", "node2"}},
		{"in its zone, after its node was removed", []Request{&FenceNode{Node: "node2"}, &RemoveNode{Node: "node2"}}, "node2", []ec2.NodeID{"node1"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newTrio(t)
			i := r.place()[c.lost]
			was := r.lease(i.ID)
			zone := r.node(c.lost).Zone
			for _, req := range c.lose {
				r.must(req)
			}
			if got := r.state.View().ZoneOf(r.instance(i.ID)); got != zone {
				t.Errorf("the stopped instance is in zone %q, want %q", got, zone)
			}
			r.must(&StartInstances{albert, east, []ec2.InstanceID{i.ID}})
			now := r.instance(i.ID)
			if now.ID != i.ID || !slices.Contains(c.want, now.Node) || now.State != ec2.Pending || now.Zone != "" || now.StateReason != "" {
				t.Errorf("the started instance is %+v, want it on one of %v", now, c.want)
			}
			lease := r.lease(i.ID)
			if lease.Node != now.Node || lease.Epoch <= was.Epoch || lease.Private == was.Private || lease.Public == was.Public {
				t.Errorf("started with interface %+v,\nwhich was %+v; want a new one", lease, was)
			}
			if got := r.state.View().ZoneOf(now); got != r.node(now.Node).Zone {
				t.Errorf("the instance on node %s is in zone %q, want the zone of the node", now.Node, got)
			}
		})
	}
}

func TestLaunchUsesMembersOnly(t *testing.T) {
	r := newTrio(t)
	r.must(&FenceNode{Node: "node2"})
	count := make(map[ec2.NodeID]int)
	for _, i := range r.run(6) {
		count[i.Node]++
	}
	if count["node1"] != 3 || count["node3"] != 3 {
		t.Errorf("six instances are on %v, want three on each of node1 and node3", count)
	}
	r.must(&FenceNode{Node: "node3"})
	run := &RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1}
	for zone, code := range map[string]string{"us-east-1b": "InsufficientInstanceCapacity", "us-east-1x": "InvalidParameterValue"} {
		in := *run
		in.Zone = zone
		r.refused(&in, code)
	}
	// A start uses the last node of the instance while that is a member.
	var onNode1 *ec2.Instance
	for i := range r.state.View().Instances() {
		if i.Node == "node1" {
			onNode1 = i
		}
	}
	r.report(onNode1.ID, ec2.Running)
	r.must(&StopInstances{albert, east, []ec2.InstanceID{onNode1.ID}})
	r.report(onNode1.ID, ec2.Stopped)
	r.admit("node4", "us-east-1a", ec2.Voter)
	r.must(&StartInstances{albert, east, []ec2.InstanceID{onNode1.ID}})
	if got := r.lease(onNode1.ID).Node; got != "node1" {
		t.Errorf("restarted on %s, want its last node node1", got)
	}
}

func TestInstancesRunOnNodesOfTheirRegion(t *testing.T) {
	r := newTrio(t)
	west := r.admit("node4", "eu-west-1a", ec2.Voter)
	for _, i := range r.run(8) {
		if i.Node == west.ID {
			t.Errorf("instance %s of region %s is in zone %s of another region", i.ID, east, west.Zone)
		}
	}
	r.refused(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: west.Zone}, "InvalidParameterValue")
	for _, id := range []ec2.NodeID{"node2", "node3"} {
		r.must(&FenceNode{Node: id})
	}
	for i := range r.state.View().Instances() {
		if i.State == ec2.Stopped {
			r.must(&StartInstances{albert, east, []ec2.InstanceID{i.ID}})
			if got := r.lease(i.ID).Node; got != "node1" {
				t.Errorf("instance %s was started on %s, want node1", i.ID, got)
			}
			break // the pool has no more addresses
		}
	}

	racks := newReplay(t) // a zone whose name does not begin with a region
	racks.must(&PutNode{ec2.Node{ID: "node1", Zone: "rack1"}})
	if got := racks.run(1)[0].Node; got != "node1" {
		t.Errorf("launched on node %q, want node1", got)
	}
}

func TestMemberWithLeasesIsNotRemoved(t *testing.T) {
	r := newTrio(t)
	i := r.place()["node2"]
	r.refused(&RemoveNode{Node: "node2"}, "DependencyViolation")
	r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
	r.refused(&RemoveNode{Node: "node2"}, "DependencyViolation") // draining
	r.report(i.ID, ec2.Terminated)
	r.must(&RemoveNode{Node: "node2"})
	if _, ok := r.state.View().Node("node2"); ok {
		t.Error("node2 exists after its removal")
	}
	if got := r.state.View().ZoneOf(r.instance(i.ID)); got != "us-east-1a" {
		t.Errorf("the terminated instance is in zone %q, want that of the removed node", got)
	}
}
