package ec2

import (
	"time"
)

// An Audit names the caller of a command and the request that the caller sent. It is part of
// the log entry, so it is as durable as the change. A command that a node proposes by itself
// has no Audit.
type Audit struct {
	Account   AccountID `json:",omitempty"` // "" for an operator of the cluster
	AccessKey string    `json:",omitempty"`
	Region    Region    `json:",omitempty"`
	Source    string    // address of the caller, or the local socket that the request came through
	UserAgent string    `json:",omitempty"`
	Via       NodeID    `json:",omitempty"` // the node that passed the request on to the leader, and that says Source; "" if the leader received it
	RequestID string    // the request id in the answer to the caller
	Action    string    // "AuthorizeSecurityGroupIngress"

	// Parameters of the request, by their names on the wire, without secrets.
	Parameters map[string]string `json:",omitempty"`
}

// An AuditRecord is one command that a caller asked for, and its outcome.
type AuditRecord struct {
	Number uint64 // counts from 1 without gaps
	Index  uint64 // log index of the command
	Time   time.Time
	Audit
	Error   string `json:",omitempty"` // error code; "" if the command succeeded
	Message string `json:",omitempty"`
}
