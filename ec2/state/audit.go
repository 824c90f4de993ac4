package state

import (
	"encoding/binary"
	"iter"
	"slices"

	"palisade/ec2"
)

// auditRings bounds the records of all accounts together: this many rings that are full.
const auditRings = 4

// The method audit adds an audit record of a command that was carried out to the ring of its
// account. A refused command leaves none: the node that refused it keeps it (internal/refusal), so
// that nobody fills the state with requests that have no effect.
//
// An earlier release kept one ring for all, with refused commands. Its log entries are replayed like
// that, so a node that replays the log and one that restores a snapshot of that time have equal
// States. The first change of this release moves what is in that ring to the rings of the accounts.
func (t *tx) audit(cmd Command, refusal *ec2.Error) {
	if cmd.Audit == nil {
		return
	}
	if cmd.unchained && !t.meta.AuditChained {
		t.auditUnchained(cmd, refusal)
		return
	}
	if refusal != nil {
		return
	}
	if !t.meta.AuditChained {
		t.meta.AuditChained = true
		for _, r := range slices.Collect(rows[ec2.AuditRecord](t.Txn, tableAudit, indexID, "")) {
			moved := *r
			t.chain(&moved)
		}
	}
	t.meta.Audited++
	t.chain(newAuditRecord(t, cmd))
}

func newAuditRecord(t *tx, cmd Command) *ec2.AuditRecord {
	return &ec2.AuditRecord{Number: t.meta.Audited, Index: t.meta.Index, Time: cmd.Time.UTC().Round(0), Audit: *cmd.Audit}
}

// chain adds a record to the end of its account's ring, and deletes the oldest beyond the limits.
func (t *tx) chain(r *ec2.AuditRecord) {
	ring := ec2.AuditRing{Account: r.Account, First: 1}
	if now := t.auditRing(r.Account); now != nil {
		ring = *now
	} else {
		ring.Start = ec2.ChainStart(t.meta.Seed, r.Account)
		ring.End = ring.Start
	}
	ring.Last++
	r.Position = ring.Last
	r.Hash = r.ChainHash(ring.End)
	ring.End = r.Hash
	t.put(tableAudit, r)
	if t.put(tableAuditRing, &ring); ring.Account != "" {
		t.meta.AuditKept++
	}
	t.limitAudit(r.Account)
}

// limitAudit deletes the oldest records of an account's ring that is longer than the limit. If the
// rings of all accounts have too many together, the longest loses its oldest record. So the calls
// of one account delete records of another only while the other has at least as many. The ring of
// the operators and nodes is bounded by the first limit alone.
func (t *tx) limitAudit(account ec2.AccountID) {
	limit := uint64(max(t.limits().AuditRecords, 1))
	for ring := t.auditRing(account); ring.Kept() > limit; ring = t.auditRing(account) {
		t.dropOldestAudit(ring)
	}
	for t.meta.AuditKept > limit*auditRings {
		t.dropOldestAudit(t.longestAuditRing())
	}
}

func (t *tx) dropOldestAudit(ring *ec2.AuditRing) {
	oldest := first[ec2.AuditRecord](t.Txn, tableAudit, indexOwner, auditPosition(ring.Account, ring.First))
	after := *ring
	after.First++
	after.Start = oldest.Hash
	t.del(tableAudit, oldest)
	if t.put(tableAuditRing, &after); ring.Account != "" {
		t.meta.AuditKept--
	}
}

// auditUnchained adds a record as an earlier release did: to one ring, refused or not.
func (t *tx) auditUnchained(cmd Command, refusal *ec2.Error) {
	t.meta.Audited++
	r := newAuditRecord(t, cmd)
	if refusal != nil {
		r.Error, r.Message = refusal.Code, refusal.Message
	}
	t.put(tableAudit, r)
	for limit := uint64(max(t.limits().AuditRecords, 1)); ; {
		oldest := t.oldestAudit()
		if oldest.Number+limit > t.meta.Audited {
			return
		}
		t.del(tableAudit, oldest)
	}
}

func (t *tx) oldestAudit() *ec2.AuditRecord {
	for r := range rows[ec2.AuditRecord](t.Txn, tableAudit, indexID, "") {
		return r
	}
	panic("state: no audit record")
}

func (t *tx) auditRing(account ec2.AccountID) *ec2.AuditRing {
	return first[ec2.AuditRing](t.Txn, tableAuditRing, indexID, key(account))
}

func (t *tx) longestAuditRing() *ec2.AuditRing {
	for r := range rows[ec2.AuditRing](t.Txn, tableAuditRing, indexLength, "") {
		return r
	}
	panic("state: no audit ring")
}

// auditLength returns a key that sorts the longest ring of an account first, and the ring of the
// operators last.
func auditLength(r *ec2.AuditRing) string {
	if r.Account == "" {
		return "\xff" + key(r.Account)
	}
	return "\x00" + string(binary.BigEndian.AppendUint64(nil, ^r.Kept())) + key(r.Account)
}

// auditPosition returns the key of a record's place in its ring.
func auditPosition(account ec2.AccountID, position uint64) string {
	return key(account) + string(binary.BigEndian.AppendUint64(nil, position))
}

func auditPositionOf(r *ec2.AuditRecord) []string {
	if r.Position == 0 {
		return nil
	}
	return []string{auditPosition(r.Account, r.Position)}
}

func auditKey(number uint64) string { return string(binary.BigEndian.AppendUint64(nil, number)) }

// AuditRecords yields the audit records, oldest first.
func (v *View) AuditRecords() iter.Seq[*ec2.AuditRecord] {
	return rows[ec2.AuditRecord](v.txn(), tableAudit, indexID, "")
}

// AuditRecord returns an audit record by its number.
func (v *View) AuditRecord(number uint64) (*ec2.AuditRecord, bool) {
	return get[ec2.AuditRecord](v, tableAudit, auditKey(number))
}

// AuditRings yields the audit rings, ordered by account.
func (v *View) AuditRings() iter.Seq[*ec2.AuditRing] {
	return rows[ec2.AuditRing](v.txn(), tableAuditRing, indexID, "")
}

// AuditRecordAt returns the audit record at a position of an account's ring.
func (v *View) AuditRecordAt(account ec2.AccountID, position uint64) (*ec2.AuditRecord, bool) {
	r := first[ec2.AuditRecord](v.txn(), tableAudit, indexOwner, auditPosition(account, position))
	return r, r != nil
}

// AuditChained reports whether the audit records are hash-chained. They are not, in a state of an
// earlier release, before the next change.
func (v *View) AuditChained() bool { return v.v.meta.AuditChained }

// Seed returns the text that the ids of the cluster are derived from.
func (v *View) Seed() string { return v.v.meta.Seed }
