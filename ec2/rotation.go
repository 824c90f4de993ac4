package ec2

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// A KeyKind is a kind of key that a running cluster can replace.
type KeyKind string

const (
	GossipKey  KeyKind = "gossip"  // encrypts gossip; every node has it
	TunnelKeys KeyKind = "tunnels" // encrypt frames; each pair of nodes has its own
	ClusterKey KeyKind = "secrets" // seals the secrets of access keys; voters have it
	Authority  KeyKind = "ca"      // signs the certificates of nodes; voters have its key
)

// A RotationStep is how far a Rotation has come. Each step ends when all nodes concerned have
// reported that they are done with it.
type RotationStep string

const (
	RotationDue    RotationStep = "due"    // the leader makes a new key
	RotationSpread RotationStep = "spread" // nodes get the new key; none uses it yet
	RotationUse    RotationStep = "use"    // nodes use the new key, and still accept the old one
	RotationDrop   RotationStep = "drop"   // of the authority only: clients too see the new one; both are still trusted
	RotationDone   RotationStep = "done"   // the old key is dropped; the state has no such Rotation any more
)

// A Rotation replaces a key under traffic. Its progress is in the state, so that the next leader
// continues it. The key itself is not: nodes give it to each other.
type Rotation struct {
	Kind  KeyKind
	Step  RotationStep
	Index uint64    // log index of the entry that began it; that entry tells it from an earlier one
	Key   string    `json:",omitempty"` // id of the new key
	Cause string    // why it began, for operators
	Begun time.Time // when it began

	Certificate string `json:",omitempty"` // PEM, of the new authority, whose private key Key names
}

// AuthorityID returns the id of a certificate authority with this certificate (PEM).
func AuthorityID(certificate string) string {
	sum := sha256.Sum256([]byte(certificate))
	return hex.EncodeToString(sum[:8])
}

// Expelled is the identity of a node that was fenced or removed: the members refuse it for good.
type Expelled struct {
	Node NodeID
	Key  [32]byte // SHA-256 of its public key (PKIX, DER)
}
