package ec2

import (
	"cmp"
	"net/netip"
	"slices"
)

// defaultCIDR is the range of every default VPC; its subnets are /20, one a zone (Amazon
// VPC User Guide, "Default VPC components").
var defaultCIDR = netip.MustParsePrefix("172.31.0.0/16")

const defaultSubnetBits = 20

// CreateDefaultVPC makes the default VPC anew for an account that has deleted its own.
// Result: VPC.
type CreateDefaultVPC struct {
	Account AccountID
	Region  Region
}

func (r *CreateDefaultVPC) apply(t *tx) (Result, error) {
	platform, err := t.platform(r.Account, r.Region)
	if err != nil {
		return Result{}, err
	}
	if platform != VPCOnly {
		return Result{}, Errorf("OperationNotPermitted", "A default VPC cannot be created in a region where the account has EC2-Classic.")
	}
	if t.defaultVPC(r.Account, r.Region) != nil {
		return Result{}, Errorf("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
	}
	vpc, err := t.addDefaultVPC(r.Account, r.Region)
	return Result{VPC: vpc}, err
}

// CreateDefaultSubnet makes a zone's default subnet anew. Result: Subnet.
type CreateDefaultSubnet struct {
	Account AccountID
	Region  Region
	Zone    string
}

func (r *CreateDefaultSubnet) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	vpc := t.defaultVPC(r.Account, r.Region)
	if vpc == nil {
		return Result{}, Errorf("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
	}
	if r.Zone == "" {
		return Result{}, Missing("availabilityZone")
	}
	if err := t.checkZone(r.Region, r.Zone); err != nil {
		return Result{}, err
	}
	if t.defaultIn(vpc, r.Zone) != nil {
		return Result{}, Errorf("DefaultSubnetAlreadyExistsInAvailabilityZone", "A default subnet already exists in %s", r.Zone)
	}
	s, err := t.addDefaultSubnet(vpc, r.Zone)
	return Result{Subnet: s}, err
}

// giveDefaultVPC makes the default VPC of an account that is to have one in the region.
func (t *tx) giveDefaultVPC(a *Account, region Region) error {
	if a.Platform != VPCOnly || t.defaultVPC(a.ID, region) != nil {
		return nil
	}
	_, err := t.addDefaultVPC(a.ID, region)
	return err
}

// addDefaultVPC makes a VPC with an internet gateway that everything goes to, and a
// public subnet in each zone.
func (t *tx) addDefaultVPC(account AccountID, region Region) (*VPC, error) {
	vpc, err := t.addVPC(VPC{Account: account, Region: region, CIDR: defaultCIDR, Default: true, DNSSupport: true, DNSHostnames: true})
	if err != nil {
		return nil, err
	}
	for _, zone := range t.zones(region) {
		if _, err := t.addDefaultSubnet(vpc, zone); err != nil {
			return nil, err
		}
	}
	g := &InternetGateway{
		ID:      GatewayID(t.meta.longID("igw", t.serial())),
		Account: account,
		Region:  region,
		VPC:     vpc.ID,
	}
	t.put(tableGateway, g)
	main := *first[RouteTable](t.Txn, tableRoutes, indexID, key(vpc.RouteTable))
	main.Routes = []Route{{Destination: everywhere, Gateway: g.ID}}
	t.put(tableRoutes, &main)
	return vpc, nil
}

// addDefaultSubnet takes the lowest range of the VPC that is free.
func (t *tx) addDefaultSubnet(vpc *VPC, zone string) (*Subnet, error) {
	for at := vpc.CIDR.Addr(); vpc.CIDR.Contains(at); at = LastAddress(netip.PrefixFrom(at, defaultSubnetBits)).Next() {
		s := Subnet{Account: vpc.Account, Region: vpc.Region, VPC: vpc.ID, CIDR: netip.PrefixFrom(at, defaultSubnetBits), Zone: zone, MapPublic: true, Default: true}
		if t.overlapping(&s) == nil {
			return t.addSubnet(s), nil
		}
	}
	return nil, Errorf("InsufficientFreeAddressesInVpc", "There is no free /%d in %s for a default subnet", defaultSubnetBits, vpc.ID)
}

// openZone gives a zone that was not there its default subnets. A VPC without room goes
// without.
func (t *tx) openZone(zone string) {
	var all []*VPC
	for vpc := range rows[VPC](t.Txn, tableVPC, indexID, "") {
		if vpc.Default && slices.Contains(t.zones(vpc.Region), zone) {
			all = append(all, vpc)
		}
	}
	for _, vpc := range all {
		if t.defaultIn(vpc, zone) == nil {
			_, _ = t.addDefaultSubnet(vpc, zone)
		}
	}
}

// zones are the availability zones of a region, by name: those that nodes are in. As for
// launches, a region that no node is of has them all.
func (t *tx) zones(region Region) []string {
	own := t.hasNodes(region)
	var zones []string
	for n := range rows[Node](t.Txn, tableNode, indexID, "") {
		if n.Member() && (!own || n.Serves(region)) {
			zones = append(zones, n.Zone)
		}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

// hasZone reports whether a member is in the zone.
func (t *tx) hasZone(zone string) bool {
	for n := range rows[Node](t.Txn, tableNode, indexID, "") {
		if n.Member() && n.Zone == zone {
			return true
		}
	}
	return false
}

// defaultVPC is the account's in a region, or nil.
func (t *tx) defaultVPC(account AccountID, region Region) *VPC {
	for vpc := range rows[VPC](t.Txn, tableVPC, indexOwner, key(account)+key(region)) {
		if vpc.Default {
			return vpc
		}
	}
	return nil
}

func (t *tx) defaultIn(vpc *VPC, zone string) *Subnet {
	for s := range rows[Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		if s.Default && s.Zone == zone {
			return s
		}
	}
	return nil
}

// defaultSubnet is where a launch goes that names no subnet: the default one of the zone,
// or without a zone the one that carries the fewest interfaces.
func (t *tx) defaultSubnet(account AccountID, region Region, zone string) (*Subnet, error) {
	vpc := t.defaultVPC(account, region)
	if vpc == nil {
		return nil, Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
	}
	zones := t.zones(region)
	if zone != "" {
		if !slices.Contains(zones, zone) {
			return nil, Errorf("InvalidParameterValue", "Invalid availability zone: [%s]", Clip(zone))
		}
		if s := t.defaultIn(vpc, zone); s != nil {
			return s, nil
		}
		return nil, Errorf("MissingInput", "No default subnet for availability zone: '%s'.", zone)
	}
	type loaded struct {
		subnet *Subnet
		load   int
	}
	var all []loaded
	for s := range rows[Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		if !s.Default || !slices.Contains(zones, s.Zone) {
			continue
		}
		load := 0
		for range rows[Interface](t.Txn, tableInterface, indexSubnet, key(s.ID)) {
			load++
		}
		all = append(all, loaded{s, load})
	}
	if len(all) == 0 {
		return nil, Errorf("MissingInput", "No subnets found for the default VPC '%s'. Please specify a subnet.", vpc.ID)
	}
	return slices.MinFunc(all, func(a, b loaded) int {
		return cmp.Or(a.load-b.load, cmp.Compare(a.subnet.Zone, b.subnet.Zone))
	}).subnet, nil
}

// DefaultVPC is the account's in a region.
func (v *View) DefaultVPC(account AccountID, region Region) (*VPC, bool) {
	for vpc := range v.VPCsOf(account, region) {
		if vpc.Default {
			return vpc, true
		}
	}
	return nil, false
}
