package state

import (
	"slices"
	"testing"

	"palisade/ec2"
)

func option(key string, values ...string) []ec2.DHCPOption {
	return []ec2.DHCPOption{{Key: key, Values: values}}
}

func TestDHCPOptionsOfAVPCAreNotDeleted(t *testing.T) {
	w := newVPCWorld(t)
	vpc := w.subnet.VPC
	set := w.must(&CreateDHCPOptions{Account: dev, Region: east, Options: option("domain-name", "example.com")}).DHCP
	standard := DefaultDHCPOptions(dev, east)
	if got := slices.Collect(w.state.View().DHCPOptionsOf(dev, east)); len(got) != 2 || got[0].ID != standard.ID || got[1].ID != set.ID {
		t.Errorf("the account has the sets %v, want the default one and %s", got, set.ID)
	}
	w.must(&AssociateDHCPOptions{dev, east, vpc, set.ID})
	w.refused(&DeleteDHCPOptions{dev, east, set.ID}, "DependencyViolation")
	w.must(&AssociateDHCPOptions{dev, east, vpc, ec2.NoDHCPOptions})
	if got, _ := w.state.View().FindVPC(dev, east, vpc); got.DHCPOptions != ec2.NoDHCPOptions {
		t.Errorf("the VPC has the options %q, want %q", got.DHCPOptions, ec2.NoDHCPOptions)
	}
	w.must(&DeleteDHCPOptions{dev, east, set.ID})
	w.must(&AssociateDHCPOptions{dev, east, vpc, standard.ID})
	if got, _ := w.state.View().FindVPC(dev, east, vpc); got.DHCPOptions != "" {
		t.Errorf("the VPC has the options %q, want the default set", got.DHCPOptions)
	}
	w.refused(&DeleteDHCPOptions{dev, east, standard.ID}, "DependencyViolation")
	w.refused(&AssociateDHCPOptions{dev, east, vpc, set.ID}, "InvalidDhcpOptionID.NotFound")
	w.refused(&AssociateDHCPOptions{dev, east, "vpc-0a1b2c3d", standard.ID}, "InvalidVpcID.NotFound")
	w.refused(&DeleteDHCPOptions{albert, east, set.ID}, "InvalidDhcpOptionID.NotFound")
	w.must(&CreateTags{Account: dev, Region: east, Resources: []string{string(standard.ID)}, Tags: map[string]string{"Name": "standard"}})
}

func TestDHCPOptionsAreCheckedAsEC2DoesIt(t *testing.T) {
	w := newVPCWorld(t)
	for _, c := range []struct {
		options []ec2.DHCPOption
		code    string // "": accepted
	}{
		{option("domain-name", "corp.example.com"), ""},
		{option("domain-name-servers", "10.2.5.1", "10.2.5.2", "AmazonProvidedDNS", "fd00::1"), ""},
		{option("ntp-servers", "169.254.169.123"), ""},
		{option("netbios-node-type", "2"), ""},
		{option("netbios-name-servers", "10.2.5.1"), ""},
		{option("ipv6-address-preferred-lease-time", "140"), ""},
		{nil, "MissingParameter"},
		{option("", "x"), "MissingParameter"},
		{option("domain-name"), "MissingParameter"},
		{option("router", "10.0.0.1"), "InvalidParameterValue"},
		{option("domain-name", "a", "b"), "InvalidParameterValue"},
		{option("ntp-servers", "1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"), "InvalidParameterValue"},
		{option("ntp-servers", "time.example.com"), "InvalidParameterValue"},
		{option("netbios-node-type", "3"), "InvalidParameterValue"},
		{append(option("domain-name", "a"), option("domain-name", "b")...), "InvalidParameterValue"},
	} {
		req := &CreateDHCPOptions{Account: dev, Region: east, Options: c.options}
		if c.code == "" {
			w.must(req)
		} else {
			w.refused(req, c.code)
		}
	}
	w.must(&putSettings{ec2.Settings{DHCPOptionsPerRegion: 6}})
	w.refused(&CreateDHCPOptions{Account: dev, Region: east, Options: option("domain-name", "a")}, "ResourceLimitExceeded")
}

func TestDefaultDHCPOptionsHaveTheDomainOfTheRegion(t *testing.T) {
	for region, domain := range map[ec2.Region]string{east: "ec2.internal", "eu-west-1": "eu-west-1.compute.internal"} {
		d := DefaultDHCPOptions(dev, region)
		if d.Options[0].Values[0] != domain || d.Options[1].Values[0] != "AmazonProvidedDNS" {
			t.Errorf("the default options of %s are %v, want domain %s and AmazonProvidedDNS", region, d.Options, domain)
		}
	}
	if DefaultDHCPOptions(dev, east).ID == DefaultDHCPOptions(albert, east).ID {
		t.Error("two accounts have the same default set")
	}
}
