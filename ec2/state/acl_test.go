package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// entries returns the entries of a VPC's network ACL: "out 90 deny ::/0, in 100 allow 0.0.0.0/0".
func (r *replay) entries(vpc *ec2.VPC) string {
	var list []string
	for _, e := range r.state.View().NetworkACL(vpc).Entries {
		list = append(list, fmt.Sprintf("%s %d %s %s", map[bool]string{false: "in", true: "out"}[e.Egress], e.Number, map[bool]string{false: "deny", true: "allow"}[e.Allow], e.CIDR))
	}
	return strings.Join(list, ", ")
}

func TestEntriesOfNetworkACL(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	const open = "out 100 allow 0.0.0.0/0, in 100 allow 0.0.0.0/0"
	want := func(entries string, in, out bool) {
		t.Helper()
		if got := r.entries(vpc); got != entries {
			t.Errorf("the entries are %q, want %q", got, entries)
		}
		acl := r.state.View().NetworkACL(vpc)
		admits := func(egress bool) bool {
			at := slices.IndexFunc(acl.Entries, func(e ec2.ACLEntry) bool { return e.Egress == egress && e.CIDR.Addr().Is4() })
			return at >= 0 && acl.Entries[at].Allow
		}
		if admits(false) != in || admits(true) != out {
			t.Errorf("with %q it admits packets in: %v, out: %v; want %v and %v", entries, admits(false), admits(true), in, out)
		}
	}
	entry := func(number int, egress, allow bool, block string) ec2.ACLEntry {
		return ec2.ACLEntry{Number: number, Egress: egress, Allow: allow, CIDR: cidr(block)}
	}
	create := func(e ec2.ACLEntry) Request { return &CreateACLEntry{albert, east, vpc.ACL, e} }
	remove := func(number int, egress bool) Request { return &DeleteACLEntry{albert, east, vpc.ACL, number, egress} }
	want(open, true, true)
	r.refused(create(entry(100, false, true, "0.0.0.0/0")), "NetworkAclEntryAlreadyExists")
	r.must(remove(100, false))
	want("out 100 allow 0.0.0.0/0", false, true)
	r.refused(remove(100, false), "InvalidNetworkAclEntry.NotFound")
	r.must(create(entry(101, false, true, "::/0")))
	want("out 100 allow 0.0.0.0/0, in 101 allow ::/0", false, true)
	r.must(create(entry(100, false, true, "0.0.0.0/0")))
	want("out 100 allow 0.0.0.0/0, in 100 allow 0.0.0.0/0, in 101 allow ::/0", true, true)
	r.must(create(entry(99, true, false, "0.0.0.0/0")))
	want("out 99 deny 0.0.0.0/0, out 100 allow 0.0.0.0/0, in 100 allow 0.0.0.0/0, in 101 allow ::/0", true, false)
	r.must(&ReplaceACLEntry{albert, east, vpc.ACL, entry(99, true, false, "::/0")})
	want("out 99 deny ::/0, out 100 allow 0.0.0.0/0, in 100 allow 0.0.0.0/0, in 101 allow ::/0", true, true)
	r.refused(&ReplaceACLEntry{albert, east, vpc.ACL, entry(98, true, false, "::/0")}, "InvalidNetworkAclEntry.NotFound")
	for _, number := range []int{0, -1, 32767} {
		r.refused(create(entry(number, true, false, "0.0.0.0/0")), "InvalidParameterValue")
	}
	r.refused(create(entry(5, true, false, "10.0.0.0/8")), "UnsupportedOperation")
	r.refused(&ReplaceACLEntry{albert, east, vpc.ACL, entry(99, true, false, "2001:db8::/32")}, "UnsupportedOperation")
	r.refused(&CreateACLEntry{mary, east, vpc.ACL, entry(5, true, false, "0.0.0.0/0")}, "InvalidNetworkAclID.NotFound")
	r.refused(&DeleteACLEntry{albert, east, "", 5, true}, "MissingParameter")
	for number := range entriesPerDirection - 1 {
		r.must(create(entry(200+number, false, false, "0.0.0.0/0")))
	}
	r.refused(create(entry(300, false, false, "0.0.0.0/0")), "NetworkAclEntryLimitExceeded")
	r.must(create(entry(300, false, false, "::/0")))
	if got := r.entries(other); got != open {
		t.Errorf("the entries of the other VPC are %q, want %q", got, open)
	}
	r.must(&DeleteVPC{albert, east, vpc.ID})
	if acl := first[ec2.NetworkACL](r.state.View().txn(), tableACL, indexID, key(vpc.ACL)); acl != nil {
		t.Errorf("the VPC is deleted, and its network ACL %+v is not", acl)
	}
}
