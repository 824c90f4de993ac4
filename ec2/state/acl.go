package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// aclRequests are the requests for the entries of network ACLs.
var aclRequests = []Request{&CreateACLEntry{}, &ReplaceACLEntry{}, &DeleteACLEntry{}}

// entriesPerDirection is the most entries of an ACL in one direction and address family (Amazon VPC
// User Guide, "Amazon VPC quotas", rules per network ACL).
const entriesPerDirection = 20

// CreateACLEntry adds an entry to a network ACL. Result: none.
type CreateACLEntry struct {
	Account ec2.AccountID
	Region  ec2.Region
	ACL     string
	Entry   ec2.ACLEntry
}

func (r *CreateACLEntry) apply(t *tx) (Result, error) {
	acl, err := t.acl(r.Account, r.Region, r.ACL)
	if err != nil {
		return Result{}, err
	}
	if err := checkACLEntry(r.Entry); err != nil {
		return Result{}, err
	}
	if slices.ContainsFunc(acl.Entries, sameEntry(r.Entry.Number, r.Entry.Egress)) {
		return Result{}, ec2.Errorf("NetworkAclEntryAlreadyExists", "The network acl entry identified by %d already exists.", r.Entry.Number)
	}
	count := 0
	for _, e := range acl.Entries {
		if e.Egress == r.Entry.Egress && e.CIDR == r.Entry.CIDR {
			count++
		}
	}
	if count >= entriesPerDirection {
		return Result{}, ec2.Errorf("NetworkAclEntryLimitExceeded", "The maximum number of network acl entries has been reached.")
	}
	t.putACL(acl, append(slices.Clone(acl.Entries), r.Entry))
	return Result{}, nil
}

// ReplaceACLEntry replaces the entry with the same number and direction. Result: none.
type ReplaceACLEntry struct {
	Account ec2.AccountID
	Region  ec2.Region
	ACL     string
	Entry   ec2.ACLEntry
}

func (r *ReplaceACLEntry) apply(t *tx) (Result, error) {
	acl, at, err := t.aclEntry(r.Account, r.Region, r.ACL, r.Entry.Number, r.Entry.Egress)
	if err != nil {
		return Result{}, err
	}
	if err := checkACLEntry(r.Entry); err != nil {
		return Result{}, err
	}
	entries := slices.Clone(acl.Entries)
	entries[at] = r.Entry
	t.putACL(acl, entries)
	return Result{}, nil
}

// DeleteACLEntry removes the entry with a number and direction. Result: none.
type DeleteACLEntry struct {
	Account ec2.AccountID
	Region  ec2.Region
	ACL     string
	Number  int
	Egress  bool
}

func (r *DeleteACLEntry) apply(t *tx) (Result, error) {
	acl, at, err := t.aclEntry(r.Account, r.Region, r.ACL, r.Number, r.Egress)
	if err != nil {
		return Result{}, err
	}
	t.putACL(acl, slices.Delete(slices.Clone(acl.Entries), at, at+1))
	return Result{}, nil
}

// checkACLEntry returns an error for a number that AWS does not take, and for a CIDR block that is not
// enforced.
func checkACLEntry(e ec2.ACLEntry) error {
	if e.Number < 1 || e.Number > 32766 {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter ruleNumber is invalid. The rule number must be from 1 to 32766.", e.Number)
	}
	if e.CIDR.Bits() != 0 || e.CIDR != e.CIDR.Masked() {
		return ec2.Errorf("UnsupportedOperation", "A network ACL entry for a part of the addresses is not enforced here, so it is refused: the CIDR block can be 0.0.0.0/0 or ::/0")
	}
	return nil
}

func sameEntry(number int, egress bool) func(ec2.ACLEntry) bool {
	return func(e ec2.ACLEntry) bool { return e.Number == number && e.Egress == egress }
}

// acl returns a network ACL of an account, or EC2's error.
func (t *tx) acl(account ec2.AccountID, region ec2.Region, id string) (*ec2.NetworkACL, error) {
	if id == "" {
		return nil, ec2.Missing("networkAclId")
	}
	for vpc := range rows[ec2.VPC](t.Txn, tableVPC, indexOwner, key(account)+key(region)) {
		if vpc.ACL == id {
			return aclOf(t.Txn, vpc), nil
		}
	}
	return nil, ec2.NoSuch("acl", id)
}

// aclEntry returns a network ACL of an account and the index of one of its entries, or EC2's error.
func (t *tx) aclEntry(account ec2.AccountID, region ec2.Region, id string, number int, egress bool) (*ec2.NetworkACL, int, error) {
	acl, err := t.acl(account, region, id)
	if err != nil {
		return nil, 0, err
	}
	at := slices.IndexFunc(acl.Entries, sameEntry(number, egress))
	if at < 0 {
		return nil, 0, ec2.Errorf("InvalidNetworkAclEntry.NotFound", "The specified network acl entry does not exist: %s has no %s entry with number %d", id, directionOf(egress), number)
	}
	return acl, at, nil
}

func directionOf(egress bool) string {
	if egress {
		return "egress"
	}
	return "ingress"
}

// aclOf returns the network ACL of a VPC. It has a row only once an entry was changed, because an
// earlier release wrote none.
func aclOf(txn *memdb.Txn, vpc *ec2.VPC) *ec2.NetworkACL {
	if acl := first[ec2.NetworkACL](txn, tableACL, indexID, key(vpc.ACL)); acl != nil {
		return acl
	}
	return &ec2.NetworkACL{ID: vpc.ACL, Account: vpc.Account, Region: vpc.Region, VPC: vpc.ID, Entries: ec2.OpenEntries()}
}

func (t *tx) putACL(was *ec2.NetworkACL, entries []ec2.ACLEntry) {
	slices.SortFunc(entries, func(a, b ec2.ACLEntry) int {
		return cmp.Or(strings.Compare(directionOf(a.Egress), directionOf(b.Egress)), cmp.Compare(a.Number, b.Number))
	})
	acl := *was
	acl.Entries = entries
	t.put(tableACL, &acl)
}

// NetworkACL returns the network ACL of a VPC.
func (v *View) NetworkACL(vpc *ec2.VPC) *ec2.NetworkACL { return aclOf(v.txn(), vpc) }
