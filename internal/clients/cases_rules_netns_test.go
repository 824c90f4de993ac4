package clients

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// all is EC2's protocol "-1", which matches every protocol and has no ports.
const all = "-1"

// permission returns an IpPermission with one rule for each source. A source is a CIDR or the id
// of a group. If from is negative, the rules have no ports, except for icmp.
func permission(protocol string, from, to int32, sources ...string) types.IpPermission {
	p := types.IpPermission{IpProtocol: &protocol}
	if from >= 0 || protocol == "icmp" {
		p.FromPort, p.ToPort = &from, &to
	}
	for _, source := range sources {
		switch {
		case strings.HasPrefix(source, "sg-"):
			p.UserIdGroupPairs = append(p.UserIdGroupPairs, types.UserIdGroupPair{GroupId: &source})
		case strings.Contains(source, ":"):
			p.Ipv6Ranges = append(p.Ipv6Ranges, types.Ipv6Range{CidrIpv6: &source})
		default:
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: &source})
		}
	}
	return p
}

// admit adds ingress rules to a group and returns their ids.
func (s *testbed) admit(t *testing.T, group string, permissions ...types.IpPermission) []string {
	t.Helper()
	out, err := s.c.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: permissions})
	s.watcher.check(t, "AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate", err)
	if err != nil {
		return nil
	}
	return ruleIDs(out.SecurityGroupRules)
}

func ruleIDs(rules []types.SecurityGroupRule) []string {
	var ids []string
	for _, r := range rules {
		ids = append(ids, *r.SecurityGroupRuleId)
	}
	return ids
}

func (s *testbed) revoke(t *testing.T, group string, permissions ...types.IpPermission) {
	t.Helper()
	_, err := s.c.RevokeSecurityGroupIngress(t.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: &group, IpPermissions: permissions})
	s.watcher.check(t, "RevokeSecurityGroupIngress", "InvalidPermission.NotFound", err)
}

func (s *testbed) revokeIDs(t *testing.T, group string, ids ...string) {
	t.Helper()
	_, err := s.c.RevokeSecurityGroupIngress(t.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: &group, SecurityGroupRuleIds: ids})
	check(t, err)
}

func (s *testbed) admitEgress(t *testing.T, group string, permissions ...types.IpPermission) []string {
	t.Helper()
	out, err := s.c.AuthorizeSecurityGroupEgress(t.Context(), &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &group, IpPermissions: permissions})
	s.watcher.check(t, "AuthorizeSecurityGroupEgress", "InvalidPermission.Duplicate", err)
	if err != nil {
		return nil
	}
	return ruleIDs(out.SecurityGroupRules)
}

func (s *testbed) revokeEgress(t *testing.T, group string, permissions ...types.IpPermission) {
	t.Helper()
	_, err := s.c.RevokeSecurityGroupEgress(t.Context(), &ec2.RevokeSecurityGroupEgressInput{GroupId: &group, IpPermissions: permissions})
	s.watcher.check(t, "RevokeSecurityGroupEgress", "InvalidPermission.NotFound", err)
}

func (s *testbed) clientCIDR() string { return s.client.private.String() + "/32" }

// rulesByProperties adds and revokes ingress rules by protocol, ports and CIDR. Server and client
// are in one subnet and the client's egress is unrestricted, so it also checks that ingress rules
// apply to such packets: none passes before the server's group has a rule.
func (s *testbed) rulesByProperties(t *testing.T) {
	tcp := permission("tcp", 7001, 7002, s.clientCIDR())
	udp := permission("udp", 7001, 7001, "10.0.0.0/16")
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], tcp) },
			open:   []probe{to(s.client.host, s.server, "tcp/7001"), to(s.client.host, s.server, "tcp/7002")},
			silent: []probe{to(s.client.host, s.server, "tcp/7003"), to(s.client.host, s.server, "udp/7001"), to(s.client.host, s.server, "icmp"), to(s.other.host, s.server, "tcp/7001"), to(s.server.host, s.client, "tcp/7001")}},
		change{action: "AuthorizeSecurityGroupIngress",
			do:   func(t *testing.T) { s.admit(t, s.groups["server"], udp) },
			open: []probe{to(s.client.host, s.server, "udp/7001"), to(s.other.host, s.server, "udp/7001")},
			same: []probe{to(s.client.host, s.server, "tcp/7001")}},
		change{action: "RevokeSecurityGroupIngress",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], tcp) },
			shut: []probe{to(s.client.host, s.server, "tcp/7001"), to(s.client.host, s.server, "tcp/7002")},
			same: []probe{to(s.client.host, s.server, "udp/7001")}},
		change{action: "RevokeSecurityGroupIngress",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], udp) },
			shut: []probe{to(s.client.host, s.server, "udp/7001"), to(s.other.host, s.server, "udp/7001")}},
	)
}

func (s *testbed) rulesByID(t *testing.T) {
	ids := s.admit(t, s.groups["server"], permission("tcp", 7010, 7010, s.clientCIDR(), "10.0.2.0/24"), permission("icmp", 8, -1, s.clientCIDR()))
	if len(ids) != 3 {
		t.Fatalf("AuthorizeSecurityGroupIngress made the rules %q, want three", ids)
	}
	s.checkChanges(t,
		change{action: "UpdateSecurityGroupRuleDescriptionsIngress",
			do: func(t *testing.T) {
				_, err := s.c.UpdateSecurityGroupRuleDescriptionsIngress(t.Context(), &ec2.UpdateSecurityGroupRuleDescriptionsIngressInput{
					GroupId: aws.String(s.groups["server"]), SecurityGroupRuleDescriptions: []types.SecurityGroupRuleDescription{{SecurityGroupRuleId: &ids[0], Description: aws.String("callers")}}})
				check(t, err)
			},
			same:   []probe{to(s.client.host, s.server, "tcp/7010"), to(s.other.host, s.server, "tcp/7010"), to(s.client.host, s.server, "icmp")},
			silent: []probe{to(s.other.host, s.server, "icmp")}},
		change{action: "RevokeSecurityGroupIngress by id",
			do:   func(t *testing.T) { s.revokeIDs(t, s.groups["server"], ids[0]) },
			shut: []probe{to(s.client.host, s.server, "tcp/7010")},
			same: []probe{to(s.other.host, s.server, "tcp/7010"), to(s.client.host, s.server, "icmp")}},
		change{action: "RevokeSecurityGroupIngress by ids",
			do:   func(t *testing.T) { s.revokeIDs(t, s.groups["server"], ids[1:]...) },
			shut: []probe{to(s.other.host, s.server, "tcp/7010"), to(s.client.host, s.server, "icmp")}},
	)
}

// rulesOfEveryProtocol checks that connections of a protocol without ports are tracked by their
// two addresses: existing ones continue after their rule is revoked (EC2 User Guide, "Security
// group connection tracking"), and new ones are dropped.
func (s *testbed) rulesOfEveryProtocol(t *testing.T) {
	esp := permission("50", -1, -1, "10.0.0.0/16")
	everything := permission(all, -1, -1, s.clientCIDR())
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress of a number",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], esp) },
			open:   []probe{to(s.client.host, s.server, "proto/50")},
			silent: []probe{to(s.client.host, s.server, "proto/51"), to(s.client.host, s.server, "tcp/7020"), to(s.client.host, s.server, "icmp")}},
		change{action: "RevokeSecurityGroupIngress of a number",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], esp) },
			same: []probe{to(s.client.host, s.server, "proto/50")}},
		change{action: "nothing", do: func(*testing.T) {},
			silent: []probe{to(s.other.host, s.server, "proto/50")}},
		change{action: "AuthorizeSecurityGroupIngress of all",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], everything) },
			open:   []probe{to(s.client.host, s.server, "proto/51"), to(s.client.host, s.server, "tcp/7020"), to(s.client.host, s.server, "udp/7020"), to(s.client.host, s.server, "icmp")},
			silent: []probe{to(s.other.host, s.server, "tcp/7020")}},
		change{action: "RevokeSecurityGroupIngress of all",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], everything) },
			shut: []probe{to(s.client.host, s.server, "tcp/7020"), to(s.client.host, s.server, "udp/7020"), to(s.client.host, s.server, "icmp")}},
	)
}

// egressRules checks that packets which no egress rule admits are dropped although the receiver's
// ingress rules admit them, and that answers pass without an egress rule.
func (s *testbed) egressRules(t *testing.T) {
	everything := permission(all, -1, -1, "0.0.0.0/0")
	inbound := permission(all, -1, -1, "10.0.0.0/16")
	s.admit(t, s.groups["server"], inbound)
	s.admit(t, s.groups["other"], inbound)
	s.admit(t, s.groups["client"], inbound)
	tcp := permission("tcp", 7030, 7030, "10.0.1.0/24")
	toGroup := permission("udp", 7030, 7030, s.groups["other"])
	var ids []string
	s.checkChanges(t,
		change{action: "RevokeSecurityGroupEgress",
			do:   func(t *testing.T) { s.revokeEgress(t, s.groups["client"], everything) },
			shut: []probe{to(s.client.host, s.server, "tcp/7030"), to(s.client.host, s.other, "udp/7030"), to(s.client.host, s.server, "icmp")},
			// Answers pass without any egress rule.
			same: []probe{to(s.server.host, s.client, "tcp/7030"), to(s.other.host, s.client, "udp/7030"), to(s.server.host, s.client, "icmp")}},
		change{action: "AuthorizeSecurityGroupEgress",
			do:     func(t *testing.T) { ids = s.admitEgress(t, s.groups["client"], tcp, toGroup) },
			open:   []probe{to(s.client.host, s.server, "tcp/7030"), to(s.client.host, s.other, "udp/7030")},
			silent: []probe{to(s.client.host, s.server, "udp/7030"), to(s.client.host, s.other, "tcp/7030"), to(s.client.host, s.server, "tcp/7031"), to(s.client.host, s.server, "icmp")}},
		change{action: "UpdateSecurityGroupRuleDescriptionsEgress",
			do: func(t *testing.T) {
				_, err := s.c.UpdateSecurityGroupRuleDescriptionsEgress(t.Context(), &ec2.UpdateSecurityGroupRuleDescriptionsEgressInput{
					GroupId: aws.String(s.groups["client"]), SecurityGroupRuleDescriptions: []types.SecurityGroupRuleDescription{{SecurityGroupRuleId: &ids[0], Description: aws.String("destination")}}})
				check(t, err)
			},
			same:   []probe{to(s.client.host, s.server, "tcp/7030"), to(s.client.host, s.other, "udp/7030")},
			silent: []probe{to(s.client.host, s.server, "udp/7030")}},
		change{action: "ModifySecurityGroupRules: an egress rule",
			do: func(t *testing.T) {
				s.modify(t, s.groups["client"], ids[0], types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7031), ToPort: aws.Int32(7031), CidrIpv4: aws.String("10.0.1.0/24")})
			},
			open: []probe{to(s.client.host, s.server, "tcp/7031")},
			shut: []probe{to(s.client.host, s.server, "tcp/7030")},
			same: []probe{to(s.client.host, s.other, "udp/7030")}},
		change{action: "ModifySecurityGroupRules: back",
			do: func(t *testing.T) {
				s.modify(t, s.groups["client"], ids[0], types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7030), ToPort: aws.Int32(7030), CidrIpv4: aws.String("10.0.1.0/24")})
			},
			open: []probe{to(s.client.host, s.server, "tcp/7030")},
			shut: []probe{to(s.client.host, s.server, "tcp/7031")}},
		change{action: "RevokeSecurityGroupEgress by id",
			do: func(t *testing.T) {
				_, err := s.c.RevokeSecurityGroupEgress(t.Context(), &ec2.RevokeSecurityGroupEgressInput{GroupId: aws.String(s.groups["client"]), SecurityGroupRuleIds: ids})
				check(t, err)
			},
			shut: []probe{to(s.client.host, s.server, "tcp/7030"), to(s.client.host, s.other, "udp/7030")}},
		change{action: "AuthorizeSecurityGroupEgress",
			do:   func(t *testing.T) { s.admitEgress(t, s.groups["client"], everything) },
			open: []probe{to(s.client.host, s.server, "tcp/7030"), to(s.client.host, s.other, "udp/7030"), to(s.client.host, s.server, "icmp")}},
	)
	for _, name := range []string{"server", "other", "client"} {
		s.revoke(t, s.groups[name], inbound)
	}
}

func (s *testbed) groupAsSource(t *testing.T) {
	fromGroup := permission("tcp", 7040, 7040, s.groups["client"])
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress from a group",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], fromGroup) },
			open:   []probe{to(s.client.host, s.server, "tcp/7040")},
			silent: []probe{to(s.other.host, s.server, "tcp/7040")}},
		change{action: "ModifyInstanceAttribute: add a member",
			do:   func(t *testing.T) { s.setGroups(t, s.other, s.groups["other"], s.groups["client"]) },
			open: []probe{to(s.other.host, s.server, "tcp/7040")},
			same: []probe{to(s.client.host, s.server, "tcp/7040")}},
		change{action: "ModifyInstanceAttribute: remove a member",
			do:   func(t *testing.T) { s.setGroups(t, s.other, s.groups["other"]) },
			shut: []probe{to(s.other.host, s.server, "tcp/7040")},
			same: []probe{to(s.client.host, s.server, "tcp/7040")}},
		change{action: "DeleteSecurityGroup of a group that a rule names",
			do: func(t *testing.T) {
				if _, err := s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: aws.String(s.groups["client"])}); code(err) != "DependencyViolation" {
					t.Errorf("DeleteSecurityGroup of a group that a rule names returned %v, want DependencyViolation", err)
				}
			},
			same: []probe{to(s.client.host, s.server, "tcp/7040")}},
		change{action: "RevokeSecurityGroupIngress from a group",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], fromGroup) },
			shut: []probe{to(s.client.host, s.server, "tcp/7040")}},
	)
}

func (s *testbed) setGroups(t *testing.T, in instance, groups ...string) {
	t.Helper()
	_, err := s.c.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &in.id, Groups: groups})
	check(t, err)
}

// modify replaces the rule with this id; the new rule keeps the id.
func (s *testbed) modify(t *testing.T, group, rule string, to types.SecurityGroupRuleRequest) {
	t.Helper()
	_, err := s.c.ModifySecurityGroupRules(t.Context(), &ec2.ModifySecurityGroupRulesInput{GroupId: &group,
		SecurityGroupRules: []types.SecurityGroupRuleUpdate{{SecurityGroupRuleId: &rule, SecurityGroupRule: &to}}})
	check(t, err)
}

func (s *testbed) ruleModified(t *testing.T) {
	id := s.admit(t, s.groups["server"], permission("tcp", 7050, 7050, s.clientCIDR()))[0]
	modify := func(t *testing.T, to types.SecurityGroupRuleRequest) {
		t.Helper()
		s.modify(t, s.groups["server"], id, to)
	}
	s.checkChanges(t,
		change{action: "ModifySecurityGroupRules: the port",
			do: func(t *testing.T) {
				modify(t, types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7051), ToPort: aws.Int32(7051), CidrIpv4: aws.String(s.clientCIDR())})
			},
			open: []probe{to(s.client.host, s.server, "tcp/7051")},
			shut: []probe{to(s.client.host, s.server, "tcp/7050")}},
		change{action: "ModifySecurityGroupRules: the source",
			do: func(t *testing.T) {
				modify(t, types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7051), ToPort: aws.Int32(7051), CidrIpv4: aws.String("10.0.2.0/24")})
			},
			open: []probe{to(s.other.host, s.server, "tcp/7051")},
			shut: []probe{to(s.client.host, s.server, "tcp/7051")}},
		change{action: "RevokeSecurityGroupIngress of the rule, by its old id",
			do:   func(t *testing.T) { s.revokeIDs(t, s.groups["server"], id) },
			shut: []probe{to(s.other.host, s.server, "tcp/7051")}},
	)
}

// revokeMatchesTheSource checks that a revocation removes only the rule with the named source,
// and no other rule with equal ports.
func (s *testbed) revokeMatchesTheSource(t *testing.T) {
	s.admit(t, s.groups["server"], permission("tcp", 7060, 7060, s.clientCIDR(), "10.0.2.0/24", s.groups["client"]))
	s.checkChanges(t,
		change{action: "RevokeSecurityGroupIngress of one source",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], permission("tcp", 7060, 7060, "10.0.2.0/24")) },
			shut: []probe{to(s.other.host, s.server, "tcp/7060")},
			same: []probe{to(s.client.host, s.server, "tcp/7060")}},
		change{action: "RevokeSecurityGroupIngress of one of two rules that admit the client",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], permission("tcp", 7060, 7060, s.clientCIDR())) },
			same: []probe{to(s.client.host, s.server, "tcp/7060")}},
		change{action: "RevokeSecurityGroupIngress of the last rule",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], permission("tcp", 7060, 7060, s.groups["client"])) },
			shut: []probe{to(s.client.host, s.server, "tcp/7060")}},
	)
}

func (s *testbed) groupsOfARunningInstance(t *testing.T) {
	open := s.group(t, s.vpc, "open")
	s.admit(t, open, permission("tcp", 7070, 7070, "10.0.0.0/16"))
	probes := []probe{to(s.client.host, s.server, "tcp/7070"), to(s.other.host, s.server, "tcp/7070")}
	nic := func(groups ...string) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &s.server.nic, Groups: groups})
			check(t, err)
		}
	}
	s.checkChanges(t,
		change{action: "ModifyInstanceAttribute: add a group", do: func(t *testing.T) { s.setGroups(t, s.server, s.groups["server"], open) }, open: probes},
		change{action: "ModifyInstanceAttribute: the old group", do: func(t *testing.T) { s.setGroups(t, s.server, s.groups["server"]) }, shut: probes},
		change{action: "ModifyNetworkInterfaceAttribute: another group", do: nic(open), open: probes},
		change{action: "ModifyNetworkInterfaceAttribute: the old group", do: nic(s.groups["server"]), shut: probes},
	)
	_, err := s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &open})
	check(t, err)
}

// refusedChange checks that a call with one bad rule among good rules returns an error and
// changes nothing.
func (s *testbed) refusedChange(t *testing.T) {
	good, bad := permission("tcp", 7080, 7080, "10.0.0.0/16"), permission("tcp", 7081, 7080, "10.0.0.0/16")
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress with a bad entry",
			do: func(t *testing.T) {
				_, err := s.c.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: aws.String(s.groups["server"]), IpPermissions: []types.IpPermission{good, bad}})
				if code(err) != "InvalidParameterValue" {
					t.Errorf("a rule with FromPort above ToPort returned %v, want InvalidParameterValue", err)
				}
			},
			silent: []probe{to(s.client.host, s.server, "tcp/7080")}},
		change{action: "AuthorizeSecurityGroupIngress", do: func(t *testing.T) { s.admit(t, s.groups["server"], good) }, open: []probe{to(s.client.host, s.server, "tcp/7080")}},
		change{action: "RevokeSecurityGroupIngress with a missing rule",
			do: func(t *testing.T) {
				_, err := s.c.RevokeSecurityGroupIngress(t.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: aws.String(s.groups["server"]), IpPermissions: []types.IpPermission{good, permission("tcp", 7082, 7082, "10.0.0.0/16")}})
				if code(err) != "InvalidPermission.NotFound" {
					t.Errorf("RevokeSecurityGroupIngress of a missing rule returned %v, want InvalidPermission.NotFound", err)
				}
			},
			same: []probe{to(s.client.host, s.server, "tcp/7080")}},
		change{action: "RevokeSecurityGroupIngress", do: func(t *testing.T) { s.revoke(t, s.groups["server"], good) }, shut: []probe{to(s.client.host, s.server, "tcp/7080")}},
	)
}
