package state

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// addBlock returns the request for a further block of a VPC.
func addBlock(vpc *ec2.VPC, block string) *AssociateVPCBlock {
	return &AssociateVPCBlock{vpc.Account, vpc.Region, vpc.ID, cidr(block)}
}

// blocks returns the blocks of a VPC and of its network: "10.0.0.0/16 10.1.0.0/16".
func (r *replay) blocks(id ec2.VPCID) string {
	r.t.Helper()
	vpc, _ := r.state.View().VPC(id)
	n, _ := r.state.View().Network(vpc.VNI)
	var api, network []string
	for _, b := range vpc.Blocks() {
		api = append(api, b.CIDR.String())
	}
	for _, p := range slices.Concat([]netip.Prefix{n.Prefix}, n.Blocks) {
		network = append(network, p.String())
	}
	if !slices.Equal(api, network) {
		r.t.Errorf("VPC %s has the blocks %v, its network %v", id, api, network)
	}
	return strings.Join(api, " ")
}

func TestBlocksAreAddedAndRemoved(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(dev, "10.0.0.0/16")
	first := r.must(addBlock(vpc, "10.1.0.0/16")).Block
	second := r.must(addBlock(vpc, "100.64.0.0/20")).Block
	if got := r.blocks(vpc.ID); got != "10.0.0.0/16 10.1.0.0/16 100.64.0.0/20" {
		t.Errorf("the blocks are %s", got)
	}
	s := r.subnet(vpc, "10.1.2.0/24", "us-east-1a")
	r.refused(&CreateSubnet{Account: dev, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.0.0/15"), Zone: "us-east-1a"}, "InvalidSubnet.Range")
	r.refused(&CreateSubnet{Account: dev, Region: east, VPC: vpc.ID, CIDR: cidr("100.64.0.0/19"), Zone: "us-east-1a"}, "InvalidSubnet.Range")
	r.refused(&CreateSubnet{Account: dev, Region: east, VPC: vpc.ID, CIDR: cidr("10.2.0.0/24"), Zone: "us-east-1a"}, "InvalidSubnet.Range")
	eni := r.must(&CreateNetworkInterface{Account: dev, Region: east, Spec: InterfaceSpec{Subnet: s.ID}}).Interface
	if eni.Private != s.CIDR.Addr().Next().Next().Next().Next() {
		t.Errorf("the interface has address %s, want the fifth of %s", eni.Private, s.CIDR)
	}
	r.refusedWith(&DisassociateVPCBlock{dev, east, first.Association}, "InvalidCidrBlock.InUse", "The vpc "+string(vpc.ID)+" currently has a subnet within CIDR block 10.1.0.0/16. Dependent objects: "+string(s.ID)+".")
	r.refusedWith(&DisassociateVPCBlock{dev, east, vpc.Blocks()[0].Association}, "OperationNotPermitted", "The vpc CIDR block with association ID "+string(vpc.Blocks()[0].Association)+" may not be disassociated. It is the primary IPv4 CIDR block of the VPC")
	r.refusedWith(&DisassociateVPCBlock{dev, east, "vpc-cidr-assoc-0a1b2c3d"}, "InvalidVpcCidrBlockAssociationID.NotFound", "The vpc CIDR block association ID 'vpc-cidr-assoc-0a1b2c3d' does not exist")
	r.refused(&DisassociateVPCBlock{albert, east, second.Association}, "InvalidVpcCidrBlockAssociationID.NotFound")
	r.refused(&DisassociateVPCBlock{dev, east, ""}, "MissingParameter")
	r.must(&DisassociateVPCBlock{dev, east, second.Association})
	r.must(&DeleteNetworkInterface{Account: dev, Region: east, Interface: eni.ID})
	r.must(&DeleteSubnet{dev, east, s.ID})
	if restored, err := Restore(bytes.NewReader(r.snapshot())); err != nil || !bytes.Equal(snapshotOf(t, restored), r.snapshot()) {
		t.Errorf("a snapshot with a further block was not restored as it was: %v", err)
	}
	r.must(&DisassociateVPCBlock{dev, east, first.Association})
	if got := r.blocks(vpc.ID); got != "10.0.0.0/16" {
		t.Errorf("the blocks are %s, want the primary one", got)
	}
	again := r.must(addBlock(vpc, "10.1.0.0/16")).Block
	if again.Association == first.Association {
		t.Error("the association of a block has an id that another one had")
	}
	r.must(&DeleteVPC{dev, east, vpc.ID})
	r.refused(&DisassociateVPCBlock{dev, east, again.Association}, "InvalidVpcCidrBlockAssociationID.NotFound")
}

// Amazon VPC User Guide, "IPv4 CIDR block association restrictions".
func TestBlocksFollowTheRestrictionsOfTheGuide(t *testing.T) {
	r := newVPCReplay(t)
	r.must(&putSettings{ec2.Settings{VPCsPerRegion: 20}})
	const restricted = "is restricted. Use a CIDR from the same private address range as the current VPC CIDR, or use a publicly-routable CIDR. For additional restrictions, see https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html"
	for _, c := range []struct{ primary, good, bad string }{
		{"10.0.0.0/16", "10.1.0.0/16 10.255.0.0/28 100.64.0.0/16 203.0.113.0/24", "172.16.0.0/16 172.31.0.0/20 192.168.0.0/16 198.19.0.0/24"},
		{"10.0.0.0/24", "10.1.0.0/24", "10.0.1.0/24"},
		{"10.1.0.0/16", "10.2.0.0/16", "10.0.0.0/16 10.0.9.0/24"},
		{"10.2.0.0/16", "10.0.0.0/16", "192.168.1.0/24"},
		{"172.16.0.0/16", "172.17.0.0/16 172.30.0.0/16 100.127.0.0/16", "172.31.0.0/16 172.31.240.0/28 10.0.0.0/16 192.168.0.0/24 198.19.0.0/16"},
		{"192.168.0.0/17", "192.168.128.0/17 100.64.0.0/16 198.51.100.0/24", "10.0.0.0/16 172.20.0.0/16 198.19.255.0/24"},
		{"198.19.0.0/17", "203.0.113.0/24 100.64.0.0/16", "10.0.0.0/16 172.16.0.0/16 192.168.0.0/24"},
		{"203.0.113.0/24", "198.51.100.0/24 100.64.0.0/16", "10.0.0.0/16 172.16.0.0/16 192.168.0.0/24 198.19.0.0/16"},
		{"100.64.0.0/16", "100.65.0.0/16 203.0.113.0/24", "10.0.0.0/16 198.19.0.0/16"},
	} {
		vpc := r.vpc(dev, c.primary)
		for _, block := range strings.Fields(c.bad) {
			r.refusedWith(addBlock(vpc, block), "InvalidVpc.Range", "The CIDR '"+block+"' "+restricted)
		}
		for _, block := range strings.Fields(c.good) {
			r.must(addBlock(vpc, block))
		}
	}
}

func TestBlocksThatOverlapOrAreTooManyAreRefused(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(dev, "10.2.0.0/16")
	r.must(addBlock(vpc, "100.64.0.0/20"))
	for _, block := range []string{"10.2.0.0/16", "10.2.3.0/24", "100.64.0.0/16", "100.64.1.0/24", "100.64.15.240/28"} {
		r.refused(addBlock(vpc, block), "InvalidVpc.Range")
	}
	for _, block := range []string{"10.4.0.0/15", "10.4.0.0/29", "10.4.0.1/32", "0.0.0.0/0", "169.254.0.0/16", "127.0.0.0/16", "224.0.0.0/16", "::/64"} {
		r.refused(&AssociateVPCBlock{dev, east, vpc.ID, cidr(block)}, "InvalidVpc.Range")
	}
	r.refused(&AssociateVPCBlock{Account: dev, Region: east, VPC: vpc.ID}, "MissingParameter")
	r.refused(&AssociateVPCBlock{dev, east, "vpc-0a1b2c3d", cidr("10.3.0.0/16")}, "InvalidVpcID.NotFound")
	r.refused(&AssociateVPCBlock{albert, east, vpc.ID, cidr("10.3.0.0/16")}, "InvalidVpcID.NotFound")

	// A route may lead to a range that is wider than a block, or elsewhere (the guide's example).
	g := r.attachedGateway(vpc)
	other := r.must(&CreateRouteTable{Account: dev, Region: east, VPC: vpc.ID}).RouteTable
	r.must(&CreateRoute{Account: dev, Region: east, RouteTable: other.ID, Destination: cidr("10.0.0.0/24"), Gateway: g.ID})
	r.must(&CreateRoute{Account: dev, Region: east, RouteTable: other.ID, Destination: allIPv4, Gateway: g.ID})
	r.refused(addBlock(vpc, "10.0.0.0/24"), "InvalidVpc.Range")
	r.refused(addBlock(vpc, "10.0.0.0/16"), "InvalidVpc.Range")
	r.must(addBlock(vpc, "10.0.0.0/25"))
	r.must(addBlock(vpc, "10.5.0.0/16"))
	r.must(addBlock(vpc, "10.3.0.0/16"))
	r.refusedWith(addBlock(vpc, "10.4.0.0/16"), "CidrLimitExceeded", "This network '"+string(vpc.ID)+"' has met its maximum number of allowed CIDRs: 5")
}

// Each block has a local route, which no other route may replace.
func TestRoutesIntoABlockAreRefused(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(dev, "10.0.0.0/16")
	g, table := r.attachedGateway(vpc), vpc.RouteTable
	block := r.must(addBlock(vpc, "10.1.0.0/16")).Block
	r.refused(&CreateRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.1.0.0/16"), Gateway: g.ID}, "RouteAlreadyExists")
	r.refused(&CreateRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.1.2.0/24"), Gateway: g.ID}, "InvalidParameterValue")
	r.refused(&ReplaceRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.1.0.0/16"), Gateway: g.ID}, "InvalidParameterValue")
	r.refusedWith(&DeleteRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.1.0.0/16")}, "InvalidParameterValue", "cannot remove local route 10.1.0.0/16 in route table "+string(table))
	r.must(&CreateRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.0.0.0/15"), Gateway: g.ID})
	r.must(&DisassociateVPCBlock{dev, east, block.Association})
	r.must(&CreateRoute{Account: dev, Region: east, RouteTable: table, Destination: cidr("10.1.0.0/16"), Gateway: g.ID})
}
