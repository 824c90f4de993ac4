package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// dev is an account of the VPC platform.
const dev = ec2.AccountID("123456789012")

// newVPCReplay returns a replay with two zones and the account dev.
func newVPCReplay(t testing.TB) *replay {
	r := newReplay(t)
	r.must(&PutNode{ec2.Node{ID: "node2", Zone: "us-east-1b"}})
	r.must(&CreateAccount{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Secret: "d"})
	return r
}

func (r *replay) defaultVPC() *ec2.VPC {
	r.t.Helper()
	vpc, ok := r.state.View().DefaultVPC(dev, east)
	if !ok {
		r.t.Fatal("dev has no default VPC")
	}
	return vpc
}

// subnets returns the subnets of a VPC by range: "172.31.0.0/20 us-east-1a, …".
func (r *replay) subnets(vpc ec2.VPCID) string {
	var list []string
	for s := range r.state.View().SubnetsIn(vpc) {
		list = append(list, s.CIDR.String()+" "+s.Zone)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func cidr(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestVPCAccountHasADefaultVPCInEachRegion(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.defaultVPC()
	v := r.state.View()
	if vpc.CIDR != cidr("172.31.0.0/16") || !vpc.DNSSupport || !vpc.DNSHostnames {
		t.Errorf("the default VPC is %+v, want 172.31.0.0/16 with DNS support and host names", vpc)
	}
	if got, want := r.subnets(vpc.ID), "172.31.0.0/20 us-east-1a, 172.31.16.0/20 us-east-1b"; got != want {
		t.Errorf("the subnets of the default VPC are %s, want %s", got, want)
	}
	for s := range v.SubnetsIn(vpc.ID) {
		rt := v.RouteTableOf(s)
		if !s.MapPublic || !s.Default || rt == nil || rt.ID != vpc.RouteTable || len(rt.Routes) != 1 || rt.Routes[0].Destination != allIPv4 {
			t.Errorf("subnet %+v has route table %+v, want a default, public subnet and the main table with a default route", s, rt)
			continue
		}
		if g, ok := v.InternetGateway(rt.Routes[0].Gateway); !ok || g.VPC != vpc.ID {
			t.Errorf("the default route leads to gateway %+v, want one that is attached to the VPC", g)
		}
	}
	n, ok := v.Network(vpc.VNI)
	if !ok || n.VPC != vpc.ID || n.Prefix != vpc.CIDR || n.VNI == 1 || len(n.Pools)+len(n.PublicPools) != 0 {
		t.Errorf("the network of the default VPC is %+v, want the range of the VPC, a VNI of its own and no pools", n)
	}
	if g, ok := v.Group(vpc.Group); !ok || g.Name != "default" || g.VPC != vpc.ID || len(g.Rules) != 2 || g.Rules[0].Source.Group.ID != g.ID || g.Rules[1].Direction != ec2.Egress {
		t.Errorf("the default group of the default VPC is %+v, want ingress from itself and all egress", g)
	}
	for id := range v.VPCsOf(albert, east) {
		t.Errorf("a Classic account has VPC %s, want none", id.ID)
	}

	west := ec2.Region("us-west-2")
	r.must(&PutNetwork{ec2.Network{VNI: 102, Region: "eu-west-1", Prefix: cidr("10.0.0.0/8")}})
	if _, ok := r.state.View().DefaultVPC(dev, west); ok {
		t.Error("there is a default VPC in a region without a network")
	}
	r.must(&PutNode{ec2.Node{ID: "node3", Zone: "us-west-2c"}})
	r.must(&PutNetwork{ec2.Network{VNI: 203, Region: west, Prefix: cidr("10.0.0.0/8")}})
	there, ok := r.state.View().DefaultVPC(dev, west)
	if !ok || r.subnets(there.ID) != "172.31.0.0/20 us-west-2c" {
		t.Errorf("the default VPC of a new region is %+v, want it with the subnet 172.31.0.0/20 in us-west-2c", there)
	}
	if there.VNI == vpc.VNI {
		t.Error("two VPCs have the same VNI")
	}
}

func (r *replay) vpc(account ec2.AccountID, block string) *ec2.VPC {
	r.t.Helper()
	return r.must(&CreateVPC{Account: account, Region: east, CIDR: cidr(block)}).VPC
}

func (r *replay) subnet(vpc *ec2.VPC, block, zone string) *ec2.Subnet {
	r.t.Helper()
	return r.must(&CreateSubnet{Account: vpc.Account, Region: vpc.Region, VPC: vpc.ID, CIDR: cidr(block), Zone: zone}).Subnet
}

func TestNewZoneGetsDefaultSubnets(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.defaultVPC()
	var first *ec2.Subnet
	for s := range r.state.View().SubnetsIn(vpc.ID) {
		if s.Zone == "us-east-1a" {
			first = s
		}
	}
	r.must(&DeleteSubnet{dev, east, first.ID})
	r.must(&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a"}}) // node1 restarts
	r.must(&PutNode{ec2.Node{ID: "node3", Zone: "us-east-1a"}}) // the zone is not new
	if got, want := r.subnets(vpc.ID), "172.31.16.0/20 us-east-1b"; got != want {
		t.Errorf("a deleted subnet exists again: %s, want %s", got, want)
	}
	r.must(&CreateJoinToken{"t1", secretHash, ec2.Voter, r.now.Add(1e9)})
	r.must(&AdmitNode{"t1", secretHash, ec2.Node{ID: "node4", Zone: "us-east-1c", Address: "192.0.2.14:7400", PublicKey: []byte("key")}})
	r.must(&PutNode{ec2.Node{ID: "node5", Zone: "eu-west-1a"}}) // its region has no network
	if got, want := r.subnets(vpc.ID), "172.31.0.0/20 us-east-1c, 172.31.16.0/20 us-east-1b"; got != want {
		t.Errorf("subnets are %s, want %s", got, want)
	}
	r.must(&CreateDefaultSubnet{dev, east, "us-east-1a"})
	if got, want := r.subnets(vpc.ID), "172.31.0.0/20 us-east-1c, 172.31.16.0/20 us-east-1b, 172.31.32.0/20 us-east-1a"; got != want {
		t.Errorf("subnets are %s, want %s", got, want)
	}
	r.refused(&CreateDefaultSubnet{dev, east, "us-east-1a"}, "DefaultSubnetAlreadyExistsInAvailabilityZone")
	r.refused(&CreateDefaultSubnet{dev, east, "us-east-1z"}, "InvalidParameterValue")
	r.refused(&CreateDefaultSubnet{albert, east, "us-east-1a"}, "DefaultVpcDoesNotExist")
}

func TestNodeJoinsWhenDefaultVPCHasNoRoomForASubnet(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.defaultVPC()
	r.subnet(vpc, "172.31.128.0/17", "us-east-1a")
	r.subnet(vpc, "172.31.64.0/18", "us-east-1a")
	r.subnet(vpc, "172.31.32.0/19", "us-east-1a")
	before := r.subnets(vpc.ID)
	r.must(&PutNode{ec2.Node{ID: "node3", Zone: "us-east-1c"}})
	if after := r.subnets(vpc.ID); after != before {
		t.Errorf("the subnets are %s, want them unchanged: %s", after, before)
	}
	r.refused(&CreateDefaultSubnet{dev, east, "us-east-1c"}, "InsufficientFreeAddressesInVpc")
}

func TestDeletedDefaultVPCCanBeMadeAgain(t *testing.T) {
	r := newVPCReplay(t)
	r.refused(&CreateDefaultVPC{dev, east}, "DefaultVpcAlreadyExists")
	r.refused(&CreateDefaultVPC{albert, east}, "OperationNotPermitted")
	r.refused(&CreateDefaultVPC{dev, "eu-west-1"}, "UnsupportedOperation")
	was := r.defaultVPC()
	v := r.state.View()
	for s := range v.SubnetsIn(was.ID) {
		r.must(&DeleteSubnet{dev, east, s.ID})
	}
	for g := range v.InternetGatewaysOf(dev, east) {
		r.must(&DetachInternetGateway{dev, east, g.ID, was.ID})
		r.must(&DeleteInternetGateway{dev, east, g.ID})
	}
	r.must(&DeleteVPC{dev, east, was.ID})
	v = r.state.View()
	if _, ok := v.Network(was.VNI); ok {
		t.Error("the network of the deleted VPC still exists")
	}
	if _, ok := v.Group(was.Group); ok {
		t.Error("the group of the deleted VPC still exists")
	}
	if _, ok := v.RouteTable(was.RouteTable); ok {
		t.Error("the route table of the deleted VPC still exists")
	}
	r.must(&PutNetwork{firstRequests()[3].(*PutNetwork).Network})
	if _, ok := r.state.View().DefaultVPC(dev, east); ok {
		t.Error("PutNetwork made a deleted default VPC again")
	}
	now := r.must(&CreateDefaultVPC{dev, east}).VPC
	if now.VNI == was.VNI || now.ID == was.ID || now.Group == was.Group {
		t.Errorf("the new default VPC is %+v, was %+v; want new ids", now, was)
	}
}

func TestVPCsMayOverlapAndNeverShareAVNI(t *testing.T) {
	r := newVPCReplay(t)
	a, b := r.vpc(albert, "10.0.0.0/16"), r.vpc(albert, "10.0.0.0/16")
	if a.VNI == b.VNI || a.VNI == 1 || b.VNI == 1 {
		t.Errorf("the VPCs have VNIs %d and %d, want different ones and not the 1 of EC2-Classic", a.VNI, b.VNI)
	}
	r.must(&DeleteVPC{albert, east, b.ID})
	if c := r.vpc(albert, "10.0.0.0/16"); c.VNI == b.VNI || c.VNI == a.VNI {
		t.Errorf("VNI %d of a deleted VPC is used again", c.VNI)
	}
	if a.DNSHostnames || !a.DNSSupport {
		t.Errorf("a new VPC is %+v, want DNS support and no host names", a)
	}
	for _, block := range []string{"10.0.0.0/8", "10.0.0.0/15", "10.0.0.0/29", "10.0.0.1/24", "127.0.0.0/16", "169.254.0.0/16", "0.0.0.0/16", "224.0.0.0/16", "240.0.0.0/24", "2001:db8::/28"} {
		r.refused(&CreateVPC{Account: albert, Region: east, CIDR: cidr(block)}, "InvalidVpc.Range")
	}
	r.refused(&CreateVPC{Account: albert, Region: east}, "MissingParameter")
	r.refused(&CreateVPC{Account: albert, Region: "eu-west-1", CIDR: cidr("10.0.0.0/16")}, "UnsupportedOperation")
	r.refused(&CreateVPC{Account: "111111111111", Region: east, CIDR: cidr("10.0.0.0/16")}, "AuthFailure")
	r.refused(&CreateVPC{Account: albert, Region: east, CIDR: cidr("10.0.0.0/16"), Tags: map[string]string{"aws:x": ""}}, "InvalidParameterValue")
	r.vpc(albert, "10.0.0.0/16")
	r.vpc(albert, "10.0.0.0/28")
	r.vpc(albert, "198.18.0.0/16") // overlaps with the public pool of the region, which is allowed
	r.refused(&CreateVPC{Account: albert, Region: east, CIDR: cidr("10.0.0.0/16")}, "VpcLimitExceeded")
	r.vpc(mary, "10.0.0.0/16")
}

func TestVPCIsRefusedWhenVNIsRunOut(t *testing.T) {
	r := newVPCReplay(t)
	r.must(&PutNetwork{ec2.Network{VNI: 1<<24 - 2, Region: "eu-west-1", Prefix: cidr("10.0.0.0/8")}}) // dev gets a default VPC there, with the last VNI
	r.refused(&CreateVPC{Account: albert, Region: east, CIDR: cidr("10.0.0.0/16")}, "VpcLimitExceeded")
	r.refused(&CreateAccount{ID: "111111111111", Platform: ec2.VPCOnly, AccessKey: "AKID1", Secret: "s"}, "VpcLimitExceeded")
}

func TestNetworkOfAVPCIsMadeByCreateVPCAlone(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	for _, n := range []ec2.Network{
		{VNI: vpc.VNI, Region: east, VPC: vpc.ID, Prefix: cidr("192.168.0.0/16")},
		{VNI: 77, Region: east, VPC: "vpc-0a1b2c3d", Prefix: cidr("10.0.0.0/16")},
	} {
		r.refused(&PutNetwork{n}, "InvalidParameterValue")
	}
	r.refused(&PutNetwork{ec2.Network{VNI: vpc.VNI, Region: "eu-west-1", Prefix: cidr("10.0.0.0/16")}}, "EntityAlreadyExists")
}

func TestVPCAttributesAreModified(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	r.must(&ModifyVPC{Account: albert, Region: east, VPC: vpc.ID, DNSHostnames: new(true)})
	r.must(&ModifyVPC{Account: albert, Region: east, VPC: vpc.ID, DNSSupport: new(false)})
	if now, _ := r.state.View().VPC(vpc.ID); !now.DNSHostnames || now.DNSSupport {
		t.Errorf("the VPC is %+v, want host names and no DNS support", now)
	}
	r.refused(&ModifyVPC{albert, east, vpc.ID, new(true), new(true)}, "InvalidParameterCombination")
	r.refused(&ModifyVPC{Account: albert, Region: east, VPC: vpc.ID}, "MissingParameter")
	r.refused(&ModifyVPC{Account: mary, Region: east, VPC: vpc.ID, DNSSupport: new(true)}, "InvalidVpcID.NotFound")
}

// DeleteVPC also deletes what CreateVPC made. Any other resource in the VPC prevents the deletion,
// and the error names it.
func TestVPCInUseIsNotDeleted(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	deleteVPC := func() Request { return &DeleteVPC{albert, east, vpc.ID} }
	s := r.subnet(vpc, "10.0.1.0/24", "us-east-1a")
	g := r.must(&CreateInternetGateway{Account: albert, Region: east}).Gateway
	r.must(&AttachInternetGateway{albert, east, g.ID, vpc.ID})
	rt := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable
	group := r.must(&CreateSecurityGroup{Account: albert, Region: east, VPC: vpc.ID, Name: "web", Description: "x"}).Group
	_, err := r.do(deleteVPC())
	want := "DependencyViolation: The vpc '" + string(vpc.ID) + "' has dependencies and cannot be deleted. Dependent objects: " +
		strings.Join([]string{string(s.ID), string(g.ID), string(rt.ID), string(group.ID)}, ", ") + "."
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	for _, step := range []Request{
		&DeleteSubnet{albert, east, s.ID},
		&DetachInternetGateway{albert, east, g.ID, vpc.ID},
		&DeleteRouteTable{albert, east, rt.ID},
		&DeleteSecurityGroup{albert, east, GroupSelector{ID: group.ID}},
	} {
		r.refused(deleteVPC(), "DependencyViolation")
		r.must(step)
	}
	def, _ := r.state.View().Group(vpc.Group)
	r.must(&CreateTags{albert, east, []string{string(vpc.ID), vpc.ACL, string(vpc.RouteTable), string(vpc.Group), string(def.Rules[0].ID)}, map[string]string{"k": "v"}})
	r.refused(&DeleteVPC{mary, east, vpc.ID}, "InvalidVpcID.NotFound")
	r.refused(&DeleteVPC{albert, east, ""}, "MissingParameter")
	r.must(deleteVPC())
	r.refused(deleteVPC(), "InvalidVpcID.NotFound")
	for tag := range r.state.View().TagsOf(albert, east) {
		t.Errorf("tag %+v still exists", tag)
	}
}

func TestDamagedSnapshotsOfVPCsAreRefused(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.defaultVPC()
	good := string(r.snapshot())
	without := func(table, id string) string {
		var remaining []string
		for line := range strings.Lines(good) {
			if !strings.Contains(line, `"table":"`+table+`"`) || !strings.Contains(line, id) {
				remaining = append(remaining, line)
			}
		}
		if len(remaining) != strings.Count(good, "\n")-1 {
			t.Fatalf("removing %s of %s removes %d rows, want 1", table, id, strings.Count(good, "\n")-len(remaining))
		}
		count := fmt.Sprintf(`"rows":%d`, strings.Count(good, "\n")-2)
		return strings.Replace(strings.Join(remaining, ""), count, fmt.Sprintf(`"rows":%d`, len(remaining)-2), 1)
	}
	for what, data := range map[string]string{
		"no network":    without("network", string(vpc.ID)),
		"no main table": without("routetable", string(vpc.RouteTable)),
		"no group":      without("group", string(vpc.Group)),
		"no VPC":        without("vpc", string(vpc.ID)),
		"wide VPC":      strings.Replace(good, `"CIDR":"172.31.0.0/16"`, `"CIDR":"172.0.0.0/8"`, 1),
		"IPv6":          strings.Replace(good, `"CIDR":"172.31.0.0/16"`, `"CIDR":"2001:db8::/16"`, 1),
	} {
		if _, err := Restore(strings.NewReader(data)); err == nil {
			t.Errorf("%s: the snapshot was restored, want an error", what)
		} else if strings.Contains(err.Error(), "its last line names another number") {
			t.Errorf("%s: the test made a snapshot with a wrong row count: %v", what, err)
		}
	}
	if _, err := Restore(strings.NewReader(good)); err != nil {
		t.Error(err)
	}
}
