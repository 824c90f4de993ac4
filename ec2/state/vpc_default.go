package state

import (
	"cmp"
	"net/netip"
	"slices"

	"palisade/ec2"
)

// defaultCIDR is the range of every default VPC. A default VPC has one /20 subnet for each zone
// (Amazon VPC User Guide, "Default VPC components").
var defaultCIDR = netip.MustParsePrefix("172.31.0.0/16")

const defaultSubnetBits = 20

// CreateDefaultVPC makes a new default VPC for an account that has deleted its own. Result: VPC.
type CreateDefaultVPC struct {
	Account ec2.AccountID
	Region  ec2.Region
}

func (r *CreateDefaultVPC) apply(t *tx) (Result, error) {
	platform, err := t.platform(r.Account, r.Region)
	if err != nil {
		return Result{}, err
	}
	if platform != ec2.VPCOnly {
		return Result{}, ec2.Errorf("OperationNotPermitted", "A default VPC cannot be created in a region where the account has EC2-Classic.")
	}
	if t.defaultVPC(r.Account, r.Region) != nil {
		return Result{}, ec2.Errorf("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
	}
	vpc, err := t.addDefaultVPC(r.Account, r.Region)
	return Result{VPC: vpc}, err
}

// CreateDefaultSubnet makes a new default subnet in a zone. Result: Subnet.
type CreateDefaultSubnet struct {
	Account ec2.AccountID
	Region  ec2.Region
	Zone    string
}

func (r *CreateDefaultSubnet) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	vpc := t.defaultVPC(r.Account, r.Region)
	if vpc == nil {
		return Result{}, ec2.Errorf("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
	}
	if r.Zone == "" {
		return Result{}, ec2.Missing("availabilityZone")
	}
	if err := t.checkZone(r.Region, r.Zone); err != nil {
		return Result{}, err
	}
	if t.defaultIn(vpc, r.Zone) != nil {
		return Result{}, ec2.Errorf("DefaultSubnetAlreadyExistsInAvailabilityZone", "A default subnet already exists in %s", r.Zone)
	}
	s, err := t.addDefaultSubnet(vpc, r.Zone)
	return Result{Subnet: s}, err
}

// ensureDefaultVPC makes the default VPC of a VPC account in a region, unless there is one.
func (t *tx) ensureDefaultVPC(a *ec2.Account, region ec2.Region) error {
	if a.Platform != ec2.VPCOnly || t.defaultVPC(a.ID, region) != nil {
		return nil
	}
	_, err := t.addDefaultVPC(a.ID, region)
	return err
}

// addDefaultVPC makes a VPC with an internet gateway, a default route to the gateway, and a public
// subnet in each zone. It returns the VPC.
func (t *tx) addDefaultVPC(account ec2.AccountID, region ec2.Region) (*ec2.VPC, error) {
	vpc, err := t.addVPC(ec2.VPC{Account: account, Region: region, CIDR: defaultCIDR, Default: true, DNSSupport: true, DNSHostnames: true})
	if err != nil {
		return nil, err
	}
	for _, zone := range t.zones(region) {
		if _, err := t.addDefaultSubnet(vpc, zone); err != nil {
			return nil, err
		}
	}
	g := &ec2.InternetGateway{
		ID:      ec2.GatewayID(t.meta.longID("igw", t.serial())),
		Account: account,
		Region:  region,
		VPC:     vpc.ID,
	}
	t.put(tableGateway, g)
	main := *first[ec2.RouteTable](t.Txn, tableRoutes, indexID, key(vpc.RouteTable))
	main.Routes = []ec2.Route{{Destination: allIPv4, Gateway: g.ID}}
	t.put(tableRoutes, &main)
	return vpc, nil
}

// addDefaultSubnet makes a default subnet in the lowest free range of the VPC.
func (t *tx) addDefaultSubnet(vpc *ec2.VPC, zone string) (*ec2.Subnet, error) {
	for at := vpc.CIDR.Addr(); vpc.CIDR.Contains(at); at = ec2.LastAddress(netip.PrefixFrom(at, defaultSubnetBits)).Next() {
		s := ec2.Subnet{Account: vpc.Account, Region: vpc.Region, VPC: vpc.ID, CIDR: netip.PrefixFrom(at, defaultSubnetBits), Zone: zone, MapPublic: true, Default: true}
		if t.overlapping(&s) == nil {
			return t.addSubnet(s), nil
		}
	}
	return nil, ec2.Errorf("InsufficientFreeAddressesInVpc", "There is no free /%d in %s for a default subnet", defaultSubnetBits, vpc.ID)
}

// addDefaultSubnets makes a default subnet in a new zone for each default VPC that has room for
// one.
func (t *tx) addDefaultSubnets(zone string) {
	var all []*ec2.VPC
	for vpc := range rows[ec2.VPC](t.Txn, tableVPC, indexID, "") {
		if vpc.Default && !t.planned(vpc.Region) && slices.Contains(t.zones(vpc.Region), zone) {
			all = append(all, vpc)
		}
	}
	for _, vpc := range all {
		if t.defaultIn(vpc, zone) == nil {
			_, _ = t.addDefaultSubnet(vpc, zone)
		}
	}
}

// hasZone reports whether any member is in the zone.
func (t *tx) hasZone(zone string) bool {
	for n := range rows[ec2.Node](t.Txn, tableNode, indexID, "") {
		if n.Member() && n.Zone == zone {
			return true
		}
	}
	return false
}

// defaultVPC returns the default VPC of an account in a region, or nil.
func (t *tx) defaultVPC(account ec2.AccountID, region ec2.Region) *ec2.VPC {
	for vpc := range rows[ec2.VPC](t.Txn, tableVPC, indexOwner, key(account)+key(region)) {
		if vpc.Default {
			return vpc
		}
	}
	return nil
}

func (t *tx) defaultIn(vpc *ec2.VPC, zone string) *ec2.Subnet {
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		if s.Default && s.Zone == zone {
			return s
		}
	}
	return nil
}

// defaultSubnet returns the subnet for a launch that names none: the default subnet of the zone or,
// if zone is "", the default subnet with the fewest interfaces.
func (t *tx) defaultSubnet(account ec2.AccountID, region ec2.Region, zone string) (*ec2.Subnet, error) {
	vpc := t.defaultVPC(account, region)
	if vpc == nil {
		return nil, ec2.Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
	}
	zones := t.zones(region)
	if zone != "" {
		if !slices.Contains(zones, zone) {
			return nil, t.invalidZone(region, zone)
		}
		if s := t.defaultIn(vpc, zone); s != nil {
			return s, nil
		}
		return nil, ec2.Errorf("MissingInput", "No default subnet for availability zone: '%s'.", zone)
	}
	type loaded struct {
		subnet *ec2.Subnet
		load   int
	}
	var all []loaded
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		if !s.Default || !slices.Contains(zones, s.Zone) {
			continue
		}
		load := 0
		for range rows[ec2.Interface](t.Txn, tableInterface, indexSubnet, key(s.ID)) {
			load++
		}
		all = append(all, loaded{s, load})
	}
	if len(all) == 0 {
		return nil, ec2.Errorf("MissingInput", "No subnets found for the default VPC '%s'. Please specify a subnet.", vpc.ID)
	}
	return slices.MinFunc(all, func(a, b loaded) int {
		return cmp.Or(a.load-b.load, cmp.Compare(a.subnet.Zone, b.subnet.Zone))
	}).subnet, nil
}

// DefaultVPC returns the default VPC of an account in a region.
func (v *View) DefaultVPC(account ec2.AccountID, region ec2.Region) (*ec2.VPC, bool) {
	for vpc := range v.VPCsOf(account, region) {
		if vpc.Default {
			return vpc, true
		}
	}
	return nil, false
}
