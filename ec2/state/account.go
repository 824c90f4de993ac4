package state

import (
	"strings"

	"palisade/ec2"
)

// accountRequests are the requests for access keys and their secrets.
var accountRequests = []Request{
	&CreateAccessKey{}, &UpdateAccessKey{}, &DeleteAccessKey{}, &SealSecrets{},
}

// CreateAccount adds an account with its first access key, and its default group or its default VPC
// in the region that the cluster began with. OpenRegion adds those of other regions. No two accounts
// may have the same name.
type CreateAccount struct {
	ID        ec2.AccountID
	Name      string
	Platform  ec2.Platform
	AccessKey string
	Secret    string           `json:",omitempty"` // plain text, in a command of an earlier release; Sealed is empty then
	Sealed    ec2.SealedSecret `json:",omitzero"`
}

func (r *CreateAccount) apply(t *tx) (Result, error) {
	if len(r.ID) != 12 || strings.Trim(string(r.ID), "0123456789") != "" {
		return Result{}, ec2.Errorf("InvalidParameterValue", "account id %q is not 12 digits", r.ID)
	}
	if r.Platform != ec2.Classic && r.Platform != ec2.VPCOnly {
		return Result{}, ec2.Errorf("InvalidParameterValue", "platform %q is neither %s nor %s", r.Platform, ec2.Classic, ec2.VPCOnly)
	}
	if r.AccessKey == "" || (r.Secret == "") == (r.Sealed.Box == nil) {
		return Result{}, ec2.Errorf("MissingParameter", "account %s needs an access key and its secret", r.ID)
	}
	if err := r.checkSealed(t); err != nil {
		return Result{}, err
	}
	if first[ec2.Account](t.Txn, tableAccount, indexID, key(r.ID)) != nil {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "account %s exists", r.ID)
	}
	if first[ec2.AccessKey](t.Txn, tableAccessKey, indexID, key(r.AccessKey)) != nil {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "access key %s exists", r.AccessKey)
	}
	a := &ec2.Account{ID: r.ID, Name: r.Name, Platform: r.Platform}
	t.put(tableAccount, a)
	k := &ec2.AccessKey{ID: r.AccessKey, Account: r.ID, Secret: r.Secret, Sealed: r.Sealed}
	if r.Secret == "" {
		k.Created = t.meta.Time
	}
	t.put(tableAccessKey, k)
	var regions []ec2.Region
	for n := range rows[ec2.Network](t.Txn, tableNetwork, indexID, "") {
		if n.VPC == "" && !n.Opened {
			regions = append(regions, n.Region)
		}
	}
	for _, region := range regions {
		if err := t.addDefaults(a, region); err != nil {
			return Result{}, err
		}
	}
	return Result{}, nil
}

// checkSealed returns an error for a name that another account has and for a secret that is not
// sealed with the cluster key. A command with a plain secret passes, because an earlier release
// wrote and accepted it.
func (r *CreateAccount) checkSealed(t *tx) error {
	if r.Secret != "" {
		return nil
	}
	for a := range rows[ec2.Account](t.Txn, tableAccount, indexID, "") {
		if r.Name != "" && a.Name == r.Name {
			return ec2.Errorf("EntityAlreadyExists", "account %s is called %s already", a.ID, a.Name)
		}
	}
	return t.checkSealed(r.Sealed)
}

// addDefaults gives an account its default group or its default VPC in a region.
func (t *tx) addDefaults(a *ec2.Account, region ec2.Region) error {
	t.addDefaultGroup(a, region)
	return t.ensureDefaultVPC(a, region)
}
