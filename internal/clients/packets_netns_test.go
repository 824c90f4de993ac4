package clients

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab/labtest"
)

// A stage is a VPC with instances in it, on which every case plays and which every case
// leaves as it found it:
//
//	10.0.0.0/16   near 10.0.1.0/24    server   group server   no ingress rule
//	                                  client   group client   no ingress rule
//	              far  10.0.2.0/24    other    group other    no ingress rule
//
// All may send everything. There is an internet gateway, attached; the main route table
// has no route to it, and nobody has a public address.
type stage struct {
	lab *labtest.Lab
	c   *ec2.Client
	*hosts

	vpc, near, farSubnet, gateway, routes string
	groups                                map[string]string // by name

	server, client, other instance
	laptop, stranger      host
}

// Where those outside are seen to come from.
var (
	laptopAddress   = netip.MustParseAddr("203.0.113.25")
	strangerAddress = netip.MustParseAddr("198.51.100.7")
)

func newStage(t *testing.T) *stage {
	l := labtest.Up(t, "packets")
	s := &stage{lab: l, c: newClient(l, newAccount(t, l, "packets")), hosts: newHosts(t), groups: map[string]string{}}
	s.laptop, s.stranger = host{"laptop", l.Namespace("laptop")}, host{"stranger", l.Namespace("stranger")}
	ctx := t.Context()

	vpc, err := s.c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	check(t, err)
	s.vpc = *vpc.Vpc.VpcId
	s.near, s.farSubnet = s.subnet(t, s.vpc, "10.0.1.0/24"), s.subnet(t, s.vpc, "10.0.2.0/24")
	gateway, err := s.c.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	check(t, err)
	s.gateway = *gateway.InternetGateway.InternetGatewayId
	_, err = s.c.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: &s.gateway, VpcId: &s.vpc})
	check(t, err)
	tables, err := s.c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: filters("vpc-id", s.vpc)})
	check(t, err)
	s.routes = *tables.RouteTables[0].RouteTableId
	for _, name := range []string{"server", "client", "other"} {
		s.groups[name] = s.group(t, s.vpc, name)
	}
	s.server = s.launch(t, "server", s.near, s.groups["server"])
	s.client = s.launch(t, "client", s.near, s.groups["client"])
	s.other = s.launch(t, "other", s.farSubnet, s.groups["other"])
	return s
}

func filters(pairs ...string) []types.Filter {
	var list []types.Filter
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, types.Filter{Name: &pairs[i], Values: []string{pairs[i+1]}})
	}
	return list
}

func (s *stage) subnet(t *testing.T, vpc, cidr string) string {
	t.Helper()
	out, err := s.c.CreateSubnet(t.Context(), &ec2.CreateSubnetInput{VpcId: &vpc, CidrBlock: &cidr})
	check(t, err)
	return *out.Subnet.SubnetId
}

func (s *stage) group(t *testing.T, vpc, name string) string {
	t.Helper()
	out, err := s.c.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("of " + name), VpcId: &vpc})
	check(t, err)
	return *out.GroupId
}

func (s *stage) launch(t *testing.T, name, subnet string, groups ...string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SubnetId: &subnet, SecurityGroupIds: groups})
}

// launchDefault launches into the default VPC.
func (s *stage) launchDefault(t *testing.T, name string, groups ...string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SecurityGroupIds: groups})
}

func (s *stage) run(t *testing.T, name string, in *ec2.RunInstancesInput) instance {
	t.Helper()
	in.ImageId, in.MinCount, in.MaxCount = aws.String("ami-eca54085"), aws.Int32(1), aws.Int32(1)
	out, err := s.c.RunInstances(t.Context(), in)
	check(t, err)
	return running(t, s.lab, s.c, []string{*out.Instances[0].InstanceId}, name)[0]
}

// A ray is one packet of a case: from whom, to which address, of what kind (tcp/7000,
// udp/7000, icmp, proto/50), and the host that has the address and answers.
type ray struct {
	from host
	to   netip.Addr
	kind string
	at   host

	source netip.Addr // that proto/N is sent from; zero: the host's own
}

func (r ray) String() string {
	return fmt.Sprintf("%s from %s to %s %v", r.kind, r.from.name, r.at.name, r.to)
}

// to is a ray to the primary address of an instance.
func to(from host, at instance, kind string) ray { return toAddress(from, at.private, at, kind) }

// toAddress is a ray to another address of an instance.
func toAddress(from host, address netip.Addr, at instance, kind string) ray {
	return ray{from: from, to: address, kind: kind, at: at.host}
}

// passes fails the test if a ray does not get its answer from whom it should.
func (s *stage) passes(t *testing.T, when string, rays ...ray) {
	t.Helper()
	for _, r := range rays {
		if r.isProtocol() {
			if ok, err := arrives(r, s.serve(t, r.at, r.kind), answerWithin); !ok {
				t.Errorf("%s: %v does not arrive (%v)", when, r, err)
			}
			continue
		}
		s.serve(t, r.at, r.kind)
		who, err := reach(r.from, r.to, r.kind, answerWithin)
		if err != nil || who != r.at.name && r.kind != "icmp" || who == "" {
			t.Errorf("%s: %v is answered by %q, %v; want %q", when, r, who, err, r.at.name)
		}
	}
}

// stops fails the test if a ray gets an answer.
func (s *stage) stops(t *testing.T, when string, rays ...ray) {
	t.Helper()
	for _, r := range rays {
		if r.isProtocol() {
			if ok, err := arrives(r, s.serve(t, r.at, r.kind), silenceFor); ok || err != nil {
				t.Errorf("%s: %v arrives (%v)", when, r, err)
			}
			continue
		}
		s.serve(t, r.at, r.kind)
		if who, err := reach(r.from, r.to, r.kind, silenceFor); err != nil || who != "" {
			t.Errorf("%s: %v is answered by %q, %v; want silence", when, r, who, err)
		}
	}
}

func (r ray) isProtocol() bool { return strings.HasPrefix(r.kind, "proto/") }

// A change is one or more calls of one mutating action, and what packets do around it.
type change struct {
	action string
	do     func(t *testing.T)
	open   []ray // pass after it, as they did not before
	shut   []ray // do not pass after it, as they did before
	same   []ray // pass before and after
	silent []ray // pass neither before nor after
}

// play makes the changes one after the other. Each ray of each change is sent before it
// and after it.
func (s *stage) play(t *testing.T, changes ...change) {
	t.Helper()
	for n, c := range changes {
		label := fmt.Sprintf("%d. %s", n+1, c.action)
		s.stops(t, "before "+label, c.open...)
		s.passes(t, "before "+label, c.shut...)
		s.passes(t, "before "+label, c.same...)
		s.stops(t, "before "+label, c.silent...)
		c.do(t)
		s.passes(t, "after "+label, c.open...)
		s.stops(t, "after "+label, c.shut...)
		s.passes(t, "after "+label, c.same...)
		s.stops(t, "after "+label, c.silent...)
	}
}

// TestPacketsObeyEveryAction: for each action that changes rules, groups, interfaces,
// routes or addresses, packets are sent before and after, at once when the answer is there.
func TestPacketsObeyEveryAction(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, c := range []struct {
		name string
		play func(*stage, *testing.T)
	}{
		{"rules by properties", (*stage).rulesByProperties},
		{"rules by id", (*stage).rulesByID},
		{"rules of every protocol", (*stage).rulesOfEveryProtocol},
		{"egress rules", (*stage).egressRules},
		{"a group as source", (*stage).groupAsSource},
		{"a rule modified", (*stage).ruleModified},
		{"a revoke matches the source", (*stage).revokeMatchesTheSource},
		{"groups of a running instance", (*stage).groupsOfARunningInstance},
		{"a refused change changes nothing", (*stage).refusedChange},
		{"what an instance does inside", (*stage).insideTheInstance},
		{"interfaces", (*stage).interfaces},
		{"secondary addresses", (*stage).secondaryAddresses},
		{"source and destination check", (*stage).sourceDestCheck},
		{"elastic addresses", (*stage).elasticAddresses},
		{"routes", (*stage).routesToTheGateway},
		{"gateways", (*stage).gateways},
		{"route tables of a subnet", (*stage).routeTablesOfASubnet},
		{"subnets that map public addresses", (*stage).publicSubnets},
		{"two VPCs with equal addresses", (*stage).equalAddresses},
		{"stop, start, terminate", (*stage).lives},
	} {
		t.Run(c.name, func(t *testing.T) { c.play(s, t) })
	}
}
