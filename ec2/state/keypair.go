package state

import "palisade/ec2"

// CreateKeyPair stores a public key, for CreateKeyPair and for ImportKeyPair of the API. Result:
// KeyPair.
type CreateKeyPair struct {
	KeyPair ec2.KeyPair

	// Identified gives the pair an id. It is false in log entries of earlier releases. If these
	// pairs got an id, it would use up a serial, and all later ids of that log would change.
	Identified bool              `json:",omitempty"`
	Tags       map[string]string `json:",omitempty"` // only with an id
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

// maxKeyPairs is the maximum number of key pairs of an account in a region.
const maxKeyPairs = 5000

// DeleteKeyPair deletes a key pair. It is no error if the pair does not exist (EC2 API Reference,
// "DeleteKeyPair"). Instances keep the key that they were launched with. Result: KeyPair, if there
// was one.
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
