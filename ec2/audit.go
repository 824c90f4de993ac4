package ec2

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
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
	Number uint64 // counts from 1 in the whole cluster
	Index  uint64 // log index of the command
	Time   time.Time
	Audit
	Error   string `json:",omitempty"` // error code; "" if the command succeeded
	Message string `json:",omitempty"`

	// Position counts from 1 in the ring of the account. Hash is ChainHash. A record of an earlier
	// release has neither.
	Position uint64 `json:",omitempty"`
	Hash     string `json:",omitempty"`
}

// An AuditRing has the audit records of one account, or of the operators and nodes if Account is "".
// Only the newest are kept. Each record has the hash of the one before in its own hash, so End
// depends on every record that the ring ever had.
type AuditRing struct {
	Account AccountID
	First   uint64 // position of the oldest record that is kept
	Last    uint64 // position of the newest record
	Start   string // hash of the record before First, or ChainStart
	End     string // hash of the record Last
}

// Kept returns the number of records that the ring has.
func (r *AuditRing) Kept() uint64 { return r.Last + 1 - r.First }

// ChainStart is what stands for the hash before the first record of an account's ring. It differs
// between clusters, which have different seeds, and between accounts.
func ChainStart(seed string, account AccountID) string {
	h := sha256.New()
	for _, text := range []string{"palisade audit chain 1", seed, string(account)} {
		hashText(h, text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ChainHash returns the hash of a record and of the hash before it. It covers every field but Hash,
// each with its length, so that no two different records give it the same bytes. It must never
// change for the fields that a record has: nodes of every release compute it.
func (r *AuditRecord) ChainHash(previous string) string {
	h := sha256.New()
	for _, n := range []uint64{r.Number, r.Index, r.Position, uint64(len(r.Parameters))} {
		h.Write(binary.BigEndian.AppendUint64(nil, n))
	}
	for _, text := range []string{
		previous, r.Time.UTC().Format(time.RFC3339Nano), string(r.Account), r.AccessKey, string(r.Region), r.Source, r.UserAgent,
		string(r.Via), r.RequestID, r.Action, r.Error, r.Message,
	} {
		hashText(h, text)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Parameters)) {
		hashText(h, name)
		hashText(h, r.Parameters[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func hashText(h hash.Hash, text string) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
	h.Write([]byte(text))
}
