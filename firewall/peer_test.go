package firewall_test

import (
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// inVPC returns a group of a VPC that admits TCP port 443 from the groups that refs name.
func inVPC(id ec2.GroupID, vpc ec2.VPCID, refs ...ec2.GroupRef) *ec2.Group {
	g := &ec2.Group{ID: id, Name: string(id), VPC: vpc}
	for i, ref := range refs {
		r := ec2.Rule{ID: ec2.RuleID("sgr-" + string(id)), Serial: uint64(i + 1), Protocol: ec2.TCP, From: 443, To: 443, Source: ec2.Source{Group: ref}}
		g.Rules = append(g.Rules, r)
		r.Direction = ec2.Egress
		g.Rules = append(g.Rules, r)
	}
	return g
}

// admits reports whether a Set admits a member that a group has in a VPC, in both directions.
func admits(t *testing.T, c *firewall.Compiler, v view, s *firewall.Set, group ec2.GroupID, in ec2.VPCID) bool {
	t.Helper()
	peer := firewall.Source{Addr: netip.MustParseAddr("10.1.0.9"), Groups: []firewall.GroupNumber{c.NumberIn(v, in, group)}}
	ingress, egress := s.Ingress.Match(6, 443, peer).Allowed, s.Egress.Match(6, 443, peer).Allowed
	if ingress != egress {
		t.Errorf("%s in %s: ingress %t, egress %t, want both equal", group, in, ingress, egress)
	}
	return ingress
}

// Amazon VPC Peering Guide, "Update your security groups to reference peer security groups". The rule
// means the group's members in the peered VPC, and applies in the VPC that is peered.
func TestRuleForAGroupOfAPeer(t *testing.T) {
	peer := ec2.GroupRef{ID: "db", VPC: "vpc-2", Peering: "pcx-1"}
	web := inVPC("web", "vpc-1", peer)
	web.VPCs = []ec2.VPCID{"vpc-3"}
	db := inVPC("db", "vpc-2")
	db.VPCs = []ec2.VPCID{"vpc-1", "vpc-4"}
	v := view{"web": web, "db": db}
	c := firewall.NewCompiler()
	home, guest := c.AcquireIn(v, "vpc-1", []ec2.GroupID{"web"}, 1), c.AcquireIn(v, "vpc-3", []ec2.GroupID{"web"}, 1)
	for _, tt := range []struct {
		set    *firewall.Set
		in     ec2.VPCID
		group  ec2.GroupID
		admits bool
	}{
		{home, "vpc-2", "db", true},
		{home, "vpc-1", "db", false},
		{home, "vpc-4", "db", false},
		{home, "vpc-1", "web", false},
		{guest, "vpc-2", "db", false},
		{guest, "vpc-3", "db", false},
	} {
		if got := admits(t, c, v, tt.set, tt.group, tt.in); got != tt.admits {
			t.Errorf("set %v admits a member of %s in %s: %t, want %t", tt.set.Groups, tt.group, tt.in, got, tt.admits)
		}
	}

	peer.Void = true
	v["web"] = inVPC("web", "vpc-1", peer)
	c.Update(v, []ec2.GroupID{"web"}, 2)
	now := c.Current(home)
	if admits(t, c, v, now, "db", "vpc-2") || now.Ingress.Shrunk != 2 || now.Egress.Shrunk != 2 {
		t.Errorf("after the end of the peering: admitted %t, tables shrunk at %d and %d; want no, and 2", admits(t, c, v, now, "db", "vpc-2"), now.Ingress.Shrunk, now.Egress.Shrunk)
	}
	again := ec2.GroupRef{ID: "db", VPC: "vpc-2", Peering: "pcx-2"}
	v["web"] = inVPC("web", "vpc-1", peer, again)
	c.Update(v, []ec2.GroupID{"web"}, 3)
	if !admits(t, c, v, c.Current(home), "db", "vpc-2") {
		t.Error("a rule of a second peering does not admit the group")
	}
}

// A group can be used in several VPCs. A rule that names it means the members in the VPC of the interface
// that the rule applies to.
func TestRuleForAGroupMeansItsMembersInOneVPC(t *testing.T) {
	shared := inVPC("shared", "vpc-1", ec2.GroupRef{ID: "shared"})
	shared.VPCs = []ec2.VPCID{"vpc-3"}
	local := inVPC("local", "vpc-3", ec2.GroupRef{ID: "shared"})
	v := view{"shared": shared, "local": local}
	c := firewall.NewCompiler()
	home, guest := c.AcquireIn(v, "vpc-1", []ec2.GroupID{"shared"}, 1), c.AcquireIn(v, "vpc-3", []ec2.GroupID{"shared"}, 1)
	if home.SameGroups(guest) {
		t.Error("interfaces of two VPCs with the same group have the same rules")
	}
	names := c.AcquireIn(v, "vpc-3", []ec2.GroupID{"local"}, 1)
	for _, tt := range []struct {
		what       string
		set        *firewall.Set
		one, three bool
	}{{"home", home, true, false}, {"guest", guest, false, true}, {"local", names, false, true}} {
		one, three := admits(t, c, v, tt.set, "shared", "vpc-1"), admits(t, c, v, tt.set, "shared", "vpc-3")
		if one != tt.one || three != tt.three {
			t.Errorf("%s admits members in vpc-1 %t and in vpc-3 %t, want %t and %t", tt.what, one, three, tt.one, tt.three)
		}
	}
}
