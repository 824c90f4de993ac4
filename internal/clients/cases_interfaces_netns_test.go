package clients

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab/labtest"
)

func (s *testbed) interfaces(t *testing.T) {
	group := s.group(t, s.vpc, "second")
	s.admit(t, group, permission("icmp", -1, -1, "10.0.0.0/16"), permission("tcp", 7100, 7100, "10.0.0.0/16"))
	made, err := s.c.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &s.secondSubnet, Groups: []string{group}})
	check(t, err)
	nic, address := *made.NetworkInterface.NetworkInterfaceId, netip.MustParseAddr(*made.NetworkInterface.PrivateIpAddress)
	probes := []probe{toAddress(s.other.host, address, s.client, "icmp"), toAddress(s.other.host, address, s.client, "tcp/7100")}
	primary := []probe{to(s.other.host, s.client, "icmp"), to(s.other.host, s.client, "tcp/7100")}
	attachment := ""
	attach := func(t *testing.T) {
		out, err := s.c.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &nic, InstanceId: &s.client.id, DeviceIndex: aws.Int32(1)})
		check(t, err)
		attachment = *out.AttachmentId
		s.attached(t, nic, types.AttachmentStatusAttached)
	}
	detach := func(t *testing.T) {
		_, err := s.c.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &attachment})
		check(t, err)
	}
	s.checkChanges(t,
		change{action: "AttachNetworkInterface", do: attach, open: probes, silent: primary},
		change{action: "ModifyNetworkInterfaceAttribute of the second interface",
			do: func(t *testing.T) {
				_, err := s.c.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &nic, Groups: []string{s.groups["client"]}})
				check(t, err)
			},
			shut: probes, silent: primary},
		change{action: "ModifyNetworkInterfaceAttribute of the second interface",
			do: func(t *testing.T) {
				_, err := s.c.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &nic, Groups: []string{group}})
				check(t, err)
			},
			open: probes, silent: primary},
		change{action: "DetachNetworkInterface", do: detach, shut: probes, silent: primary},
	)
	s.attached(t, nic, "")
	s.checkChanges(t, change{action: "AttachNetworkInterface again", do: attach, open: probes})
	detach(t)
	s.attached(t, nic, "")
	_, err = s.c.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &nic})
	check(t, err)
	s.wantSilence(t, "after DeleteNetworkInterface", probes...)
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
	check(t, err)
}

// attached waits until the attachment of an interface has the state want, or until the interface
// has no attachment if want is "".
func (s *testbed) attached(t *testing.T, nic string, want types.AttachmentStatus) {
	t.Helper()
	labtest.Eventually(t, nic+" is "+string(want), func() bool {
		out, err := s.c.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{nic}})
		check(t, err)
		if at := out.NetworkInterfaces[0].Attachment; at != nil {
			return at.Status == want
		}
		return want == "" && out.NetworkInterfaces[0].Status == types.NetworkInterfaceStatusAvailable
	})
}

// secondaryAddresses checks that an interface has a secondary address as soon as
// AssignPrivateIpAddresses returns. The test configures the address in the instance's operating
// system, which users must do too (EC2 User Guide, "Secondary IP addresses").
func (s *testbed) secondaryAddresses(t *testing.T) {
	rule := permission("tcp", 7110, 7110, "10.0.0.0/16")
	s.admit(t, s.groups["server"], rule)
	address := netip.MustParseAddr("10.0.1.200")
	inNamespace(t, s.server.host, "ip", "address", "replace", "10.0.1.200/32", "dev", "lo")
	fromGroup := permission("tcp", 7111, 7111, s.groups["server"])
	s.admit(t, s.groups["other"], fromGroup)
	s.checkChanges(t,
		change{action: "AssignPrivateIpAddresses",
			do: func(t *testing.T) {
				_, err := s.c.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.200"}})
				check(t, err)
			},
			open:   []probe{toAddress(s.client.host, address, s.server, "tcp/7110"), toAddress(s.other.host, address, s.server, "tcp/7110")},
			same:   []probe{to(s.client.host, s.server, "tcp/7110")},
			silent: []probe{toAddress(s.client.host, address, s.server, "tcp/7112")}},
		change{action: "UnassignPrivateIpAddresses",
			do: func(t *testing.T) {
				_, err := s.c.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.200"}})
				check(t, err)
			},
			shut: []probe{toAddress(s.client.host, address, s.server, "tcp/7110"), toAddress(s.other.host, address, s.server, "tcp/7110")},
			same: []probe{to(s.client.host, s.server, "tcp/7110")}},
	)
	inNamespace(t, s.server.host, "ip", "address", "del", "10.0.1.200/32", "dev", "lo")
	s.revoke(t, s.groups["server"], rule)
	s.revoke(t, s.groups["other"], fromGroup)
}

// sourceDestCheck checks that an interface may send packets with foreign source addresses while
// its source/destination check is off, and that rules with a group as source do not admit such
// packets.
func (s *testbed) sourceDestCheck(t *testing.T) {
	foreign := netip.MustParseAddr("192.168.77.1")
	inNamespace(t, s.client.host, "ip", "address", "replace", foreign.String()+"/32", "dev", "lo")
	rule := permission("60", -1, -1, "192.168.77.0/24")
	byGroup := permission("61", -1, -1, s.groups["client"])
	s.admit(t, s.groups["server"], rule, byGroup)
	probe := func(kind string) probe {
		r := to(s.client.host, s.server, kind)
		r.source = foreign
		return r
	}
	set := func(on bool) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &s.client.nic, SourceDestCheck: &types.AttributeBooleanValue{Value: &on}})
			check(t, err)
		}
	}
	setInstance := func(on bool) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &s.client.id, SourceDestCheck: &types.AttributeBooleanValue{Value: &on}})
			check(t, err)
		}
	}
	s.checkChanges(t,
		change{action: "ModifyNetworkInterfaceAttribute: check off", do: set(false), open: probes(probe("proto/60")), silent: probes(probe("proto/61"))},
		change{action: "ModifyNetworkInterfaceAttribute: check on", do: set(true), shut: probes(probe("proto/60")), silent: probes(probe("proto/61"))},
		change{action: "ModifyInstanceAttribute: check off", do: setInstance(false), open: probes(probe("proto/60"))},
		change{action: "ModifyInstanceAttribute: check on", do: setInstance(true), shut: probes(probe("proto/60"))},
		change{action: "ModifyInstanceAttribute: check off", do: setInstance(false), open: probes(probe("proto/60"))},
		change{action: "ResetNetworkInterfaceAttribute",
			do: func(t *testing.T) {
				_, err := s.c.ResetNetworkInterfaceAttribute(t.Context(), &ec2.ResetNetworkInterfaceAttributeInput{NetworkInterfaceId: &s.client.nic, SourceDestCheck: aws.String("true")})
				check(t, err)
			},
			shut: probes(probe("proto/60"))},
		change{action: "ModifyNetworkInterfaceAttribute: check off", do: set(false), open: probes(probe("proto/60"))},
		change{action: "ResetInstanceAttribute",
			do: func(t *testing.T) {
				_, err := s.c.ResetInstanceAttribute(t.Context(), &ec2.ResetInstanceAttributeInput{InstanceId: &s.client.id, Attribute: types.InstanceAttributeNameSourceDestCheck})
				check(t, err)
			},
			shut: probes(probe("proto/60"))},
	)
	s.revoke(t, s.groups["server"], rule, byGroup)
	inNamespace(t, s.client.host, "ip", "address", "del", foreign.String()+"/32", "dev", "lo")
}
