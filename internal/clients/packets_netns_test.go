package clients

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab/labtest"
)

// A stage is a VPC with instances in it, on which every case plays and which every case
// leaves as it found it:
//
//	10.0.0.0/16   near   10.0.1.0/24    server   group server   no ingress rule
//	                                    client   group client   no ingress rule
//	              beside 10.0.3.0/24
//	              far    10.0.2.0/24    other    group other    no ingress rule
//
// All may send everything. There is an internet gateway, attached; the main route table
// has no route to it, and nobody has a public address. near and beside are in one zone.
type stage struct {
	lab *labtest.Lab
	c   *ec2.Client
	*hosts
	watcher *watcher

	vpc, near, beside, farSubnet, gateway, routes string
	groups                                        map[string]string // by name

	server, client, other instance
	laptop, stranger      host
}

// Where those outside are seen to come from.
var (
	laptopAddress   = netip.MustParseAddr("203.0.113.25")
	strangerAddress = netip.MustParseAddr("198.51.100.7")
)

// A placement says on how many nodes, in how many zones, a stage is. Either all instances
// are on one node, or server, client and other each on one of three: server and client in
// one zone, so that a subnet has both, and other in another.
type placement struct{ nodes, zones int }

var (
	oneNode    = placement{1, 1}
	threeNodes = placement{3, 2}
)

func newStage(t *testing.T, name string, at placement) *stage {
	l := labtest.Up(t, name, "--nodes", fmt.Sprint(at.nodes), "--zones", fmt.Sprint(at.zones))
	a := newAccount(t, l, "packets")
	s := &stage{lab: l, hosts: newHosts(t), watcher: &watcher{lab: l, account: a, wait: at.nodes > 1}, groups: map[string]string{}}
	s.c = newClient(l, a, s.watcher.join)
	s.laptop, s.stranger = host{"laptop", l.Namespace("laptop")}, host{"stranger", l.Namespace("stranger")}
	ctx := t.Context()

	zones := s.zones(t)
	if len(zones) != at.zones {
		t.Fatalf("the zones are %q, want %d", zones, at.zones)
	}
	vpc, err := s.c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	check(t, err)
	s.vpc = *vpc.Vpc.VpcId
	first, last := zones[0], zones[len(zones)-1]
	s.near, s.beside = s.subnet(t, s.vpc, "10.0.1.0/24", first), s.subnet(t, s.vpc, "10.0.3.0/24", first)
	s.farSubnet = s.subnet(t, s.vpc, "10.0.2.0/24", last)
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
	if on := s.nodesOf(t, s.server, s.client, s.other); len(on) != at.nodes {
		t.Fatalf("server, client and other are on %q, want %d nodes", on, at.nodes)
	}
	return s
}

// zones are the names of the availability zones, in order.
func (s *stage) zones(t *testing.T) []string {
	t.Helper()
	out, err := s.c.DescribeAvailabilityZones(t.Context(), &ec2.DescribeAvailabilityZonesInput{})
	check(t, err)
	var names []string
	for _, z := range out.AvailabilityZones {
		names = append(names, *z.ZoneName)
	}
	slices.Sort(names)
	return names
}

// nodesOf are the nodes that instances are on, each once.
func (s *stage) nodesOf(t *testing.T, list ...instance) []string {
	t.Helper()
	var on []string
	for _, i := range s.lab.Status(t).Instances {
		if slices.ContainsFunc(list, func(in instance) bool { return in.id == i.ID }) {
			on = append(on, i.Node)
		}
	}
	slices.Sort(on)
	return slices.Compact(on)
}

func filters(pairs ...string) []types.Filter {
	var list []types.Filter
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, types.Filter{Name: &pairs[i], Values: []string{pairs[i+1]}})
	}
	return list
}

func (s *stage) subnet(t *testing.T, vpc, cidr, zone string) string {
	t.Helper()
	out, err := s.c.CreateSubnet(t.Context(), &ec2.CreateSubnetInput{VpcId: &vpc, CidrBlock: &cidr, AvailabilityZone: &zone})
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
func (s *stage) passes(t testing.TB, when string, rays ...ray) {
	t.Helper()
	s.expect(t, when, rays, nil)
}

// stops fails the test if a ray gets an answer.
func (s *stage) stops(t testing.TB, when string, rays ...ray) {
	t.Helper()
	s.expect(t, when, nil, rays)
}

// expect sends all rays at once: most of the time is waiting in vain.
func (s *stage) expect(t testing.TB, when string, passing, silent []ray) {
	t.Helper()
	var wg sync.WaitGroup
	for _, r := range passing {
		server := s.serve(t, r.at, r.kind)
		wg.Go(func() {
			if r.isProtocol() {
				if ok, err := arrives(r, server, answerWithin); !ok {
					t.Errorf("%s: %v does not arrive (%v)", when, r, err)
				}
				return
			}
			if who, err := reach(r.from, r.to, r.kind, answerWithin); err != nil || who == "" || r.isNamed() && who != r.at.name {
				s.note(r)
				t.Errorf("%s: %v is answered by %q, %v; want %q", when, r, who, err, r.at.name)
			}
		})
	}
	for _, r := range silent {
		server := s.serve(t, r.at, r.kind)
		wg.Go(func() {
			if r.isProtocol() {
				if ok, err := arrives(r, server, silenceFor); ok || err != nil {
					t.Errorf("%s: %v arrives (%v)", when, r, err)
				}
				return
			}
			if who, err := reach(r.from, r.to, r.kind, silenceFor); err != nil || who != "" {
				s.note(r)
				t.Errorf("%s: %v is answered by %q, %v; want silence", when, r, who, err)
			}
		})
	}
	wg.Wait()
}

// note lets the report of the lab trace a packet.
func (s *stage) note(r ray) {
	s.lab.NotePacket(strings.TrimPrefix(r.from.namespace, s.lab.Namespace("")), r.to.String(), strings.Replace(r.kind, "open/", "tcp/", 1))
}

// isProtocol reports whether nothing answers the packet, so that its receiver must confirm it.
func (r ray) isProtocol() bool { return strings.HasPrefix(r.kind, "proto/") }

// isNamed: the answer says whose it is.
func (r ray) isNamed() bool {
	return strings.HasPrefix(r.kind, "tcp/") || strings.HasPrefix(r.kind, "udp/")
}

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
// and after it; one that was sent after the change before is not sent again.
func (s *stage) play(t *testing.T, changes ...change) {
	t.Helper()
	known := map[ray]bool{} // whether it passes, since the last change
	unknown := func(list []ray, passes bool) []ray {
		return slices.DeleteFunc(slices.Clone(list), func(r ray) bool {
			was, ok := known[r]
			return ok && was == passes
		})
	}
	for n, c := range changes {
		label := fmt.Sprintf("%d. %s", n+1, c.action)
		before, silentBefore := slices.Concat(c.shut, c.same), slices.Concat(c.open, c.silent)
		s.expect(t, "before "+label, unknown(before, true), unknown(silentBefore, false))
		c.do(t)
		after, silentAfter := slices.Concat(c.open, c.same), slices.Concat(c.shut, c.silent)
		s.expect(t, "after "+label, after, silentAfter)
		clear(known)
		for _, r := range after {
			known[r] = true
		}
		for _, r := range silentAfter {
			known[r] = false
		}
	}
}

// TestPacketsObeyEveryAction: for each action that changes rules, groups, interfaces,
// routes or addresses, packets are sent before and after, at once when the answer is there.
func TestPacketsObeyEveryAction(t *testing.T) {
	t.Parallel()
	s := newStage(t, "packets", oneNode)
	playAll(t, s)
	t.Run("report of a wrong rule", func(t *testing.T) { checkReportOfWrongRule(t, s) })
}

// checkReportOfWrongRule opens port 7001 and expects port 7000 to be open: the report of the failure has
// the packet, the port, the verdict and the rule.
func checkReportOfWrongRule(t *testing.T, s *stage) {
	wrong := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7001), ToPort: aws.Int32(7001), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}
	group := aws.String(s.groups["server"])
	_, err := s.c.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: wrong})
	check(t, err)
	defer func() {
		_, err := s.c.RevokeSecurityGroupIngress(t.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: group, IpPermissions: wrong})
		check(t, err)
	}()
	failing := *s
	failing.lab = &labtest.Lab{Palisade: s.lab.Palisade, Name: s.lab.Name, Endpoint: s.lab.Endpoint} // is not reported yet
	out, failed := labtest.Record(t, func(t testing.TB) {
		failing.lab.ReportFailure(t)
		failing.passes(t, "with the wrong port open", to(s.client.host, s.server, "tcp/7000"))
	})
	if !failed {
		t.Fatalf("port 7000 is open, but only port 7001 should be:\n%s", out)
	}
	labtest.CheckReport(t, out,
		`tcp/7000 from client to server`,
		`tcp/7000 from `+s.client.id+` to `+s.server.private.String(),
		`=> dropped at `+s.server.id+` on node1: no-rule`,
		`node1 +`+s.server.id+` +no-rule +\d+`,
		*group+` "server" of \d{12}, members \[`+s.server.nic,
		`\n +tcp 7001 from 0\.0\.0\.0/0`,
		s.server.id+` `+s.server.nic+` up at node1`,
		`log of node1:`)
}

// TestPacketsObeyEveryActionAcrossNodes is the same with everyone on another node, of whom
// one at most was asked for the change: so packets are sent when all of them enforce it.
func TestPacketsObeyEveryActionAcrossNodes(t *testing.T) {
	t.Parallel()
	playAll(t, newStage(t, "across", threeNodes))
}

func playAll(t *testing.T, s *stage) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.lab.ReportFailure(t)
			s.watcher.forget()
			c.play(s, t)
			for _, action := range c.actions {
				if !t.Failed() && !s.watcher.done(action) {
					t.Errorf("the case is of %s and never did it", action)
				}
			}
		})
	}
}
