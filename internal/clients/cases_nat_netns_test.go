package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// publicTable makes a route table with a route to the internet gateway, and associates it with a subnet. undo removes
// it.
func (s *testbed) publicTable(t *testing.T, subnet string) (undo func()) {
	t.Helper()
	made, err := s.c.CreateRouteTable(t.Context(), &ec2.CreateRouteTableInput{VpcId: &s.vpc})
	check(t, err)
	table := *made.RouteTable.RouteTableId
	s.route(t, table, "0.0.0.0/0")
	out, err := s.c.AssociateRouteTable(t.Context(), &ec2.AssociateRouteTableInput{RouteTableId: &table, SubnetId: &subnet})
	check(t, err)
	return func() {
		_, err := s.c.DisassociateRouteTable(t.Context(), &ec2.DisassociateRouteTableInput{AssociationId: out.AssociationId})
		check(t, err)
		_, err = s.c.DeleteRouteTable(t.Context(), &ec2.DeleteRouteTableInput{RouteTableId: &table})
		check(t, err)
	}
}

// natGateways checks that an instance without a public address reaches the outside, and the public address of another
// instance, while its routes lead to a NAT gateway; and that nobody reaches it by the gateway's address, whatever its
// rules admit.
func (s *testbed) natGateways(t *testing.T) {
	ctx := t.Context()
	defer s.publicTable(t, s.serverSubnet)()
	allocation, address := s.allocate(t)
	second, serverAddress := s.allocate(t)
	association := s.associate(t, second, s.server, false)
	open := permission("tcp", 7192, 7192, "0.0.0.0/0")
	hairpin := permission("tcp", 7193, 7193, address.String()+"/32")
	s.admit(t, s.groups["other"], open)
	s.admit(t, s.groups["server"], hairpin)
	out := probes(
		probe{from: s.other.host, to: laptopAddress, kind: "tcp/7190", at: s.laptop},
		probe{from: s.other.host, to: strangerAddress, kind: "udp/7191", at: s.stranger},
		probe{from: s.other.host, to: laptopAddress, kind: "icmp", at: s.laptop},
		toAddress(s.other.host, serverAddress, s.server, "tcp/7193"),
	)
	in := probes(probe{from: s.laptop, to: address, kind: "tcp/7192", at: s.other.host}, probe{from: s.stranger, to: address, kind: "icmp", at: s.other.host})
	gateway := ""
	route := func(t *testing.T) {
		_, err := s.c.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &s.routes, DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: &gateway})
		check(t, err)
	}
	s.checkChanges(t,
		change{action: "CreateNatGateway",
			do: func(t *testing.T) {
				made, err := s.c.CreateNatGateway(ctx, &ec2.CreateNatGatewayInput{SubnetId: &s.serverSubnet, AllocationId: &allocation})
				check(t, err)
				gateway = *made.NatGateway.NatGatewayId
			},
			silent: append(in, out...)},
		change{action: "CreateRoute to the NAT gateway", do: route, open: out, silent: in},
	)
	shown, err := s.c.DescribeNatGateways(ctx, &ec2.DescribeNatGatewaysInput{NatGatewayIds: []string{gateway}})
	check(t, err)
	if g := shown.NatGateways[0]; g.State != types.NatGatewayStateAvailable || *g.NatGatewayAddresses[0].PublicIp != address.String() {
		t.Errorf("the gateway is shown as %s with %s, want it available with %s", g.State, *g.NatGatewayAddresses[0].PublicIp, address)
	}
	s.checkChanges(t, change{action: "DeleteNatGateway",
		do: func(t *testing.T) {
			_, err := s.c.DeleteNatGateway(ctx, &ec2.DeleteNatGatewayInput{NatGatewayId: &gateway})
			check(t, err)
		},
		shut: out, silent: in})
	s.unroute(t, s.routes, "0.0.0.0/0")
	s.revoke(t, s.groups["other"], open)
	s.revoke(t, s.groups["server"], hairpin)
	s.disassociate(t, association)
	s.release(t, second)
	s.release(t, allocation)
}
