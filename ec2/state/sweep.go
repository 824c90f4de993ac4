package state

import (
	"math"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// Sweep ends the quarantine of addresses, lets requests for peerings expire, and deletes terminated
// instances, ended NAT gateways and peerings, and join tokens, when their time is over. The leader
// proposes a Sweep at the time that View.SweepDueWith returns. The
// State's own time decides what is due.
//
// Confirmed has the log index that each node has confirmed to enforce. An address stays in
// quarantine until every member enforces the command that freed it, because until then a node may
// still admit packets of the last interface.
type Sweep struct {
	Confirmed map[ec2.NodeID]uint64 `json:",omitzero"` // nil: only time counts. Empty: no node has confirmed anything
}

func (r *Sweep) apply(t *tx) (Result, error) {
	allConfirmed := confirmedBy(t.Txn, r.Confirmed)
	var due []*address
	for a := range rows[address](t.Txn, tableAddress, indexID, "") {
		if a.inQuarantine() && a.FreedIndex <= allConfirmed && !a.quarantineEnd(t.meta).After(t.meta.Time) {
			due = append(due, a)
		}
	}
	for _, a := range due {
		t.del(tableAddress, a)
	}
	var terminated []*ec2.Instance
	for i := range rows[ec2.Instance](t.Txn, tableInstance, indexID, "") {
		if i.State == ec2.Terminated && !removalTime(i, t.meta).After(t.meta.Time) {
			terminated = append(terminated, i)
		}
	}
	for _, i := range terminated {
		t.untag(string(i.ID))
		t.del(tableInstance, i)
	}
	t.sweepNATs()
	t.dropExpiredTokens()
	t.sweepPeerings()
	return Result{}, nil
}

func removalTime(i *ec2.Instance, m *meta) time.Time { return i.Ended.Add(m.Settings.TerminatedFor) }

// SweepDue returns the earliest time at which a Sweep without confirmations changes something, and
// false if there is nothing to sweep.
func (v *View) SweepDue() (due time.Time, ok bool) { return v.SweepDueWith(nil) }

// SweepDueWith returns the earliest time at which a Sweep with these confirmations changes
// something, and false if there is nothing to sweep. An address that waits for the confirmation of
// a node is not due.
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
	for g := range v.NATGateways() {
		if g.State != ec2.NATAvailable {
			earlier(g.Ended.Add(natShown))
		}
	}
	for p := range rows[ec2.VPCPeering](v.txn(), tablePeering, indexID, "") {
		if at, due := peeringDue(p); due {
			earlier(at)
		}
	}
	return due, ok
}

// confirmedBy returns the newest index that every member has confirmed to enforce. It is 0 while a
// member has confirmed nothing. Fenced nodes do not count, because they cannot deliver packets any
// more. If confirmed is nil, nothing waits for confirmations.
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
