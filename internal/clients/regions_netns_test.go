package clients

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// inRegion returns a testbed of an account in one region of a lab, without a VPC of its own.
func inRegion(l *labtest.Lab, h *hosts, a lab.Account, region string) *testbed {
	c := ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String(l.Endpoint), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey, ""),
	})
	return &testbed{lab: l, hosts: h, watcher: &watcher{lab: l, account: a}, c: c}
}

// runIn starts an instance in a zone of the default VPC.
func (s *testbed) runIn(t *testing.T, zone string) instance {
	t.Helper()
	return s.run(t, zone, &ec2.RunInstancesInput{Placement: &types.Placement{AvailabilityZone: &zone}})
}

// Instances in two regions reach each other by public addresses, if a rule admits it, and never by private
// ones. Every zone of every region has instances, on however many nodes. Without a leader a region that was
// not used yet is Unavailable.
func TestRegionsMeetByPublicAddressesOnly(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, "regions", "--nodes", "3")
	h := newHosts(t)
	a := newAccount(t, l, "regions")
	east, west, sydney := inRegion(l, h, a, "us-east-1"), inRegion(l, h, a, "eu-west-1"), inRegion(l, h, a, "ap-southeast-2")
	one, two := east.runIn(t, "us-east-1f"), west.runIn(t, "eu-west-1b")
	three := sydney.runIn(t, "ap-southeast-2c")
	if on := east.nodesOf(t, one, two, three); len(on) < 2 {
		t.Errorf("the instances are all on %v, want them on several nodes", on)
	}
	addresses := []string{one.public.String(), two.public.String(), three.public.String()}
	if slices.Sort(addresses); len(slices.Compact(slices.Clone(addresses))) != 3 {
		t.Errorf("the public addresses in three regions are %v, want three", addresses)
	}
	private := probes(to(one.host, two, "tcp/7180"), to(two.host, one, "icmp"), to(three.host, one, "tcp/7180"))
	public := probes(toAddress(two.host, one.public, one, "tcp/7180"), toAddress(three.host, one.public, one, "icmp"))
	back := probes(toAddress(one.host, two.public, two, "tcp/7180"))
	east.wantSilence(t, "before a rule admits it", slices.Concat(private, public, back)...)
	everywhere := []types.IpPermission{permission("-1", -1, -1, "0.0.0.0/0")}
	east.admit(t, east.defaultGroup(t), everywhere...)
	east.wantAnswers(t, "with a rule in us-east-1", public...)
	east.wantSilence(t, "with a rule in us-east-1", slices.Concat(private, back)...)
	west.admit(t, west.defaultGroup(t), permission("tcp", 7180, 7180, one.public.String()+"/32"))
	east.wantAnswers(t, "with a rule in eu-west-1", slices.Concat(public, back)...)
	east.wantSilence(t, "with rules in both regions", private...)
	testWithoutLeader(t, l, west, inRegion(l, h, a, "sa-east-1"))
	east.wantAnswers(t, "when the nodes are back", slices.Concat(public, back)...)
}

// testWithoutLeader kills all nodes but one, and starts them again.
func testWithoutLeader(t *testing.T, l *labtest.Lab, used, unused *testbed) {
	t.Helper()
	l.Do(t, "lab", "kill", "node2")
	l.Do(t, "lab", "kill", "node3")
	var err error
	labtest.Eventually(t, "the cluster has no leader", func() bool {
		_, err = unused.c.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		return code(err) == "Unavailable"
	})
	if err == nil || !strings.Contains(err.Error(), "leader") {
		t.Errorf("without a leader the first request for sa-east-1 returned %v, want Unavailable with the reason", err)
	}
	l.Do(t, "lab", "start", "node2")
	l.Do(t, "lab", "start", "node3")
	labtest.Eventually(t, "sa-east-1 is opened", func() bool {
		out, err := unused.c.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
		return err == nil && len(out.Subnets) == 3
	})
	out, err := used.c.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	if err != nil || len(out.Vpcs) != 1 {
		t.Errorf("eu-west-1 shows %+v with error %v, want its default VPC", out, err)
	}
}
