package state

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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
	r.refused(&CreateACLEntry{mary, east, vpc.ACL, entry(5, true, false, "0.0.0.0/0")}, "InvalidNetworkAclID.NotFound")
	r.refused(&DeleteACLEntry{albert, east, "", 5, true}, "MissingParameter")
	for number := range ec2.DefaultSettings().EntriesPerACL - 1 {
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

func TestAssociationsOfNetworkACLs(t *testing.T) {
	r := newVPCReplay(t)
	vpc, other := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	subnet := r.must(&CreateSubnet{Account: albert, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.1.0/24")}).Subnet
	acl := r.must(&CreateNetworkACL{albert, east, vpc.ID, map[string]string{"Name": "web"}, "once"}).ACL
	uses := func(id string) {
		t.Helper()
		s, _ := r.state.View().Subnet(subnet.ID)
		if got := r.state.View().NetworkACLOf(vpc, s); got.ID != id {
			t.Errorf("the subnet uses %s, want %s", got.ID, id)
		}
	}
	uses(vpc.ACL)
	first := subnet.AssociationWithACL()
	second := r.must(&ReplaceACLAssociation{albert, east, first, acl.ID}).Association
	uses(acl.ID)
	r.refused(&ReplaceACLAssociation{albert, east, first, acl.ID}, "InvalidAssociationID.NotFound")
	if same := r.must(&ReplaceACLAssociation{albert, east, second, acl.ID}).Association; same != second {
		t.Errorf("the association with the ACL that the subnet has got the id %s, want %s", same, second)
	}
	r.refused(&ReplaceACLAssociation{albert, east, second, other.ACL}, "InvalidParameterValue")
	r.refused(&ReplaceACLAssociation{mary, east, second, acl.ID}, "InvalidNetworkAclID.NotFound")
	r.refused(&DeleteNetworkACL{albert, east, acl.ID}, "DependencyViolation")
	r.refused(&DeleteNetworkACL{albert, east, vpc.ACL}, "InvalidParameterValue")
	third := r.must(&ReplaceACLAssociation{albert, east, second, vpc.ACL}).Association
	uses(vpc.ACL)
	if third == first || third == second {
		t.Errorf("the third association has the id %s of an earlier one", third)
	}
	r.refused(&DeleteVPC{albert, east, other.ID + "0"}, "InvalidVpcID.NotFound")
	r.must(&DeleteSubnet{albert, east, subnet.ID})
	r.refused(&DeleteVPC{albert, east, vpc.ID}, "DependencyViolation")
	r.must(&DeleteNetworkACL{albert, east, acl.ID})
	for tag := range r.state.View().TagsOf(albert, east) {
		t.Errorf("the ACL is deleted, and its tag %+v is not", tag)
	}
	r.must(&DeleteVPC{albert, east, vpc.ID})
}

func TestLimitsOfNetworkACLs(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	made := r.must(&CreateNetworkACL{albert, east, vpc.ID, nil, "once"}).ACL
	if again := r.must(&CreateNetworkACL{albert, east, vpc.ID, nil, "once"}).ACL; again != made {
		t.Errorf("the repeated request made %+v, want %+v", again, made)
	}
	r.refused(&CreateNetworkACL{albert, east, r.vpc(albert, "10.1.0.0/16").ID, nil, "once"}, "IdempotentParameterMismatch")
	for range ec2.DefaultSettings().ACLsPerVPC - 2 {
		r.must(&CreateNetworkACL{albert, east, vpc.ID, nil, ""})
	}
	r.refused(&CreateNetworkACL{albert, east, vpc.ID, nil, ""}, "NetworkAclLimitExceeded")
	r.must(&DeleteACLEntry{albert, east, vpc.ACL, 100, true}) // the default ACL gets a row
	r.refused(&CreateNetworkACL{albert, east, vpc.ID, nil, ""}, "NetworkAclLimitExceeded")

	most := ec2.DefaultSettings().EntriesPerACL
	for n := range most {
		r.must(&CreateACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 1 + n, CIDR: cidr("10.0.0.0/8")}})
		r.must(&CreateACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 101 + n, CIDR: cidr("2001:db8::/32")}})
		r.must(&CreateACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 1 + n, CIDR: cidr("10.0.0.0/8"), Egress: true}})
	}
	r.refused(&CreateACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 50, CIDR: cidr("192.0.2.0/24")}}, "NetworkAclEntryLimitExceeded")
	r.refused(&ReplaceACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 101, CIDR: cidr("192.0.2.0/24")}}, "NetworkAclEntryLimitExceeded")
	r.must(&ReplaceACLEntry{albert, east, made.ID, ec2.ACLEntry{Number: 1, CIDR: cidr("192.0.2.0/24")}})
}

func TestInvalidEntriesOfNetworkACLs(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	for _, e := range []ec2.ACLEntry{
		{CIDR: netip.MustParsePrefix("10.0.0.1/8")},
		{},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: 1, To: 0}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: -1, To: 0}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.UDP, To: 65536}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.ICMP, From: -1, To: 0}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.ICMP, From: 256, To: 0}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.ICMPv6, From: 1}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: 47, To: 1}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: 256}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{One: true, Protocol: -1}},
		{CIDR: allIPv4, Traffic: ec2.ACLTraffic{Protocol: ec2.TCP}},
	} {
		e.Number = 7
		r.refused(&CreateACLEntry{albert, east, vpc.ACL, e}, "InvalidParameterValue")
		e.Number = 100
		r.refused(&ReplaceACLEntry{albert, east, vpc.ACL, e}, "InvalidParameterValue")
	}
}

// randomACLRequest returns a request for a network ACL, an entry or an association.
func randomACLRequest(rng *rand.Rand, v *View, account ec2.AccountID, vpc ec2.VPCID, subnet ec2.SubnetID) Request {
	acl := pick(rng, slices.Collect(v.NetworkACLsOf(account, east)), func(x *ec2.NetworkACL) string { return x.ID })
	switch rng.IntN(5) {
	case 0:
		return &CreateNetworkACL{account, east, vpc, map[string]string{"Name": "x"}, []string{"", "token"}[rng.IntN(2)]}
	case 1:
		return &DeleteNetworkACL{account, east, acl}
	case 2, 3:
		r := &ReplaceACLAssociation{account, east, "aclassoc-0a1b2c3d", acl}
		if s, ok := v.Subnet(subnet); ok {
			r.Association = s.AssociationWithACL()
		}
		return r
	}
	e := ec2.ACLEntry{Number: rng.IntN(4), Egress: rng.IntN(2) == 0, CIDR: []netip.Prefix{allIPv4, cidr("10.0.0.0/8"), cidr("::/0")}[rng.IntN(3)]}
	if rng.IntN(2) == 0 {
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: 80, To: 79 + rng.IntN(3)}
	}
	return []Request{&CreateACLEntry{account, east, acl, e}, &ReplaceACLEntry{account, east, acl, e}, &DeleteACLEntry{account, east, acl, e.Number, e.Egress}}[rng.IntN(3)]
}

// An entry that an earlier release wrote has no traffic, and is for all protocols.
func TestEntryOfEarlierReleaseIsForAllProtocols(t *testing.T) {
	cmd, err := DecodeCommand([]byte(`{"v":1,"type":"CreateACLEntry","time":"2026-01-02T03:04:05Z","body":{"Account":"598916040194","Region":"us-east-1","ACL":"acl-0a1b2c3d","Entry":{"Number":100,"Egress":true,"Allow":true,"CIDR":"0.0.0.0/0"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	e := cmd.Request.(*CreateACLEntry).Entry
	if from, to := e.Traffic.Keys(); e.Traffic.One || from != 0 || to != 65535 || e.String() != "100 allow all traffic to 0.0.0.0/0" {
		t.Errorf("the entry is %s with the keys %d to %d, want one for all traffic", e, from, to)
	}
}
