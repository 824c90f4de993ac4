package state

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// aclRequests are the requests for network ACLs, their entries and their associations.
var aclRequests = []Request{
	&CreateNetworkACL{}, &DeleteNetworkACL{}, &ReplaceACLAssociation{},
	&CreateACLEntry{}, &ReplaceACLEntry{}, &DeleteACLEntry{},
}

// CreateNetworkACL makes a network ACL without entries, which denies everything. A repeated request with
// the same ClientToken returns the same ACL. Result: ACL.
type CreateNetworkACL struct {
	Account     ec2.AccountID
	Region      ec2.Region
	VPC         ec2.VPCID
	Tags        map[string]string `json:",omitempty"`
	ClientToken string            `json:",omitempty"`
}

func (r *CreateNetworkACL) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	count := 1 // the default ACL, which may have no row
	for made := range rows[ec2.NetworkACL](t.Txn, tableACL, indexOwner, key(r.Account)+key(r.Region)) {
		switch {
		case r.ClientToken == "" || made.ClientToken != r.ClientToken:
		case made.VPC == vpc.ID:
			return Result{ACL: made}, nil
		default:
			return Result{}, tokenMismatch()
		}
		if made.VPC == vpc.ID && made.ID != vpc.ACL {
			count++
		}
	}
	if count >= t.limits().ACLsPerVPC {
		return Result{}, ec2.Errorf("NetworkAclLimitExceeded", "The maximum number of network ACLs has been reached.")
	}
	acl := &ec2.NetworkACL{ID: t.meta.longID("acl", t.serial()), Account: r.Account, Region: r.Region, VPC: vpc.ID, ClientToken: r.ClientToken}
	t.put(tableACL, acl)
	if err := t.tag(acl.ID, r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{ACL: acl}, nil
}

// DeleteNetworkACL deletes an ACL that is neither the default one of its VPC nor associated with a
// subnet. Result: ACL.
type DeleteNetworkACL struct {
	Account ec2.AccountID
	Region  ec2.Region
	ACL     string
}

func (r *DeleteNetworkACL) apply(t *tx) (Result, error) {
	acl, err := t.acl(r.Account, r.Region, r.ACL)
	if err != nil {
		return Result{}, err
	}
	if vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(acl.VPC)); vpc != nil && vpc.ACL == acl.ID {
		return Result{}, ec2.Errorf("InvalidParameterValue", "cannot delete default network ACL %s", acl.ID)
	}
	var dependents []string
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(acl.VPC)) {
		if s.ACL == acl.ID {
			dependents = append(dependents, string(s.ID))
		}
	}
	if len(dependents) > 0 {
		return Result{}, hasDependents("networkAcl", acl.ID, dependents)
	}
	t.untag(acl.ID)
	t.del(tableACL, acl)
	return Result{ACL: acl}, nil
}

// ReplaceACLAssociation associates the subnet of an association with another ACL of its VPC. The
// association gets a new id. Result: Subnet, Association.
type ReplaceACLAssociation struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Association ec2.AssociationID
	ACL         string
}

func (r *ReplaceACLAssociation) apply(t *tx) (Result, error) {
	if r.Association == "" {
		return Result{}, ec2.Missing("associationId")
	}
	acl, err := t.acl(r.Account, r.Region, r.ACL)
	if err != nil {
		return Result{}, err
	}
	for was := range rows[ec2.Subnet](t.Txn, tableSubnet, indexOwner, key(r.Account)+key(r.Region)) {
		if was.AssociationWithACL() != r.Association {
			continue
		}
		vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(was.VPC))
		switch {
		case was.VPC != acl.VPC:
			return Result{}, ec2.Errorf("InvalidParameterValue", "network ACL %s and subnet %s belong to different networks", acl.ID, was.ID)
		case aclIDOf(vpc, was) == acl.ID:
			return Result{Subnet: was, Association: r.Association}, nil
		}
		s := *was
		if s.ACL = acl.ID; acl.ID == vpc.ACL {
			s.ACL = ""
		}
		s.ACLAssociation = ec2.AssociationID(t.meta.longID("aclassoc", t.serial()))
		t.put(tableSubnet, &s)
		return Result{Subnet: &s, Association: s.ACLAssociation}, nil
	}
	return Result{}, ec2.NoSuch("aclassoc", r.Association)
}

// aclIDOf returns the id of the ACL that a subnet of a VPC uses.
func aclIDOf(vpc *ec2.VPC, s *ec2.Subnet) string { return cmp.Or(s.ACL, vpc.ACL) }

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
	if err := t.checkEntryLimit(acl.Entries, r.Entry); err != nil {
		return Result{}, err
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
	if err := t.checkEntryLimit(slices.Delete(slices.Clone(entries), at, at+1), r.Entry); err != nil {
		return Result{}, err
	}
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

// checkEntryLimit returns EC2's error if an ACL with these entries has no room for another.
func (t *tx) checkEntryLimit(entries []ec2.ACLEntry, more ec2.ACLEntry) error {
	count := 0
	for _, e := range entries {
		if e.Egress == more.Egress && e.CIDR.Addr().Is4() == more.CIDR.Addr().Is4() {
			count++
		}
	}
	if count >= t.limits().EntriesPerACL {
		return ec2.Errorf("NetworkAclEntryLimitExceeded", "The maximum number of network acl entries has been reached.")
	}
	return nil
}

// checkACLEntry returns EC2's error for an entry with an invalid number, block or range.
func checkACLEntry(e ec2.ACLEntry) error {
	if e.Number < 1 || e.Number >= ec2.LastACLEntry {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter ruleNumber is invalid. The rule number must be from 1 to 32766.", e.Number)
	}
	if !e.CIDR.IsValid() || e.CIDR != e.CIDR.Masked() {
		return ec2.Errorf("InvalidParameterValue", "CIDR block %s is malformed", e.CIDR)
	}
	return checkACLTraffic(e.Traffic, e.CIDR.Addr().Is4())
}

func checkACLTraffic(t ec2.ACLTraffic, ipv4 bool) error {
	switch {
	case !t.One && t != (ec2.ACLTraffic{}), t.Protocol < 0 || t.Protocol > 255:
		return ec2.Errorf("InvalidParameterValue", "Invalid value '%d' for IP protocol. Unknown protocol.", t.Protocol)
	case !t.One:
	case t.Protocol == ec2.TCP, t.Protocol == ec2.UDP:
		if t.From < 0 || t.From > t.To || t.To > 65535 {
			return ec2.Errorf("InvalidParameterValue", "Invalid port range %d to %d: the ports are from 0 to 65535, and the first is not greater than the last", t.From, t.To)
		}
	case t.Protocol == ec2.ICMP && ipv4, t.Protocol == ec2.ICMPv6 && !ipv4:
		if t.From < -1 || t.From > 255 || t.To < -1 || t.To > 255 || t.From < 0 && t.To >= 0 {
			return ec2.Errorf("InvalidParameterValue", "Invalid ICMP type and code %d and %d: each is from 0 to 255, or -1 for all, and a code needs a type", t.From, t.To)
		}
	case t.From != 0 || t.To != 0:
		return ec2.Errorf("InvalidParameterValue", "Protocol %d has neither ports nor types in a network ACL entry", t.Protocol)
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
	if acl := ownedRow[ec2.NetworkACL](t.Txn, tableACL, owner{account, region}, id); acl != nil {
		return acl, nil
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

// aclOf returns the default network ACL of a VPC. It has a row only once an entry was changed, because an
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

// NetworkACL returns the default network ACL of a VPC.
func (v *View) NetworkACL(vpc *ec2.VPC) *ec2.NetworkACL { return aclOf(v.txn(), vpc) }

// NetworkACLOf returns the network ACL that a subnet of a VPC uses.
func (v *View) NetworkACLOf(vpc *ec2.VPC, s *ec2.Subnet) *ec2.NetworkACL {
	if s.ACL != "" {
		if acl := first[ec2.NetworkACL](v.txn(), tableACL, indexID, key(s.ACL)); acl != nil {
			return acl
		}
		return &ec2.NetworkACL{ID: s.ACL, Account: s.Account, Region: s.Region, VPC: s.VPC} // denies everything
	}
	return aclOf(v.txn(), vpc)
}

// NetworkACLsOf returns the network ACLs of an account in a region: of each VPC the default one, then the
// others by id.
func (v *View) NetworkACLsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.NetworkACL] {
	return func(yield func(*ec2.NetworkACL) bool) {
		for vpc := range v.VPCsOf(account, region) {
			if !yield(aclOf(v.txn(), vpc)) {
				return
			}
			for acl := range rows[ec2.NetworkACL](v.txn(), tableACL, indexVPC, key(vpc.ID)) {
				if acl.ID != vpc.ACL && !yield(acl) {
					return
				}
			}
		}
	}
}
