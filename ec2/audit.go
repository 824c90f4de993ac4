package ec2

import (
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
