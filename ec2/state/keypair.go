package state

import "palisade/ec2"

// CreateKeyPair stores a public key, whether the caller made the pair or EC2 did.
// Result: KeyPair.
type CreateKeyPair struct {
	KeyPair ec2.KeyPair

	// Identified gives the pair an id. An entry of the log that has it not is of an
	// earlier release: an id would take a number, and all that were given out later
	// would become others.
	Identified bool              `json:",omitempty"`
	Tags       map[string]string `json:",omitempty"` // they want an id
}

func (r *CreateKeyPair) apply(t *tx) (Result, error) {
	k := r.KeyPair
	if first[ec2.Account](t.Txn, tableAccount, indexID, key(k.Account)) == nil {
		return Result{}, ec2.Errorf("AuthFailure", "account %s does not exist", k.Account)
	}
	if k.Name == "" {
		return Result{}, ec2.Missing("KeyName")
	}
	if !ec2.Printable(k.Name, 255) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter KeyName is invalid. Character sets beyond ASCII are not supported.", ec2.Clip(k.Name))
	}
	if !ec2.Printable(k.PublicKey, 1<<14) || k.PublicKey == "" {
		return Result{}, ec2.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	if first[ec2.KeyPair](t.Txn, tableKeyPair, indexID, key(k.Account)+key(k.Region)+key(k.Name)) != nil {
		return Result{}, ec2.Errorf("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", k.Name)
	}
	count := 0
	for range rows[ec2.KeyPair](t.Txn, tableKeyPair, indexID, key(k.Account)+key(k.Region)) {
		count++
	}
	if count >= maxKeyPairs {
		return Result{}, ec2.Errorf("KeyPairLimitExceeded", "Maximum of %d keypairs reached", maxKeyPairs)
	}
	if r.Identified {
		k.ID = ec2.KeyPairID(t.meta.longID("key", t.serial()))
		if err := t.tag(string(k.ID), k.Account, k.Region, r.Tags); err != nil {
			return Result{}, err
		}
	}
	t.put(tableKeyPair, &k)
	return Result{KeyPair: &k}, nil
}

// maxKeyPairs bounds the key pairs of an account in a region.
const maxKeyPairs = 5000

// DeleteKeyPair forgets a key pair. One that does not exist is no error (EC2 API
// Reference, DeleteKeyPair). Instances keep the key they were launched with. Result:
// KeyPair, unless there was none.
type DeleteKeyPair struct {
	Account ec2.AccountID
	Region  ec2.Region
	Name    string
}

func (r *DeleteKeyPair) apply(t *tx) (Result, error) {
	if r.Name == "" {
		return Result{}, ec2.Missing("KeyName")
	}
	k := first[ec2.KeyPair](t.Txn, tableKeyPair, indexID, key(r.Account)+key(r.Region)+key(r.Name))
	if k == nil {
		return Result{}, nil
	}
	if k.ID != "" {
		t.untag(string(k.ID))
	}
	t.del(tableKeyPair, k)
	return Result{KeyPair: k}, nil
}
