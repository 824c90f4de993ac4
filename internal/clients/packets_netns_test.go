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

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// A testbed is a VPC with instances. All packet cases use it; each undoes its changes at its end.
// The VPC has:
//
//	10.0.0.0/16   serverSubnet 10.0.1.0/24   server   group server   no ingress rule
//	                                         client   group client   no ingress rule
//	              secondSubnet 10.0.3.0/24
//	              otherSubnet  10.0.2.0/24   other    group other    no ingress rule
//
// Egress is unrestricted. An internet gateway is attached, but the main route table has no route
// to it, and no instance has a public address. serverSubnet and secondSubnet are in one zone.
type testbed struct {
	lab *labtest.Lab
	c   *ec2.Client
	*hosts
	watcher *watcher

	vpc, serverSubnet, secondSubnet, otherSubnet, gateway, routes string
	groups                                                        map[string]string // by name

	server, client, other instance
	laptop, stranger      host
}

// Addresses of the laptop and the stranger, two hosts outside of the VPC.
var (
	laptopAddress   = netip.MustParseAddr("203.0.113.25")
	strangerAddress = netip.MustParseAddr("198.51.100.7")
)

// A placement is the number of nodes of a testbed, and of zones that they are labelled with. With three nodes,
// server, client and other are on different nodes; server and client are in one zone, because
// they share a subnet.
type placement struct{ nodes, zones int }

var (
	oneNode    = placement{1, 1}
	threeNodes = placement{3, 2}
)

// testbedOf returns a testbed of a lab without instances, for probes between what an account makes there.
func testbedOf(t *testing.T, l *labtest.Lab, a lab.Account) *testbed {
	t.Helper()
	return &testbed{lab: l, hosts: newHosts(t), watcher: &watcher{lab: l, account: a}, laptop: host{"laptop", l.Namespace("laptop")}, stranger: host{"stranger", l.Namespace("stranger")}}
}

func newTestbed(t *testing.T, name string, at placement) *testbed {
	l := labtest.Up(t, name, "--nodes", fmt.Sprint(at.nodes), "--zones", fmt.Sprint(at.zones))
	a := newAccount(t, l, "packets")
	s := &testbed{lab: l, hosts: newHosts(t), watcher: &watcher{lab: l, account: a, wait: at.nodes > 1}, groups: map[string]string{}}
	s.c = newClient(l, a, s.watcher.addTo)
	s.laptop, s.stranger = host{"laptop", l.Namespace("laptop")}, host{"stranger", l.Namespace("stranger")}
	ctx := t.Context()

	zones := s.zones(t)
	if len(zones) < at.zones {
		t.Fatalf("the testbed has the zones %q, want %d with nodes of their own", zones, at.zones)
	}
	zones = zones[:at.zones]
	vpc, err := s.c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	check(t, err)
	s.vpc = *vpc.Vpc.VpcId
	first, last := zones[0], zones[len(zones)-1]
	s.serverSubnet, s.secondSubnet = s.subnet(t, s.vpc, "10.0.1.0/24", first), s.subnet(t, s.vpc, "10.0.3.0/24", first)
	s.otherSubnet = s.subnet(t, s.vpc, "10.0.2.0/24", last)
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
	s.server = s.launch(t, "server", s.serverSubnet, s.groups["server"])
	s.client = s.launch(t, "client", s.serverSubnet, s.groups["client"])
	s.other = s.launch(t, "other", s.otherSubnet, s.groups["other"])
	if on := s.nodesOf(t, s.server, s.client, s.other); len(on) != at.nodes {
		t.Fatalf("server, client and other are on the nodes %q, want %d nodes", on, at.nodes)
	}
	return s
}

// zones returns the names of the availability zones, sorted.
func (s *testbed) zones(t *testing.T) []string {
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

// nodesOf returns the names of the nodes that run the instances, each once.
func (s *testbed) nodesOf(t *testing.T, list ...instance) []string {
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

func (s *testbed) subnet(t *testing.T, vpc, cidr, zone string) string {
	t.Helper()
	out, err := s.c.CreateSubnet(t.Context(), &ec2.CreateSubnetInput{VpcId: &vpc, CidrBlock: &cidr, AvailabilityZone: &zone})
	check(t, err)
	return *out.Subnet.SubnetId
}

func (s *testbed) group(t *testing.T, vpc, name string) string {
	t.Helper()
	out, err := s.c.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("group " + name), VpcId: &vpc})
	check(t, err)
	return *out.GroupId
}

func (s *testbed) launch(t *testing.T, name, subnet string, groups ...string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SubnetId: &subnet, SecurityGroupIds: groups})
}

// launchDefault launches an instance in the default VPC.
func (s *testbed) launchDefault(t *testing.T, name string, groups ...string) instance {
	t.Helper()
	return s.run(t, name, &ec2.RunInstancesInput{SecurityGroupIds: groups})
}

func (s *testbed) run(t *testing.T, name string, in *ec2.RunInstancesInput) instance {
	t.Helper()
	in.ImageId, in.MinCount, in.MaxCount = aws.String("ami-eca54085"), aws.Int32(1), aws.Int32(1)
	out, err := s.c.RunInstances(t.Context(), in)
	check(t, err)
	return running(t, s.lab, s.c, []string{*out.Instances[0].InstanceId}, name)[0]
}

// A probe is one packet of a case: its sender, its destination address, its kind (tcp/7000,
// udp/7000, icmp, proto/50), and the host that has the address and answers.
type probe struct {
	from host
	to   netip.Addr
	kind string
	at   host

	source netip.Addr // source address of a proto/N probe; zero: the sender's own address
}

func (r probe) String() string {
	return fmt.Sprintf("%s from %s to %s %v", r.kind, r.from.name, r.at.name, r.to)
}

// The function to returns a probe of an instance's primary private address.
func to(from host, at instance, kind string) probe { return toAddress(from, at.private, at, kind) }

// toAddress returns a probe of any address of an instance.
func toAddress(from host, address netip.Addr, at instance, kind string) probe {
	return probe{from: from, to: address, kind: kind, at: at.host}
}

// wantAnswers sends the probes and fails the test unless the host of each one answers.
func (s *testbed) wantAnswers(t testing.TB, when string, probes ...probe) {
	t.Helper()
	s.send(t, when, probes, nil)
}

// wantSilence sends the probes and fails the test if one is answered.
func (s *testbed) wantSilence(t testing.TB, when string, probes ...probe) {
	t.Helper()
	s.send(t, when, nil, probes)
}

// send sends all probes at once, to save time: it waits for answers that must not come. It fails
// the test unless the passing probes are answered and the silent ones are not.
func (s *testbed) send(t testing.TB, when string, passing, silent []probe) {
	t.Helper()
	var wg sync.WaitGroup
	for _, r := range passing {
		server := s.serve(t, r.at, r.kind)
		wg.Go(func() {
			if r.isProtocol() {
				if ok, err := arrives(r, server, answerWithin); !ok {
					t.Errorf("%s: %v did not arrive (error %v)", when, r, err)
				}
				return
			}
			if who, err := reach(r.from, r.to, r.kind, answerWithin); err != nil || who == "" || r.isNamed() && who != r.at.name {
				s.notePacket(r)
				t.Errorf("%s: %v: got an answer from %q (error %v), want one from %q", when, r, who, err, r.at.name)
			}
		})
	}
	for _, r := range silent {
		server := s.serve(t, r.at, r.kind)
		wg.Go(func() {
			if r.isProtocol() {
				if ok, err := arrives(r, server, silenceFor); ok || err != nil {
					t.Errorf("%s: %v arrived or failed (error %v), want it dropped", when, r, err)
				}
				return
			}
			if who, err := reach(r.from, r.to, r.kind, silenceFor); err != nil || who != "" {
				s.notePacket(r)
				t.Errorf("%s: %v: got an answer from %q (error %v), want no answer", when, r, who, err)
			}
		})
	}
	wg.Wait()
}

// notePacket records a probe, so that the lab's failure report has a trace of its packet.
func (s *testbed) notePacket(r probe) {
	s.lab.NotePacket(strings.TrimPrefix(r.from.namespace, s.lab.Namespace("")), r.to.String(), strings.Replace(r.kind, "open/", "tcp/", 1))
}

// isProtocol reports whether the probe is of a protocol that no server answers. The test then
// asks the receiver whether the packet arrived.
func (r probe) isProtocol() bool { return strings.HasPrefix(r.kind, "proto/") }

// isNamed reports whether the answer to the probe has the name of the answering host.
func (r probe) isNamed() bool {
	return strings.HasPrefix(r.kind, "tcp/") || strings.HasPrefix(r.kind, "udp/")
}

// A change is one or more calls of a mutating action, with the probes that are sent before and
// after the calls.
type change struct {
	action string
	do     func(t *testing.T)
	open   []probe // answered only after the change
	shut   []probe // answered only before the change
	same   []probe // answered before and after
	silent []probe // answered neither before nor after
}

// checkChanges makes the changes one after the other, and sends the probes of each change before
// and after it. It does not send a probe before a change if it was sent after the previous change
// with the expected result.
func (s *testbed) checkChanges(t *testing.T, changes ...change) {
	t.Helper()
	known := map[probe]bool{} // whether the probe was answered after the previous change
	unknown := func(list []probe, passes bool) []probe {
		return slices.DeleteFunc(slices.Clone(list), func(r probe) bool {
			before, ok := known[r]
			return ok && before == passes
		})
	}
	for n, c := range changes {
		label := fmt.Sprintf("%d. %s", n+1, c.action)
		before, silentBefore := slices.Concat(c.shut, c.same), slices.Concat(c.open, c.silent)
		s.send(t, "before "+label, unknown(before, true), unknown(silentBefore, false))
		c.do(t)
		after, silentAfter := slices.Concat(c.open, c.same), slices.Concat(c.shut, c.silent)
		s.send(t, "after "+label, after, silentAfter)
		clear(known)
		for _, r := range after {
			known[r] = true
		}
		for _, r := range silentAfter {
			known[r] = false
		}
	}
}

// For each action that changes rules, groups, interfaces, routes or addresses, the test sends
// probes before the call and immediately after its answer.
func TestPacketsObeyEveryAction(t *testing.T) {
	t.Parallel()
	s := newTestbed(t, "packets", oneNode)
	runCases(t, s)
	t.Run("report of a wrong rule", func(t *testing.T) { checkReportOfWrongRule(t, s) })
}

// checkReportOfWrongRule opens port 7001 by a rule and runs a test that wants port 7000 open, so
// that it fails. The failure report must have the packet, the verdict with the instance and node
// that dropped it, and the rule.
func checkReportOfWrongRule(t *testing.T, s *testbed) {
	wrong := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7001), ToPort: aws.Int32(7001), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}
	group := aws.String(s.groups["server"])
	_, err := s.c.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: wrong})
	check(t, err)
	defer func() {
		_, err := s.c.RevokeSecurityGroupIngress(t.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: group, IpPermissions: wrong})
		check(t, err)
	}()
	failing := *s
	failing.lab = &labtest.Lab{Palisade: s.lab.Palisade, Name: s.lab.Name, Endpoint: s.lab.Endpoint} // a new Lab value, because a Lab reports only its first failure
	out, failed := labtest.Record(t, func(t testing.TB) {
		failing.lab.ReportFailure(t)
		failing.wantAnswers(t, "with the wrong port open", to(s.client.host, s.server, "tcp/7000"))
	})
	if !failed {
		t.Fatalf("the test that wants port 7000 open did not fail, although only port 7001 is open; its output:\n%s", out)
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

// This test runs the same cases with server, client and other on different nodes. The answer to a
// call means only that the answering node enforces the change, so the test waits until all nodes
// do, and then sends the probes.
func TestPacketsObeyEveryActionAcrossNodes(t *testing.T) {
	t.Parallel()
	runCases(t, newTestbed(t, "across", threeNodes))
}

func runCases(t *testing.T, s *testbed) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.lab.ReportFailure(t)
			s.watcher.reset()
			c.run(s, t)
			for _, action := range c.actions {
				if !t.Failed() && !s.watcher.done(action) {
					t.Errorf("the case names the action %s but did not call it successfully", action)
				}
			}
		})
	}
}
