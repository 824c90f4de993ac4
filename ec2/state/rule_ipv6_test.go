package state

import (
	"testing"

	"palisade/ec2"
)

func (r *ruleWorld) authorizeIPv6(direction ec2.Direction, specs ...RuleSpec) *AuthorizeRules {
	request := r.authorize(direction, specs...)
	request.IPv6 = true
	return request
}

func icmpv6(kind, code int, prefix string) RuleSpec {
	return RuleSpec{Protocol: ec2.ICMPv6, From: kind, To: code, Prefix: cidr(prefix)}
}

func TestIPv6RulesAreAddedFoundAndRevoked(t *testing.T) {
	r := newRuleWorld(t)
	every := RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: cidr("::/0")}
	rules := r.must(r.authorizeIPv6(ec2.Ingress, tcp(443, 443, "2001:db8::1/64"), icmpv6(-1, -1, "::/0"), icmpv6(128, 0, "::/0"), every)).Rules
	r.must(r.authorizeIPv6(ec2.Egress, every))
	r.want(ec2.Ingress, "tcp 443-443 2001:db8::/64, icmpv6 -1--1 ::/0, icmpv6 128-0 ::/0, -1 ::/0")
	r.want(ec2.Egress, "-1 0.0.0.0/0, -1 ::/0")
	for spec, peer := range map[RuleSpec]string{
		every:                          "peer: ::/0, ALL, ALLOW",
		tcp(443, 443, "2001:db8::/64"): "peer: 2001:db8::/64, TCP, from port: 443, to port: 443, ALLOW",
		icmpv6(128, 0, "::/0"):         "peer: ::/0, ICMPV6, type: 128, code: 0, ALLOW",
	} {
		r.refusedWith(r.authorizeIPv6(ec2.Ingress, spec), "InvalidPermission.Duplicate", `the specified rule "`+peer+`" already exists`)
	}
	r.refusedWith(r.authorizeIPv6(ec2.Ingress, tcp(1, 1, "::1/0"), tcp(1, 1, "::/0")), "InvalidParameterValue", "The same permission must not appear multiple times")

	described := tcp(443, 443, "2001:db8::/64")
	described.Description = "office"
	r.must(&UpdateRuleDescriptions{Account: dev, Region: east, Group: GroupSelector{ID: r.group.ID}, Rules: []RuleSpec{described}})
	if got := r.rule(rules[0].ID); got.Description != "office" || got.Serial != rules[0].Serial {
		t.Errorf("the described rule is %+v, want the description office and serial %d", got, rules[0].Serial)
	}
	r.must(r.revoke(ec2.Egress, every))
	r.must(r.revokeIDs(ec2.Ingress, rules[3].ID))
	r.must(r.revoke(ec2.Ingress, icmpv6(128, 0, "::/0")))
	r.refused(r.revoke(ec2.Ingress, tcp(443, 443, "::/0")), "InvalidPermission.NotFound")
	r.want(ec2.Ingress, "tcp 443-443 2001:db8::/64, icmpv6 -1--1 ::/0")
	r.want(ec2.Egress, "-1 0.0.0.0/0")
}

func TestIPv6RuleIsModifiedToAnotherIPv6Block(t *testing.T) {
	r := newRuleWorld(t)
	rules := r.must(r.authorizeIPv6(ec2.Ingress, tcp(443, 443, "2001:db8::/64"), tcp(443, 443, "10.0.0.0/8"))).Rules
	modify := func(at int, spec RuleSpec) *ModifyRules {
		request := r.modify(RuleChange{rules[at].ID, spec})
		request.IPv6 = true
		return request
	}
	r.must(modify(0, icmpv6(128, -1, "2001:db8:1::/48")))
	r.must(modify(1, icmpv6(-1, -1, "10.0.0.0/8")))
	r.want(ec2.Ingress, "icmpv6 128--1 2001:db8:1::/48, icmpv6 -1--1 10.0.0.0/8")
	if was, now := rules[0].Serial, r.rule(rules[0].ID).Serial; now <= was {
		t.Errorf("the modified rule has serial %d, was %d; want a new one", now, was)
	}
	kind := "Invalid rule type for security group rule '" + string(rules[0].ID) + "'. You may not specify CidrIpv4 for an existing IPv6 CIDR rule."
	r.refusedWith(modify(0, tcp(443, 443, "0.0.0.0/0")), "InvalidParameterValue", kind)
	kind = "Invalid rule type for security group rule '" + string(rules[1].ID) + "'. You may not specify CidrIpv6 for an existing IPv4 CIDR rule."
	r.refusedWith(modify(1, tcp(443, 443, "::/0")), "InvalidParameterValue", kind)
}

// Amazon VPC User Guide, "Amazon VPC quotas": the limit of rules is for each direction and each
// address family, and a rule with a group as its source counts for both.
func TestRulesAreCountedForEachAddressFamily(t *testing.T) {
	r := newRuleWorld(t)
	var four, six []RuleSpec
	for port := range 59 {
		four, six = append(four, tcp(port, port, "10.0.0.0/8")), append(six, tcp(port, port, "2001:db8::/32"))
	}
	r.must(r.authorizeIPv6(ec2.Ingress, append(four, six...)...))
	r.must(r.authorizeIPv6(ec2.Ingress, RuleSpec{Protocol: ec2.AnyProtocol, Group: ec2.GroupRef{ID: r.group.ID}}))
	for _, more := range []RuleSpec{tcp(99, 99, "10.0.0.0/8"), tcp(99, 99, "2001:db8::/32"), {Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{ID: r.group.ID}}} {
		r.refused(r.authorizeIPv6(ec2.Ingress, more), "RulesPerSecurityGroupLimitExceeded")
	}
	r.must(r.revoke(ec2.Ingress, tcp(0, 0, "2001:db8::/32")))
	r.refused(r.authorizeIPv6(ec2.Ingress, tcp(99, 99, "10.0.0.0/8")), "RulesPerSecurityGroupLimitExceeded")
	r.must(r.authorizeIPv6(ec2.Ingress, tcp(99, 99, "2001:db8::/32")))
	r.must(r.authorizeIPv6(ec2.Egress, tcp(99, 99, "2001:db8::/32")))
}

func TestClassicGroupHasNoIPv6Rules(t *testing.T) {
	r := newReplay(t)
	g := r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web"}).Group
	for _, spec := range []RuleSpec{tcp(1, 1, "::/0"), icmpv6(-1, -1, "0.0.0.0/0"), icmpv6(128, 0, "::/0")} {
		r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{ID: g.ID}, Rules: []RuleSpec{spec}, IPv6: true}, "InvalidParameterValue")
	}
}
