package ec2

import (
	"time"
)

// A JoinToken admits one node to the cluster. The State has only the hash of its secret, so a
// leaked log or snapshot admits nobody.
type JoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       NodeRole
	Expires    time.Time
	UsedBy     NodeID `json:",omitempty"` // "" until a node has joined with it
}
