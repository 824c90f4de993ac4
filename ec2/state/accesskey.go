package state

import (
	"iter"
	"regexp"

	"palisade/ec2"
)

// maxAccessKeys is per account, so that one can be replaced by another (IAM User Guide,
// "IAM and AWS STS quotas").
const maxAccessKeys = 2

// checkSealed: a box that the cluster's nodes could not open would be lost.
func (t *tx) checkSealed(s ec2.SealedSecret) error {
	switch {
	case t.meta.SealKey == "":
		return ec2.Errorf("IncorrectState", "the cluster has no key yet to seal secrets with")
	case s.Key != t.meta.SealKey:
		return ec2.Errorf("IncorrectState", "a secret is sealed under %q, and the cluster's key is %s", ec2.Clip(s.Key), t.meta.SealKey)
	case len(s.Box) == 0 || len(s.Box) > 1024:
		return ec2.Errorf("InvalidParameterValue", "a sealed secret has up to 1024 bytes, not %d", len(s.Box))
	}
	return nil
}

var accessKeyID = regexp.MustCompile(`^[A-Z0-9]{16,128}$`)

// CreateAccessKey gives an account a second key, or a first one again.
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
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is no access key: 16 to 128 capitals and digits", ec2.Clip(r.ID))
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
		return Result{}, ec2.Errorf("LimitExceeded", "account %s has %d access keys, the most there can be; delete one first", r.Account, count)
	}
	t.put(tableAccessKey, &ec2.AccessKey{ID: r.ID, Account: r.Account, Sealed: r.Sealed, Created: t.meta.Time})
	return Result{}, nil
}

// UpdateAccessKey makes a key sign nothing, or something again.
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

// DeleteAccessKey forgets a key, and its secret.
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

// SealSecrets names the key of a cluster, for good, and puts sealed secrets in the place
// of those that earlier releases left in plain text. Keys that have gone meanwhile are
// passed over.
type SealSecrets struct {
	Key        string            // id of the cluster key
	AccessKeys map[string][]byte `json:",omitempty"` // the box of each, by its id
}

var sealKeyID = regexp.MustCompile(`^[0-9a-f]{16}$`)

func (r *SealSecrets) apply(t *tx) (Result, error) {
	if !sealKeyID.MatchString(r.Key) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is no id of a cluster key", ec2.Clip(r.Key))
	}
	if t.meta.SealKey != "" && t.meta.SealKey != r.Key {
		return Result{}, ec2.Errorf("IncorrectState", "the cluster's key is %s, not %s", t.meta.SealKey, r.Key)
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

// forgetSealed is for a cluster that begins again without the key of the one before:
// nobody can sign with what nobody can open.
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

// SealKey is the id of the cluster key that secrets are sealed under. "": there is none
// yet, in a cluster of an earlier release.
func (v *View) SealKey() string { return v.v.meta.SealKey }

// AccessKeys yields all access keys, by id.
func (v *View) AccessKeys() iter.Seq[*ec2.AccessKey] {
	return rows[ec2.AccessKey](v.txn(), tableAccessKey, indexID, "")
}
