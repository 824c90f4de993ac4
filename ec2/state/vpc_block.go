package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// AssociateVPCBlock adds a CIDR block to a VPC. Each route table of the VPC gets a local route for
// it, as for the primary block. Result: VPC, Block.
type AssociateVPCBlock struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID
	CIDR    netip.Prefix
}

func (r *AssociateVPCBlock) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if !r.CIDR.IsValid() {
		return Result{}, ec2.Missing("cidrBlock")
	}
	if err := t.checkBlock(vpc, r.CIDR); err != nil {
		return Result{}, err
	}
	if err := t.overlapsPeer(vpc, ec2.VPCBlock{CIDR: r.CIDR}); err != nil {
		return Result{}, err
	}
	if most := t.limits().BlocksPerVPC; len(vpc.Blocks()) >= most {
		return Result{}, ec2.Errorf("CidrLimitExceeded", "This network '%s' has met its maximum number of allowed CIDRs: %d", vpc.ID, most)
	}
	now := *vpc
	block := ec2.VPCBlock{Association: ec2.AssociationID(t.meta.longID("vpc-cidr-assoc", t.serial())), CIDR: r.CIDR}
	now.Secondary = append(slices.Clone(vpc.Secondary), block)
	t.putBlocks(&now)
	return Result{VPC: &now, Block: block}, nil
}

// checkBlock returns EC2's error for a block that a VPC may not have beside its present ones (Amazon
// VPC User Guide, "IPv4 VPC CIDR blocks").
func (t *tx) checkBlock(vpc *ec2.VPC, block netip.Prefix) error {
	if !validRange(block) {
		return ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' is invalid.", block)
	}
	if isRestricted(vpc, block) {
		return ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' is restricted. Use a CIDR from the same private address range as the current VPC CIDR, or use a publicly-routable CIDR. For additional restrictions, see https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html", block)
	}
	for _, b := range vpc.Blocks() {
		if b.CIDR.Overlaps(block) {
			return ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' overlaps with %s, which %s has already.", block, b.CIDR, vpc.ID)
		}
	}
	for rt := range rows[ec2.RouteTable](t.Txn, tableRoutes, indexVPC, key(vpc.ID)) {
		for _, route := range rt.Routes {
			if block.Bits() <= route.Destination.Bits() && block.Contains(route.Destination.Addr()) {
				return ec2.Errorf("InvalidVpc.Range", "The CIDR '%s' is the same as or larger than %s, the destination of a route in %s.", block, route.Destination, rt.ID)
			}
		}
	}
	return nil
}

// privateRanges are those of RFC 1918.
var privateRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")}

// Blocks that AWS's own services use.
var (
	ten0      = netip.MustParsePrefix("10.0.0.0/16")
	ten0And1  = netip.MustParsePrefix("10.0.0.0/15")
	defaults  = netip.MustParsePrefix("172.31.0.0/16")
	benchmark = netip.MustParsePrefix("198.19.0.0/16")
)

// isRestricted reports whether a VPC may not have a further block because of its present ones
// (Amazon VPC User Guide, "IPv4 CIDR block association restrictions"). A block of a private range
// needs a primary block of the same range.
func isRestricted(vpc *ec2.VPC, block netip.Prefix) bool {
	for _, private := range privateRanges {
		if private.Overlaps(block) && !private.Overlaps(vpc.CIDR) {
			return true
		}
	}
	switch {
	case benchmark.Overlaps(block):
		return !benchmark.Overlaps(vpc.CIDR)
	case defaults.Overlaps(block):
		return true
	case ten0.Overlaps(block):
		return slices.ContainsFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return ten0And1.Overlaps(b.CIDR) })
	}
	return false
}

// putBlocks puts a VPC with other blocks than before, and its network.
func (t *tx) putBlocks(vpc *ec2.VPC) {
	n := *first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(vpc.VNI))
	n.Blocks = nil
	for _, b := range vpc.Secondary {
		n.Blocks = append(n.Blocks, b.CIDR)
	}
	t.put(tableVPC, vpc)
	t.put(tableNetwork, &n)
}

// DisassociateVPCBlock takes a block from a VPC, unless it is the primary one or subnets are in it.
// Result: VPC, Block.
type DisassociateVPCBlock struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Association ec2.AssociationID
}

func (r *DisassociateVPCBlock) apply(t *tx) (Result, error) {
	if r.Association == "" {
		return Result{}, ec2.Missing("associationId")
	}
	for vpc := range rows[ec2.VPC](t.Txn, tableVPC, indexOwner, key(r.Account)+key(r.Region)) {
		at := slices.IndexFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return b.Association == r.Association })
		if at == 0 {
			return Result{}, ec2.Errorf("OperationNotPermitted", "The vpc CIDR block with association ID %s may not be disassociated. It is the primary IPv4 CIDR block of the VPC", r.Association)
		}
		if at > 0 {
			return t.dropBlock(vpc, at-1)
		}
	}
	return Result{}, ec2.NoSuch("vpc-cidr-assoc", r.Association)
}

func (t *tx) dropBlock(vpc *ec2.VPC, at int) (Result, error) {
	block := vpc.Secondary[at]
	var dependents []string
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		if block.CIDR.Overlaps(s.CIDR) {
			dependents = append(dependents, string(s.ID))
		}
	}
	if len(dependents) > 0 {
		return Result{}, ec2.Errorf("InvalidCidrBlock.InUse", "The vpc %s currently has a subnet within CIDR block %s. %s", vpc.ID, block.CIDR, dependentObjects(dependents))
	}
	now := *vpc
	now.Secondary = slices.Delete(slices.Clone(vpc.Secondary), at, at+1)
	if len(now.Secondary) == 0 {
		now.Secondary = nil
	}
	t.putBlocks(&now)
	return Result{VPC: &now, Block: block}, nil
}
