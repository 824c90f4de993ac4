package state

import (
	"net/netip"
	"testing"
	"time"

	"palisade/ec2"
)

func TestQuarantineWaitsForEveryMember(t *testing.T) {
	r := newTrio(t)
	r.must(&putSettings{ec2.Settings{TerminatedFor: 1000 * time.Hour}})
	i := r.place()["node1"]
	lease := r.lease(i.ID)
	r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
	r.report(i.ID, ec2.Terminated)
	freed := r.state.Index()
	inQuarantine := func() bool {
		return first[address](r.state.View().txn(), tableAddress, indexID, addressKey(lease.VNI, lease.Private)) != nil
	}
	all := func(index uint64) map[ec2.NodeID]uint64 {
		return map[ec2.NodeID]uint64{"node1": index, "node2": index, "node3": index}
	}
	without := func(id ec2.NodeID, c map[ec2.NodeID]uint64) map[ec2.NodeID]uint64 { delete(c, id); return c }
	sweep := func(what string, confirmed map[ec2.NodeID]uint64, want bool) {
		t.Helper()
		due, ok := r.state.View().SweepDueWith(confirmed)
		if isDue := ok && !due.After(r.now); isDue == want {
			t.Errorf("%s: a sweep is due: %v, want %v", what, isDue, !want)
		}
		r.must(&Sweep{Confirmed: confirmed})
		if got := inQuarantine(); got != want {
			t.Fatalf("%s: the address is in quarantine: %v, want %v", what, got, want)
		}
	}
	sweep("at once", all(freed), true)
	r.now = r.now.Add(time.Minute)
	sweep("no node has confirmed", map[ec2.NodeID]uint64{}, true)
	sweep("one node has not confirmed", without("node2", all(freed)), true)
	late := all(freed)
	late["node3"] = freed - 1
	sweep("one node is behind", late, true)
	for range 3 { // time alone does not end the quarantine
		r.now = r.now.Add(24 * time.Hour)
		sweep("one node never confirms", without("node2", all(freed+100)), true)
	}
	r.must(&FenceNode{Node: "node2"})
	sweep("that node is fenced", without("node2", all(freed)), false)
}

func TestQuarantineDoesNotWaitForRemovedNode(t *testing.T) {
	r := newTrio(t)
	for _, i := range r.place() {
		r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
		r.report(i.ID, ec2.Terminated)
	}
	r.must(&RemoveNode{Node: "node3"})
	r.now = r.now.Add(time.Minute)
	index := r.state.Index()
	r.must(&Sweep{Confirmed: map[ec2.NodeID]uint64{"node1": index, "node2": index}})
	for a := range rows[address](r.state.View().txn(), tableAddress, indexID, "") {
		t.Errorf("address %s is still in quarantine: %+v", a.Addr, a)
	}
}

func TestSweepWithoutConfirmationsUsesTimeOnly(t *testing.T) {
	r := newTrio(t)
	i := r.place()["node1"]
	r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
	r.report(i.ID, ec2.Terminated)
	r.now = r.now.Add(time.Minute)
	r.must(&Sweep{})
	if _, ok := r.state.View().SweepDue(); !ok {
		t.Fatal("no sweep is due, want one for the terminated instance")
	}
	for a := range rows[address](r.state.View().txn(), tableAddress, indexID, "") {
		if a.Interface == "" {
			t.Errorf("address %s is still in quarantine", a.Addr)
		}
	}
}

// A freedAddress is what the model of the test knows of an address in quarantine.
type freedAddress struct {
	since time.Time
	index uint64 // of the command that freed it
}

// TestAddressInQuarantineIsNeverLeased compares random histories with a model. In the model the
// quarantine of an address begins when its interface is deleted, and ends with a sweep when the time
// is over and every member has confirmed. No interface may get an address before that.
func TestAddressInQuarantineIsNeverLeased(t *testing.T) {
	reused, blocked := 0, 0
	for seed := range uint64(20) {
		s := NewState()
		quarantined := make(map[netip.Addr]freedAddress)
		owned := make(map[netip.Addr]bool) // has been leased before
		had := make(map[ec2.InterfaceID]*ec2.Interface)
		for n, req := range randomHistory(seed+100, 400) {
			index := uint64(n + 1)
			cmd := Command{Time: epoch0.Add(time.Duration(index) * 7 * time.Second), Request: req}
			_, err := s.Apply(index, cmd)
			v := s.View()
			if sweep, ok := req.(*Sweep); ok && err == nil {
				for addr, r := range quarantined {
					switch {
					case cmd.Time.Before(r.since.Add(v.Settings().Quarantine)):
					case !everyMemberHas(v, sweep.Confirmed, r.index):
						blocked++
					default:
						delete(quarantined, addr)
					}
				}
			}
			now := make(map[ec2.InterfaceID]*ec2.Interface)
			for i := range v.Interfaces() {
				now[i.ID] = i
				if had[i.ID] != nil {
					continue
				}
				for _, addr := range []netip.Addr{i.Private, i.Public} {
					if r, ok := quarantined[addr]; ok {
						t.Fatalf("seed %d, index %d: %s is leased to %s, but is in quarantine since %s, index %d\n%v", seed, index, addr, i.ID, r.since, r.index, v)
					}
					if owned[addr] {
						reused++
					}
					owned[addr] = true
				}
			}
			for id, i := range had {
				if now[id] == nil {
					quarantined[i.Private], quarantined[i.Public] = freedAddress{cmd.Time, index}, freedAddress{cmd.Time, index}
				}
			}
			had = now
			checkQuarantine(t, v, quarantined)
		}
	}
	if reused < 100 || blocked < 100 {
		t.Errorf("%d addresses were leased again and %d waited for a node, want 100 each", reused, blocked)
	}
}

// everyMemberHas reports whether every member has confirmed an index.
func everyMemberHas(v *View, confirmed map[ec2.NodeID]uint64, index uint64) bool {
	if confirmed == nil {
		return true
	}
	for n := range v.Nodes() {
		if has, ok := confirmed[n.ID]; n.State != ec2.Fenced && (!ok || has < index) {
			return false
		}
	}
	return true
}

// checkQuarantine compares the addresses in quarantine with those of the model.
func checkQuarantine(t *testing.T, v *View, model map[netip.Addr]freedAddress) {
	t.Helper()
	count := 0
	for a := range rows[address](v.txn(), tableAddress, indexID, "") {
		if a.Interface != "" {
			continue
		}
		count++
		if r := model[a.Addr]; !r.since.Equal(a.Freed) || r.index != a.FreedIndex {
			t.Fatalf("index %d: %s is in quarantine since %s, index %d; want %s, index %d\n%v", v.Index(), a.Addr, a.Freed, a.FreedIndex, r.since, r.index, v)
		}
	}
	if count != len(model) {
		t.Fatalf("index %d: %d addresses are in quarantine, want %d\n%v", v.Index(), count, len(model), v)
	}
}
