package query_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

// describeGroupsForm makes a request with filters such as "group-name=a|b vpc-id=c".
func describeGroupsForm(filters string) string {
	form := "Action=DescribeSecurityGroups"
	for n, f := range strings.Fields(filters) {
		name, values, _ := strings.Cut(f, "=")
		form += fmt.Sprintf("&Filter.%d.Name=%s", n+1, url.QueryEscape(name))
		for m, v := range strings.Split(values, "|") {
			form += fmt.Sprintf("&Filter.%d.Value.%d=%s", n+1, m+1, url.QueryEscape(v))
		}
	}
	return form
}

func TestGroupsAreFiltered(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("dev"), t.Context()
	say := func(form string) string {
		t.Helper()
		got := string(w.body(t, "dev", "Version=2016-11-15&"+form))
		if strings.Contains(got, "<Errors>") {
			t.Fatalf("%s failed: %s", form, got)
		}
		return got
	}
	home := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, nil)).SecurityGroups[0]
	web := *ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("a*b")})).GroupId
	say("Action=AuthorizeSecurityGroupIngress&GroupId=" + web + permissionForm(1, "tcp", "80", "90", "203.0.113.0/24") + permissionForm(2, "50", "1", "2", "198.51.100.0/24") +
		"&IpPermissions.3.IpProtocol=udp&IpPermissions.3.FromPort=53&IpPermissions.3.ToPort=53&IpPermissions.3.Groups.1.GroupName=default")
	say("Action=RevokeSecurityGroupEgress&GroupId=" + web + permissionForm(1, "-1", "-", "-", "0.0.0.0/0"))
	say("Action=AuthorizeSecurityGroupEgress&GroupId=" + web + permissionForm(1, "tcp", "443", "443", "192.0.2.0/24"))
	say("Action=CreateTags&ResourceId.1=" + web + "&Tag.1.Key=Stage&Tag.1.Value=Test&Tag.2.Key=Owner&Tag.2.Value=")
	for _, c := range []struct {
		filters string // "name=value|value name=value"
		want    string
	}{
		{"group-name=web", "web"},
		{"group-name=WEB", ""}, // values are case-sensitive
		{"group-name=w?b|x", "web"},
		{`description=a\*b`, "web"},
		{`description=a\*c`, ""},
		{"description=default*", "default"},
		{"vpc-id=" + *home.VpcId, "default web"},
		{"vpc-id=vpc-0", ""},
		{"owner-id=123456789012", "default web"},
		{"group-id=" + web, "web"},
		{"ip-permission.cidr=203.0.113.0/24", "web"},
		{"ip-permission.cidr=192.0.2.0/24", ""},                        // an egress rule has it
		{"ip-permission.from-port=80 ip-permission.to-port=53", "web"}, // each filter matches another rule
		{"ip-permission.from-port=-1", ""},                             // rules without ports show none
		{"ip-permission.protocol=50", "web"},
		{"ip-permission.protocol=-1", "default"},
		{"ip-permission.group-id=" + *home.GroupId, "default web"},
		{"ip-permission.group-name=*", ""}, // rules in a VPC show no name
		{"ip-permission.user-id=123456789012", "default web"},
		{"ip-permission.ipv6-cidr=*", ""},
		{"ip-permission.prefix-list-id=*", ""},
		{"egress.ip-permission.cidr=192.0.2.0/24", "web"},
		{"egress.ip-permission.cidr=0.0.0.0/0", "default"},
		{"egress.ip-permission.protocol=tcp", "web"},
		{"egress.ip-permission.from-port=443 egress.ip-permission.to-port=443", "web"},
		{"egress.ip-permission.group-id=*", ""},
		{"egress.ip-permission.group-name=*", ""},
		{"egress.ip-permission.user-id=*", ""},
		{"egress.ip-permission.ipv6-cidr=*", ""},
		{"egress.ip-permission.prefix-list-id=*", ""},
		{"tag:Stage=Test", "web"},
		{"tag:Stage=T*|x", "web"},
		{"tag:stage=Test", ""},
		{"tag:Stage=test", ""},
		{"tag:Stage=Test tag:Owner=", "web"},
		{"tag-key=Own*", "web"},
		{"tag-value=Test tag-key=Owner", "web"},
		{"tag-value=Tes", ""},
		{"group-name=web tag-key=Stage", "web"},
		{"group-name=default tag-key=Stage", ""},
	} {
		var names []string
		for _, part := range strings.Split(say(describeGroupsForm(c.filters)), "<groupName>")[1:] {
			name, _, _ := strings.Cut(part, "<")
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("filter %s finds %q, want %q", c.filters, got, c.want)
		}
	}
}

func TestFilterValuesAreBounded(t *testing.T) {
	w := newWorld(t)
	many := "Version=2016-11-15&Action=DescribeSecurityGroups&Filter.1.Name=group-name"
	for n := range 201 {
		many += fmt.Sprintf("&Filter.1.Value.%d=x", n+1)
	}
	tags := strings.ReplaceAll(strings.ReplaceAll(many, "SecurityGroups", "Tags"), "group-name", "tag-value")
	for _, request := range []string{many, tags} {
		if got := string(w.body(t, "dev", request)); !strings.Contains(got, "<Code>FilterLimitExceeded</Code>") {
			t.Errorf("201 values: got %s, want FilterLimitExceeded", got)
		}
	}
	for length, want := range map[int]string{2048: "<securityGroupInfo/>", 2049: "<Code>InvalidParameterValue</Code>"} {
		long := "Version=2016-11-15&Action=DescribeSecurityGroups&Filter.1.Name=group-name&Filter.1.Value.1=x" + strings.Repeat("*", length-1)
		if got := string(w.body(t, "dev", long)); !strings.Contains(got, want) {
			t.Errorf("a value of %d bytes: got %s, want %s", length, got, want)
		}
	}
}
