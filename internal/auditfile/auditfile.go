// Package auditfile writes the audit log of a cluster to a file, and finds what was changed in it.
//
// The file has JSON lines: first a header with the beginning and the end of each account's ring, then
// the records of all rings in the order in which they were made. Each record has the hash of the
// one before it in its ring, and its own (ec2.AuditRecord.ChainHash). The cluster keeps the same
// hashes in its replicated state. So a file whose rings end with the hashes of the cluster has every
// record unchanged. Verify compares them.
package auditfile

import (
	"bytes"
	"encoding/json"
	"io"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

const (
	format  = "palisade-audit"
	version = 1
)

// header is the first line. Verify checks each field against the records and the cluster.
type header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Rings   []ring `json:"rings"` // ordered by account
}

type ring struct {
	Account ec2.AccountID `json:"account"` // "" for the operators and nodes
	First   uint64        `json:"first"`   // position of the first record in the file
	Last    uint64        `json:"last"`
	Start   string        `json:"start"` // hash of the record before the first
	End     string        `json:"end"`   // hash of the last record
}

// record is one of the other lines. Its first fields are those that a reader looks for.
type record struct {
	Time       time.Time         `json:"time"`
	Account    ec2.AccountID     `json:"account"`
	Action     string            `json:"action"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Error      string            `json:"error,omitempty"`
	Message    string            `json:"message,omitempty"`
	AccessKey  string            `json:"access_key,omitempty"`
	Region     ec2.Region        `json:"region,omitempty"`
	Source     string            `json:"source"`
	Via        ec2.NodeID        `json:"via,omitempty"`
	UserAgent  string            `json:"user_agent,omitempty"`
	RequestID  string            `json:"request_id,omitempty"`
	Number     uint64            `json:"number"`
	Index      uint64            `json:"index"`
	Position   uint64            `json:"position"`
	Previous   string            `json:"previous"`
	Hash       string            `json:"hash"`
}

func newRecord(r *ec2.AuditRecord, previous string) record {
	return record{
		r.Time, r.Account, r.Action, r.Parameters, r.Error, r.Message, r.AccessKey, r.Region, r.Source, r.Via, r.UserAgent, r.RequestID,
		r.Number, r.Index, r.Position, previous, r.Hash,
	}
}

// chainHash returns the hash that a line with this content and this previous hash must have.
func (r *record) chainHash() string {
	x := ec2.AuditRecord{
		Number: r.Number, Index: r.Index, Position: r.Position, Time: r.Time, Error: r.Error, Message: r.Message,
		Audit: ec2.Audit{
			Account: r.Account, AccessKey: r.AccessKey, Region: r.Region, Source: r.Source, Via: r.Via, UserAgent: r.UserAgent,
			RequestID: r.RequestID, Action: r.Action, Parameters: r.Parameters,
		},
	}
	return x.ChainHash(r.Previous)
}

// Write writes the audit log of a state. Two nodes with the same state write the same bytes.
func Write(w io.Writer, view *state.View) error {
	h := header{format, version, []ring{}}
	previous := map[ec2.AccountID]string{}
	for r := range view.AuditRings() {
		h.Rings = append(h.Rings, ring{r.Account, r.First, r.Last, r.Start, r.End})
		previous[r.Account] = r.Start
	}
	if err := encodeLine(w, h); err != nil {
		return err
	}
	for r := range view.AuditRecords() {
		if r.Position == 0 {
			continue // of an earlier release, and in no chain before the next change
		}
		if err := encodeLine(w, newRecord(r, previous[r.Account])); err != nil {
			return err
		}
		previous[r.Account] = r.Hash
	}
	return nil
}

func encodeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// decodeLine decodes a line into v. It reports whether the line is what encodeLine writes for v,
// byte by byte: else a field could be there twice, and a reader could see another value than
// the one that was checked.
func decodeLine(line []byte, v any) bool {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if d.Decode(v) != nil {
		return false
	}
	var again bytes.Buffer
	return encodeLine(&again, v) == nil && bytes.Equal(again.Bytes(), line)
}

// A Chain has the hashes of a cluster's audit log.
type Chain struct {
	Rings []ChainRing `json:"rings"`
}

// A ChainRing has the hashes of one account's ring.
type ChainRing struct {
	Account ec2.AccountID `json:"account"`
	Genesis string        `json:"genesis"` // before the first record that the ring ever had
	First   uint64        `json:"first"`   // position of the oldest record that is kept
	Hashes  []string      `json:"hashes"`  // of the record before First, and of each that is kept
}

// last returns the position of the newest record.
func (c *ChainRing) last() uint64 { return c.First + uint64(len(c.Hashes)) - 2 }

// at returns the hash of the record at a position, or "" if the cluster has it no longer or not yet.
func (c *ChainRing) at(position uint64) string {
	if position == 0 {
		return c.Genesis
	}
	if i := position - (c.First - 1); position >= c.First-1 && i < uint64(len(c.Hashes)) {
		return c.Hashes[i]
	}
	return ""
}

// ChainOf returns the hashes of a state.
func ChainOf(view *state.View) Chain {
	c := Chain{Rings: []ChainRing{}}
	for r := range view.AuditRings() {
		ring := ChainRing{Account: r.Account, Genesis: ec2.ChainStart(view.Seed(), r.Account), First: r.First, Hashes: []string{r.Start}}
		for p := r.First; p <= r.Last; p++ {
			if x, ok := view.AuditRecordAt(r.Account, p); ok {
				ring.Hashes = append(ring.Hashes, x.Hash)
			}
		}
		c.Rings = append(c.Rings, ring)
	}
	return c
}
