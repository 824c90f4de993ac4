package state

import (
	"encoding/binary"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// A Signature identifies the signature of the request that a command was made from. Once the command
// was carried out, the State remembers it until it expires, so that no request is carried out twice.
// Because it is in the log, a new leader remembers it too. A refused request is not remembered.
type Signature struct {
	Account ec2.AccountID
	ID      []byte    // a hash
	Until   time.Time // from then on the request is refused as expired
}

const (
	// maxSignatures bounds the signatures that are remembered for one account: 333 changes a
	// second for five minutes.
	maxSignatures = 100_000
	// forgetAtOnce bounds the expired signatures that one command deletes.
	forgetAtOnce = 64
)

// A signatureCount is the number of signatures that are remembered for an account.
type signatureCount struct {
	Account ec2.AccountID
	Count   int
}

// key begins with the time, so that the oldest signatures are the first rows.
func (s *Signature) key() string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(s.Until.UnixMilli()))) + key(s.Account) + string(s.ID)
}

// checkSignature returns an error if a request was carried out before, or has expired.
func (t *tx) checkSignature(s *Signature) error {
	switch {
	case s == nil:
		return nil
	case !s.Until.After(t.meta.Time):
		return ec2.Errorf("RequestExpired", "Request has expired.")
	case first[Signature](t.Txn, tableSignature, indexID, s.key()) != nil:
		return errReplayed()
	}
	if c := first[signatureCount](t.Txn, tableSignatureCount, indexID, key(s.Account)); c != nil && c.Count >= maxSignatures {
		return ec2.Errorf("RequestLimitExceeded", "Request limit exceeded.")
	}
	return nil
}

func errReplayed() error {
	return ec2.Errorf("AuthFailure", "This request was carried out before. To repeat it, sign it again.")
}

// remember stores a signature, and deletes some that have expired.
func (t *tx) remember(s *Signature) {
	if s == nil {
		return
	}
	var expired []*Signature
	for old := range rows[Signature](t.Txn, tableSignature, indexID, "") {
		if old.Until.After(t.meta.Time) || len(expired) == forgetAtOnce {
			break
		}
		expired = append(expired, old)
	}
	for _, old := range expired {
		t.del(tableSignature, old)
		t.countSignature(old.Account, -1)
	}
	t.put(tableSignature, &Signature{s.Account, s.ID, s.Until.UTC().Round(0)})
	t.countSignature(s.Account, 1)
}

func (t *tx) countSignature(account ec2.AccountID, more int) {
	c := &signatureCount{Account: account, Count: more}
	if was := first[signatureCount](t.Txn, tableSignatureCount, indexID, key(account)); was != nil {
		c.Count += was.Count
	}
	t.put(tableSignatureCount, c)
}

// countSignatures counts the signatures of a restored State.
func countSignatures(txn *memdb.Txn) {
	t := &tx{Txn: txn}
	var all []ec2.AccountID
	for s := range rows[Signature](txn, tableSignature, indexID, "") {
		all = append(all, s.Account)
	}
	for _, account := range all {
		t.countSignature(account, 1)
	}
}

// CheckSignature returns an error if the State remembers a signature: its request was carried out
// before.
func (v *View) CheckSignature(s *Signature) error {
	if _, used := get[Signature](v, tableSignature, s.key()); used {
		return errReplayed()
	}
	return nil
}
