package clients

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// A connection through a NAT gateway goes on after the daemon of the gateway's node was killed and started again. When
// the daemon stays dead, another node takes the gateway over, and new connections work.
func TestNATGatewayOutlivesItsDaemonAndMovesFromALostNode(t *testing.T) {
	t.Parallel()
	s := newTestbed(t, "natnode", threeNodes)
	ctx := t.Context()
	s.publicTable(t, s.serverSubnet)
	allocation, _ := s.allocate(t)
	made, err := s.c.CreateNatGateway(ctx, &ec2.CreateNatGatewayInput{SubnetId: &s.serverSubnet, AllocationId: &allocation})
	check(t, err)
	_, err = s.c.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &s.routes, DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: made.NatGateway.NatGatewayId})
	check(t, err)
	node := func() string {
		out, err := s.c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filters("interface-type", "nat_gateway")})
		check(t, err)
		return *out.NetworkInterfaces[0].RequesterId
	}
	at := node()
	s.serve(t, s.laptop, "tcp/7195")
	conn := s.openThrough(t)
	defer conn.Close()
	echo(t, conn, "before")
	s.lab.Do(t, "lab", "kill", at)
	s.lab.Do(t, "lab", "start", at)
	echo(t, conn, "after the daemon was started again")

	s.lab.Do(t, "lab", "kill", at)
	killed := time.Now()
	again := probe{from: s.other.host, to: laptopAddress, kind: "tcp/7195", at: s.laptop}
	labtest.Eventually(t, "another node takes the gateway over", func() bool {
		who, _ := reach(again.from, again.to, again.kind, time.Second)
		return who == "laptop"
	})
	took := time.Since(killed)
	if now := node(); now == at {
		t.Errorf("the gateway is still at %s, whose daemon was killed", at)
	}
	t.Logf("the gateway of %s was taken over after %v", at, took)
	s.lab.Do(t, "lab", "start", at)
	s.wantAnswers(t, "after the former node is back", again)
	if took > 15*time.Second { // on an idle machine it takes less than 5 s
		t.Errorf("the gateway was taken over after %v, want at most 15s", took)
	}
}

// openThrough opens a connection from the instance other to the laptop.
func (s *testbed) openThrough(t *testing.T) (conn net.Conn) {
	t.Helper()
	err := netns.Do(s.other.host.namespace, func() (err error) {
		conn, err = net.DialTimeout("tcp4", laptopAddress.String()+":7195", 10*time.Second)
		return err
	})
	check(t, err)
	if _, err := readLine(conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

// echo sends a line and waits for it.
func echo(t *testing.T, conn net.Conn, line string) {
	t.Helper()
	check(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := fmt.Fprintln(conn, line)
	check(t, err)
	if got, err := readLine(conn); err != nil || got != line {
		t.Fatalf("the connection through the gateway answered %q (%v), want %q", got, err, line)
	}
}
