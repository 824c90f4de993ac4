package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// A secondVPC is another VPC of the testbed's account, with a subnet in the first zone and a group that
// admits nothing.
type secondVPC struct{ id, subnet, group, routes string }

func (s *testbed) secondVPC(t *testing.T, cidr, subnet string) secondVPC {
	t.Helper()
	vpc, err := s.c.CreateVpc(t.Context(), &ec2.CreateVpcInput{CidrBlock: &cidr})
	check(t, err)
	id := *vpc.Vpc.VpcId
	v := secondVPC{id: id, subnet: s.subnet(t, id, subnet, s.zones(t)[0]), group: s.group(t, id, "second")}
	name := "vpc-id"
	tables, err := s.c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{Filters: []types.Filter{{Name: &name, Values: []string{id}}}})
	check(t, err)
	v.routes = *tables.RouteTables[0].RouteTableId
	return v
}

func (s *testbed) launchIn(t *testing.T, v secondVPC, name string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SubnetId: &v.subnet, SecurityGroupIds: []string{v.group}})
}

// remove terminates the instances of a second VPC and deletes it.
func (s *testbed) remove(t *testing.T, v secondVPC, list ...instance) {
	t.Helper()
	var ids []string
	for _, i := range list {
		ids = append(ids, i.id)
	}
	_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids})
	check(t, err)
	for _, i := range list {
		s.waitState(t, i, "terminated")
	}
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &v.group})
	check(t, err)
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: &v.subnet})
	check(t, err)
	_, err = s.c.DeleteVpc(t.Context(), &ec2.DeleteVpcInput{VpcId: &v.id})
	check(t, err)
}

// groupInAnotherVPC uses a group of the testbed's VPC in a second one. A rule that names the group means its
// members in the VPC of the interface that the rule applies to.
func (s *testbed) groupInAnotherVPC(t *testing.T) {
	v := s.secondVPC(t, "10.6.0.0/16", "10.6.1.0/24")
	one, two := s.launchIn(t, v, "one"), s.launchIn(t, v, "two")
	shared := s.group(t, s.vpc, "shared")
	s.admit(t, shared, permission("tcp", 7300, 7300, shared))
	between := to(one.host, two, "tcp/7300")
	s.checkChanges(t,
		change{action: "AssociateSecurityGroupVpc",
			do: func(t *testing.T) {
				input := &ec2.ModifyInstanceAttributeInput{InstanceId: &two.id, Groups: []string{shared}}
				if _, err := s.c.ModifyInstanceAttribute(t.Context(), input); code(err) != "InvalidGroup.NotFound" {
					t.Errorf("an instance got a group of another VPC before the association: %v", err)
				}
				_, err := s.c.AssociateSecurityGroupVpc(t.Context(), &ec2.AssociateSecurityGroupVpcInput{GroupId: &shared, VpcId: &v.id})
				check(t, err)
				s.setGroups(t, two, shared)
				s.setGroups(t, one, v.group, shared)
			},
			open: probes(between), silent: probes(to(one.host, two, "tcp/7301"))},
		change{action: "ModifyInstanceAttribute: a sender without the group",
			do:   func(t *testing.T) { s.setGroups(t, one, v.group) },
			shut: probes(between)},
		change{action: "DisassociateSecurityGroupVpc",
			do: func(t *testing.T) {
				input := &ec2.DisassociateSecurityGroupVpcInput{GroupId: &shared, VpcId: &v.id}
				if _, err := s.c.DisassociateSecurityGroupVpc(t.Context(), input); code(err) != "DependencyViolation" {
					t.Errorf("a group was disassociated from a VPC where an interface has it: %v", err)
				}
				s.setGroups(t, two, v.group)
				_, err := s.c.DisassociateSecurityGroupVpc(t.Context(), input)
				check(t, err)
			},
			silent: probes(between)},
	)
	s.remove(t, v, one, two)
	_, err := s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &shared})
	check(t, err)
}
