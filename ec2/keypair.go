package ec2

// CreateKeyPair stores a public key, whether the caller made the pair or EC2 did.
// Result: KeyPair.
type CreateKeyPair struct {
	KeyPair KeyPair

	// Identified gives the pair an id. An entry of the log that has it not is of an
	// earlier release: an id would take a number, and all that were given out later
	// would become others.
	Identified bool              `json:",omitempty"`
	Tags       map[string]string `json:",omitempty"` // they want an id
}

func (r *CreateKeyPair) apply(t *tx) (Result, error) {
	k := r.KeyPair
	if first[Account](t.Txn, tableAccount, indexID, key(k.Account)) == nil {
		return Result{}, Errorf("AuthFailure", "account %s does not exist", k.Account)
	}
	if k.Name == "" {
		return Result{}, Missing("KeyName")
	}
	if !Printable(k.Name, 255) {
		return Result{}, Errorf("InvalidParameterValue", "Value (%s) for parameter KeyName is invalid. Character sets beyond ASCII are not supported.", Clip(k.Name))
	}
	if !Printable(k.PublicKey, 1<<14) || k.PublicKey == "" {
		return Result{}, Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	if first[KeyPair](t.Txn, tableKeyPair, indexID, key(k.Account)+key(k.Region)+key(k.Name)) != nil {
		return Result{}, Errorf("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", k.Name)
	}
	count := 0
	for range rows[KeyPair](t.Txn, tableKeyPair, indexID, key(k.Account)+key(k.Region)) {
		count++
	}
	if count >= maxKeyPairs {
		return Result{}, Errorf("KeyPairLimitExceeded", "Maximum of %d keypairs reached", maxKeyPairs)
	}
	if r.Identified {
		k.ID = KeyPairID(t.meta.longID("key", t.serial()))
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
	Account AccountID
	Region  Region
	Name    string
}

func (r *DeleteKeyPair) apply(t *tx) (Result, error) {
	if r.Name == "" {
		return Result{}, Missing("KeyName")
	}
	k := first[KeyPair](t.Txn, tableKeyPair, indexID, key(r.Account)+key(r.Region)+key(r.Name))
	if k == nil {
		return Result{}, nil
	}
	if k.ID != "" {
		t.untag(string(k.ID))
	}
	t.del(tableKeyPair, k)
	return Result{KeyPair: k}, nil
}
