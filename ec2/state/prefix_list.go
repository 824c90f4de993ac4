package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"palisade/ec2"
)

// prefixListRequests are the requests for managed prefix lists.
var prefixListRequests = []Request{&CreatePrefixList{}, &ModifyPrefixList{}, &RestorePrefixList{}, &DeletePrefixList{}}

// Limits of prefix lists: the entries that one request adds or removes, and the characters of a name
// and of a description (EC2 API Reference, "CreateManagedPrefixList").
const (
	maxChangedEntries  = 100
	maxPrefixListName  = 255
	maxPrefixEntryText = 255
	awsPrefixListName  = "com.amazonaws"
)

// CreatePrefixList makes a prefix list with version 1. A repeated request with the same ClientToken
// returns the list of the first one. Result: PrefixList.
type CreatePrefixList struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Name        string
	IPv6        bool `json:",omitempty"`
	MaxEntries  int
	Entries     []ec2.PrefixEntry `json:",omitempty"`
	ClientToken string            `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
}

func (r *CreatePrefixList) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	count := 0
	for l := range rows[ec2.PrefixList](t.Txn, tablePrefixList, indexOwner, key(r.Account)+key(r.Region)) {
		if r.ClientToken != "" && l.ClientToken == r.ClientToken {
			return r.repeated(l)
		}
		count++
	}
	if err := checkPrefixListName(r.Name); err != nil {
		return Result{}, err
	}
	list := &ec2.PrefixList{
		Account: r.Account, Region: r.Region, Name: r.Name, IPv6: r.IPv6, MaxEntries: r.MaxEntries,
		Version: 1, Oldest: 1, State: "create-complete", ClientToken: r.ClientToken,
	}
	if err := t.checkMaxEntries(list, r.MaxEntries); err != nil {
		return Result{}, err
	}
	if err := checkChanged(r.Entries, nil); err != nil {
		return Result{}, err
	}
	var err error
	if list.Entries, err = changedEntries(list, r.Entries, nil); err != nil {
		return Result{}, err
	}
	if limit := t.limits().PrefixListsPerRegion; count >= limit {
		return Result{}, ec2.Errorf("PrefixListLimitExceeded", "The maximum number of prefix lists in a region, %d, has been reached.", limit)
	}
	list.ID = ec2.PrefixListID(t.meta.longID("pl", t.serial()))
	t.put(tablePrefixList, list)
	if err := t.tag(string(list.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{PrefixList: list}, nil
}

// repeated answers a request whose ClientToken made a list before.
func (r *CreatePrefixList) repeated(made *ec2.PrefixList) (Result, error) {
	if made.Name != r.Name || made.IPv6 != r.IPv6 {
		return Result{}, ec2.Errorf("IdempotentParameterMismatch", "The client token '%s' was used for another prefix list, %s", ec2.Clip(r.ClientToken), made.ID)
	}
	return Result{PrefixList: made}, nil
}

// ModifyPrefixList changes the name, or the entries, or MaxEntries of a list. CurrentVersion must be
// the list's version if entries change. If a group that names the list has no room for MaxEntries, the
// list keeps its size and gets the state modify-failed, as in EC2. Result: PrefixList.
type ModifyPrefixList struct {
	Account        ec2.AccountID
	Region         ec2.Region
	List           ec2.PrefixListID
	CurrentVersion *int              `json:",omitempty"`
	Name           string            `json:",omitempty"`
	MaxEntries     *int              `json:",omitempty"`
	Add            []ec2.PrefixEntry `json:",omitempty"`
	Remove         []netip.Prefix    `json:",omitempty"`
}

func (r *ModifyPrefixList) apply(t *tx) (Result, error) {
	was, err := t.ownPrefixList(r.Account, r.Region, r.List)
	if err != nil {
		return Result{}, err
	}
	changesEntries := len(r.Add)+len(r.Remove) > 0
	switch {
	case r.CurrentVersion != nil && *r.CurrentVersion != was.Version:
		return Result{}, versionMismatch(was)
	case changesEntries && r.CurrentVersion == nil:
		return Result{}, ec2.Missing("CurrentVersion")
	case changesEntries && r.MaxEntries != nil:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "You cannot modify the entries and the size of a prefix list at the same time.")
	case !changesEntries && r.MaxEntries == nil && r.Name == "":
		return Result{}, ec2.Errorf("InvalidRequest", "The request changes nothing: it has no name, no entries and no maximum number of entries.")
	}
	now := *was
	now.State, now.StateMessage = "modify-complete", ""
	if r.Name != "" {
		if err := checkPrefixListName(r.Name); err != nil {
			return Result{}, err
		}
		now.Name = r.Name
	}
	if r.MaxEntries != nil {
		if err := t.resize(&now, *r.MaxEntries); err != nil {
			return Result{}, err
		}
	}
	if changesEntries {
		if err := checkChanged(r.Add, r.Remove); err != nil {
			return Result{}, err
		}
		if now.Entries, err = changedEntries(was, r.Add, r.Remove); err != nil {
			return Result{}, err
		}
		t.newVersion(was, &now)
	}
	t.put(tablePrefixList, &now)
	return Result{PrefixList: &now}, nil
}

// resize sets MaxEntries, if all groups and route tables that name the list have room.
func (t *tx) resize(l *ec2.PrefixList, size int) error {
	if err := t.checkMaxEntries(l, size); err != nil {
		return err
	}
	had := l.MaxEntries
	l.MaxEntries = size
	if size <= had {
		return nil
	}
	var full []string
	for _, user := range t.prefixListUsers(l.ID) {
		if user.lacksRoom(t, l) {
			full = append(full, user.id)
		}
	}
	if len(full) > 0 {
		l.MaxEntries, l.State = had, "modify-failed"
		l.StateMessage = "The following resources do not support the new maximum size: " + strings.Join(full[:min(len(full), 10)], ", ")
	}
	return nil
}

// RestorePrefixList gives a list the entries of an earlier version, as a new version. Result:
// PrefixList.
type RestorePrefixList struct {
	Account         ec2.AccountID
	Region          ec2.Region
	List            ec2.PrefixListID
	PreviousVersion int
	CurrentVersion  int
}

func (r *RestorePrefixList) apply(t *tx) (Result, error) {
	was, err := t.ownPrefixList(r.Account, r.Region, r.List)
	if err != nil {
		return Result{}, err
	}
	if r.CurrentVersion != was.Version {
		return Result{}, versionMismatch(was)
	}
	entries, err := entriesOf(t.Txn, was, r.PreviousVersion)
	if err != nil {
		return Result{}, err
	}
	if r.PreviousVersion == was.Version {
		return Result{}, ec2.Errorf("InvalidParameterValue", "The version %d is the current version of the prefix list", r.PreviousVersion)
	}
	if len(entries) > was.MaxEntries {
		return Result{}, tooManyEntries(was)
	}
	now := *was
	now.State, now.StateMessage, now.Entries = "restore-complete", "", entries
	t.newVersion(was, &now)
	t.put(tablePrefixList, &now)
	return Result{PrefixList: &now}, nil
}

// DeletePrefixList deletes a list that no rule and no route names. Result: PrefixList.
type DeletePrefixList struct {
	Account ec2.AccountID
	Region  ec2.Region
	List    ec2.PrefixListID
}

func (r *DeletePrefixList) apply(t *tx) (Result, error) {
	l, err := t.ownPrefixList(r.Account, r.Region, r.List)
	if err != nil {
		return Result{}, err
	}
	var users []string
	for _, user := range t.prefixListUsers(l.ID) {
		users = append(users, user.id)
	}
	if len(users) > 0 {
		return Result{}, hasDependents("prefixList", l.ID, users)
	}
	for number := l.Oldest + 1; number <= l.Version; number++ {
		if v := first[ec2.PrefixListVersion](t.Txn, tablePrefixListVersion, indexID, listVersionKey(l.ID, number)); v != nil {
			t.del(tablePrefixListVersion, v)
		}
	}
	t.untag(string(l.ID))
	t.del(tablePrefixList, l)
	deleted := *l
	deleted.State = "delete-complete"
	return Result{PrefixList: &deleted}, nil
}

// ownPrefixList returns a list that the account may change.
func (t *tx) ownPrefixList(account ec2.AccountID, region ec2.Region, id ec2.PrefixListID) (*ec2.PrefixList, error) {
	l, err := findPrefixList(t.Txn, owner{account, region}, id)
	if err == nil && l.OwnedByAWS() {
		return nil, ec2.Errorf("OperationNotPermitted", "The prefix list '%s' is owned by AWS and cannot be changed.", id)
	}
	return l, err
}

func versionMismatch(l *ec2.PrefixList) error {
	return ec2.Errorf("PrefixListVersionMismatch", "The prefix list has the incorrect version number. The current version of %s is %d.", l.ID, l.Version)
}

func tooManyEntries(l *ec2.PrefixList) error {
	return ec2.Errorf("PrefixListMaxEntriesExceeded", "You've reached the maximum number of entries for the prefix list, %d.", l.MaxEntries)
}

func checkPrefixListName(name string) error {
	switch {
	case name == "":
		return ec2.Missing("PrefixListName")
	case !ec2.Printable(name, maxPrefixListName):
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter PrefixListName is invalid. It has at most %d printable ASCII characters.", ec2.Clip(name), maxPrefixListName)
	case strings.HasPrefix(name, awsPrefixListName):
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter PrefixListName is invalid. The name cannot start with %s.", ec2.Clip(name), awsPrefixListName)
	}
	return nil
}

func (t *tx) checkMaxEntries(l *ec2.PrefixList, size int) error {
	if limit := t.limits().PrefixListEntries; size < 1 || size > limit {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter MaxEntries is invalid. Expecting a value between 1 and %d.", size, limit)
	}
	if size < len(l.Entries) {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter MaxEntries is invalid. The prefix list has %d entries.", size, len(l.Entries))
	}
	return nil
}

// checkChanged checks the number of entries that a request adds and removes.
func checkChanged(added []ec2.PrefixEntry, removed []netip.Prefix) error {
	if max(len(added), len(removed)) > maxChangedEntries {
		return ec2.Errorf("InvalidParameterValue", "The request cannot contain more than %d entry additions or removals.", maxChangedEntries)
	}
	return nil
}

// changedEntries returns the entries of a list after a change, sorted.
func changedEntries(l *ec2.PrefixList, added []ec2.PrefixEntry, removed []netip.Prefix) ([]ec2.PrefixEntry, error) {
	gone := make(map[netip.Prefix]bool, len(removed))
	for _, block := range removed {
		switch _, ok := l.Find(block); {
		case gone[block]:
			return nil, ec2.Errorf("InvalidParameterValue", "The CIDR %s is removed twice", block)
		case !ok:
			return nil, ec2.Errorf("InvalidPrefixListModification", "The prefix list entry '%s' does not exist.", block)
		}
		gone[block] = true
	}
	next := slices.DeleteFunc(slices.Clone(l.Entries), func(e ec2.PrefixEntry) bool { return gone[e.CIDR] })
	for _, e := range added {
		switch {
		case e.CIDR.Addr().Is6() != l.IPv6:
			return nil, ec2.Errorf("InvalidParameterValue", "The CIDR %s does not belong to the address family %s of the prefix list", e.CIDR, l.Family())
		case gone[e.CIDR]:
			return nil, ec2.Errorf("InvalidParameterValue", "Request cannot contain Cidr %s in both AddPrefixListEntries and RemovePrefixListEntries", e.CIDR)
		case !ec2.Printable(e.Description, maxPrefixEntryText):
			return nil, ec2.Errorf("InvalidParameterValue", "The description of %s is invalid. It has at most %d printable ASCII characters.", e.CIDR, maxPrefixEntryText)
		}
		at, ok := ec2.FindEntry(next, e.CIDR)
		if ok {
			return nil, ec2.Errorf("InvalidRequest", "The request received was invalid: the prefix list already has the CIDR %s.", e.CIDR)
		}
		next = slices.Insert(next, at, e)
	}
	if len(next) > l.MaxEntries {
		return nil, tooManyEntries(l)
	}
	return next, nil
}

// newVersion makes now, which has other entries, the next version of a list, and stores the difference.
func (t *tx) newVersion(was, now *ec2.PrefixList) {
	now.Version++
	v := &ec2.PrefixListVersion{List: was.ID, Number: now.Version}
	v.Added, v.Removed = ec2.EntryDifference(was.Entries, now.Entries)
	for _, e := range v.Removed {
		if _, kept := now.Find(e.CIDR); !kept {
			now.Shrunk = now.Version
		}
	}
	t.put(tablePrefixListVersion, v)
	now.History += len(v.Added) + len(v.Removed)
	limits := t.limits()
	for now.Oldest < now.Version && (now.Version-now.Oldest >= limits.PrefixListVersions || now.History > 5*limits.PrefixListEntries) {
		now.Oldest++
		old := first[ec2.PrefixListVersion](t.Txn, tablePrefixListVersion, indexID, listVersionKey(was.ID, now.Oldest))
		now.History -= len(old.Added) + len(old.Removed)
		t.del(tablePrefixListVersion, old)
	}
}

// A prefixListUser is a group or a route table that names a prefix list.
type prefixListUser struct {
	id    string
	owner ec2.AccountID
	group *ec2.Group
	table *ec2.RouteTable
}

// prefixListUsers returns the groups and the route tables that name a list, sorted by id.
func (t *tx) prefixListUsers(id ec2.PrefixListID) []prefixListUser {
	return prefixListUsers(t.Txn, id)
}

// lacksRoom reports whether a user has too many rules or routes with the list's new size.
func (u prefixListUser) lacksRoom(t *tx, l *ec2.PrefixList) bool {
	if u.group == nil {
		return t.countRoutes(u.table, l) > t.limits().RoutesPerTable
	}
	in, out := t.countRules(u.group, ec2.Ingress, l), t.countRules(u.group, ec2.Egress, l)
	return max(in, out) > t.limits().RulesPerVPCGroup
}

// countRoutes returns how many routes a table has, of which one to a prefix list counts as MaxEntries.
// changed is a list in another size than the stored one, or nil.
func (t *tx) countRoutes(rt *ec2.RouteTable, changed *ec2.PrefixList) int {
	count := 0
	for _, r := range rt.Routes {
		count += cmp.Or(t.weight(r.PrefixList, changed), 1)
	}
	return count
}

// weight returns what a list counts towards a limit, 0 without a list.
func (t *tx) weight(id ec2.PrefixListID, changed *ec2.PrefixList) int {
	if changed != nil && changed.ID == id {
		return changed.MaxEntries
	}
	if l := first[ec2.PrefixList](t.Txn, tablePrefixList, indexID, key(id)); l != nil {
		return l.MaxEntries
	}
	return 0
}
