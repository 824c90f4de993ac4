package ec2

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
)

// A PrefixList is a managed prefix list: CIDR blocks of one address family that rules and routes name
// together. A PrefixList in a View is shared and never changed.
type PrefixList struct {
	ID           PrefixListID
	Account      AccountID
	Region       Region
	Name         string
	IPv6         bool `json:",omitempty"` // the address family
	MaxEntries   int  // what a rule with the list counts towards the limit of rules
	Version      int
	State        string
	StateMessage string        `json:",omitempty"`
	Entries      []PrefixEntry // of Version, sorted as by ComparePrefixes
	ClientToken  string        `json:",omitempty"`

	// Shrunk is the last Version that lost an entry.
	Shrunk int `json:",omitempty"`
	// Oldest is the oldest version whose entries are known, and History the number of entries in the
	// stored versions.
	Oldest  int
	History int `json:",omitempty"`
}

// A PrefixEntry is one block of a prefix list.
type PrefixEntry struct {
	CIDR        netip.Prefix
	Description string `json:",omitempty"`
}

// A PrefixListVersion is the difference of a version of a prefix list to the version before.
type PrefixListVersion struct {
	List    PrefixListID
	Number  int
	Added   []PrefixEntry `json:",omitempty"`
	Removed []PrefixEntry `json:",omitempty"`
}

// ComparePrefixes orders blocks by address, and a block before the blocks that it contains.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Find returns the index of a block in Entries, and whether the list has it.
func (l *PrefixList) Find(block netip.Prefix) (int, bool) { return FindEntry(l.Entries, block) }

// FindEntry returns the index of a block in sorted entries, or where it would be inserted.
func FindEntry(entries []PrefixEntry, block netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(entries, block, func(e PrefixEntry, p netip.Prefix) int { return ComparePrefixes(e.CIDR, p) })
}

// EntryDifference returns the entries that only after has, and those that only before has. An entry
// with another description is in both.
func EntryDifference(before, after []PrefixEntry) (added, removed []PrefixEntry) {
	for len(before) > 0 || len(after) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = ComparePrefixes(before[0].CIDR, after[0].CIDR)
			if order == 0 && before[0] == after[0] {
				before, after = before[1:], after[1:]
				continue
			}
		}
		if order <= 0 {
			removed, before = append(removed, before[0]), before[1:]
		}
		if order >= 0 {
			added, after = append(added, after[0]), after[1:]
		}
	}
	return added, removed
}

// Family returns the name that EC2 has for the list's address family.
func (l *PrefixList) Family() string {
	if l.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// OwnedByAWS reports whether the list is one of AWS's own.
func (l *PrefixList) OwnedByAWS() bool { return l.Account == AWSAccount }

// AWSAccount is the owner of AWS's own prefix lists.
const AWSAccount AccountID = "AWS"

var prefixListID = regexp.MustCompile(`^pl-[0-9a-f]{1,17}$`)

// CheckPrefixListID returns EC2's error for text that does not have the form of a prefix list id.
func CheckPrefixListID(id PrefixListID) error {
	if !prefixListID.MatchString(string(id)) {
		return Errorf("InvalidPrefixListId.Malformed", `Invalid id: "%s" (expecting "pl-...")`, Clip(string(id)))
	}
	return nil
}
