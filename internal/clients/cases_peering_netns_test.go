package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab"
)

// A secondVPC is another VPC of the testbed's account, with a subnet in the first zone and a group that
// admits nothing.
type secondVPC struct{ id, subnet, group, routes string }

func (s *testbed) secondVPC(t *testing.T, cidr, subnet string) secondVPC {
	t.Helper()
	vpc, err := s.c.CreateVpc(t.Context(), &ec2.CreateVpcInput{CidrBlock: &cidr})
	check(t, err)
	id := *vpc.Vpc.VpcId
	v := secondVPC{id: id, subnet: s.subnet(t, id, subnet, s.zones(t)[0]), group: s.group(t, id, "second")}
	name := "vpc-id"
	tables, err := s.c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{Filters: []types.Filter{{Name: &name, Values: []string{id}}}})
	check(t, err)
	v.routes = *tables.RouteTables[0].RouteTableId
	return v
}

func (s *testbed) launchIn(t *testing.T, v secondVPC, name string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SubnetId: &v.subnet, SecurityGroupIds: []string{v.group}})
}

// remove terminates the instances of a second VPC and deletes it.
func (s *testbed) remove(t *testing.T, v secondVPC, list ...instance) {
	t.Helper()
	var ids []string
	for _, i := range list {
		ids = append(ids, i.id)
	}
	_, err := s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids})
	check(t, err)
	for _, i := range list {
		s.waitState(t, i, "terminated")
	}
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &v.group})
	check(t, err)
	_, err = s.c.DeleteSubnet(t.Context(), &ec2.DeleteSubnetInput{SubnetId: &v.subnet})
	check(t, err)
	_, err = s.c.DeleteVpc(t.Context(), &ec2.DeleteVpcInput{VpcId: &v.id})
	check(t, err)
}

// groupInAnotherVPC uses a group of the testbed's VPC in a second one. A rule that names the group means its
// members in the VPC of the interface that the rule applies to.
func (s *testbed) groupInAnotherVPC(t *testing.T) {
	v := s.secondVPC(t, "10.6.0.0/16", "10.6.1.0/24")
	one, two := s.launchIn(t, v, "one"), s.launchIn(t, v, "two")
	shared := s.group(t, s.vpc, "shared")
	s.admit(t, shared, permission("tcp", 7300, 7300, shared))
	between := to(one.host, two, "tcp/7300")
	s.checkChanges(t,
		change{action: "AssociateSecurityGroupVpc",
			do: func(t *testing.T) {
				input := &ec2.ModifyInstanceAttributeInput{InstanceId: &two.id, Groups: []string{shared}}
				if _, err := s.c.ModifyInstanceAttribute(t.Context(), input); code(err) != "InvalidGroup.NotFound" {
					t.Errorf("an instance got a group of another VPC before the association: %v", err)
				}
				_, err := s.c.AssociateSecurityGroupVpc(t.Context(), &ec2.AssociateSecurityGroupVpcInput{GroupId: &shared, VpcId: &v.id})
				check(t, err)
				s.setGroups(t, two, shared)
				s.setGroups(t, one, v.group, shared)
			},
			open: probes(between), silent: probes(to(one.host, two, "tcp/7301"))},
		change{action: "ModifyInstanceAttribute: a sender without the group",
			do:   func(t *testing.T) { s.setGroups(t, one, v.group) },
			shut: probes(between)},
		change{action: "DisassociateSecurityGroupVpc",
			do: func(t *testing.T) {
				input := &ec2.DisassociateSecurityGroupVpcInput{GroupId: &shared, VpcId: &v.id}
				if _, err := s.c.DisassociateSecurityGroupVpc(t.Context(), input); code(err) != "DependencyViolation" {
					t.Errorf("a group was disassociated from a VPC where an interface has it: %v", err)
				}
				s.setGroups(t, two, v.group)
				_, err := s.c.DisassociateSecurityGroupVpc(t.Context(), input)
				check(t, err)
			},
			silent: probes(between)},
	)
	s.remove(t, v, one, two)
	_, err := s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &shared})
	check(t, err)
}

// as returns the testbed as another account, or in another region, calls it.
func (s *testbed) as(a lab.Account, region string) *testbed {
	other := *s
	other.watcher = &watcher{lab: s.lab, account: a, wait: s.watcher.wait}
	other.c = newClientIn(region, s.lab, a, other.watcher.addTo)
	return &other
}

// request asks for a peering of the testbed's VPC with another, which belongs to owner.
func (s *testbed) request(t *testing.T, vpc, peer, owner, region string) string {
	t.Helper()
	out, err := s.c.CreateVpcPeeringConnection(t.Context(), &ec2.CreateVpcPeeringConnectionInput{VpcId: &vpc, PeerVpcId: &peer, PeerOwnerId: &owner, PeerRegion: &region})
	check(t, err)
	return *out.VpcPeeringConnection.VpcPeeringConnectionId
}

func (s *testbed) accept(t *testing.T, id string) {
	t.Helper()
	out, err := s.c.AcceptVpcPeeringConnection(t.Context(), &ec2.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	check(t, err)
	if got := out.VpcPeeringConnection.Status.Code; got != types.VpcPeeringConnectionStateReasonCodeActive {
		t.Errorf("the accepted peering is %s", got)
	}
}

func (s *testbed) unpeer(t *testing.T, id string) {
	t.Helper()
	_, err := s.c.DeleteVpcPeeringConnection(t.Context(), &ec2.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	check(t, err)
}

// routeTo leads a range to a peering, in place of an earlier route.
func (s *testbed) routeTo(t *testing.T, table, cidr, peering string) {
	t.Helper()
	_, err := s.c.ReplaceRoute(t.Context(), &ec2.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr, VpcPeeringConnectionId: &peering})
	if code(err) == "InvalidRoute.NotFound" || code(err) == "InvalidParameterValue" {
		_, err = s.c.CreateRoute(t.Context(), &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &cidr, VpcPeeringConnectionId: &peering})
	}
	check(t, err)
}

// fromPeer is the command of a guide of 2025, "Cross-Account References".
func fromPeer(port int32, group, vpc, account string) types.IpPermission {
	p := permission("tcp", port, port)
	p.UserIdGroupPairs = []types.UserIdGroupPair{{GroupId: &group, VpcId: &vpc, UserId: &account}}
	return p
}

// peeredAccounts peers the testbed's VPC with one of another account. Rules name groups of both. After the
// deletion of the peering the rules admit nothing, also when the VPCs are peered again.
func (s *testbed) peeredAccounts(t *testing.T) {
	us, them := s.watcher.account, newAccount(t, s.lab, "peer")
	far := s.as(them, lab.Region)
	v := far.secondVPC(t, "10.7.0.0/16", "10.7.1.0/24")
	member, plain := far.launchIn(t, v, "member"), far.run(t, "plain", &ec2.RunInstancesInput{SubnetId: &v.subnet})
	server := s.groups["server"]
	s.admit(t, server, permission("tcp", 7310, 7310, "10.7.0.0/16"))
	var first, second string
	byCIDR, byGroup, egress := to(member.host, s.server, "tcp/7310"), to(member.host, s.server, "tcp/7311"), to(s.server.host, member, "tcp/7312")
	notMember := to(plain.host, s.server, "tcp/7311")
	routes := func(t *testing.T, id string) {
		s.routeTo(t, s.routes, "10.7.0.0/16", id)
		far.routeTo(t, v.routes, "10.0.0.0/16", id)
	}
	s.checkChanges(t,
		change{action: "CreateVpcPeeringConnection, before it is accepted",
			do: func(t *testing.T) {
				first = s.request(t, s.vpc, v.id, them.ID, lab.Region)
				routes(t, first)
			},
			silent: probes(byCIDR, byGroup)},
		change{action: "AcceptVpcPeeringConnection",
			do:   func(t *testing.T) { far.accept(t, first) },
			open: probes(byCIDR), silent: probes(byGroup, notMember)},
		change{action: "AuthorizeSecurityGroupIngress of a peer's group",
			do:   func(t *testing.T) { s.admit(t, server, fromPeer(7311, v.group, v.id, them.ID)) },
			open: probes(byGroup), same: probes(byCIDR), silent: probes(notMember)},
		change{action: "rules of both directions at the peer",
			do: func(t *testing.T) {
				far.admit(t, v.group, fromPeer(7312, server, s.vpc, us.ID))
				far.revokeEgress(t, v.group, permission(all, -1, -1, "0.0.0.0/0"))
			},
			open: probes(egress), shut: probes(byGroup, byCIDR), silent: probes(to(s.client.host, member, "tcp/7312"))},
		change{action: "AuthorizeSecurityGroupEgress of a peer's group",
			do:   func(t *testing.T) { far.admitEgress(t, v.group, fromPeer(7311, server, s.vpc, us.ID)) },
			open: probes(byGroup), silent: probes(byCIDR)},
		change{action: "DeleteVpcPeeringConnection",
			do:   func(t *testing.T) { s.unpeer(t, first) },
			shut: probes(byGroup, egress), silent: probes(byCIDR, notMember)},
		change{action: "a second peering of the same VPCs",
			do: func(t *testing.T) {
				far.admitEgress(t, v.group, permission("tcp", 7310, 7310, "10.0.0.0/16"))
				second = far.request(t, v.id, s.vpc, us.ID, lab.Region)
				s.accept(t, second)
				routes(t, second)
			},
			open: probes(byCIDR), silent: probes(byGroup, egress, notMember)},
	)
	stale, err := s.c.DescribeStaleSecurityGroups(t.Context(), &ec2.DescribeStaleSecurityGroupsInput{VpcId: &s.vpc})
	check(t, err)
	if len(stale.StaleSecurityGroupSet) != 1 || *stale.StaleSecurityGroupSet[0].GroupId != server || len(stale.StaleSecurityGroupSet[0].StaleIpPermissions) != 1 {
		t.Errorf("the stale groups are %+v, want the server's with one permission", stale.StaleSecurityGroupSet)
	}
	s.revoke(t, server, fromPeer(7311, v.group, v.id, them.ID), permission("tcp", 7310, 7310, "10.7.0.0/16"))
	far.unpeer(t, second)
	rejected := far.request(t, v.id, s.vpc, us.ID, lab.Region)
	_, err = s.c.RejectVpcPeeringConnection(t.Context(), &ec2.RejectVpcPeeringConnectionInput{VpcPeeringConnectionId: &rejected})
	check(t, err)
	s.unroute(t, s.routes, "10.7.0.0/16")
	far.remove(t, v, member, plain)
}

// peeredRegions peers the testbed's VPC with one of another region. Rules can name its addresses, and not its
// groups. A third VPC that is peered with it is not reached through it.
func (s *testbed) peeredRegions(t *testing.T) {
	us := s.watcher.account
	const west = "eu-west-1"
	far := s.as(us, west)
	v := far.secondVPC(t, "10.8.0.0/16", "10.8.1.0/24")
	third := s.secondVPC(t, "10.9.0.0/16", "10.9.1.0/24")
	there, beyond := far.launchIn(t, v, "there"), s.launchIn(t, third, "beyond")
	everything := permission(all, -1, -1, "10.0.0.0/8")
	s.admit(t, third.group, everything)
	far.admit(t, v.group, everything)
	s.admit(t, s.groups["server"], permission("tcp", 7320, 7320, "10.8.0.0/16", "10.9.0.0/16"))
	into, out, transit := to(there.host, s.server, "tcp/7320"), to(s.server.host, there, "icmp"), to(s.server.host, beyond, "icmp")
	var first, second string
	s.checkChanges(t,
		change{action: "CreateVpcPeeringConnection and acceptance in the other region",
			do: func(t *testing.T) {
				first = s.request(t, s.vpc, v.id, us.ID, west)
				far.accept(t, first)
				s.routeTo(t, s.routes, "10.8.0.0/16", first)
				far.routeTo(t, v.routes, "10.0.0.0/16", first)
			},
			open: probes(into, out), silent: probes(transit)},
		change{action: "a peering of the peer with a third VPC",
			do: func(t *testing.T) {
				second = s.request(t, third.id, v.id, us.ID, west)
				far.accept(t, second)
				s.routeTo(t, s.routes, "10.9.0.0/16", first)
				s.routeTo(t, third.routes, "10.8.0.0/16", second)
				s.routeTo(t, third.routes, "10.0.0.0/16", second)
				far.routeTo(t, v.routes, "10.9.0.0/16", second)
			},
			open: probes(to(there.host, beyond, "icmp")), same: probes(into, out), silent: probes(transit, to(beyond.host, s.server, "tcp/7320"))},
		change{action: "DeleteVpcPeeringConnection in the other region",
			do:   func(t *testing.T) { far.unpeer(t, first) },
			shut: probes(into, out), same: probes(to(there.host, beyond, "icmp"))},
	)
	if _, err := s.c.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &third.group, IpPermissions: []types.IpPermission{fromPeer(7321, v.group, v.id, us.ID)}}); code(err) != "InvalidGroup.NotFound" {
		t.Errorf("a rule for a group of another region returned %v, want InvalidGroup.NotFound", err)
	}
	far.unpeer(t, second)
	s.revoke(t, s.groups["server"], permission("tcp", 7320, 7320, "10.8.0.0/16", "10.9.0.0/16"))
	s.unroute(t, s.routes, "10.8.0.0/16")
	s.unroute(t, s.routes, "10.9.0.0/16")
	far.remove(t, v, there)
	s.remove(t, third, beyond)
}
