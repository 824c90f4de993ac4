package clients

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab/labtest"
)

// testGo uses waiters, paginators and client tokens of the SDK for Go. It calls few actions,
// because TestPacketsObeyEveryAction calls every mutating action by this SDK.
func testGo(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "gopher")
	c := newClient(l, a)
	ctx := t.Context()
	vpcs, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filters("is-default", "true")})
	check(t, err)
	vpc := vpcs.Vpcs[0]
	if *vpc.CidrBlock != "172.31.0.0/16" || *vpc.OwnerId != a.ID {
		t.Errorf("the default VPC has CIDR %s and owner %s, want 172.31.0.0/16 and %s", *vpc.CidrBlock, *vpc.OwnerId, a.ID)
	}
	group, err := c.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("gopher"), Description: aws.String("of Go")})
	check(t, err)
	check(t, ec2.NewSecurityGroupExistsWaiter(c).Wait(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{*group.GroupId}}, time.Minute))

	// A repeated launch with the same client token launches nothing and returns the first launch.
	launch := &ec2.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(2), MaxCount: aws.Int32(2),
		ClientToken: aws.String("once"), SecurityGroupIds: []string{*group.GroupId},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("of"), Value: aws.String("go")}}}}}
	first, err := c.RunInstances(ctx, launch)
	check(t, err)
	again, err := c.RunInstances(ctx, launch)
	check(t, err)
	if len(first.Instances) != 2 || *first.ReservationId != *again.ReservationId || *first.Instances[0].InstanceId != *again.Instances[0].InstanceId {
		t.Errorf("two launches with one client token made the reservations %s and %s, want one with two instances", *first.ReservationId, *again.ReservationId)
	}
	launch.MaxCount = aws.Int32(3)
	if _, err := c.RunInstances(ctx, launch); code(err) != "IdempotentParameterMismatch" {
		t.Errorf("a different launch with the same client token returned %v, want IdempotentParameterMismatch", err)
	}
	ids := []string{*first.Instances[0].InstanceId, *first.Instances[1].InstanceId}
	check(t, ec2.NewInstanceRunningWaiter(c, func(o *ec2.InstanceRunningWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second }).Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids}, time.Minute))

	// With pages of five rules, every rule is on exactly one page.
	want := map[string]bool{}
	for port := int32(1); port <= 11; port++ {
		out, err := c.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId, IpPermissions: []types.IpPermission{permission("tcp", port, port, "203.0.113.0/24")}})
		check(t, err)
		want[*out.SecurityGroupRules[0].SecurityGroupRuleId] = true
	}
	pages, got := 0, map[string]bool{}
	for p := ec2.NewDescribeSecurityGroupRulesPaginator(c, &ec2.DescribeSecurityGroupRulesInput{Filters: filters("group-id", *group.GroupId), MaxResults: aws.Int32(5)}); p.HasMorePages(); pages++ {
		page, err := p.NextPage(ctx)
		check(t, err)
		for _, r := range page.SecurityGroupRules {
			if got[*r.SecurityGroupRuleId] {
				t.Errorf("rule %s is on two pages", *r.SecurityGroupRuleId)
			}
			got[*r.SecurityGroupRuleId] = true
			delete(want, *r.SecurityGroupRuleId)
		}
	}
	if pages != 3 || len(got) != 12 || len(want) != 0 {
		t.Errorf("the answer has %d pages with %d rules, want 3 with 12; missing rules %v", pages, len(got), want)
	}
	_, err = c.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId, DryRun: aws.Bool(true), IpPermissions: []types.IpPermission{permission("tcp", 99, 99, "203.0.113.0/24")}})
	if code(err) != "DryRunOperation" {
		t.Errorf("a dry run returned %v, want DryRunOperation", err)
	}
	_, err = c.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	check(t, err)
	check(t, ec2.NewInstanceTerminatedWaiter(c, func(o *ec2.InstanceTerminatedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second }).Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids}, time.Minute))
	_, err = c.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: group.GroupId})
	check(t, err)
}
