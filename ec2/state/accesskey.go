package state

import (
	"iter"
	"regexp"

	"palisade/ec2"
)

// maxAccessKeys is the maximum number of access keys of an account. Two are enough to replace a key
// by a new one (IAM User Guide, "IAM and AWS STS quotas").
const maxAccessKeys = 2

// checkSealed returns an error for a secret that is not sealed with the cluster key, because no
// node could open that secret.
func (t *tx) checkSealed(s ec2.SealedSecret) error {
	switch {
	case t.meta.SealKey == "":
		return ec2.Errorf("IncorrectState", "the cluster has no key for secrets yet")
	case s.Key != t.meta.SealKey:
		return ec2.Errorf("IncorrectState", "the secret is sealed with key %q, but the key of the cluster is %s", ec2.Clip(s.Key), t.meta.SealKey)
	case len(s.Box) == 0 || len(s.Box) > 1024:
		return ec2.Errorf("InvalidParameterValue", "a sealed secret has 1 to 1024 bytes, not %d", len(s.Box))
	}
	return nil
}

var accessKeyID = regexp.MustCompile(`^[A-Z0-9]{16,128}$`)

// CreateAccessKey adds an access key to an account.
type CreateAccessKey struct {
	Account ec2.AccountID
	ID      string
	Sealed  ec2.SealedSecret
}

func (r *CreateAccessKey) apply(t *tx) (Result, error) {
	if first[ec2.Account](t.Txn, tableAccount, indexID, key(r.Account)) == nil {
		return Result{}, ec2.Errorf("NoSuchEntity", "there is no account %q", ec2.Clip(string(r.Account)))
	}
	if !accessKeyID.MatchString(r.ID) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not an access key id: 16 to 128 capital letters and digits", ec2.Clip(r.ID))
	}
	if err := t.checkSealed(r.Sealed); err != nil {
		return Result{}, err
	}
	if first[ec2.AccessKey](t.Txn, tableAccessKey, indexID, key(r.ID)) != nil {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "access key %s exists", r.ID)
	}
	count := 0
	for range rows[ec2.AccessKey](t.Txn, tableAccessKey, indexOwner, key(r.Account)) {
		count++
	}
	if count >= maxAccessKeys {
		return Result{}, ec2.Errorf("LimitExceeded", "account %s has %d access keys, which is the maximum; delete one first", r.Account, count)
	}
	t.put(tableAccessKey, &ec2.AccessKey{ID: r.ID, Account: r.Account, Sealed: r.Sealed, Created: t.meta.Time})
	return Result{}, nil
}

// UpdateAccessKey makes an access key inactive or active.
type UpdateAccessKey struct {
	Account  ec2.AccountID
	ID       string
	Inactive bool
}

func (r *UpdateAccessKey) apply(t *tx) (Result, error) {
	was, err := t.accessKey(r.Account, r.ID)
	if err != nil {
		return Result{}, err
	}
	k := *was
	k.Inactive = r.Inactive
	t.put(tableAccessKey, &k)
	return Result{}, nil
}

// DeleteAccessKey deletes an access key and its secret.
type DeleteAccessKey struct {
	Account ec2.AccountID
	ID      string
}

func (r *DeleteAccessKey) apply(t *tx) (Result, error) {
	was, err := t.accessKey(r.Account, r.ID)
	if err != nil {
		return Result{}, err
	}
	t.del(tableAccessKey, was)
	return Result{}, nil
}

func (t *tx) accessKey(account ec2.AccountID, id string) (*ec2.AccessKey, error) {
	k := first[ec2.AccessKey](t.Txn, tableAccessKey, indexID, key(id))
	if k == nil || k.Account != account {
		return nil, ec2.Errorf("NoSuchEntity", "account %q has no access key %q", ec2.Clip(string(account)), ec2.Clip(id))
	}
	return k, nil
}

// SealSecrets sets the id of the cluster key, which only a rotation can change later, and replaces plain
// secrets, which an earlier release stored, by sealed ones. It ignores access keys that have been
// deleted meanwhile.
type SealSecrets struct {
	Key        string            // id of the cluster key
	AccessKeys map[string][]byte `json:",omitempty"` // sealed secrets by access key id

	// Replaces is the id of the cluster key that Key replaces, at the end of a rotation. Then
	// AccessKeys must have all access keys. Default: no key is replaced.
	Replaces string `json:",omitempty"`
}

var sealKeyID = regexp.MustCompile(`^[0-9a-f]{16}$`)

func (r *SealSecrets) apply(t *tx) (Result, error) {
	if !sealKeyID.MatchString(r.Key) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not the id of a cluster key", ec2.Clip(r.Key))
	}
	if r.Replaces != "" {
		return t.reseal(r)
	}
	if t.meta.SealKey != "" && t.meta.SealKey != r.Key {
		return Result{}, ec2.Errorf("IncorrectState", "the key of the cluster is %s, not %s", t.meta.SealKey, r.Key)
	}
	t.meta.SealKey = r.Key
	var plain []*ec2.AccessKey
	for k := range rows[ec2.AccessKey](t.Txn, tableAccessKey, indexID, "") {
		if k.Secret != "" && r.AccessKeys[k.ID] != nil {
			plain = append(plain, k)
		}
	}
	for _, was := range plain {
		k := *was
		k.Secret, k.Sealed = "", ec2.SealedSecret{Key: r.Key, Box: r.AccessKeys[was.ID]}
		if err := t.checkSealed(k.Sealed); err != nil {
			return Result{}, err
		}
		t.put(tableAccessKey, &k)
	}
	return Result{}, nil
}

// deleteSealedKeys deletes the access keys with sealed secrets. A cluster that is recovered
// without its cluster key cannot open them.
func (t *tx) deleteSealedKeys() {
	var lost []*ec2.AccessKey
	for k := range rows[ec2.AccessKey](t.Txn, tableAccessKey, indexID, "") {
		if k.Secret == "" {
			lost = append(lost, k)
		}
	}
	for _, k := range lost {
		t.del(tableAccessKey, k)
	}
	t.meta.SealKey = ""
}

// SealKey returns the id of the cluster key, which seals secrets. It is "" until SealSecrets sets
// it.
func (v *View) SealKey() string { return v.v.meta.SealKey }

// AccessKeys yields all access keys, by id.
func (v *View) AccessKeys() iter.Seq[*ec2.AccessKey] {
	return rows[ec2.AccessKey](v.txn(), tableAccessKey, indexID, "")
}
