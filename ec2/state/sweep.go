package state

import (
	"math"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// Sweep gives back addresses that have rested long enough, and forgets instances that
// have been terminated long enough and join tokens that have expired. The leader proposes it when View.SweepDue says so;
// what is due is decided here, by the State's own time.
//
// With Confirmed, what each node confirmed to enforce, an address also waits until every
// member has enforced the command that freed it: until then some node may still admit
// packets of its last owner.
type Sweep struct {
	Confirmed map[ec2.NodeID]uint64 `json:",omitzero"` // nil: time alone decides. Empty: nobody has confirmed
}

func (r *Sweep) apply(t *tx) (Result, error) {
	allConfirmed := confirmedBy(t.Txn, r.Confirmed)
	var rested []*address
	for a := range rows[address](t.Txn, tableAddress, indexID, "") {
		if a.inQuarantine() && a.FreedIndex <= allConfirmed && !a.quarantineEnd(t.meta).After(t.meta.Time) {
			rested = append(rested, a)
		}
	}
	for _, a := range rested {
		t.del(tableAddress, a)
	}
	var gone []*ec2.Instance
	for i := range rows[ec2.Instance](t.Txn, tableInstance, indexID, "") {
		if i.State == ec2.Terminated && !removalTime(i, t.meta).After(t.meta.Time) {
			gone = append(gone, i)
		}
	}
	for _, i := range gone {
		t.untag(string(i.ID))
		t.del(tableInstance, i)
	}
	t.dropExpiredTokens()
	return Result{}, nil
}

func removalTime(i *ec2.Instance, m *meta) time.Time { return i.Ended.Add(m.Settings.TerminatedFor) }

// SweepDue is the earliest time at which a Sweep without confirmations would change
// something.
func (v *View) SweepDue() (due time.Time, ok bool) { return v.SweepDueWith(nil) }

// SweepDueWith is the earliest time at which a Sweep with these confirmations would
// change something. What waits for a node's confirmation is not due.
func (v *View) SweepDueWith(confirmed map[ec2.NodeID]uint64) (due time.Time, ok bool) {
	allConfirmed := confirmedBy(v.txn(), confirmed)
	earlier := func(t time.Time) {
		if !ok || t.Before(due) {
			due, ok = t, true
		}
	}
	for a := range rows[address](v.txn(), tableAddress, indexID, "") {
		if a.inQuarantine() && a.FreedIndex <= allConfirmed {
			earlier(a.quarantineEnd(v.v.meta))
		}
	}
	for i := range v.Instances() {
		if i.State == ec2.Terminated {
			earlier(removalTime(i, v.v.meta))
		}
	}
	return due, ok
}

// confirmedBy is the newest index that every member has confirmed to enforce. A fenced
// node's word is not asked: it can no longer deliver to anybody. One that does not
// answer holds it at 0. Without confirmations nothing waits for them.
func confirmedBy(t *memdb.Txn, confirmed map[ec2.NodeID]uint64) uint64 {
	allConfirmed := uint64(math.MaxUint64)
	if confirmed == nil {
		return allConfirmed
	}
	for n := range rows[ec2.Node](t, tableNode, indexID, "") {
		if n.Member() {
			allConfirmed = min(allConfirmed, confirmed[n.ID])
		}
	}
	return allConfirmed
}
