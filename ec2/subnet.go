package ec2

import (
	"net/netip"
	"slices"
	"strings"
)

// A Subnet is a range of a VPC in one availability zone. Its first four addresses and its
// last are not leased (Amazon VPC User Guide, "Subnet CIDR blocks"); the second is its
// router's.
type Subnet struct {
	ID        SubnetID
	Account   AccountID
	Region    Region
	VPC       VPCID
	CIDR      netip.Prefix
	Zone      string // "us-east-1a"
	MapPublic bool   // a launch into it gets a public address (MapPublicIpOnLaunch)
	Default   bool   // the zone's, of the default VPC
}

// Gateway is the router's address in the subnet: its second.
func (s *Subnet) Gateway() netip.Addr { return s.CIDR.Addr().Next() }

// reservedAddresses are those of a subnet that are nobody's: the first four and the last.
const reservedAddresses = 5

// Leasable reports whether an interface of the subnet may have the address.
func (s *Subnet) Leasable(a netip.Addr) bool {
	low := s.CIDR.Addr().Next().Next().Next() // the fourth
	return s.CIDR.Contains(a) && a.Compare(low) > 0 && a != LastAddress(s.CIDR)
}

// LastAddress is the highest IPv4 address of a block: the broadcast address of a subnet.
func LastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// FreeAddresses is how many interfaces' addresses a subnet has room for. Those that rest
// are not free.
func (v *View) FreeAddresses(s *Subnet) int {
	vpc, ok := v.VPC(s.VPC)
	if !ok {
		return 0
	}
	it, err := v.txn().LowerBound(tableAddress, indexID, addressKey(vpc.VNI, s.CIDR.Addr()))
	if err != nil {
		panic("ec2: walk addresses: " + err.Error())
	}
	free := 1<<(32-s.CIDR.Bits()) - reservedAddresses
	for a := takenAfter(it, vpc.VNI); a.IsValid() && s.CIDR.Contains(a); a = takenAfter(it, vpc.VNI) {
		free--
	}
	return free
}

// CreateSubnet makes a subnet of a VPC. It overlaps with no other. Result: Subnet.
type CreateSubnet struct {
	Account AccountID
	Region  Region
	VPC     VPCID
	CIDR    netip.Prefix
	Zone    string            `json:",omitempty"` // "": the first by name
	Tags    map[string]string `json:",omitempty"`
}

func (r *CreateSubnet) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if !r.CIDR.IsValid() {
		return Result{}, Missing("cidrBlock")
	}
	if !servable(r.CIDR) || r.CIDR.Bits() < vpc.CIDR.Bits() || !vpc.CIDR.Contains(r.CIDR.Addr()) {
		return Result{}, Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", r.CIDR)
	}
	zone := r.Zone
	if zone == "" {
		if zones := t.zones(r.Region); len(zones) > 0 {
			zone = zones[0]
		}
	}
	if err := t.checkZone(r.Region, zone); err != nil {
		return Result{}, err
	}
	s := Subnet{Account: r.Account, Region: r.Region, VPC: vpc.ID, CIDR: r.CIDR, Zone: zone}
	if o := t.overlapping(&s); o != nil {
		return Result{}, Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", r.CIDR)
	}
	count := 0
	for range rows[Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		count++
	}
	if count >= t.limits().SubnetsPerVPC {
		return Result{}, Errorf("SubnetLimitExceeded", "The maximum number of subnets has been reached.")
	}
	made := t.addSubnet(s)
	if err := t.tag(string(made.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Subnet: made}, nil
}

func (t *tx) addSubnet(s Subnet) *Subnet {
	s.ID = SubnetID(t.meta.longID("subnet", t.serial()))
	t.put(tableSubnet, &s)
	return &s
}

// overlapping is a subnet of the same VPC that shares addresses with s, or nil.
func (t *tx) overlapping(s *Subnet) *Subnet {
	for o := range rows[Subnet](t.Txn, tableSubnet, indexVPC, key(s.VPC)) {
		if o.CIDR.Overlaps(s.CIDR) {
			return o
		}
	}
	return nil
}

// checkZone refuses a zone that no node of the region is in.
func (t *tx) checkZone(region Region, zone string) error {
	zones := t.zones(region)
	if slices.Contains(zones, zone) {
		return nil
	}
	return Errorf("InvalidParameterValue", "Value (%s) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: %s.", Clip(zone), strings.Join(zones, ", "))
}

// DeleteSubnet removes a subnet that no interface is in. Its association with a route
// table goes with it. Result: Subnet.
type DeleteSubnet struct {
	Account AccountID
	Region  Region
	Subnet  SubnetID
}

func (r *DeleteSubnet) apply(t *tx) (Result, error) {
	s, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	var held []string
	for eni := range rows[Interface](t.Txn, tableInterface, indexSubnet, key(s.ID)) {
		held = append(held, string(eni.ID))
	}
	if len(held) > 0 {
		return Result{}, dependent("subnet", s.ID, held)
	}
	if rt, at := associated(t.Txn, s); rt != nil {
		t.putRouteTable(rt, func(now *RouteTable) { now.Associations = slices.Delete(now.Associations, at, at+1) })
	}
	t.untag(string(s.ID))
	t.del(tableSubnet, s)
	return Result{Subnet: s}, nil
}

// ModifySubnet changes an attribute of a subnet. Result: Subnet.
type ModifySubnet struct {
	Account   AccountID
	Region    Region
	Subnet    SubnetID
	MapPublic *bool `json:",omitempty"`
}

func (r *ModifySubnet) apply(t *tx) (Result, error) {
	was, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	if r.MapPublic == nil {
		return Result{}, Missing("mapPublicIpOnLaunch")
	}
	s := *was
	s.MapPublic = *r.MapPublic
	t.put(tableSubnet, &s)
	return Result{Subnet: &s}, nil
}
