package clients

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// An end is a host that packets of every size come from and go to.
type end struct {
	name, namespace, node string // node is "" outside of the cluster
	private, public       netip.Addr
	mtu                   int // of its device
}

// addressFor returns the address at which another end reaches e.
func (e *end) addressFor(other *end) netip.Addr {
	if e.node == "" || other.node != "" {
		return e.private
	}
	return e.public
}

// pathMTU returns the MTU of the way from one end to another, in a lab whose tunnels and uplinks have 1500.
func pathMTU(from, to *end) int {
	mtu := min(from.mtu, to.mtu)
	if from.node != to.node {
		mtu = min(mtu, 1500)
	}
	return mtu
}

// newEnds makes a lab of two nodes and ends of every kind at both: instances, two of them at node1; attached
// namespaces, one with jumbo frames and one with 1280 bytes; devices of veth pairs, one with jumbo frames and one
// whose other end has 1400 bytes; and the laptop. All groups admit everything.
func newEnds(t *testing.T) []*end {
	l := labtest.Up(t, "sizes", "--nodes", "2", "--zones", "2")
	c := newClient(l, newAccount(t, l, "sizes"))
	ctx := t.Context()
	subnets, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	check(t, err)
	vpc := *subnets.Subnets[0].VpcId
	made, err := c.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("all"), Description: aws.String("all"), VpcId: &vpc})
	check(t, err)
	group := *made.GroupId
	_, err = c.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{
		{IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}, {CidrIp: aws.String("172.16.0.0/12")}, {CidrIp: aws.String("203.0.113.0/24")}}},
	}})
	check(t, err)

	ends := []*end{{name: "laptop", namespace: l.Namespace("laptop"), private: laptopAddress, public: laptopAddress, mtu: 1500}}
	subnetAt := map[string]string{} // by node: one of a zone that the node carries
	for i, wanted := 0, map[string]int{"node1": 2, "node2": 1}; wanted["node1"]+wanted["node2"] > 0; i++ {
		if i == 12 {
			t.Fatalf("of 12 instances too few run at one of the nodes; still wanted: %v", wanted)
		}
		subnet := subnets.Subnets[i%len(subnets.Subnets)].SubnetId
		out, err := c.RunInstances(ctx, &ec2.RunInstancesInput{SubnetId: subnet, SecurityGroupIds: []string{group}, ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
		check(t, err)
		in := running(t, l, c, []string{*out.Instances[0].InstanceId}, fmt.Sprint("instance", i))[0]
		for _, s := range l.Status(t).Instances {
			if s.ID == in.id && wanted[s.Node] > 0 {
				wanted[s.Node]--
				subnetAt[s.Node] = *subnet
				ends = append(ends, &end{fmt.Sprintf("instance%d", i), s.Namespace, s.Node, netip.MustParseAddr(s.PrivateAddress), netip.MustParseAddr(s.PublicAddress), 1500})
			}
		}
	}
	one, two := subnetAt["node1"], subnetAt["node2"]
	return append(ends,
		attachNamespace(t, l, "node1", one, group, 9000), attachNamespace(t, l, "node2", two, group, 1280),
		attachVeth(t, l, "node1", one, group, 9000, 9000), attachVeth(t, l, "node2", two, group, 1500, 1400))
}

// An attached is what `palisade attach --json` prints.
type attached struct {
	Device    string
	MAC       string
	Addresses []netip.Prefix
	Gateway   netip.Addr
	Public    string `json:"public_address"`
}

func attach(t *testing.T, l *labtest.Lab, node string, args ...string) (a attached) {
	t.Helper()
	out := l.Do(t, append([]string{"attach", "--json", "--node", node, "--public"}, args...)...)
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatalf("palisade attach printed %q: %v", out, err)
	}
	return a
}

func ip(t *testing.T, line string, args ...any) {
	t.Helper()
	line = fmt.Sprintf(line, args...)
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
}

func newNamespace(t *testing.T, name string) string {
	t.Helper()
	name = fmt.Sprintf("pal-%d-%s", os.Getpid(), name)
	check(t, netns.New(name))
	t.Cleanup(func() { check(t, netns.Delete(name)) })
	ip(t, "-n %s link set lo up", name)
	return name
}

// attachNamespace attaches a namespace, whose user then changes the MTU of its device.
func attachNamespace(t *testing.T, l *labtest.Lab, node, subnet, group string, mtu int) *end {
	t.Helper()
	ns := newNamespace(t, "ns-"+node)
	a := attach(t, l, node, "--netns", ns, "--subnet", subnet, "--group", group)
	ip(t, "-n %s link set %s mtu %d", ns, a.Device, mtu)
	return &end{"namespace of " + node, ns, node, a.Addresses[0].Addr(), netip.MustParseAddr(a.Public), mtu}
}

// attachVeth attaches one end of a veth pair with its MTU. The other end, in a namespace, has an MTU of its own.
func attachVeth(t *testing.T, l *labtest.Lab, node, subnet, group string, mtu, other int) *end {
	t.Helper()
	ns, host := newNamespace(t, "veth-"+node), l.Namespace(node)
	ip(t, "-n %s link add v0 mtu %d type veth peer name eth0 mtu %d netns %s", host, mtu, other, ns)
	a := attach(t, l, node, "--tap", "v0", "--subnet", subnet, "--group", group)
	ip(t, "-n %s link set eth0 address %s up", ns, a.MAC)
	ip(t, "-n %s addr add %v dev eth0", ns, a.Addresses[0])
	ip(t, "-n %s route add default via %v", ns, a.Gateway)
	return &end{"veth of " + node, ns, node, a.Addresses[0].Addr(), netip.MustParseAddr(a.Public), min(mtu, other)}
}

// TestPacketsOfEverySizeArriveOrAreAnswered: UDP, pings and TCP between every two kinds of ends, on one node and
// across, with and without DF. A datagram without DF arrives with the bytes that were sent. One with DF arrives if
// the way carries it; otherwise its sender gets EMSGSIZE. The sizes are those near each MTU, and some
// at random; with the tag soak, all of 1 to 9000 bytes.
func TestPacketsOfEverySizeArriveOrAreAnswered(t *testing.T) {
	ends := newEnds(t)
	labtest.Eventually(t, "MTUs of the devices are known to the switches", func() bool {
		jumbo := ends[len(ends)-2]
		small, large := newFlow(t, ends[1], named(ends, "namespace of node2"), useDF), newFlow(t, jumbo, named(ends, "namespace of node1"), useDF)
		defer small.close()
		defer large.close()
		return small.send(1400) == answered && large.send(5000) == arrived
	})
	datagrams := 0
	for _, from := range ends {
		for _, to := range ends {
			if from == to || from.node == "node2" && to.node == "node2" {
				continue
			}
			for _, df := range []int{noDF, useDF} {
				datagrams += checkFlow(t, newFlow(t, from, to, df), payloadSizes())
				datagrams += checkFlow(t, newPing(t, from, to, df), payloadSizes())
			}
			checkStream(t, from, to)
			iperf3(t, from, to)
		}
	}
	checkNextRouter(t, ends)
	t.Logf("%d datagrams and pings between %d ends", datagrams, len(ends))
}

func named(ends []*end, name string) *end {
	return ends[slices.IndexFunc(ends, func(e *end) bool { return e.name == name })]
}

// checkFlow sends payloads of the sizes, and checks what becomes of each.
func checkFlow(t *testing.T, f *flow, sizes []int) int {
	t.Helper()
	defer f.close()
	limit := pathMTU(f.from, f.to)
	for _, size := range sizes {
		want := arrived
		if f.df == useDF && size+28 > limit {
			want = answered
		}
		got := f.send(size)
		if got == lost { // a full queue of a busy machine loses packets too
			got = f.send(size)
		}
		if got != want {
			t.Errorf("%s from %s to %s of %d bytes, DF %v: %s, want %s", f.kind, f.from.name, f.to.name, size+28, f.df == useDF, got, want)
		}
	}
	return len(sizes)
}

const (
	noDF  = unix.IP_PMTUDISC_OMIT // no DF, and the kernel fragments for its device, not for the path
	useDF = unix.IP_PMTUDISC_DO
)
