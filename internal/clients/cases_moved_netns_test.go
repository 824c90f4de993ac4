package clients

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/internal/lab/labtest"
)

// movedAddress moves a secondary address from the server to the client, as a standby takes it over. A neighbour,
// whose ARP cache has the server's MAC address, reaches the new owner at once, and the new owner's rules decide.
func (s *testbed) movedAddress(t *testing.T) {
	const vip = "10.0.1.202"
	address, yes := netip.MustParseAddr(vip), true
	neighbour := s.launch(t, "neighbour", s.serverSubnet, s.groups["other"])
	both, first := permission("tcp", 7113, 7113, "10.0.0.0/16"), permission("tcp", 7114, 7114, "10.0.0.0/16")
	s.admit(t, s.groups["server"], both, first)
	s.admit(t, s.groups["client"], both)
	assign := func(nic string) func(t *testing.T) {
		return func(t *testing.T) {
			_, err := s.c.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &nic, PrivateIpAddresses: []string{vip}, AllowReassignment: &yes})
			check(t, err)
		}
	}
	own := func(has, not instance) { // in the operating systems, as users must do
		inNamespace(t, not.host, "ip", "address", "flush", "to", vip+"/32")
		inNamespace(t, has.host, "ip", "address", "replace", vip+"/32", "dev", "lo")
	}
	reached := func(at instance, kind string) []probe {
		return []probe{toAddress(neighbour.host, address, at, kind), toAddress(s.other.host, address, at, kind)}
	}
	own(s.server, s.client)
	s.checkChanges(t, change{action: "AssignPrivateIpAddresses", do: assign(s.server.nic), open: append(reached(s.server, "tcp/7113"), reached(s.server, "tcp/7114")...)})
	own(s.client, s.server)
	s.checkChanges(t, change{action: "AssignPrivateIpAddresses to a standby", do: assign(s.client.nic), open: reached(s.client, "tcp/7113"), silent: reached(s.client, "tcp/7114")})
	own(s.server, s.client)
	s.checkChanges(t, change{action: "AssignPrivateIpAddresses back", do: assign(s.server.nic), open: reached(s.server, "tcp/7114")})

	_, err := s.c.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{vip}})
	check(t, err)
	s.wantSilence(t, "after UnassignPrivateIpAddresses", reached(s.server, "tcp/7114")...)
	inNamespace(t, s.server.host, "ip", "address", "flush", "to", vip+"/32")
	s.revoke(t, s.groups["server"], both, first)
	s.revoke(t, s.groups["client"], both)
	_, err = s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{neighbour.id}})
	check(t, err)
	labtest.Eventually(t, "the neighbour is terminated", func() bool {
		out, err := s.c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{neighbour.id}})
		check(t, err)
		return out.Reservations[0].Instances[0].State.Name == "terminated"
	})
}
