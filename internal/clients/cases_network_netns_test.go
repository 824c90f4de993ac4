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

// becomes waits until an instance is in a state.
func (s *stage) becomes(t *testing.T, in instance, want string) {
	t.Helper()
	labtest.Eventually(t, in.name+" is "+want, func() bool {
		out, err := s.c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{in.id}})
		check(t, err)
		return string(out.Reservations[0].Instances[0].State.Name) == want
	})
}

func rays(list ...ray) []ray { return list }

// allocate gets an elastic address.
func (s *stage) allocate(t *testing.T) (allocation string, address netip.Addr) {
	t.Helper()
	out, err := s.c.AllocateAddress(t.Context(), &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	check(t, err)
	return *out.AllocationId, netip.MustParseAddr(*out.PublicIp)
}

func (s *stage) release(t *testing.T, allocation string) {
	t.Helper()
	_, err := s.c.ReleaseAddress(t.Context(), &ec2.ReleaseAddressInput{AllocationId: &allocation})
	check(t, err)
}

func (s *stage) route(t *testing.T, table, cidr string) {
	t.Helper()
	_, err := s.c.CreateRoute(t.Context(), &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr, GatewayId: &s.gateway})
	check(t, err)
}

func (s *stage) unroute(t *testing.T, table, cidr string) {
	t.Helper()
	_, err := s.c.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr})
	check(t, err)
}

// associate gives an elastic address to an instance and returns the association.
func (s *stage) associate(t *testing.T, allocation string, in instance, again bool) string {
	t.Helper()
	out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &in.id, AllowReassociation: &again})
	check(t, err)
	return *out.AssociationId
}

func (s *stage) disassociate(t *testing.T, association string) {
	t.Helper()
	_, err := s.c.DisassociateAddress(t.Context(), &ec2.DisassociateAddressInput{AssociationId: &association})
	check(t, err)
}

// outside admits the laptop and the stranger to the server, and to the client, on a port.
func (s *stage) outside(t *testing.T, port int32) (undo func()) {
	rule := permission("tcp", port, port, "203.0.113.0/24", "198.51.100.0/24")
	s.admit(t, s.groups["server"], rule)
	s.admit(t, s.groups["client"], rule)
	return func() {
		s.revoke(t, s.groups["server"], rule)
		s.revoke(t, s.groups["client"], rule)
	}
}

func (s *stage) elasticAddresses(t *testing.T) {
	defer s.outside(t, 7120)()
	s.route(t, s.routes, "0.0.0.0/0")
	allocation, address := s.allocate(t)
	association := ""
	toServer, toClient := toAddress(s.laptop, address, s.server, "tcp/7120"), toAddress(s.laptop, address, s.client, "tcp/7120")
	out := ray{from: s.server.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop}
	s.play(t,
		change{action: "AssociateAddress", do: func(t *testing.T) { association = s.associate(t, allocation, s.server, false) },
			open: rays(toServer, out), silent: rays(toAddress(s.laptop, address, s.server, "tcp/7122"))},
		change{action: "AssociateAddress without leave to take it away",
			do: func(t *testing.T) {
				_, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &s.client.id, AllowReassociation: aws.Bool(false)})
				if code(err) != "Resource.AlreadyAssociated" {
					t.Errorf("an address that is another's: %v", err)
				}
			},
			same: rays(toServer, out)},
		change{action: "DisassociateAddress", do: func(t *testing.T) { s.disassociate(t, association) }, shut: rays(toServer, out)},
		change{action: "AssociateAddress with an interface",
			do: func(t *testing.T) {
				out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, NetworkInterfaceId: &s.server.nic})
				check(t, err)
				association = *out.AssociationId
			},
			open: rays(toServer, out)},
	)
	// A secondary address may have one of its own.
	s.disassociate(t, association)
	inNamespace(t, s.server.host, "ip", "address", "replace", "10.0.1.201/32", "dev", "lo")
	_, err := s.c.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.201"}})
	check(t, err)
	s.play(t,
		change{action: "AssociateAddress with a secondary address",
			do: func(t *testing.T) {
				out, err := s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, NetworkInterfaceId: &s.server.nic, PrivateIpAddress: aws.String("10.0.1.201")})
				check(t, err)
				association = *out.AssociationId
			},
			open: rays(toServer), silent: rays(out)}, // it sends by its primary address, which has none
		change{action: "UnassignPrivateIpAddresses",
			do: func(t *testing.T) {
				_, err := s.c.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &s.server.nic, PrivateIpAddresses: []string{"10.0.1.201"}})
				check(t, err)
			},
			shut: rays(toServer)},
	)
	inNamespace(t, s.server.host, "ip", "address", "del", "10.0.1.201/32", "dev", "lo")
	association = s.associate(t, allocation, s.server, true)
	s.stops(t, "before it is the client's", ray{from: s.client.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop})
	association = s.associate(t, allocation, s.client, true)
	s.passes(t, "after AssociateAddress with leave to take it away", toClient, ray{from: s.client.host, to: laptopAddress, kind: "tcp/7121", at: s.laptop})
	s.stops(t, "after AssociateAddress with leave to take it away", out)
	s.disassociate(t, association)
	s.stops(t, "after DisassociateAddress", toClient)
	s.release(t, allocation)
	s.stops(t, "after ReleaseAddress", toServer, toClient)
	s.unroute(t, s.routes, "0.0.0.0/0")
}

func (s *stage) routesToTheGateway(t *testing.T) {
	defer s.outside(t, 7130)()
	allocation, address := s.allocate(t)
	association := s.associate(t, allocation, s.server, false)
	fromLaptop, fromStranger := toAddress(s.laptop, address, s.server, "tcp/7130"), toAddress(s.stranger, address, s.server, "tcp/7130")
	out := ray{from: s.server.host, to: strangerAddress, kind: "tcp/7131", at: s.stranger}
	s.play(t,
		change{action: "CreateRoute", do: func(t *testing.T) { s.route(t, s.routes, "0.0.0.0/0") }, open: rays(fromLaptop, fromStranger, out)},
		change{action: "DeleteRoute", do: func(t *testing.T) { s.unroute(t, s.routes, "0.0.0.0/0") }, shut: rays(fromLaptop, fromStranger, out)},
		change{action: "CreateRoute to a part", do: func(t *testing.T) { s.route(t, s.routes, "203.0.113.0/24") }, open: rays(fromLaptop), silent: rays(fromStranger, out)},
		change{action: "DeleteRoute", do: func(t *testing.T) { s.unroute(t, s.routes, "203.0.113.0/24") }, shut: rays(fromLaptop)},
	)
	s.disassociate(t, association)
	s.release(t, allocation)
}

// gateways: a route through a gateway that is detached is a black hole, and leads
// elsewhere when it is replaced.
func (s *stage) gateways(t *testing.T) {
	defer s.outside(t, 7140)()
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
		t.Errorf("a gateway is detached below a public address: %s", got)
	}
	s.passes(t, "after a refused DetachInternetGateway", r)
	// The other way round: with the address there, the route leads where nothing is.
	exchange := func(old, now string) {
		s.disassociate(t, association)
		detach(old)(t)
		if got := code(errorOf(s.c.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: &allocation, InstanceId: &s.server.id}))); got != "Gateway.NotAttached" {
			t.Errorf("an address is associated in a VPC without a gateway: %s", got)
		}
		attach(now)(t)
		association = s.associate(t, allocation, s.server, false)
		s.play(t,
			change{action: "nothing", do: func(*testing.T) {}, silent: rays(r)},
			change{action: "ReplaceRoute", do: replace(now), open: rays(r)},
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

// errorOf leaves the answer of a call aside.
func errorOf[A any](_ A, err error) error { return err }

func (s *stage) routeTablesOfASubnet(t *testing.T) {
	defer s.outside(t, 7150)()
	allocation, address := s.allocate(t)
	elastic := s.associate(t, allocation, s.server, false)
	made, err := s.c.CreateRouteTable(t.Context(), &ec2.CreateRouteTableInput{VpcId: &s.vpc})
	check(t, err)
	table, association := *made.RouteTable.RouteTableId, ""
	s.route(t, table, "0.0.0.0/0")
	r, inside := toAddress(s.laptop, address, s.server, "tcp/7150"), to(s.other.host, s.server, "tcp/7151")
	s.admit(t, s.groups["server"], permission("tcp", 7151, 7151, "10.0.0.0/16"))
	s.play(t,
		change{action: "AssociateRouteTable",
			do: func(t *testing.T) {
				out, err := s.c.AssociateRouteTable(t.Context(), &ec2.AssociateRouteTableInput{RouteTableId: &table, SubnetId: &s.near})
				check(t, err)
				association = *out.AssociationId
			},
			open: rays(r), same: rays(inside)},
		change{action: "ReplaceRouteTableAssociation: the main table",
			do: func(t *testing.T) {
				out, err := s.c.ReplaceRouteTableAssociation(t.Context(), &ec2.ReplaceRouteTableAssociationInput{AssociationId: &association, RouteTableId: &s.routes})
				check(t, err)
				association = *out.NewAssociationId
			},
			shut: rays(r), same: rays(inside)},
		change{action: "ReplaceRouteTableAssociation: back",
			do: func(t *testing.T) {
				out, err := s.c.ReplaceRouteTableAssociation(t.Context(), &ec2.ReplaceRouteTableAssociationInput{AssociationId: &association, RouteTableId: &table})
				check(t, err)
				association = *out.NewAssociationId
			},
			open: rays(r), same: rays(inside)},
		change{action: "DisassociateRouteTable",
			do: func(t *testing.T) {
				_, err := s.c.DisassociateRouteTable(t.Context(), &ec2.DisassociateRouteTableInput{AssociationId: &association})
				check(t, err)
			},
			shut: rays(r), same: rays(inside)},
	)
	s.revoke(t, s.groups["server"], permission("tcp", 7151, 7151, "10.0.0.0/16"))
	_, err = s.c.DeleteRouteTable(t.Context(), &ec2.DeleteRouteTableInput{RouteTableId: &table})
	check(t, err)
	s.disassociate(t, elastic)
	s.release(t, allocation)
}

// publicSubnets: an instance launched into a subnet that maps public addresses is reached
// from outside, one launched before is not.
func (s *stage) publicSubnets(t *testing.T) {
	s.route(t, s.routes, "0.0.0.0/0")
	group := s.group(t, s.vpc, "public")
	s.admit(t, group, permission("tcp", 22, 22, "203.0.113.0/24"))
	set := func(on bool) {
		_, err := s.c.ModifySubnetAttribute(t.Context(), &ec2.ModifySubnetAttributeInput{SubnetId: &s.farSubnet, MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: &on}})
		check(t, err)
	}
	set(true)
	in := s.launch(t, "public", s.farSubnet, group)
	set(false)
	without := s.launch(t, "private", s.farSubnet, group)
	if !in.public.IsValid() || without.public.IsValid() {
		t.Errorf("public addresses: with %v, without %v", in.public, without.public)
	}
	if who, err := reach(s.laptop, in.public, "open/22", answerWithin); who == "" || err != nil {
		t.Errorf("the public address is answered by %q, %v", who, err)
	}
	s.stops(t, "by its private address", ray{from: s.laptop, to: in.private, kind: "tcp/22", at: in.host})
	_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{in.id, without.id}})
	check(t, err)
	s.becomes(t, in, "terminated")
	s.becomes(t, without, "terminated")
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
	check(t, err)
	s.unroute(t, s.routes, "0.0.0.0/0")
}

// equalAddresses: a second VPC of the same range. What has an address in one is not
// reached from the other, whether or not the other has the address too.
func (s *stage) equalAddresses(t *testing.T) {
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
		t.Errorf("the twins are on %q, and server and client are not", on)
	}
	s.passes(t, "each in its own", to(s.client.host, s.server, "tcp/7160"), to(alone.host, same, "tcp/7160"), to(alone.host, same, "icmp"), to(s.client.host, s.server, "icmp"))
	var across []ray
	for _, kind := range []string{"tcp/7160", "udp/7160", "icmp"} {
		across = append(across, to(s.client.host, alone, kind), to(s.server.host, alone, kind), to(alone.host, s.client, kind), to(same.host, s.client, kind))
	}
	s.stops(t, "across", across...)
	_, err = s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{same.id, alone.id}})
	check(t, err)
	s.becomes(t, same, "terminated")
	s.becomes(t, alone, "terminated")
	s.passes(t, "after the twin is gone", to(s.client.host, s.server, "tcp/7160"))
	s.revoke(t, s.groups["server"], rule)
	s.revoke(t, s.groups["client"], rule)
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
	check(t, err)
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: &subnet})
	check(t, err)
	_, err = s.c.DeleteVpc(t.Context(), &ec2.DeleteVpcInput{VpcId: &id})
	check(t, err)
}
