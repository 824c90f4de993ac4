package ec2

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// dev is an account of VPCs alone.
const dev = AccountID("123456789012")

// newVPCReplay is a replay in a region of two zones, with an account of VPCs.
func newVPCReplay(t testing.TB) *replay {
	r := newReplay(t)
	r.must(&PutNode{Node{ID: "node2", Zone: "us-east-1b"}})
	r.must(&CreateAccount{ID: dev, Name: "dev", Platform: VPCOnly, AccessKey: "AKIDDEV", Secret: "d"})
	return r
}

func (r *replay) defaultVPC() *VPC {
	r.t.Helper()
	vpc, ok := r.state.View().DefaultVPC(dev, east)
	if !ok {
		r.t.Fatal("dev has no default VPC")
	}
	return vpc
}

// subnets are a VPC's, as "172.31.0.0/20 us-east-1a", by range.
func (r *replay) subnets(vpc VPCID) string {
	var list []string
	for s := range r.state.View().SubnetsIn(vpc) {
		list = append(list, s.CIDR.String()+" "+s.Zone)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func cidr(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestAccountOfVPCsHasADefaultVPCInEachRegion(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.defaultVPC()
	v := r.state.View()
	if vpc.CIDR != cidr("172.31.0.0/16") || !vpc.DNSSupport || !vpc.DNSHostnames {
		t.Errorf("the default VPC is %+v", vpc)
	}
	if got, want := r.subnets(vpc.ID), "172.31.0.0/20 us-east-1a, 172.31.16.0/20 us-east-1b"; got != want {
		t.Errorf("its subnets are %s, want %s", got, want)
	}
	for s := range v.SubnetsIn(vpc.ID) {
		rt := v.RouteTableOf(s)
		if !s.MapPublic || !s.Default || rt == nil || rt.ID != vpc.RouteTable || len(rt.Routes) != 1 || rt.Routes[0].Destination != everywhere {
			t.Errorf("subnet %+v goes by %+v", s, rt)
			continue
		}
		if g, ok := v.InternetGateway(rt.Routes[0].Gateway); !ok || g.VPC != vpc.ID {
			t.Errorf("its route leads to %+v", g)
		}
	}
	n, ok := v.Network(vpc.VNI)
	if !ok || n.VPC != vpc.ID || n.Prefix != vpc.CIDR || n.VNI == 1 || len(n.Pools)+len(n.PublicPools) != 0 {
		t.Errorf("its network is %+v", n)
	}
	if g, ok := v.Group(vpc.Group); !ok || g.Name != "default" || g.VPC != vpc.ID || len(g.Rules) != 2 || g.Rules[0].Source.Group.ID != g.ID || g.Rules[1].Direction != Egress {
		t.Errorf("its group is %+v", g)
	}
	for id := range v.VPCsOf(albert, east) {
		t.Errorf("an account of EC2-Classic has VPC %s", id.ID)
	}

	west := Region("us-west-2")
	r.must(&PutNetwork{Network{VNI: 102, Region: "eu-west-1", Prefix: cidr("10.0.0.0/8")}})
	if _, ok := r.state.View().DefaultVPC(dev, west); ok {
		t.Error("there is a default VPC in a region without network")
	}
	r.must(&PutNode{Node{ID: "node3", Zone: "us-west-2c"}})
	r.must(&PutNetwork{Network{VNI: 203, Region: west, Prefix: cidr("10.0.0.0/8")}})
	there, ok := r.state.View().DefaultVPC(dev, west)
	if !ok || r.subnets(there.ID) != "172.31.0.0/20 us-west-2c" {
		t.Errorf("a new region's default VPC is %+v", there)
	}
	if there.VNI == vpc.VNI {
		t.Error("two VPCs have one VNI")
	}
}
