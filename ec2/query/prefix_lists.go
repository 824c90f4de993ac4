package query

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// prefixListActions manage prefix lists. A change is in force when the call is answered, so no answer
// shows a state such as modify-in-progress.
var prefixListActions = map[string]handler{
	"CreateManagedPrefixList":          action(createPrefixList),
	"ModifyManagedPrefixList":          action(modifyPrefixList),
	"RestoreManagedPrefixListVersion":  action(restorePrefixList),
	"DeleteManagedPrefixList":          action(deletePrefixList),
	"DescribeManagedPrefixLists":       action(describeManagedPrefixLists),
	"GetManagedPrefixListEntries":      action(prefixListEntries),
	"GetManagedPrefixListAssociations": action(prefixListAssociations),
	"DescribePrefixLists":              action(describePrefixLists),
}

type prefixListAnswer struct {
	List managedListItem `wire:"prefixList"`
}

type managedListItem struct {
	ID           ec2.PrefixListID `wire:"prefixListId"`
	Family       string           `wire:"addressFamily"`
	State        string           `wire:"state"`
	StateMessage string           `wire:"stateMessage"`
	ARN          string           `wire:"prefixListArn"`
	Name         string           `wire:"prefixListName"`
	MaxEntries   *int             `wire:"maxEntries"` // AWS's own lists show neither this nor a version
	Version      *int             `wire:"version"`
	Owner        ec2.AccountID    `wire:"ownerId"`
	Tags         []tag            `wire:"tagSet"`
}

func (c *call) newManagedListItem(l *ec2.PrefixList) managedListItem {
	item := managedListItem{
		ID: l.ID, Family: l.Family(), State: l.State, StateMessage: l.StateMessage, Name: l.Name, Owner: l.Account,
	}
	if l.OwnedByAWS() {
		item.ARN = arn(l.Region, "aws", "prefix-list", string(l.ID))
		return item
	}
	item.ARN = arn(l.Region, l.Account, "prefix-list", string(l.ID))
	item.MaxEntries, item.Version, item.Tags = &l.MaxEntries, &l.Version, c.tags(string(l.ID))
	return item
}

type entryParam struct {
	CIDR        string `wire:"Cidr"`
	Description string `wire:"Description"`
}

// parseEntry reads the block of an entry. Its address family is checked with the list's.
func parseEntry(text string) (netip.Prefix, error) {
	if block, err := ec2.ParseCIDR6(text); err == nil {
		return block, nil
	}
	return ec2.ParseCIDR(text)
}

func entriesFrom(params []entryParam) ([]ec2.PrefixEntry, error) {
	var entries []ec2.PrefixEntry
	for _, p := range params {
		if p.CIDR == "" {
			return nil, ec2.Missing("Cidr")
		}
		block, err := parseEntry(p.CIDR)
		if err != nil {
			return nil, err
		}
		entries = append(entries, ec2.PrefixEntry{CIDR: block, Description: p.Description})
	}
	return entries, nil
}

type createPrefixListRequest struct {
	Name        string             `wire:"PrefixListName"`
	Family      string             `wire:"AddressFamily"`
	MaxEntries  *int               `wire:"MaxEntries"`
	Entries     []entryParam       `wire:"Entry"`
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

func createPrefixList(c *call, r *createPrefixListRequest) (*prefixListAnswer, error) {
	switch {
	case r.Name == "":
		return nil, ec2.Missing("PrefixListName")
	case r.MaxEntries == nil:
		return nil, ec2.Missing("MaxEntries")
	case r.Family == "":
		return nil, ec2.Missing("AddressFamily")
	case r.Family != "IPv4" && r.Family != "IPv6":
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter AddressFamily is invalid. Valid values: IPv4, IPv6.", wire.Quote(r.Family))
	}
	tags, err := tagsFor(r.Tags, "prefix-list")
	if err != nil {
		return nil, err
	}
	entries, err := entriesFrom(r.Entries)
	if err != nil {
		return nil, err
	}
	return c.changeList(&state.CreatePrefixList{
		Account: c.account, Region: c.region, Name: r.Name, IPv6: r.Family == "IPv6", MaxEntries: *r.MaxEntries,
		Entries: entries, ClientToken: r.ClientToken, Tags: tags,
	})
}

func (c *call) changeList(r state.Request) (*prefixListAnswer, error) {
	result, err := c.apply(r)
	if err != nil {
		return nil, err
	}
	return &prefixListAnswer{c.newManagedListItem(result.PrefixList)}, nil
}

type namedList struct {
	ID ec2.PrefixListID `wire:"PrefixListId"`
}

type modifyPrefixListRequest struct {
	namedList
	CurrentVersion *int         `wire:"CurrentVersion"`
	Name           string       `wire:"PrefixListName"`
	Add            []entryParam `wire:"AddEntry"`
	Remove         []entryParam `wire:"RemoveEntry"`
	MaxEntries     *int         `wire:"MaxEntries"`
	IPAM           bool         `wire:"IpamPrefixListResolverSyncEnabled"`
}

func modifyPrefixList(c *call, r *modifyPrefixListRequest) (*prefixListAnswer, error) {
	if r.IPAM {
		return nil, ec2.Errorf("UnsupportedOperation", "There is no IPAM here, so IpamPrefixListResolverSyncEnabled cannot be true.")
	}
	added, err := entriesFrom(r.Add)
	if err != nil {
		return nil, err
	}
	removed, err := entriesFrom(r.Remove)
	if err != nil {
		return nil, err
	}
	change := &state.ModifyPrefixList{
		Account: c.account, Region: c.region, List: r.ID, CurrentVersion: r.CurrentVersion, Name: r.Name, MaxEntries: r.MaxEntries, Add: added,
	}
	for _, e := range removed {
		change.Remove = append(change.Remove, e.CIDR)
	}
	return c.changeList(change)
}

type restorePrefixListRequest struct {
	namedList
	Previous *int `wire:"PreviousVersion"`
	Current  *int `wire:"CurrentVersion"`
}

func restorePrefixList(c *call, r *restorePrefixListRequest) (*prefixListAnswer, error) {
	switch {
	case r.Previous == nil:
		return nil, ec2.Missing("PreviousVersion")
	case r.Current == nil:
		return nil, ec2.Missing("CurrentVersion")
	}
	return c.changeList(&state.RestorePrefixList{
		Account: c.account, Region: c.region, List: r.ID, PreviousVersion: *r.Previous, CurrentVersion: *r.Current,
	})
}

func deletePrefixList(c *call, r *namedList) (*prefixListAnswer, error) {
	return c.changeList(&state.DeletePrefixList{Account: c.account, Region: c.region, List: r.ID})
}

type describeListsRequest struct {
	IDs []string `wire:"PrefixListId"`
	listed
}

type describeManagedListsAnswer struct {
	Lists     []managedListItem `wire:"prefixListSet"`
	NextToken string            `wire:"nextToken"`
}

var managedLists = listing[managedListItem]{
	kind: "pl",
	id:   func(l managedListItem) string { return string(l.ID) },
	filters: filterable[managedListItem]{
		"owner-id":         func(l managedListItem) []string { return nonEmpty(l.Owner) },
		"prefix-list-id":   func(l managedListItem) []string { return nonEmpty(l.ID) },
		"prefix-list-name": func(l managedListItem) []string { return nonEmpty(l.Name) },
	},
}

func describeManagedPrefixLists(c *call, r *describeListsRequest) (*describeManagedListsAnswer, error) {
	if err := r.checkLists(); err != nil {
		return nil, err
	}
	items, _, err := describe(c, managedLists, c.view.PrefixListsOf(c.account, c.region), c.newManagedListItem, r.IDs, listed{Filters: r.Filters})
	if err != nil {
		return nil, err
	}
	items, next, err := pageWithin(items, managedLists.id, r.paged, 1, 100)
	if err != nil {
		return nil, err
	}
	return &describeManagedListsAnswer{items, next}, nil
}

func (r *describeListsRequest) checkLists() error {
	for _, id := range r.IDs {
		if err := ec2.CheckPrefixListID(ec2.PrefixListID(id)); err != nil {
			return err
		}
	}
	return nil
}

type describeAWSListsAnswer struct {
	Lists     []awsListItem `wire:"prefixListSet"`
	NextToken string        `wire:"nextToken"`
}

type awsListItem struct {
	ID    ec2.PrefixListID `wire:"prefixListId"`
	Name  string           `wire:"prefixListName"`
	CIDRs []string         `wire:"cidrSet"` // empty: none of AWS's services is here
}

var awsLists = listing[awsListItem]{
	kind: "pl",
	id:   func(l awsListItem) string { return string(l.ID) },
	filters: filterable[awsListItem]{
		"prefix-list-id":   func(l awsListItem) []string { return nonEmpty(l.ID) },
		"prefix-list-name": func(l awsListItem) []string { return nonEmpty(l.Name) },
	},
}

// describePrefixLists shows AWS's own lists.
func describePrefixLists(c *call, r *describeListsRequest) (*describeAWSListsAnswer, error) {
	if err := r.checkLists(); err != nil {
		return nil, err
	}
	var items []awsListItem
	for _, l := range state.AWSPrefixLists(c.region) {
		items = append(items, awsListItem{ID: l.ID, Name: l.Name})
	}
	items, next, err := awsLists.pick(c, items, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeAWSListsAnswer{items, next}, nil
}

type prefixListEntriesRequest struct {
	namedList
	Version *int `wire:"TargetVersion"`
	paged
}

type prefixListEntriesAnswer struct {
	Entries   []entryItem `wire:"entrySet"`
	NextToken string      `wire:"nextToken"`
}

type entryItem struct {
	CIDR        string `wire:"cidr"`
	Description string `wire:"description"`
}

func prefixListEntries(c *call, r *prefixListEntriesRequest) (*prefixListEntriesAnswer, error) {
	l, err := c.view.FindPrefixList(c.account, c.region, r.ID)
	if err != nil {
		return nil, err
	}
	version := l.Version
	if r.Version != nil {
		version = *r.Version
	}
	entries, err := c.view.PrefixListEntries(l, version)
	if err != nil {
		return nil, err
	}
	key := func(e ec2.PrefixEntry) string { return fmt.Sprintf("%x/%03d", e.CIDR.Addr().AsSlice(), e.CIDR.Bits()) }
	part, next, err := pageWithin(entries, key, r.paged, 1, 100)
	if err != nil {
		return nil, err
	}
	answer := &prefixListEntriesAnswer{NextToken: next}
	for _, e := range part {
		answer.Entries = append(answer.Entries, entryItem{e.CIDR.String(), e.Description})
	}
	return answer, nil
}

type prefixListAssociationsRequest struct {
	namedList
	paged
}

type prefixListAssociationsAnswer struct {
	Associations []associatedItem `wire:"prefixListAssociationSet"`
	NextToken    string           `wire:"nextToken"`
}

type associatedItem struct {
	ID    string        `wire:"resourceId"`
	Owner ec2.AccountID `wire:"resourceOwner"`
}

func prefixListAssociations(c *call, r *prefixListAssociationsRequest) (*prefixListAssociationsAnswer, error) {
	l, err := c.view.FindPrefixList(c.account, c.region, r.ID)
	if err != nil {
		return nil, err
	}
	if l.OwnedByAWS() {
		return nil, ec2.Errorf("OperationNotPermitted", "The prefix list '%s' is owned by AWS; its associations are not shown.", l.ID)
	}
	part, next, err := pageWithin(c.view.PrefixListUsers(l.ID, c.account), func(u state.PrefixListUser) string { return u.ID }, r.paged, 5, 255)
	if err != nil {
		return nil, err
	}
	answer := &prefixListAssociationsAnswer{NextToken: next}
	for _, u := range part {
		answer.Associations = append(answer.Associations, associatedItem{u.ID, u.Owner})
	}
	return answer, nil
}
