package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// networkACL removes and makes again the entries of the VPC's network ACL. Packets between subnets and
// to the internet obey them, and packets within a subnet do not meet them.
func (s *testbed) networkACL(t *testing.T) {
	undo := s.admitOutside(t, 7160)
	defer undo()
	allocation, address := s.allocate(t)
	association := s.associate(t, allocation, s.server, false)
	s.route(t, s.routes, "0.0.0.0/0")
	s.admit(t, s.groups["server"], permission("tcp", 7161, 7161, "10.0.0.0/16"))
	found, err := s.c.DescribeNetworkAcls(t.Context(), &ec2.DescribeNetworkAclsInput{Filters: []types.Filter{{Name: aws.String("vpc-id"), Values: []string{s.vpc}}}})
	check(t, err)
	acl := found.NetworkAcls[0].NetworkAclId
	remove := func(egress bool) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.DeleteNetworkAclEntry(t.Context(), &ec2.DeleteNetworkAclEntryInput{NetworkAclId: acl, RuleNumber: aws.Int32(100), Egress: &egress})
			check(t, err)
		}
	}
	create := func(number int32, egress bool, action types.RuleAction) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.CreateNetworkAclEntry(t.Context(), &ec2.CreateNetworkAclEntryInput{NetworkAclId: acl, RuleNumber: &number, Egress: &egress, Protocol: aws.String("-1"), RuleAction: action, CidrBlock: aws.String("0.0.0.0/0")})
			check(t, err)
		}
	}
	outside, between := toAddress(s.laptop, address, s.server, "tcp/7160"), to(s.other.host, s.server, "tcp/7161")
	within := to(s.client.host, s.server, "tcp/7161")
	s.checkChanges(t,
		change{action: "nothing", do: func(*testing.T) {}, same: probes(outside, between, within)},
		change{action: "DeleteNetworkAclEntry ingress 100", do: remove(false), shut: probes(outside, between), same: probes(within)},
		change{action: "CreateNetworkAclEntry ingress 100", do: create(100, false, types.RuleActionAllow), open: probes(outside, between), same: probes(within)},
		change{action: "CreateNetworkAclEntry egress 99", do: create(99, true, types.RuleActionDeny), shut: probes(outside, between), same: probes(within)},
		change{action: "ReplaceNetworkAclEntry egress 99",
			do: func(t *testing.T) {
				_, err := s.c.ReplaceNetworkAclEntry(t.Context(), &ec2.ReplaceNetworkAclEntryInput{NetworkAclId: acl, RuleNumber: aws.Int32(99), Egress: aws.Bool(true), Protocol: aws.String("-1"), RuleAction: types.RuleActionAllow, CidrBlock: aws.String("0.0.0.0/0")})
				check(t, err)
			},
			open: probes(outside, between), same: probes(within)},
		change{action: "DeleteNetworkAclEntry egress 100", do: remove(true), same: probes(outside, between, within)},
	)
	create(100, true, types.RuleActionAllow)(t)
	_, err = s.c.DeleteNetworkAclEntry(t.Context(), &ec2.DeleteNetworkAclEntryInput{NetworkAclId: acl, RuleNumber: aws.Int32(99), Egress: aws.Bool(true)})
	check(t, err)
	s.revoke(t, s.groups["server"], permission("tcp", 7161, 7161, "10.0.0.0/16"))
	s.unroute(t, s.routes, "0.0.0.0/0")
	s.disassociate(t, association)
	s.release(t, allocation)
}

// networkACLOfASubnet gives the server's subnet an ACL of its own. Without entries, nothing crosses the edge
// of the subnet; a request passes with an ingress entry for it and an egress entry for the ports of replies.
func (s *testbed) networkACLOfASubnet(t *testing.T) {
	defer s.admitOutside(t, 7162)()
	allocation, address := s.allocate(t)
	elastic := s.associate(t, allocation, s.server, false)
	s.route(t, s.routes, "0.0.0.0/0")
	s.admit(t, s.groups["server"], permission("tcp", 7162, 7163, "10.0.0.0/16"))
	acl := ""
	entry := func(number int32, egress bool, block string, from, to int32) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.CreateNetworkAclEntry(t.Context(), &ec2.CreateNetworkAclEntryInput{NetworkAclId: &acl, RuleNumber: &number, Egress: &egress, Protocol: aws.String("6"),
				RuleAction: types.RuleActionAllow, CidrBlock: &block, PortRange: &types.PortRange{From: &from, To: &to}})
			check(t, err)
		}
	}
	outside, between := toAddress(s.laptop, address, s.server, "tcp/7162"), to(s.other.host, s.server, "tcp/7162")
	within := to(s.client.host, s.server, "tcp/7162")
	create := func(t *testing.T) {
		made, err := s.c.CreateNetworkAcl(t.Context(), &ec2.CreateNetworkAclInput{VpcId: &s.vpc})
		check(t, err)
		acl = *made.NetworkAcl.NetworkAclId
	}
	before := ""
	associate := func(t *testing.T) { before = s.associateACL(t, acl) }
	s.checkChanges(t,
		change{action: "CreateNetworkAcl", do: create, same: probes(outside, between, within)},
		change{action: "ReplaceNetworkAclAssociation", do: associate, shut: probes(outside, between), same: probes(within)},
		change{action: "CreateNetworkAclEntry ingress 100", do: entry(100, false, "0.0.0.0/0", 7162, 7162), same: probes(within), silent: probes(outside, between)},
		change{action: "CreateNetworkAclEntry egress 100", do: entry(100, true, "203.0.113.0/24", 1024, 65535), open: probes(outside), same: probes(within), silent: probes(between)},
		change{action: "CreateNetworkAclEntry egress 110", do: entry(110, true, "10.0.0.0/16", 1024, 65535), open: probes(between), same: probes(outside, within)},
		change{action: "ReplaceNetworkAclEntry ingress 100",
			do: func(t *testing.T) {
				_, err := s.c.ReplaceNetworkAclEntry(t.Context(), &ec2.ReplaceNetworkAclEntryInput{NetworkAclId: &acl, RuleNumber: aws.Int32(100), Egress: aws.Bool(false), Protocol: aws.String("6"),
					RuleAction: types.RuleActionAllow, CidrBlock: aws.String("10.0.0.0/8"), PortRange: &types.PortRange{From: aws.Int32(7162), To: aws.Int32(7163)}})
				check(t, err)
			},
			shut: probes(outside), same: probes(between, within)},
		change{action: "ReplaceNetworkAclAssociation: the default ACL", do: func(t *testing.T) { s.associateACL(t, before) }, open: probes(outside), same: probes(between, within)},
		change{action: "DeleteNetworkAcl",
			do: func(t *testing.T) {
				_, err := s.c.DeleteNetworkAcl(t.Context(), &ec2.DeleteNetworkAclInput{NetworkAclId: &acl})
				check(t, err)
			},
			same: probes(outside, between, within)},
	)
	s.revoke(t, s.groups["server"], permission("tcp", 7162, 7163, "10.0.0.0/16"))
	s.unroute(t, s.routes, "0.0.0.0/0")
	s.disassociate(t, elastic)
	s.release(t, allocation)
}

// associateACL associates the server's subnet with a network ACL, and returns the ACL that it had.
func (s *testbed) associateACL(t *testing.T, acl string) (had string) {
	t.Helper()
	found, err := s.c.DescribeNetworkAcls(t.Context(), &ec2.DescribeNetworkAclsInput{Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{s.serverSubnet}}}})
	check(t, err)
	for _, a := range found.NetworkAcls[0].Associations {
		if *a.SubnetId == s.serverSubnet {
			_, err := s.c.ReplaceNetworkAclAssociation(t.Context(), &ec2.ReplaceNetworkAclAssociationInput{AssociationId: a.NetworkAclAssociationId, NetworkAclId: &acl})
			check(t, err)
		}
	}
	return *found.NetworkAcls[0].NetworkAclId
}
