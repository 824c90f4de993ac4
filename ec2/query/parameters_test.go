package query_test

import (
	"testing"
)

// Unknown parameters that may decide which traffic is admitted are refused; others are
// ignored.
func TestUnknownDecisiveParametersAreRefused(t *testing.T) {
	w := newWorld(t)
	const (
		v         = "&Version=2016-11-15"
		authorize = "Action=AuthorizeSecurityGroupIngress&GroupName=default&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22&IpPermissions.1.IpRanges.1.CidrIp=192.0.2.0/24" + v
		run       = "Action=RunInstances&ImageId=ami-eca54085&MinCount=1&MaxCount=1&DryRun=true" + v
	)
	for _, c := range []struct{ form, code string }{
		{authorize + "&IpPermissions.1.Ipv6Rangs.1.CidrIpv6=2001:db8::/32", "UnsupportedOperation"},
		{authorize + "&IpPermissions.1.Anything=1", "UnsupportedOperation"},
		{authorize + "&IpPermissions.2=tcp", "UnknownParameter"},
		{authorize + "&IpPermissions.1.IpRanges=192.0.2.0/24", "InvalidParameterValue"},
		{authorize + "&groupname=other", "UnknownParameter"},
		{authorize + "&CidrIP=192.0.2.0/24", "UnknownParameter"},
		{authorize + "&GroupName.1=other", "UnsupportedOperation"},
		{"Action=DeleteSecurityGroup&GroupName=x&VpcIds.1=vpc-1" + v, "UnknownParameter"},
		{run + "&LaunchTemplate.LaunchTemplateName=web", "InvalidLaunchTemplateName.NotFoundException"},
		{"Action=CreateLaunchTemplate&LaunchTemplateName=web&LaunchTemplateData.NetworkInterface.1.Ipv6Addresses.1.Ipv6Address=::1" + v, "UnsupportedOperation"},
		{"Action=CreateLaunchTemplate&LaunchTemplateName=web&LaunchTemplateData.SecurityGroups.1=default" + v, "UnsupportedOperation"},
		{run + "&Ipv6AddressCount=1", "UnsupportedOperation"},
		{run + "&SecurityGroups.1=default", "UnknownParameter"},

		{run + "&Ipv6AddressCount=0&EbsOptimized=true&CreditSpecification.CpuCredits=standard", "DryRunOperation"},
		{run + "&MetadataOptions.HttpEndpoint=enabled&MetadataOptions.HttpProtocolIpv6=disabled&Placement.SpreadDomain=spread", "DryRunOperation"},
		{run + "&Monitoring.Enabled=false&FromTheFuture.1.Name=x&UserId=x", "DryRunOperation"},
		{"Action=DescribeSecurityGroups&IncludeVpcPeering=true" + v, ""},
		{"Action=DescribeSecurityGroups&Filter=default" + v, "InvalidParameterValue"},
	} {
		status, code := answer(t, w.post(t, c.form, nil))
		if code != c.code || status >= 500 {
			t.Errorf("%s: got %d %s, want %s", c.form, status, code, c.code)
		}
	}
	if g, _ := w.cluster.View().GroupNamed(albert, region, "", "default"); len(g.Rules) != 3 {
		t.Errorf("after refused requests the group has the rules %v, want the 3 of a default group", g.Rules)
	}
}

func TestUnservedActionsAreRefused(t *testing.T) {
	w := newWorld(t)
	for action, want := range map[string]string{
		"CreateCarrierGateway":    "UnsupportedOperation",
		"CreateFleet":             "UnsupportedOperation",
		"createSecurityGroup":     "InvalidAction",
		"CreateSecurityGroup%00":  "InvalidCharacter",
		"MakeMeASandwich":         "InvalidAction",
		"GetCallerIdentity":       "InvalidAction",
		"DescribeSecurityGroups+": "InvalidAction",
	} {
		if status, code := answer(t, w.post(t, "Action="+action+"&Version=2016-11-15", nil)); status != 400 || code != want {
			t.Errorf("%s: got %d %s, want %s", action, status, code, want)
		}
	}
}
