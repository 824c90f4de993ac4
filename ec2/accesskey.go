package ec2

import (
	"time"
)

// An AccessKey signs requests for an account.
type AccessKey struct {
	ID       string
	Secret   string `json:",omitempty"` // of earlier releases, until it is sealed
	Account  AccountID
	Sealed   SealedSecret `json:",omitzero"`
	Inactive bool         `json:",omitempty"` // it signs nothing
	Created  time.Time    `json:",omitzero"`  // zero: by an earlier release
}

// A SealedSecret can be opened by who has the cluster key, which is in no log and no
// snapshot. What is in the box is nothing to Apply.
type SealedSecret struct {
	Key string // id of the cluster key
	Box []byte
}
