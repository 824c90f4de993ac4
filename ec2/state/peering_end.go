package state

import (
	"cmp"
	"slices"
	"time"

	"palisade/ec2"
)

// endPeering gives a peering its last status. by is the account that ended it. Rules that name groups
// through the peering stay, and admit nothing from then on: also not through a later peering of the
// same VPCs.
func (t *tx) endPeering(p *ec2.VPCPeering, status ec2.PeeringStatus, by ec2.AccountID) {
	wasActive := p.Active()
	p.Status = status
	now := t.meta.Time
	requester, accepter := endedForOther, endedForOther
	switch {
	case status == ec2.PeeringFailed: // only the requester sees it
		requester, accepter = endedForActor, 0
	case status == ec2.PeeringExpired:
	case p.Requester.Account == p.Accepter.Account:
		requester, accepter = endedForActor, endedForActor
	case by == p.Requester.Account:
		requester = endedForActor
	default:
		accepter = endedForActor
	}
	p.Requester.Until, p.Accepter.Until = now.Add(requester), now.Add(accepter)
	if status == ec2.PeeringDeleted {
		p.DeletedBy = by
	}
	t.put(tablePeering, p)
	if wasActive {
		t.voidRules(p, &p.Requester)
		t.voidRules(p, &p.Accepter)
	}
}

// voidRules marks the rules of a VPC's groups that name groups through a peering that has ended.
func (t *tx) voidRules(p *ec2.VPCPeering, side *ec2.PeeringSide) {
	names := func(r ec2.Rule) bool { return r.Source.Group.Peering == p.ID }
	for _, g := range slices.Collect(rows[ec2.Group](t.Txn, tableGroup, indexName, key(side.Account)+key(side.Region)+key(side.VPC))) {
		if !slices.ContainsFunc(g.Rules, names) {
			continue
		}
		next := *g
		next.Rules = slices.Clone(g.Rules)
		for i := range next.Rules {
			if names(next.Rules[i]) {
				next.Rules[i].Source.Group.Void = true
			}
		}
		t.put(tableGroup, &next)
	}
}

// forgetEndedPeerings deletes the oldest of the peerings that an account requested in a region and
// that have ended, if there are too many.
func (t *tx) forgetEndedPeerings(account ec2.AccountID, region ec2.Region) {
	var ended []*ec2.VPCPeering
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexOwner, key(account)+key(region)) {
		if p.Ended() && p.Requester.Account == account && p.Requester.Region == region {
			ended = append(ended, p)
		}
	}
	slices.SortFunc(ended, func(a, b *ec2.VPCPeering) int {
		return cmp.Or(a.Requester.Until.Compare(b.Requester.Until), cmp.Compare(a.ID, b.ID))
	})
	for _, p := range ended[:max(0, len(ended)-keptEndedPeerings)] {
		t.dropPeering(p)
	}
}

func (t *tx) dropPeering(p *ec2.VPCPeering) {
	t.untag(string(p.ID))
	t.del(tablePeering, p)
}

// sweepPeerings marks the requests that were not accepted in time, and deletes the peerings that no account
// sees any more.
func (t *tx) sweepPeerings() {
	var due []*ec2.VPCPeering
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexID, "") {
		if at, ok := peeringDue(p); ok && !at.After(t.meta.Time) {
			due = append(due, p)
		}
	}
	for _, was := range due {
		if was.Ended() {
			t.dropPeering(was)
			continue
		}
		p := *was
		t.endPeering(&p, ec2.PeeringExpired, "")
	}
}

// peeringDue returns when a Sweep changes a peering; false if none does.
func peeringDue(p *ec2.VPCPeering) (time.Time, bool) {
	switch {
	case p.Active():
		return time.Time{}, false
	case !p.Ended():
		return p.Expires, true
	case p.Accepter.Until.After(p.Requester.Until):
		return p.Accepter.Until, true
	}
	return p.Requester.Until, true
}

// peeringsHolding returns the ids of the peerings that keep a VPC from being deleted: active ones, and
// requests of its owner. A request of somebody else's does not.
func (t *tx) peeringsHolding(vpc *ec2.VPC) (ids []string) {
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexVPC, key(vpc.ID)) {
		if p.Active() || !t.hasEnded(p) && p.Requester.Account == vpc.Account {
			ids = append(ids, string(p.ID))
		}
	}
	return ids
}

// rejectRequestsTo rejects the requests to peer with a VPC that is deleted.
func (t *tx) rejectRequestsTo(vpc *ec2.VPC) {
	for _, was := range slices.Collect(rows[ec2.VPCPeering](t.Txn, tablePeering, indexVPC, key(vpc.ID))) {
		if !was.Ended() {
			p := *was
			t.endPeering(&p, ec2.PeeringRejected, vpc.Account)
		}
	}
}

// overlapsPeer returns EC2's error for a block that overlaps with a VPC that the VPC is peered with.
func (t *tx) overlapsPeer(vpc *ec2.VPC, block ec2.VPCBlock) error {
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexVPC, key(vpc.ID)) {
		_, other, _ := p.Side(vpc.ID)
		peer := first[ec2.VPC](t.Txn, tableVPC, indexID, key(other.VPC))
		if !p.Active() || peer == nil {
			continue
		}
		for _, b := range peer.Blocks() {
			if b.CIDR.Overlaps(block.CIDR) {
				return ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' overlaps with %s of %s, with which %s is peered by %s.", block.CIDR, b.CIDR, peer.ID, vpc.ID, p.ID)
			}
		}
	}
	return nil
}
