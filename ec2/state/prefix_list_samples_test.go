package state

import (
	"net/netip"

	"palisade/ec2"
)

// prefixListSamples returns one request of each type of prefixListRequests, with all fields set.
func prefixListSamples() []Request {
	const pl = ec2.PrefixListID("pl-0a1b2c3d4e5f60718")
	entries := []ec2.PrefixEntry{{CIDR: netip.MustParsePrefix("203.0.113.0/24"), Description: "office"}}
	return []Request{
		&CreatePrefixList{albert, east, "offices", true, 10, entries, "token", map[string]string{"Name": "web"}},
		&ModifyPrefixList{albert, east, pl, new(1), "branches", new(20), entries, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
		&RestorePrefixList{albert, east, pl, 1, 3},
		&DeletePrefixList{albert, east, pl},
	}
}
