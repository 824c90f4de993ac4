package query_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/ec2"
)

// permissionForm returns the parameters of the n-th permission of a request. A port "-" is
// left out.
func permissionForm(n int, protocol, from, to, cidr string) string {
	p := fmt.Sprintf("&IpPermissions.%d.", n)
	form := p + "IpProtocol=" + url.QueryEscape(protocol) + p + "IpRanges.1.CidrIp=" + url.QueryEscape(cidr)
	if from != "-" {
		form += p + "FromPort=" + url.QueryEscape(from)
	}
	if to != "-" {
		form += p + "ToPort=" + url.QueryEscape(to)
	}
	return form
}

// Other systems accepted the kinds of rules that this test sends, and their firewalls
// failed: a bad CIDR stopped all later updates of a host (CVE-2014-0187), as did a port
// with a protocol that has none (CVE-2019-9735); "TCP" was stored unchanged and matched
// nothing (CVE-2012-2654).
func TestBadRulesAreRefusedAndChangeNothing(t *testing.T) {
	w := newWorld(t)
	api := w.as("dev")
	made := ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web")}))
	id := *made.GroupId
	bad := map[string]string{ // the expected code, by permission
		permissionForm(1, "tcp", "1", "1", "203.0.113.5"):                        "InvalidParameterValue",
		permissionForm(1, "tcp", "1", "1", ""):                                   "InvalidParameterValue",
		permissionForm(1, "tcp", "90", "80", "10.0.0.0/8"):                       "InvalidParameterValue",
		permissionForm(1, "tcp", "", "80", "10.0.0.0/8"):                         "InvalidParameterValue",
		permissionForm(1, "tcp", "80", "-", "10.0.0.0/8"):                        "InvalidParameterValue",
		permissionForm(1, "tcp", "-", "80", "10.0.0.0/8"):                        "InvalidParameterValue",
		permissionForm(1, "udp", "-", "-", "10.0.0.0/8"):                         "InvalidParameterValue",
		permissionForm(1, "", "1", "1", "10.0.0.0/8"):                            "InvalidParameterValue",
		permissionForm(1, "icmp", "-1", "0", "10.0.0.0/8"):                       "InvalidParameterValue",
		permissionForm(1, "icmp", "256", "0", "10.0.0.0/8"):                      "InvalidParameterValue",
		permissionForm(1, "icmp", "8", "256", "10.0.0.0/8"):                      "InvalidParameterValue",
		permissionForm(1, "icmp", "-2", "-1", "10.0.0.0/8"):                      "InvalidParameterValue",
		permissionForm(1, "icmp", "8", "-", "10.0.0.0/8"):                        "InvalidParameterValue",
		permissionForm(1, "icmpv6", "-1", "1", "10.0.0.0/8"):                     "InvalidParameterValue",
		permissionForm(1, "icmpv6", "-1", "-", "10.0.0.0/8"):                     "InvalidParameterValue",
		"&IpPermissions.1.IpProtocol=tcp":                                        "MissingParameter",
		permissionForm(1, "tcp\x00", "1", "1", "10.0.0.0/8"):                     "InvalidCharacter",
		permissionForm(1, "tcp", "1", "1", "10.0.0.0/8\x00"):                     "InvalidCharacter",
		"&IpPermissions=tcp":                                                     "InvalidParameterValue",
		"&IpPermissions.1.IpRanges.1CidrIp=10.0.0.0/8":                           "UnknownParameter",
		"&IpPermissions.-1.IpProtocol=tcp":                                       "UnknownParameter",
		"&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupId=sg-":    "InvalidGroupId.Malformed",
		"&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupId=sg-1":   "InvalidGroup.NotFound",
		"&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupName=none": "InvalidGroup.NotFound",
	}
	for _, cidr := range []string{
		"10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "010.0.0.0/8", "0x0a.0.0.0/8", "10.0.0.0/08", " 10.0.0.0/8", "10.0.0.0/8 ",
		"10.0.0.0 /8", "10.0.0.0/\u0668", "\uff11\uff10.0.0.0/8", "10.0.0.0/255.0.0.0", "10.0.0.0/", "/8", "fe80::%eth0/64",
		"::/0", "::ffff:10.0.0.0/104", "167772160/8", "10.0.0.0/8,10.0.0.0/9", "10.0.0.256/8", "0.0.0.0/0/0", "any", "*", "\u202e8/0.0.0.01",
	} {
		bad[permissionForm(1, "tcp", "1", "1", cidr)] = "InvalidParameterValue"
	}
	for _, port := range []string{"-2", "65536", "80.0", "80 ", "0x50", "99999999999999999999", "-99999999999999999999", "2147483648", "http", "1e3", "\uff18\uff10"} {
		bad[permissionForm(1, "tcp", port, "65535", "10.0.0.0/8")] = "InvalidParameterValue"
		bad[permissionForm(1, "udp", "0", port, "10.0.0.0/8")] = "InvalidParameterValue"
	}
	for _, protocol := range []string{"256", "300", "-2", "06", "+6", "6.0", "tcp ", "t\u0441p", "tcp,udp", "*", "any", "0x6", "ip", "all", "ALL"} {
		bad[permissionForm(1, protocol, "1", "1", "10.0.0.0/8")] = "InvalidParameterValue"
	}
	before, _ := w.cluster.View().Group(ec2.GroupID(id))
	good := permissionForm(9, "tcp", "443", "443", "198.51.100.0/24")
	for _, action := range []string{"AuthorizeSecurityGroupIngress", "AuthorizeSecurityGroupEgress", "RevokeSecurityGroupIngress", "UpdateSecurityGroupRuleDescriptionsEgress"} {
		for form, code := range bad {
			got := string(w.body(t, "dev", "Version=2016-11-15&Action="+action+"&GroupId="+id+good+form))
			if !strings.Contains(got, "<Code>"+code+"</Code>") {
				t.Errorf("%s with %q: want %s, got\n%s", action, form, code, got)
			}
		}
	}
	if after, _ := w.cluster.View().Group(ec2.GroupID(id)); after != before {
		t.Errorf("refused requests changed the group to the rules %+v", after.Rules)
	}
}

// Different spellings of a rule are stored in one form.
func TestRulesAreStoredInCanonicalForm(t *testing.T) {
	w := newWorld(t)
	api := w.as("dev")
	made := ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web")}))
	form := "Version=2016-11-15&Action=AuthorizeSecurityGroupIngress&GroupId=" + *made.GroupId
	for n, p := range []string{ // the numbers have gaps, and port ranges may overlap
		permissionForm(1, "TCP", "80", "90", "10.1.2.3/8"),
		permissionForm(5, "6", "85", "95", "10.0.0.0/8"),
		permissionForm(40, "17", "0", "65535", "203.0.113.25/32"),
		permissionForm(3, "Icmp", "-1", "-1", "0.0.0.0/0"),
		permissionForm(100, "47", "80", "90", "1.2.3.4/0"),
		permissionForm(2, "-1", "-", "-", "192.0.2.129/25"),
	} {
		form += p
		if n == 0 {
			form += "&IpPermissions.1.IpRanges.12.CidrIp=192.0.2.0%2F24"
		}
	}
	if got := string(w.body(t, "dev", form)); !strings.Contains(got, "<return>true</return>") {
		t.Fatalf("%s was refused: %s", form, got)
	}
	g, _ := w.cluster.View().Group(ec2.GroupID(*made.GroupId))
	var got []string
	for _, r := range g.Rules[1:] {
		got = append(got, fmt.Sprintf("%s %d %d %s", r.Protocol, r.From, r.To, r.Source.Prefix))
	}
	want := "tcp 80 90 10.0.0.0/8, tcp 80 90 192.0.2.0/24, -1 -1 -1 192.0.2.128/25, icmp -1 -1 0.0.0.0/0, tcp 85 95 10.0.0.0/8, udp 0 65535 203.0.113.25/32, 47 -1 -1 0.0.0.0/0"
	if strings.Join(got, ", ") != want {
		t.Errorf("stored\n%s, want\n%s", strings.Join(got, ", "), want)
	}
}
