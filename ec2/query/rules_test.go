package query_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// permission makes a permission of one protocol and port range for some CIDRs.
func permission(protocol string, from, to int32, cidrs ...string) types.IpPermission {
	p := types.IpPermission{IpProtocol: &protocol, FromPort: &from, ToPort: &to}
	for _, c := range cidrs {
		p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: &c})
	}
	return p
}

// A groupWeb is a group "web" of the account albert.
type groupWeb struct {
	*world
	api *sdk.Client
}

func newGroupWeb(t *testing.T) *groupWeb {
	t.Helper()
	w := newWorld(t)
	g := &groupWeb{w, w.as("albert")}
	ok[*sdk.CreateSecurityGroupOutput](t)(g.api.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web")}))
	return g
}

func (g *groupWeb) authorize(t *testing.T, p ...types.IpPermission) (*sdk.AuthorizeSecurityGroupIngressOutput, error) {
	return g.api.AuthorizeSecurityGroupIngress(t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupName: aws.String("web"), IpPermissions: p})
}

// wantRules checks the group's permissions: each protocol with its sources.
func (g *groupWeb) wantRules(t *testing.T, want string) {
	t.Helper()
	group := ok[*sdk.DescribeSecurityGroupsOutput](t)(g.api.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{GroupNames: []string{"web"}})).SecurityGroups[0]
	var b strings.Builder
	for _, p := range group.IpPermissions {
		b.WriteString(*p.IpProtocol)
		for _, r := range p.IpRanges {
			b.WriteString(" " + *r.CidrIp)
		}
		for _, r := range p.UserIdGroupPairs {
			b.WriteString(" " + *r.UserId + "/" + *r.GroupName)
		}
		b.WriteString("; ")
	}
	if got := b.String(); got != want {
		t.Errorf("rules are %q, want %q", got, want)
	}
}

func TestRulesAreAuthorizedAndRevoked(t *testing.T) {
	g := newGroupWeb(t)
	api, ctx := g.api, t.Context()
	added := ok[*sdk.AuthorizeSecurityGroupIngressOutput](t)(g.authorize(t, permission("TCP", 22, 22, "203.0.113.25/32", "100.68.0.18/18"), permission("1", -1, -1, "0.0.0.0/0")))
	if len(added.SecurityGroupRules) != 3 || len(*added.SecurityGroupRules[0].SecurityGroupRuleId) != len("sgr-")+17 {
		t.Errorf("AuthorizeSecurityGroupIngress returned %+v, want three rules", added.SecurityGroupRules)
	}
	g.wantRules(t, "tcp 203.0.113.25/32 100.68.0.0/18; icmp 0.0.0.0/0; ")

	// A source group of another account, without a protocol, stands for tcp, udp and
	// icmp.
	ok[*sdk.AuthorizeSecurityGroupIngressOutput](t)(api.AuthorizeSecurityGroupIngress(ctx, &sdk.AuthorizeSecurityGroupIngressInput{
		GroupName: aws.String("web"), SourceSecurityGroupName: aws.String("default"), SourceSecurityGroupOwnerId: aws.String(mary),
	}))
	g.wantRules(t, "tcp 203.0.113.25/32 100.68.0.0/18; icmp 0.0.0.0/0 495219933132/default; tcp 495219933132/default; udp 495219933132/default; ")

	revoked := ok[*sdk.RevokeSecurityGroupIngressOutput](t)(api.RevokeSecurityGroupIngress(ctx, &sdk.RevokeSecurityGroupIngressInput{
		GroupName:     aws.String("web"),
		IpPermissions: []types.IpPermission{permission("tcp", 22, 22, "100.68.7.7/18", "192.0.2.0/24")},
	}))
	if len(revoked.UnknownIpPermissions) != 1 || *revoked.UnknownIpPermissions[0].IpRanges[0].CidrIp != "192.0.2.0/24" || len(revoked.RevokedSecurityGroupRules) != 1 {
		t.Errorf("RevokeSecurityGroupIngress returned %+v, want one revoked and one unknown rule", revoked)
	}
	g.wantRules(t, "tcp 203.0.113.25/32; icmp 0.0.0.0/0 495219933132/default; tcp 495219933132/default; udp 495219933132/default; ")
	_, err := api.AuthorizeSecurityGroupEgress(ctx, &sdk.AuthorizeSecurityGroupEgressInput{GroupId: added.SecurityGroupRules[0].GroupId, IpPermissions: []types.IpPermission{permission("tcp", 1, 1, "0.0.0.0/0")}})
	wantCode(t, "egress", err, "InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
}

var invalidPermissions = []struct {
	what string
	p    types.IpPermission
	code string
}{
	{"no length", permission("tcp", 1, 2, "203.0.113.5"), "InvalidParameterValue"},
	{"octal", permission("tcp", 1, 2, "010.0.0.0/8"), "InvalidParameterValue"},
	{"length 33", permission("tcp", 1, 2, "10.0.0.0/33"), "InvalidParameterValue"},
	{"length 08", permission("tcp", 1, 2, "10.0.0.0/08"), "InvalidParameterValue"},
	{"IPv6", permission("tcp", 1, 2, "::/0"), "InvalidParameterValue"},
	{"mapped", permission("tcp", 1, 2, "::ffff:10.0.0.0/104"), "InvalidParameterValue"},
	{"ports crossed", permission("tcp", 90, 80, "10.0.0.0/8"), "InvalidParameterValue"},
	{"port too high", permission("udp", 1, 65536, "10.0.0.0/8"), "InvalidParameterValue"},
	{"port -1", permission("tcp", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
	{"type 256", permission("icmp", 256, 0, "10.0.0.0/8"), "InvalidParameterValue"},
	{"any type, one code", permission("icmp", -1, 3, "10.0.0.0/8"), "InvalidParameterValue"},
	{"gre", permission("47", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
	{"all", permission("-1", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
	{"no such protocol", permission("tcpp", 1, 2, "10.0.0.0/8"), "InvalidParameterValue"},
	{"no source", permission("tcp", 1, 2), "MissingParameter"},
	{"no ports", types.IpPermission{IpProtocol: aws.String("tcp"), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}, "InvalidParameterValue"},
	{"no protocol", types.IpPermission{IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}, "MissingParameter"},
	{"unknown group", types.IpPermission{UserIdGroupPairs: []types.UserIdGroupPair{{GroupName: aws.String("nobody")}}}, "InvalidGroup.NotFound"},
	{"IPv6 range beside", types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(1), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}, Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}, "InvalidParameterValue"},
}

func TestInvalidPermissionAddsNoRule(t *testing.T) {
	g := newGroupWeb(t)
	ok[*sdk.AuthorizeSecurityGroupIngressOutput](t)(g.authorize(t, permission("tcp", 22, 22, "203.0.113.25/32")))
	_, err := g.authorize(t, permission("tcp", 80, 80, "0.0.0.0/0"), permission("6", 22, 22, "203.0.113.25/32"))
	wantCode(t, "duplicate", err, "InvalidPermission.Duplicate", `the specified rule "peer: 203.0.113.25/32, TCP, from port: 22, to port: 22, ALLOW" already exists`)
	_, err = g.authorize(t, permission("tcp", 80, 80, "10.0.0.1/8", "10.0.0.0/8"))
	wantCode(t, "same twice", err, "InvalidParameterValue", "The same permission must not appear multiple times")
	for _, c := range invalidPermissions {
		_, err := g.authorize(t, permission("tcp", 8080, 8080, "10.0.0.0/8"), c.p)
		wantCode(t, c.what, err, c.code, "")
	}
	g.wantRules(t, "tcp 203.0.113.25/32; ")
}
