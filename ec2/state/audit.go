package state

import (
	"encoding/binary"
	"iter"

	"palisade/ec2"
)

// The method audit adds an audit record of the command, refused or not, and deletes the oldest
// records beyond the limit. The record is the only change that a refused command leaves.
func (t *tx) audit(cmd Command, refusal *ec2.Error) {
	if cmd.Audit == nil {
		return
	}
	t.meta.Audited++
	r := &ec2.AuditRecord{Number: t.meta.Audited, Index: t.meta.Index, Time: cmd.Time.UTC().Round(0), Audit: *cmd.Audit}
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

func auditKey(number uint64) string { return string(binary.BigEndian.AppendUint64(nil, number)) }

// AuditRecords yields the audit records, oldest first.
func (v *View) AuditRecords() iter.Seq[*ec2.AuditRecord] {
	return rows[ec2.AuditRecord](v.txn(), tableAudit, indexID, "")
}

// AuditRecord returns an audit record by its number.
func (v *View) AuditRecord(number uint64) (*ec2.AuditRecord, bool) {
	return get[ec2.AuditRecord](v, tableAudit, auditKey(number))
}

// Seed returns the text that the ids of the cluster are derived from.
func (v *View) Seed() string { return v.v.meta.Seed }
