package ec2

import (
	"time"
)

// An AccessKey signs requests for an account.
type AccessKey struct {
	ID       string
	Secret   string `json:",omitempty"` // plain text that an earlier release stored; "" once it is sealed
	Account  AccountID
	Sealed   SealedSecret `json:",omitzero"`
	Inactive bool         `json:",omitempty"` // requests that it signs are refused
	Created  time.Time    `json:",omitzero"`  // zero for a key that an earlier release created
}

// A SealedSecret is a secret encrypted with the cluster key. The key is in no log and in no
// snapshot, so State.Apply stores the secret and cannot read it.
type SealedSecret struct {
	Key string // id of the cluster key
	Box []byte // ciphertext
}
