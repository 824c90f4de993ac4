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
