package ec2

import (
	"time"
)

// A JoinToken lets one node in, once. The State knows its secret by the hash alone, so
// that a snapshot or a log that gets about lets nobody in.
type JoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       NodeRole
	Expires    time.Time
	UsedBy     NodeID `json:",omitempty"` // "": not used yet
}
