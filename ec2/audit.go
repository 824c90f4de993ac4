package ec2

import (
	"encoding/binary"
	"iter"
	"time"
)

// An Audit says on whose behalf a command is in the log, and by which words it was asked
// for. It is part of the entry, so it is exactly as durable as the change. Commands that
// nodes give themselves have none.
type Audit struct {
	Account   AccountID `json:",omitempty"` // "" for an operator of the cluster
	AccessKey string    `json:",omitempty"`
	Region    Region    `json:",omitempty"`
	Source    string    // address of the caller, or what it came in by
	UserAgent string    `json:",omitempty"`
	RequestID string    // as the caller was told
	Action    string    // "AuthorizeSecurityGroupIngress"

	// Parameters of the request, by their names on the wire, without secrets.
	Parameters map[string]string `json:",omitempty"`
}

// An AuditRecord is one command that somebody asked for, and what became of it.
type AuditRecord struct {
	Number uint64 // from 1 up, without a gap
	Index  uint64 // of the command, in the log
	Time   time.Time
	Audit
	Error   string `json:",omitempty"` // code; "" says that it was done
	Message string `json:",omitempty"`
}

// audit keeps a record of the command, and forgets the oldest beyond the bound. What was
// refused is recorded too: of a refused command it is all that stays.
func (t *tx) audit(cmd Command, refusal *Error) {
	if cmd.Audit == nil {
		return
	}
	t.meta.Audited++
	r := &AuditRecord{Number: t.meta.Audited, Index: t.meta.Index, Time: cmd.Time.UTC().Round(0), Audit: *cmd.Audit}
	if refusal != nil {
		r.Error, r.Message = refusal.Code, refusal.Message
	}
	t.put(tableAudit, r)
	for kept := uint64(max(t.limits().AuditRecords, 1)); ; {
		oldest := t.oldestAudit()
		if oldest.Number+kept > t.meta.Audited {
			return
		}
		t.del(tableAudit, oldest)
	}
}

func (t *tx) oldestAudit() *AuditRecord {
	for r := range rows[AuditRecord](t.Txn, tableAudit, indexID, "") {
		return r
	}
	panic("ec2: no audit record")
}

func auditKey(number uint64) string { return string(binary.BigEndian.AppendUint64(nil, number)) }

// AuditRecords yields the records that are kept, oldest first.
func (v *View) AuditRecords() iter.Seq[*AuditRecord] {
	return rows[AuditRecord](v.txn(), tableAudit, indexID, "")
}

// AuditRecord finds a record by its number.
func (v *View) AuditRecord(number uint64) (*AuditRecord, bool) {
	return get[AuditRecord](v, tableAudit, auditKey(number))
}

// Seed is what the cluster's ids are derived from.
func (v *View) Seed() string { return v.v.meta.Seed }
