package clients

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab/labtest"
)

// waitState waits until an instance has the state want.
func (s *testbed) waitState(t *testing.T, in instance, want string) {
	t.Helper()
	labtest.Eventually(t, in.name+" is "+want, func() bool {
		out, err := s.c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{in.id}})
		check(t, err)
		return string(out.Reservations[0].Instances[0].State.Name) == want
	})
}

func probes(list ...probe) []probe { return list }

// allocate allocates an elastic address and returns its allocation id and the address.
func (s *testbed) allocate(t *testing.T) (allocation string, address netip.Addr) {
	t.Helper()
	out, err := s.c.AllocateAddress(t.Context(), &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	check(t, err)
	return *out.AllocationId, netip.MustParseAddr(*out.PublicIp)
}

func (s *testbed) release(t *testing.T, allocation string) {
	t.Helper()
	_, err := s.c.ReleaseAddress(t.Context(), &ec2.ReleaseAddressInput{AllocationId: &allocation})
	check(t, err)
}

func (s *testbed) route(t *testing.T, table, cidr string) {
	t.Helper()
	_, err := s.c.CreateRoute(t.Context(), &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr, GatewayId: &s.gateway})
	check(t, err)
}

func (s *testbed) unroute(t *testing.T, table, cidr string) {
	t.Helper()
	_, err := s.c.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr})
	check(t, err)
}

// associate associates an elastic address with an instance and returns the association's id.
func (s *testbed) associate(t *testing.T, allocation string, in instance, reassociate bool) string {
	t.Helper()
	out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &in.id, AllowReassociation: &reassociate})
	check(t, err)
	return *out.AssociationId
}

func (s *testbed) disassociate(t *testing.T, association string) {
	t.Helper()
	_, err := s.c.DisassociateAddress(t.Context(), &ec2.DisassociateAddressInput{AssociationId: &association})
	check(t, err)
}

// admitOutside adds ingress rules by which laptop and stranger reach server and client on a TCP
// port. undo removes the rules.
func (s *testbed) admitOutside(t *testing.T, port int32) (undo func()) {
	rule := permission("tcp", port, port, "203.0.113.0/24", "198.51.100.0/24")
	s.admit(t, s.groups["server"], rule)
	s.admit(t, s.groups["client"], rule)
	return func() {
		s.revoke(t, s.groups["server"], rule)
		s.revoke(t, s.groups["client"], rule)
	}
}

func (s *testbed) elasticAddresses(t *testing.T) {
	defer s.admitOutside(t, 7120)()
	s.route(t, s.routes, "0.0.0.0/0")
	allocation, address := s.allocate(t)
	association := ""
	toServer, toClient := toAddress(s.laptop, address, s.server, "tcp/7120"), toAddress(s.laptop, address, s.client, "tcp/7120")
	out := probe{from: s.server.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop}
	s.checkChanges(t,
		change{action: "AssociateAddress", do: func(t *testing.T) { association = s.associate(t, allocation, s.server, false) },
			open: probes(toServer, out), silent: probes(toAddress(s.laptop, address, s.server, "tcp/7122"))},
		change{action: "AssociateAddress without AllowReassociation",
			do: func(t *testing.T) {
				_, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &s.client.id, AllowReassociation: aws.Bool(false)})
				if code(err) != "Resource.AlreadyAssociated" {
					t.Errorf("AssociateAddress of an address that another instance has returned %v, want Resource.AlreadyAssociated", err)
				}
			},
			same: probes(toServer, out)},
		change{action: "DisassociateAddress", do: func(t *testing.T) { s.disassociate(t, association) }, shut: probes(toServer, out)},
		change{action: "AssociateAddress with an interface",
			do: func(t *testing.T) {
				out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, NetworkInterfaceId: &s.server.nic})
				check(t, err)
				association = *out.AssociationId
			},
			open: probes(toServer, out)},
	)
	// An elastic address can also be associated with a secondary address.
	s.disassociate(t, association)
	inNamespace(t, s.server.host, "ip", "address", "replace", "10.0.1.201/32", "dev", "lo")
	_, err := s.c.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.201"}})
	check(t, err)
	s.checkChanges(t,
		change{action: "AssociateAddress with a secondary address",
			do: func(t *testing.T) {
				out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, NetworkInterfaceId: &s.server.nic, PrivateIpAddress: aws.String("10.0.1.201")})
				check(t, err)
				association = *out.AssociationId
			},
			open: probes(toServer), silent: probes(out)}, // the instance sends from its primary address, which has no elastic address
		change{action: "UnassignPrivateIpAddresses",
			do: func(t *testing.T) {
				_, err := s.c.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.201"}})
				check(t, err)
			},
			shut: probes(toServer)},
	)
	inNamespace(t, s.server.host, "ip", "address", "del", "10.0.1.201/32", "dev", "lo")
	association = s.associate(t, allocation, s.server, true)
	s.wantSilence(t, "before the client has the address", probe{from: s.client.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop})
	association = s.associate(t, allocation, s.client, true)
	s.wantAnswers(t, "after AssociateAddress with AllowReassociation", toClient, probe{from: s.client.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop})
	s.wantSilence(t, "after AssociateAddress with AllowReassociation", out)
	s.disassociate(t, association)
	s.wantSilence(t, "after DisassociateAddress", toClient)
	s.release(t, allocation)
	s.wantSilence(t, "after ReleaseAddress", toServer, toClient)
	s.unroute(t, s.routes, "0.0.0.0/0")
}

func (s *testbed) routesToTheGateway(t *testing.T) {
	defer s.admitOutside(t, 7130)()
	allocation, address := s.allocate(t)
	association := s.associate(t, allocation, s.server, false)
	fromLaptop, fromStranger := toAddress(s.laptop, address, s.server, "tcp/7130"), toAddress(s.stranger, address, s.server, "tcp/7130")
	out := probe{from: s.server.host, to: strangerAddress, kind: "tcp/7131", at: s.stranger}
	s.checkChanges(t,
		change{action: "CreateRoute", do: func(t *testing.T) { s.route(t, s.routes, "0.0.0.0/0") }, open: probes(fromLaptop, fromStranger, out)},
		change{action: "DeleteRoute", do: func(t *testing.T) { s.unroute(t, s.routes, "0.0.0.0/0") }, shut: probes(fromLaptop, fromStranger, out)},
		change{action: "CreateRoute to the laptop's network", do: func(t *testing.T) { s.route(t, s.routes, "203.0.113.0/24") }, open: probes(fromLaptop), silent: probes(fromStranger, out)},
		change{action: "DeleteRoute", do: func(t *testing.T) { s.unroute(t, s.routes, "203.0.113.0/24") }, shut: probes(fromLaptop)},
	)
	s.disassociate(t, association)
	s.release(t, allocation)
}

// gateways checks that a route to a detached gateway drops all packets, and that packets pass
// after ReplaceRoute to an attached gateway.
func (s *testbed) gateways(t *testing.T) {
	defer s.admitOutside(t, 7140)()
	allocation, address := s.allocate(t)
	association := s.associate(t, allocation, s.server, false)
	s.route(t, s.routes, "0.0.0.0/0")
	r := toAddress(s.laptop, address, s.server, "tcp/7140")
	other, err := s.c.CreateInternetGateway(t.Context(), &ec2.CreateInternetGatewayInput{})
	check(t, err)
	first, second := s.gateway, *other.InternetGateway.InternetGatewayId
	attach := func(gateway string) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.AttachInternetGateway(t.Context(), &ec2.AttachInternetGatewayInput{InternetGatewayId: &gateway, VpcId: &s.vpc})
			check(t, err)
		}
	}
	detach := func(gateway string) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.DetachInternetGateway(t.Context(), &ec2.DetachInternetGatewayInput{InternetGatewayId: &gateway, VpcId: &s.vpc})
			check(t, err)
		}
	}
	replace := func(gateway string) func(*testing.T) {
		return func(t *testing.T) {
			_, err := s.c.ReplaceRoute(t.Context(), &ec2.ReplaceRouteInput{RouteTableId: &s.routes, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: &gateway})
			check(t, err)
		}
	}
	if got := code(errorOf(s.c.DetachInternetGateway(t.Context(), &ec2.DetachInternetGatewayInput{InternetGatewayId: &first, VpcId: &s.vpc}))); got != "DependencyViolation" {
		t.Errorf("DetachInternetGateway while a public address is in use returned %q, want DependencyViolation", got)
	}
	s.wantAnswers(t, "after a refused DetachInternetGateway", r)
	// exchange replaces the gateway old by next. It associates the address again while the route
	// still names the detached gateway old.
	exchange := func(old, next string) {
		s.disassociate(t, association)
		detach(old)(t)
		if got := code(errorOf(s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &s.server.id}))); got != "Gateway.NotAttached" {
			t.Errorf("AssociateAddress in a VPC without a gateway returned %q, want Gateway.NotAttached", got)
		}
		attach(next)(t)
		association = s.associate(t, allocation, s.server, false)
		s.checkChanges(t,
			change{action: "nothing", do: func(*testing.T) {}, silent: probes(r)},
			change{action: "ReplaceRoute", do: replace(next), open: probes(r)},
		)
	}
	exchange(first, second)
	exchange(second, first)
	s.disassociate(t, association)
	_, err = s.c.DeleteInternetGateway(t.Context(), &ec2.DeleteInternetGatewayInput{InternetGatewayId: &second})
	check(t, err)
	s.unroute(t, s.routes, "0.0.0.0/0")
	s.release(t, allocation)
}

// errorOf returns the error of a call and drops its answer.
func errorOf[A any](_ A, err error) error { return err }

func (s *testbed) routeTablesOfASubnet(t *testing.T) {
	defer s.admitOutside(t, 7150)()
	allocation, address := s.allocate(t)
	elastic := s.associate(t, allocation, s.server, false)
	made, err := s.c.CreateRouteTable(t.Context(), &ec2.CreateRouteTableInput{VpcId: &s.vpc})
	check(t, err)
	table, association := *made.RouteTable.RouteTableId, ""
	s.route(t, table, "0.0.0.0/0")
	r, inside := toAddress(s.laptop, address, s.server, "tcp/7150"), to(s.other.host, s.server, "tcp/7151")
	s.admit(t, s.groups["server"], permission("tcp", 7151, 7151, "10.0.0.0/16"))
	s.checkChanges(t,
		change{action: "AssociateRouteTable",
			do: func(t *testing.T) {
				out, err := s.c.AssociateRouteTable(t.Context(), &ec2.AssociateRouteTableInput{RouteTableId: &table, SubnetId: &s.serverSubnet})
				check(t, err)
				association = *out.AssociationId
			},
			open: probes(r), same: probes(inside)},
		change{action: "ReplaceRouteTableAssociation: the main table",
			do: func(t *testing.T) {
				out, err := s.c.ReplaceRouteTableAssociation(t.Context(), &ec2.ReplaceRouteTableAssociationInput{AssociationId: &association, RouteTableId: &s.routes})
				check(t, err)
				association = *out.NewAssociationId
			},
			shut: probes(r), same: probes(inside)},
		change{action: "ReplaceRouteTableAssociation: back",
			do: func(t *testing.T) {
				out, err := s.c.ReplaceRouteTableAssociation(t.Context(), &ec2.ReplaceRouteTableAssociationInput{AssociationId: &association, RouteTableId: &table})
				check(t, err)
				association = *out.NewAssociationId
			},
			open: probes(r), same: probes(inside)},
		change{action: "DisassociateRouteTable",
			do: func(t *testing.T) {
				_, err := s.c.DisassociateRouteTable(t.Context(), &ec2.DisassociateRouteTableInput{AssociationId: &association})
				check(t, err)
			},
			shut: probes(r), same: probes(inside)},
	)
	s.revoke(t, s.groups["server"], permission("tcp", 7151, 7151, "10.0.0.0/16"))
	_, err = s.c.DeleteRouteTable(t.Context(), &ec2.DeleteRouteTableInput{RouteTableId: &table})
	check(t, err)
	s.disassociate(t, elastic)
	s.release(t, allocation)
}

// publicSubnets checks that an instance gets a public address, and is reachable at it, only if it
// is launched while its subnet maps public addresses.
func (s *testbed) publicSubnets(t *testing.T) {
	s.route(t, s.routes, "0.0.0.0/0")
	group := s.group(t, s.vpc, "public")
	s.admit(t, group, permission("tcp", 22, 22, "203.0.113.0/24"))
	set := func(on bool) {
		_, err := s.c.ModifySubnetAttribute(t.Context(), &ec2.ModifySubnetAttributeInput{SubnetId: &s.otherSubnet, MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: &on}})
		check(t, err)
	}
	set(true)
	in := s.launch(t, "public", s.otherSubnet, group)
	set(false)
	without := s.launch(t, "private", s.otherSubnet, group)
	if !in.public.IsValid() || without.public.IsValid() {
		t.Errorf("public address of the instance launched with the mapping %v, without the mapping %v; want one, and none", in.public, without.public)
	}
	if who, err := reach(s.laptop, in.public, "open/22", answerWithin); who == "" || err != nil {
		t.Errorf("the laptop got the answer %q from the public address on port 22 (error %v), want any answer", who, err)
	}
	s.wantSilence(t, "at its private address", probe{from: s.laptop, to: in.private, kind: "tcp/22", at: in.host})
	_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{in.id, without.id}})
	check(t, err)
	s.waitState(t, in, "terminated")
	s.waitState(t, without, "terminated")
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
	check(t, err)
	s.unroute(t, s.routes, "0.0.0.0/0")
}

// equalAddresses makes a second VPC with the same CIDR. It checks that no instance of one VPC
// reaches an instance of the other VPC, whether its address exists in one VPC or in both.
func (s *testbed) equalAddresses(t *testing.T) {
	vpc, err := s.c.CreateVpc(t.Context(), &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	check(t, err)
	id := *vpc.Vpc.VpcId
	subnet := s.subnet(t, id, "10.0.1.0/24", s.zones(t)[0])
	group := s.group(t, id, "twin")
	s.admit(t, group, permission(all, -1, -1, "0.0.0.0/0"))
	twin := func(name, address string) instance {
		return s.run(t, name, &ec2.RunInstancesInput{SubnetId: &subnet, SecurityGroupIds: []string{group}, PrivateIpAddress: &address})
	}
	rule := permission(all, -1, -1, "10.0.0.0/16")
	s.admit(t, s.groups["server"], rule)
	s.admit(t, s.groups["client"], rule)
	same, alone := twin("twin of the server", s.server.private.String()), twin("alone", "10.0.1.99")
	if on := s.nodesOf(t, same, alone); !slices.Equal(on, s.nodesOf(t, s.server, s.client)) {
		t.Errorf("the instances of the second VPC are on the nodes %q, want the nodes of server and client", on)
	}
	s.wantAnswers(t, "within each VPC", to(s.client.host, s.server, "tcp/7160"), to(alone.host, same, "tcp/7160"), to(alone.host, same, "icmp"), to(s.client.host, s.server, "icmp"))
	var across []probe
	for _, kind := range []string{"tcp/7160", "udp/7160", "icmp"} {
		across = append(across, to(s.client.host, alone, kind), to(s.server.host, alone, kind), to(alone.host, s.client, kind), to(same.host, s.client, kind))
	}
	s.wantSilence(t, "between the VPCs", across...)
	_, err = s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{same.id, alone.id}})
	check(t, err)
	s.waitState(t, same, "terminated")
	s.waitState(t, alone, "terminated")
	s.wantAnswers(t, "after the second VPC's instances are terminated", to(s.client.host, s.server, "tcp/7160"))
	s.revoke(t, s.groups["server"], rule)
	s.revoke(t, s.groups["client"], rule)
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
	check(t, err)
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: &subnet})
	check(t, err)
	_, err = s.c.DeleteVpc(t.Context(), &ec2.DeleteVpcInput{VpcId: &id})
	check(t, err)
}
