package state

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// awsServices are the services that have a prefix list of AWS in every region.
var awsServices = []string{"dynamodb", "s3"}

// AWSPrefixLists returns AWS's own lists of a region. They are in no table: their ids are computed from
// the region. They are empty, because none of these services is here, so they admit nothing. In a rule
// each counts as one rule (Amazon VPC User Guide, "AWS-managed prefix list weight").
func AWSPrefixLists(region ec2.Region) []*ec2.PrefixList {
	var all []*ec2.PrefixList
	for _, service := range awsServices {
		name := fmt.Sprintf("com.amazonaws.%s.%s", region, service)
		sum := sha256.Sum256([]byte(name))
		all = append(all, &ec2.PrefixList{
			ID: ec2.PrefixListID(fmt.Sprintf("pl-%x", sum[:4])), Account: ec2.AWSAccount, Region: region, Name: name,
			MaxEntries: 1, Version: 1, Oldest: 1, State: "create-complete",
		})
	}
	return all
}

func findPrefixList(txn *memdb.Txn, by owner, id ec2.PrefixListID) (*ec2.PrefixList, error) {
	if id == "" {
		return nil, ec2.Missing("PrefixListId")
	}
	if err := ec2.CheckPrefixListID(id); err != nil {
		return nil, err
	}
	for _, l := range AWSPrefixLists(by.region) {
		if l.ID == id {
			return l, nil
		}
	}
	return find[ec2.PrefixList](txn, ofPrefixList, by, id)
}

// FindPrefixList returns a list of an account, or one of AWS, or EC2's error.
func (v *View) FindPrefixList(account ec2.AccountID, region ec2.Region, id ec2.PrefixListID) (*ec2.PrefixList, error) {
	return findPrefixList(v.txn(), owner{account, region}, id)
}

// PrefixList returns a list of any account by its id, but none of AWS.
func (v *View) PrefixList(id ec2.PrefixListID) (*ec2.PrefixList, bool) {
	return get[ec2.PrefixList](v, tablePrefixList, key(id))
}

// PrefixListsOf yields the lists of an account in a region, and those of AWS.
func (v *View) PrefixListsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.PrefixList] {
	return func(yield func(*ec2.PrefixList) bool) {
		for _, l := range AWSPrefixLists(region) {
			if !yield(l) {
				return
			}
		}
		for l := range rows[ec2.PrefixList](v.txn(), tablePrefixList, indexOwner, key(account)+key(region)) {
			if !yield(l) {
				return
			}
		}
	}
}

// PrefixListEntries returns the entries of a version of a list, or EC2's error if it is not known.
func (v *View) PrefixListEntries(l *ec2.PrefixList, version int) ([]ec2.PrefixEntry, error) {
	return entriesOf(v.txn(), l, version)
}

// entriesOf undoes the versions after the one that it returns.
func entriesOf(txn *memdb.Txn, l *ec2.PrefixList, version int) ([]ec2.PrefixEntry, error) {
	if version < l.Oldest || version > l.Version {
		return nil, ec2.Errorf("InvalidParameterValue", "The prefix list '%s' does not have the version %d. Its versions are %d to %d.", l.ID, version, l.Oldest, l.Version)
	}
	entries := make(map[string]ec2.PrefixEntry, len(l.Entries))
	for _, e := range l.Entries {
		entries[e.CIDR.String()] = e
	}
	for number := l.Version; number > version; number-- {
		undone := first[ec2.PrefixListVersion](txn, tablePrefixListVersion, indexID, listVersionKey(l.ID, number))
		for _, e := range undone.Added {
			delete(entries, e.CIDR.String())
		}
		for _, e := range undone.Removed {
			entries[e.CIDR.String()] = e
		}
	}
	list := make([]ec2.PrefixEntry, 0, len(entries))
	for _, e := range entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b ec2.PrefixEntry) int { return ec2.ComparePrefixes(a.CIDR, b.CIDR) })
	return list, nil
}

func listVersionKey(id ec2.PrefixListID, number int) string {
	return key(id) + string(binary.BigEndian.AppendUint64(nil, uint64(number)))
}

// A PrefixListUser is a resource that names a prefix list.
type PrefixListUser struct {
	ID    string
	Owner ec2.AccountID
}

// PrefixListUsers returns the groups and route tables of an account that name a list, sorted by id.
func (v *View) PrefixListUsers(id ec2.PrefixListID, account ec2.AccountID) []PrefixListUser {
	var all []PrefixListUser
	for _, u := range prefixListUsers(v.txn(), id) {
		if u.owner == account {
			all = append(all, PrefixListUser{u.id, u.owner})
		}
	}
	return all
}

// RouteTablesWith returns the route tables that have a route for a prefix list.
func (v *View) RouteTablesWith(id ec2.PrefixListID) (all []*ec2.RouteTable) {
	for rt := range rows[ec2.RouteTable](v.txn(), tableRoutes, indexList, key(id)) {
		all = append(all, rt)
	}
	return all
}

func prefixListUsers(txn *memdb.Txn, id ec2.PrefixListID) []prefixListUser {
	var all []prefixListUser
	for g := range rows[ec2.Group](txn, tableGroup, indexSource, key(id)) {
		all = append(all, prefixListUser{id: string(g.ID), owner: g.Account, group: g})
	}
	for rt := range rows[ec2.RouteTable](txn, tableRoutes, indexList, key(id)) {
		all = append(all, prefixListUser{id: string(rt.ID), owner: rt.Account, table: rt})
	}
	slices.SortFunc(all, func(a, b prefixListUser) int { return cmp.Compare(a.id, b.id) })
	return all
}

// checkPrefixListRows checks that each list has the differences of its versions.
func checkPrefixListRows(t *memdb.Txn) error {
	stored := 0
	for l := range rows[ec2.PrefixList](t, tablePrefixList, indexID, "") {
		for number := l.Oldest + 1; number <= l.Version; number++ {
			if first[ec2.PrefixListVersion](t, tablePrefixListVersion, indexID, listVersionKey(l.ID, number)) == nil {
				return fmt.Errorf("prefix list %s has no version %d", l.ID, number)
			}
			stored++
		}
		if !slices.IsSortedFunc(l.Entries, func(a, b ec2.PrefixEntry) int { return ec2.ComparePrefixes(a.CIDR, b.CIDR) }) || len(l.Entries) > l.MaxEntries {
			return fmt.Errorf("the entries of prefix list %s are not in order, or too many", l.ID)
		}
	}
	for range rows[ec2.PrefixListVersion](t, tablePrefixListVersion, indexID, "") {
		stored--
	}
	if stored != 0 {
		return fmt.Errorf("has %d versions of prefix lists that do not exist", -stored)
	}
	return nil
}
