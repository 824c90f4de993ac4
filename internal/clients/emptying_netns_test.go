package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// testEmptyVPC makes a VPC with one or more things of every kind that is served, and runs testdata/empty_vpc.sh,
// which must end and leave nothing.
func testEmptyVPC(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "emptying")
	s := &testbed{lab: l, c: newClient(l, a), hosts: newHosts(t), watcher: &watcher{lab: l, account: a}, laptop: host{"laptop", l.Namespace("laptop")}}
	in := s.fullVPC(t)
	check(t, s.watcher.enforced(t.Context(), ""))
	s.wantAnswers(t, "the VPC is full", toAddress(s.laptop, in.public, in, "tcp/7000"))

	dir := t.TempDir()
	script, err := filepath.Abs("testdata/empty_vpc.sh")
	check(t, err)
	// Debian's aws does not know AWS_ENDPOINT_URL.
	launcher := "#!/bin/sh\nexec " + debianAWS + " --endpoint-url \"$AWS_ENDPOINT_URL\" \"$@\"\n"
	check(t, os.WriteFile(filepath.Join(dir, "aws"), []byte(launcher), 0o755))
	cmd := exec.CommandContext(t.Context(), "bash", script, s.vpc)
	cmd.Env, cmd.Dir = l.Environ(a, dir, dir), dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), s.vpc+" is gone\n") {
		t.Fatalf("empty_vpc.sh: %v\n%s", err, out)
	}
	check(t, s.watcher.enforced(t.Context(), ""))
	wantClosed(t, s.laptop, in.public, "open/7000")
	wantOnlyDefaults(t, l, a, lab.Region)
}

// fullVPC fills a VPC and returns an instance in it whose port 7000 is open.
func (s *testbed) fullVPC(t *testing.T) instance {
	t.Helper()
	ctx := t.Context()
	vpc, err := s.c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.70.0.0/16")})
	check(t, err)
	s.vpc = *vpc.Vpc.VpcId
	gateway, err := s.c.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	check(t, err)
	_, err = s.c.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: gateway.InternetGateway.InternetGatewayId, VpcId: &s.vpc})
	check(t, err)
	zone := s.zones(t)[0]
	public, private := s.subnet(t, s.vpc, "10.70.1.0/24", zone), s.subnet(t, s.vpc, "10.70.2.0/24", zone)
	table, err := s.c.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &s.vpc})
	check(t, err)
	_, err = s.c.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table.RouteTable.RouteTableId, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: gateway.InternetGateway.InternetGatewayId})
	check(t, err)
	_, err = s.c.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: table.RouteTable.RouteTableId, SubnetId: &public})
	check(t, err)
	_, err = s.c.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: &s.vpc, CidrBlock: aws.String("10.71.0.0/16")})
	check(t, err)
	further := s.subnet(t, s.vpc, "10.71.1.0/24", zone)
	options, err := s.c.CreateDhcpOptions(ctx, &ec2.CreateDhcpOptionsInput{DhcpConfigurations: []types.NewDhcpConfiguration{{Key: aws.String("domain-name"), Values: []string{"empty.internal"}}}})
	check(t, err)
	_, err = s.c.AssociateDhcpOptions(ctx, &ec2.AssociateDhcpOptionsInput{DhcpOptionsId: options.DhcpOptions.DhcpOptionsId, VpcId: &s.vpc})
	check(t, err)

	// Two groups name each other.
	web, database := s.group(t, s.vpc, "web"), s.group(t, s.vpc, "database")
	for group, source := range map[string]string{web: database, database: web} {
		_, err = s.c.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{
			{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &source, Description: aws.String("the other tier")}}},
			{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(7000), ToPort: aws.Int32(7000), IpRanges: []types.IpRange{{CidrIp: aws.String("203.0.113.0/24")}}, Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}},
		}})
		check(t, err)
	}
	in := s.launch(t, "web", public, web)
	for _, subnet := range []string{private, further} {
		_, err = s.c.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &subnet, Groups: []string{database}})
		check(t, err)
	}
	second, err := s.c.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &private, Groups: []string{database}})
	check(t, err)
	_, err = s.c.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{DeviceIndex: aws.Int32(1), InstanceId: &in.id, NetworkInterfaceId: second.NetworkInterface.NetworkInterfaceId})
	check(t, err)
	address, err := s.c.AllocateAddress(ctx, &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	check(t, err)
	_, err = s.c.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: address.AllocationId, NetworkInterfaceId: aws.String(in.nic)})
	check(t, err)
	return running(t, s.lab, s.c, []string{in.id}, "web")[0]
}
