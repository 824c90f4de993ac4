package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// defaultNetwork deletes the default VPC with its subnets and gateway, and creates it again. Then
// it deletes and creates again one default subnet. It checks that instances launched there are in
// the default group and have public addresses.
func (s *testbed) defaultNetwork(t *testing.T) {
	zones := s.zones(t)
	first, last := zones[0], zones[len(zones)-1]
	launch := func(zone string) *ec2.RunInstancesInput {
		return &ec2.RunInstancesInput{Placement: &types.Placement{AvailabilityZone: &zone}, ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	}
	refused := func(when, zone, want string) {
		t.Helper()
		if _, err := s.c.RunInstances(t.Context(), launch(zone)); code(err) != want {
			t.Errorf("RunInstances %s returned %v, want %s", when, err, want)
		}
	}
	terminate := func(list ...instance) {
		t.Helper()
		for _, in := range list {
			_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{in.id}})
			check(t, err)
			s.waitState(t, in, "terminated")
		}
	}

	s.removeDefaultVPC(t)
	refused("without a default VPC", first, "VPCIdNotSpecified")
	_, err := s.c.CreateDefaultVpc(t.Context(), &ec2.CreateDefaultVpcInput{})
	check(t, err)
	group := s.defaultGroup(t)
	one, two := s.run(t, "one", launch(first)), s.run(t, "two", launch(last))
	inside := probes(to(one.host, two, "tcp/7170"), to(two.host, one, "icmp"), probe{from: one.host, to: strangerAddress, kind: "tcp/7171", at: s.stranger})
	outside := probes(toAddress(s.laptop, one.public, one, "tcp/7170"), toAddress(s.laptop, two.public, two, "tcp/7170"))
	foreign := probes(to(s.client.host, one, "tcp/7170"), to(one.host, s.server, "tcp/7170")) // between VPCs
	rule := permission("tcp", 7170, 7170, "203.0.113.0/24")
	s.checkChanges(t,
		change{action: "nothing", do: func(*testing.T) {}, same: inside, silent: foreign},
		change{action: "AuthorizeSecurityGroupIngress", do: func(t *testing.T) { s.admit(t, group, rule) }, same: inside, open: outside, silent: foreign},
	)
	terminate(two, one)
	s.wantSilence(t, "after TerminateInstances", outside...)

	subnet := s.defaultSubnet(t, last)
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: &subnet})
	check(t, err)
	refused("without a default subnet", last, "MissingInput")
	_, err = s.c.CreateDefaultSubnet(t.Context(), &ec2.CreateDefaultSubnetInput{AvailabilityZone: &last})
	check(t, err)
	again := s.run(t, "again", launch(last))
	answer := probes(toAddress(s.laptop, again.public, again, "tcp/7170"))
	s.wantAnswers(t, "after CreateDefaultSubnet", answer...)
	s.checkChanges(t, change{action: "RevokeSecurityGroupIngress", do: func(t *testing.T) { s.revoke(t, group, rule) }, shut: answer})
	terminate(again)
}

// removeDefaultVPC deletes the account's default VPC, its subnets and its gateway.
func (s *testbed) removeDefaultVPC(t *testing.T) {
	t.Helper()
	vpc := s.defaultVPC(t)
	subnets, err := s.c.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{Filters: filters("vpc-id", vpc)})
	check(t, err)
	for _, subnet := range subnets.Subnets {
		_, err := s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: subnet.SubnetId})
		check(t, err)
	}
	gateways, err := s.c.DescribeInternetGateways(t.Context(), &ec2.DescribeInternetGatewaysInput{Filters: filters("attachment.vpc-id", vpc)})
	check(t, err)
	for _, gateway := range gateways.InternetGateways {
		_, err := s.c.DetachInternetGateway(t.Context(), &ec2.DetachInternetGatewayInput{InternetGatewayId: gateway.InternetGatewayId, VpcId: &vpc})
		check(t, err)
		_, err = s.c.DeleteInternetGateway(t.Context(), &ec2.DeleteInternetGatewayInput{InternetGatewayId: gateway.InternetGatewayId})
		check(t, err)
	}
	_, err = s.c.DeleteVpc(t.Context(), &ec2.DeleteVpcInput{VpcId: &vpc})
	check(t, err)
}

func (s *testbed) defaultVPC(t *testing.T) string {
	t.Helper()
	out, err := s.c.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{Filters: filters("is-default", "true")})
	check(t, err)
	if len(out.Vpcs) != 1 {
		t.Fatalf("the account has %d default VPCs, want 1", len(out.Vpcs))
	}
	return *out.Vpcs[0].VpcId
}

// defaultGroup returns the default group of the default VPC.
func (s *testbed) defaultGroup(t *testing.T) string {
	t.Helper()
	out, err := s.c.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{Filters: filters("vpc-id", s.defaultVPC(t), "group-name", "default")})
	check(t, err)
	return *out.SecurityGroups[0].GroupId
}

func (s *testbed) defaultSubnet(t *testing.T, zone string) string {
	t.Helper()
	out, err := s.c.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{Filters: filters("default-for-az", "true", "availability-zone", zone)})
	check(t, err)
	return *out.Subnets[0].SubnetId
}
