package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

func (s *testbed) addBlock(t *testing.T, cidr string) (association string) {
	t.Helper()
	out, err := s.c.AssociateVpcCidrBlock(t.Context(), &ec2.AssociateVpcCidrBlockInput{VpcId: &s.vpc, CidrBlock: &cidr})
	check(t, err)
	return *out.CidrBlockAssociation.AssociationId
}

func (s *testbed) removeBlock(t *testing.T, association string) {
	t.Helper()
	_, err := s.c.DisassociateVpcCidrBlock(t.Context(), &ec2.DisassociateVpcCidrBlockInput{AssociationId: &association})
	check(t, err)
}

// furtherBlocks adds a block that the laptop's address is in: the address is a private one from then on,
// so the laptop is not reached any more. Then it runs an instance in a subnet of a further block.
func (s *testbed) furtherBlocks(t *testing.T) {
	undo := s.admitOutside(t, 7170)
	defer undo()
	allocation, address := s.allocate(t)
	public := s.associate(t, allocation, s.server, false)
	s.route(t, s.routes, "0.0.0.0/0")
	inbound := permission(all, -1, -1, "10.0.0.0/16", "10.1.0.0/16")
	s.admit(t, s.groups["server"], inbound)
	s.admit(t, s.groups["client"], inbound)
	laptop, stranger := toAddress(s.laptop, address, s.server, "tcp/7170"), toAddress(s.stranger, address, s.server, "tcp/7170")
	inside := probes(to(s.client.host, s.server, "tcp/7170"), to(s.other.host, s.server, "icmp"))
	var block string
	s.checkChanges(t,
		change{action: "AssociateVpcCidrBlock",
			do:   func(t *testing.T) { block = s.addBlock(t, "203.0.113.0/24") },
			shut: probes(laptop), same: append(inside, stranger)},
		change{action: "DisassociateVpcCidrBlock",
			do:   func(t *testing.T) { s.removeBlock(t, block) },
			open: probes(laptop), same: append(inside, stranger)},
	)

	block = s.addBlock(t, "10.1.0.0/16")
	subnet := s.subnet(t, s.vpc, "10.1.1.0/24", s.zones(t)[0])
	further := s.run(t, "further", &ec2.RunInstancesInput{SubnetId: &subnet, SecurityGroupIds: []string{s.groups["client"]}})
	var across []probe
	for _, kind := range []string{"tcp/7171", "udp/7171", "icmp"} {
		across = append(across, to(s.client.host, further, kind), to(s.other.host, further, kind), to(further.host, s.server, kind), to(further.host, s.client, kind))
	}
	s.wantAnswers(t, "between subnets of two blocks", across...)
	s.checkChanges(t,
		change{action: "RevokeSecurityGroupIngress of both blocks",
			do:     func(t *testing.T) { s.revoke(t, s.groups["server"], inbound) },
			shut:   probes(to(further.host, s.server, "tcp/7172"), to(s.client.host, s.server, "udp/7172")),
			same:   probes(to(s.server.host, further, "tcp/7172")),
			silent: probes(toAddress(further.host, address, s.server, "tcp/7172"))},
		change{action: "AuthorizeSecurityGroupIngress of the group",
			do:   func(t *testing.T) { s.admit(t, s.groups["server"], permission(all, -1, -1, s.groups["client"])) },
			open: probes(to(further.host, s.server, "tcp/7172"), to(s.client.host, s.server, "udp/7172"))},
	)
	if _, err := s.c.DisassociateVpcCidrBlock(t.Context(), &ec2.DisassociateVpcCidrBlockInput{AssociationId: &block}); err == nil {
		t.Error("a block with a subnet was disassociated")
	}
	_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{further.id}})
	check(t, err)
	s.waitState(t, further, "terminated")
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: aws.String(subnet)})
	check(t, err)
	s.removeBlock(t, block)
	s.wantAnswers(t, "after the block is gone", to(s.client.host, s.server, "tcp/7171"), laptop)

	s.revoke(t, s.groups["server"], permission(all, -1, -1, s.groups["client"]))
	s.revoke(t, s.groups["client"], inbound)
	s.unroute(t, s.routes, "0.0.0.0/0")
	s.disassociate(t, public)
	s.release(t, allocation)
}
