package ec2

import (
	"slices"
	"strings"
)

// Platform is what an account may launch into.
type Platform string

const (
	// Classic accounts have the region's flat network (supported-platforms "EC2,VPC").
	Classic Platform = "classic"
	// VPCOnly accounts have a default VPC in each region ("VPC").
	VPCOnly Platform = "vpc"
)

// An Account owns resources. Name is for people and configuration, "albert".
type Account struct {
	ID       AccountID
	Name     string
	Platform Platform
}

// An AccessKey signs requests for an account.
type AccessKey struct {
	ID      string
	Secret  string
	Account AccountID
}

// accountRequests are of accounts that exist.
var accountRequests = []Request{}

// CreateAccount adds an account with its first access key, and in every region its
// default group.
type CreateAccount struct {
	ID        AccountID
	Name      string
	Platform  Platform
	AccessKey string
	Secret    string
}

func (r *CreateAccount) apply(t *tx) (Result, error) {
	if len(r.ID) != 12 || strings.Trim(string(r.ID), "0123456789") != "" {
		return Result{}, Errorf("InvalidParameterValue", "account id %q is not 12 digits", r.ID)
	}
	if r.Platform != Classic && r.Platform != VPCOnly {
		return Result{}, Errorf("InvalidParameterValue", "platform %q is neither %s nor %s", r.Platform, Classic, VPCOnly)
	}
	if r.AccessKey == "" || r.Secret == "" {
		return Result{}, Errorf("MissingParameter", "account %s needs an access key and its secret", r.ID)
	}
	if first[Account](t.Txn, tableAccount, indexID, key(r.ID)) != nil {
		return Result{}, Errorf("EntityAlreadyExists", "account %s exists", r.ID)
	}
	if first[AccessKey](t.Txn, tableAccessKey, indexID, key(r.AccessKey)) != nil {
		return Result{}, Errorf("EntityAlreadyExists", "access key %s exists", r.AccessKey)
	}
	a := &Account{ID: r.ID, Name: r.Name, Platform: r.Platform}
	t.put(tableAccount, a)
	t.put(tableAccessKey, &AccessKey{ID: r.AccessKey, Secret: r.Secret, Account: r.ID})
	for n := range rows[Network](t.Txn, tableNetwork, indexID, "") {
		if n.VPC == "" {
			t.addDefaultGroup(a, n.Region)
		}
	}
	return Result{}, nil
}

// PutNetwork adds a network or replaces its settings; VNI is its identity. A zero
// Gateway is the first address of Prefix. Leases outside the new pools stay. The first
// EC2-Classic network of a region gives the accounts of that platform their default
// group there.
type PutNetwork struct {
	Network Network
}

func (r *PutNetwork) apply(t *tx) (Result, error) {
	n := r.Network
	if n.VNI == 0 || n.VNI >= 1<<24 || n.Region == "" {
		return Result{}, Errorf("InvalidParameterValue", "a network needs a region and a VNI of 24 bits, not %q and %d", n.Region, n.VNI)
	}
	if !n.Prefix.IsValid() || n.Prefix != n.Prefix.Masked() || !n.Prefix.Addr().Is4() {
		return Result{}, Errorf("InvalidParameterValue", "network %d: %s is not a canonical IPv4 prefix", n.VNI, n.Prefix)
	}
	if !n.Gateway.IsValid() {
		n.Gateway = n.Prefix.Addr().Next()
	}
	if !n.Prefix.Contains(n.Gateway) {
		return Result{}, Errorf("InvalidParameterValue", "network %d: gateway %s is outside %s", n.VNI, n.Gateway, n.Prefix)
	}
	for _, p := range slices.Concat(n.Pools, n.PublicPools) {
		if !p.IsValid() || p != p.Masked() || !p.Addr().Is4() {
			return Result{}, Errorf("InvalidParameterValue", "network %d: pool %s is not a canonical IPv4 prefix", n.VNI, p)
		}
	}
	for _, p := range n.Pools {
		if p.Bits() < n.Prefix.Bits() || !n.Prefix.Contains(p.Addr()) {
			return Result{}, Errorf("InvalidParameterValue", "network %d: pool %s is outside %s", n.VNI, p, n.Prefix)
		}
	}
	if o := first[Network](t.Txn, tableNetwork, indexRegion, key(n.Region)+key(n.VPC)); o != nil && o.VNI != n.VNI {
		return Result{}, Errorf("EntityAlreadyExists", "region %s has network %d already", n.Region, o.VNI)
	}
	if o := first[Network](t.Txn, tableNetwork, indexID, vniKey(n.VNI)); o != nil && (o.Region != n.Region || o.VPC != n.VPC) {
		return Result{}, Errorf("EntityAlreadyExists", "network %d belongs to region %s", n.VNI, o.Region)
	}

	t.put(tableNetwork, &n)
	if n.VPC == "" {
		for a := range rows[Account](t.Txn, tableAccount, indexID, "") {
			t.addDefaultGroup(a, n.Region)
		}
	}
	return Result{}, nil
}
