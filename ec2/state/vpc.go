package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"palisade/ec2"
)

// vpcRequests are the requests for VPCs, subnets, gateways, routes and elastic addresses.
var vpcRequests = []Request{
	&CreateVPC{}, &DeleteVPC{}, &ModifyVPC{}, &CreateDefaultVPC{}, &AssociateVPCBlock{}, &DisassociateVPCBlock{},
	&CreateSubnet{}, &CreateDefaultSubnet{}, &DeleteSubnet{}, &ModifySubnet{},
	&CreateInternetGateway{}, &DeleteInternetGateway{}, &AttachInternetGateway{}, &DetachInternetGateway{},
	&CreateRouteTable{}, &DeleteRouteTable{}, &CreateRoute{}, &ReplaceRoute{}, &DeleteRoute{},
	&AssociateRouteTable{}, &DisassociateRouteTable{}, &ReplaceRouteTableAssociation{},
	&AllocateAddress{}, &ReleaseAddress{}, &AssociateAddress{}, &DisassociateAddress{},
}

// CreateVPC makes a VPC with its main route table, its network ACL and its default group. Result:
// VPC.
type CreateVPC struct {
	Account ec2.AccountID
	Region  ec2.Region
	CIDR    netip.Prefix
	Tags    map[string]string `json:",omitempty"`
}

func (r *CreateVPC) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if !r.CIDR.IsValid() {
		return Result{}, ec2.Missing("cidrBlock")
	}
	if !validRange(r.CIDR) {
		return Result{}, ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' is invalid.", r.CIDR)
	}
	vpc, err := t.addVPC(ec2.VPC{Account: r.Account, Region: r.Region, CIDR: r.CIDR, DNSSupport: true})
	if err != nil {
		return Result{}, err
	}
	if err := t.tag(string(vpc.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{VPC: vpc}, nil
}

// reservedRanges are the ranges that hosts cannot use: "this" network, loopback, link-local,
// multicast and reserved (RFC 6890 §2.2.2).
var reservedRanges = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// validRange reports whether a VPC or a subnet can have the range p. It must be a canonical IPv4
// block from /16 to /28 (Amazon VPC User Guide, "VPC CIDR blocks").
func validRange(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p == p.Masked() && p.Bits() >= 16 && p.Bits() <= 28 &&
		!slices.ContainsFunc(reservedRanges, p.Overlaps)
}

// addVPC gives a VPC its id and VNI, makes its network, route table and default group, and returns
// the VPC.
func (t *tx) addVPC(vpc ec2.VPC) (*ec2.VPC, error) {
	count := 0
	for range rows[ec2.VPC](t.Txn, tableVPC, indexOwner, key(vpc.Account)+key(vpc.Region)) {
		count++
	}
	if count >= t.limits().VPCsPerRegion {
		return nil, ec2.Errorf("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
	}
	vni, err := t.newVNI()
	if err != nil {
		return nil, err
	}
	vpc.ID = ec2.VPCID(t.meta.longID("vpc", t.serial()))
	vpc.VNI = vni
	vpc.ACL = t.meta.longID("acl", t.serial())
	vpc.Group = t.addVPCDefaultGroup(&vpc)
	main := &ec2.RouteTable{
		ID:      ec2.RouteTableID(t.meta.longID("rtb", t.serial())),
		Account: vpc.Account,
		Region:  vpc.Region,
		VPC:     vpc.ID,
		Main:    ec2.AssociationID(t.meta.longID("rtbassoc", t.serial())),
	}
	vpc.RouteTable = main.ID
	t.put(tableRoutes, main)
	t.put(tableVPC, &vpc)
	t.put(tableNetwork, &ec2.Network{VNI: vni, Region: vpc.Region, VPC: vpc.ID, Prefix: vpc.CIDR})
	return &vpc, nil
}

// newVNI returns a VNI that no network has or ever had, because frames with the VNI of a deleted
// network may still be on the way.
func (t *tx) newVNI() (ec2.VNI, error) {
	high := t.meta.VNI
	if last, err := t.Last(tableNetwork, indexID+"_prefix", ""); err != nil {
		panic(fmt.Sprintf("state: last network: %v", err))
	} else if last != nil {
		high = max(high, last.(*ec2.Network).VNI)
	}
	if high+1 >= 1<<24 {
		return 0, ec2.Errorf("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
	}
	t.meta.VNI = high + 1
	return t.meta.VNI, nil
}

// allIPv4 is the CIDR block of all addresses.
var allIPv4 = netip.MustParsePrefix("0.0.0.0/0")

// DeleteVPC deletes a VPC that has only what CreateVPC made. Result: VPC.
type DeleteVPC struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID
}

func (r *DeleteVPC) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if dependents := t.contents(vpc); len(dependents) > 0 {
		return Result{}, hasDependents("vpc", vpc.ID, dependents)
	}
	if g := first[ec2.Group](t.Txn, tableGroup, indexID, key(vpc.Group)); g != nil {
		t.dropGroup(g)
	}
	if main := first[ec2.RouteTable](t.Txn, tableRoutes, indexID, key(vpc.RouteTable)); main != nil {
		t.untag(string(main.ID))
		t.del(tableRoutes, main)
	}
	if n := first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(vpc.VNI)); n != nil {
		t.del(tableNetwork, n)
	}
	if acl := first[ec2.NetworkACL](t.Txn, tableACL, indexID, key(vpc.ACL)); acl != nil {
		t.del(tableACL, acl)
	}
	t.rejectRequestsTo(vpc)
	t.disassociateGroups(vpc)
	t.untag(vpc.ACL)
	t.untag(string(vpc.ID))
	t.del(tableVPC, vpc)
	return Result{VPC: vpc}, nil
}

// contents returns the ids of the resources in a VPC that prevent its deletion.
func (t *tx) contents(vpc *ec2.VPC) (ids []string) {
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		ids = append(ids, string(s.ID))
	}
	for g := range rows[ec2.InternetGateway](t.Txn, tableGateway, indexVPC, key(vpc.ID)) {
		ids = append(ids, string(g.ID))
	}
	for rt := range rows[ec2.RouteTable](t.Txn, tableRoutes, indexVPC, key(vpc.ID)) {
		if rt.ID != vpc.RouteTable {
			ids = append(ids, string(rt.ID))
		}
	}
	for acl := range rows[ec2.NetworkACL](t.Txn, tableACL, indexVPC, key(vpc.ID)) {
		if acl.ID != vpc.ACL {
			ids = append(ids, acl.ID)
		}
	}
	for g := range rows[ec2.Group](t.Txn, tableGroup, indexName, key(vpc.Account)+key(vpc.Region)+key(vpc.ID)) {
		if g.ID != vpc.Group {
			ids = append(ids, string(g.ID))
		}
	}
	return append(ids, t.peeringsHolding(vpc)...)
}

// ModifyVPC changes one attribute of a VPC. Result: VPC.
type ModifyVPC struct {
	Account      ec2.AccountID
	Region       ec2.Region
	VPC          ec2.VPCID
	DNSSupport   *bool `json:",omitempty"`
	DNSHostnames *bool `json:",omitempty"`
}

func (r *ModifyVPC) apply(t *tx) (Result, error) {
	was, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	vpc := *was
	switch {
	case r.DNSSupport != nil && r.DNSHostnames != nil:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "Fields for multiple attribute types specified")
	case r.DNSSupport != nil:
		vpc.DNSSupport = *r.DNSSupport
	case r.DNSHostnames != nil:
		vpc.DNSHostnames = *r.DNSHostnames
	default:
		return Result{}, ec2.Missing("enableDnsSupport or enableDnsHostnames")
	}
	t.put(tableVPC, &vpc)
	return Result{VPC: &vpc}, nil
}

// platform returns the platform of an account. It refuses a region without an EC2-Classic network,
// because the pools of that network have all public addresses of the region.
func (t *tx) platform(account ec2.AccountID, region ec2.Region) (ec2.Platform, error) {
	a := first[ec2.Account](t.Txn, tableAccount, indexID, key(account))
	if a == nil {
		return "", ec2.Errorf("AuthFailure", "account %s does not exist", account)
	}
	if classicNetwork(t.Txn, region) == nil {
		return "", ec2.Errorf("UnsupportedOperation", "There is no network in region %s", ec2.Clip(string(region)))
	}
	return a.Platform, nil
}

// publicPools returns the pools of public addresses of a region. Regions that were opened on demand
// share those of the first one.
func (t *tx) publicPools(region ec2.Region) []netip.Prefix {
	n := classicNetwork(t.Txn, region)
	if n != nil && n.Opened {
		n = homeNetwork(t.Txn)
	}
	if n == nil {
		return nil
	}
	return n.PublicPools
}

// hasDependents returns EC2's error for a resource that other resources depend on. EC2's message
// does not name those, but users ask for their names (hashicorp/terraform-provider-aws issue 1671),
// so our message does.
func hasDependents[ID ~string](kind string, id ID, dependents []string) *ec2.Error {
	return ec2.Errorf("DependencyViolation", "The %s '%s' has dependencies and cannot be deleted. %s", kind, id, dependentObjects(dependents))
}

// dependentObjects returns a sentence that names at most ten dependent objects.
func dependentObjects(ids []string) string {
	const most = 10
	if len(ids) > most {
		return fmt.Sprintf("Dependent objects: %s and %d more.", strings.Join(ids[:most], ", "), len(ids)-most)
	}
	return fmt.Sprintf("Dependent objects: %s.", strings.Join(ids, ", "))
}
