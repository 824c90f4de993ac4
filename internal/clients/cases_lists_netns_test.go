package clients

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// prefixLists makes a prefix list the source and the destination of rules, and changes its entries. Two
// nodes are behind the probes where the testbed has two, so the changes are checked on both.
func (s *testbed) prefixLists(t *testing.T) {
	made, err := s.c.CreateManagedPrefixList(t.Context(), &ec2.CreateManagedPrefixListInput{
		PrefixListName: aws.String("callers"), AddressFamily: aws.String("IPv4"), MaxEntries: aws.Int32(5),
		Entries: []types.AddPrefixListEntry{{Cidr: aws.String("192.0.2.0/24")}},
	})
	check(t, err)
	id := made.PrefixList.PrefixListId
	modify := func(version int64, added, removed string) func(*testing.T) {
		return func(t *testing.T) {
			in := &ec2.ModifyManagedPrefixListInput{PrefixListId: id, CurrentVersion: &version}
			for _, block := range strings.Fields(added) {
				in.AddEntries = append(in.AddEntries, types.AddPrefixListEntry{Cidr: &block})
			}
			for _, block := range strings.Fields(removed) {
				in.RemoveEntries = append(in.RemoveEntries, types.RemovePrefixListEntry{Cidr: &block})
			}
			_, err := s.c.ModifyManagedPrefixList(t.Context(), in)
			check(t, err)
		}
	}
	rule := permission("tcp", 7071, 7071)
	rule.PrefixListIds = []types.PrefixListId{{PrefixListId: id}}
	fromClient, fromOther := to(s.client.host, s.server, "tcp/7071"), to(s.other.host, s.server, "tcp/7071")
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress of a prefix list",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], rule) },
			silent: []probe{fromClient, fromOther}},
		change{action: "ModifyManagedPrefixList that adds an entry",
			do:     modify(1, s.clientCIDR(), ""),
			open:   []probe{fromClient},
			silent: []probe{fromOther, to(s.client.host, s.server, "tcp/7072")}},
		change{action: "ModifyManagedPrefixList that replaces an entry",
			do:   modify(2, "10.0.0.0/16", s.clientCIDR()),
			open: []probe{fromOther},
			same: []probe{fromClient}},
		change{action: "RestoreManagedPrefixListVersion",
			do: func(t *testing.T) {
				_, err := s.c.RestoreManagedPrefixListVersion(t.Context(), &ec2.RestoreManagedPrefixListVersionInput{PrefixListId: id, PreviousVersion: aws.Int64(2), CurrentVersion: aws.Int64(3)})
				check(t, err)
			},
			shut: []probe{fromOther},
			same: []probe{fromClient}},
		change{action: "RevokeSecurityGroupIngress of a prefix list",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], rule) },
			shut: []probe{fromClient}},
	)
	everywhere := permission(all, -1, -1, "0.0.0.0/0")
	s.admit(t, s.groups["server"], permission("tcp", 7071, 7071, "0.0.0.0/0"))
	s.revokeEgress(t, s.groups["client"], everywhere)
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupEgress of a prefix list",
			do:     func(t *testing.T) { s.admitEgress(t, s.groups["client"], rule) },
			silent: []probe{fromClient}},
		change{action: "ModifyManagedPrefixList that adds a destination",
			do:     modify(4, s.server.private.String()+"/32", s.clientCIDR()),
			open:   []probe{fromClient},
			silent: []probe{to(s.client.host, s.other, "icmp")}},
		change{action: "ModifyManagedPrefixList that removes a destination",
			do:   modify(5, "", s.server.private.String()+"/32"),
			shut: []probe{fromClient}},
	)
	s.revokeEgress(t, s.groups["client"], rule)
	s.admitEgress(t, s.groups["client"], everywhere)
	s.revoke(t, s.groups["server"], permission("tcp", 7071, 7071, "0.0.0.0/0"))
	_, err = s.c.DeleteManagedPrefixList(t.Context(), &ec2.DeleteManagedPrefixListInput{PrefixListId: id})
	check(t, err)
}
