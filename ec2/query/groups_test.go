package query_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestClassicAccountManagesGroups(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()

	groups := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, nil)).SecurityGroups
	if len(groups) != 1 || *groups[0].GroupName != "default" || *groups[0].Description != "default group" || *groups[0].OwnerId != albert {
		t.Fatalf("a new account has the groups %+v, want its default group", groups)
	}
	var got []string
	for _, p := range groups[0].IpPermissions {
		if len(p.UserIdGroupPairs) != 1 || *p.UserIdGroupPairs[0].GroupId != *groups[0].GroupId || *p.UserIdGroupPairs[0].GroupName != "default" {
			t.Errorf("permission %s is from %+v, want from the group itself", *p.IpProtocol, p.UserIdGroupPairs)
		}
		got = append(got, *p.IpProtocol)
	}
	if strings.Join(got, " ") != "tcp udp icmp" {
		t.Errorf("the default group admits itself on %v, want tcp, udp and icmp", got)
	}

	made := ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("Apache"), Description: aws.String("a & b <c>")}))
	if len(*made.GroupId) != len("sg-455b6c31") {
		t.Errorf("group id %s, want 8 hex digits", *made.GroupId)
	}
	_, err := api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("Apache"), Description: aws.String("again")})
	wantCode(t, "create twice", err, "InvalidGroup.Duplicate", "The security group 'Apache' already exists")
	_, err = api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("default"), Description: aws.String("mine")})
	wantCode(t, "create default", err, "InvalidGroup.Reserved", "The security group 'default' is reserved")
	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("default")})
	wantCode(t, "delete default", err, "InvalidGroup.Reserved", "")
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupNames: []string{"nobody"}})
	wantCode(t, "describe unknown", err, "InvalidGroup.NotFound", "The security group 'nobody' does not exist")
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupIds: []string{"i-0d95"}})
	wantCode(t, "describe malformed", err, "InvalidGroupId.Malformed", `Invalid id: "i-0d95" (expecting "sg-...")`)
	_, err = w.as("mary").DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupIds: []string{*made.GroupId}})
	wantCode(t, "describe another's", err, "InvalidGroup.NotFound", "")
	devs := ok[*sdk.CreateSecurityGroupOutput](t)(w.as("dev").CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("x"), Description: aws.String("x")}))
	if len(*devs.GroupId) != len("sg-0a1b2c3d4e5f60718") {
		t.Errorf("group id %s in a default VPC, want 17 hex digits", *devs.GroupId)
	}

	for _, c := range []struct {
		filter string
		values []string
		want   int
	}{
		{"group-name", []string{"Apa*"}, 1},
		{"group-name", []string{"apa*"}, 0},
		{"group-name", []string{"A?ache", "default"}, 2},
		{"description", []string{"a & b*"}, 1},
		{"ip-permission.protocol", []string{"icmp"}, 1},
		{"ip-permission.group-name", []string{"default"}, 1},
		{"vpc-id", []string{"vpc-1"}, 0},
		{"tag:Name", []string{"x"}, 0},
		{"group-id", []string{"sg-00000000"}, 0},
	} {
		found := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: &c.filter, Values: c.values}}}))
		if len(found.SecurityGroups) != c.want {
			t.Errorf("filter %s %q: %d groups, want %d", c.filter, c.values, len(found.SecurityGroups), c.want)
		}
	}
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("colour")}}})
	wantCode(t, "unknown filter", err, "InvalidParameterValue", "The filter 'colour' is invalid")

	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId, DryRun: aws.Bool(true)})
	wantCode(t, "dry run", err, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	if _, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId}); err != nil {
		t.Fatal(err)
	}
	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId})
	wantCode(t, "delete twice", err, "InvalidGroup.NotFound", "")
}

func TestGroupsAreDescribedInPages(t *testing.T) {
	w := newWorld(t)
	api := w.as("albert")
	for _, name := range strings.Split("abcdefghijkl", "") {
		if _, err := api.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: &name, Description: &name}); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	pages := sdk.NewDescribeSecurityGroupsPaginator(api, &sdk.DescribeSecurityGroupsInput{MaxResults: aws.Int32(5)})
	for n := 0; pages.HasMorePages(); n++ {
		page := ok[*sdk.DescribeSecurityGroupsOutput](t)(pages.NextPage(t.Context()))
		if len(page.SecurityGroups) > 5 || n > 3 {
			t.Fatalf("page %d has %d groups, want pages 0 to 3 with at most 5 groups", n, len(page.SecurityGroups))
		}
		for _, g := range page.SecurityGroups {
			seen[*g.GroupName] = true
		}
	}
	if len(seen) != 13 {
		t.Errorf("the pages show %d groups, want 13", len(seen))
	}
	_, err := api.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{NextToken: aws.String("%%")})
	wantCode(t, "bad token", err, "InvalidNextToken", "")
}
