package state

import (
	"net/netip"
	"slices"
	"strings"

	"palisade/ec2"
)

// reservedAddresses is the number of addresses of a subnet that are never leased: the first four
// and the last one.
const reservedAddresses = 5

// FreeAddresses returns the number of free addresses of a subnet. Addresses in quarantine are not
// free.
func (v *View) FreeAddresses(s *ec2.Subnet) int {
	vpc, ok := v.VPC(s.VPC)
	if !ok {
		return 0
	}
	it, err := v.txn().LowerBound(tableAddress, indexID, addressKey(vpc.VNI, s.CIDR.Addr()))
	if err != nil {
		panic("state: walk addresses: " + err.Error())
	}
	free := 1<<(32-s.CIDR.Bits()) - reservedAddresses
	for a := takenAfter(it, vpc.VNI); a.IsValid() && s.CIDR.Contains(a); a = takenAfter(it, vpc.VNI) {
		free--
	}
	return free
}

// CreateSubnet makes a subnet in a VPC. It must not overlap with another subnet of the VPC. Result:
// Subnet.
type CreateSubnet struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID
	CIDR    netip.Prefix
	Zone    string            `json:",omitempty"` // "": the first zone by name
	Tags    map[string]string `json:",omitempty"`
}

func (r *CreateSubnet) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if !r.CIDR.IsValid() {
		return Result{}, ec2.Missing("cidrBlock")
	}
	if !validRange(r.CIDR) || !vpc.Contains(r.CIDR) {
		return Result{}, ec2.Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", r.CIDR)
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
	s := ec2.Subnet{Account: r.Account, Region: r.Region, VPC: vpc.ID, CIDR: r.CIDR, Zone: zone}
	if o := t.overlapping(&s); o != nil {
		return Result{}, ec2.Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", r.CIDR)
	}
	count := 0
	for range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		count++
	}
	if count >= t.limits().SubnetsPerVPC {
		return Result{}, ec2.Errorf("SubnetLimitExceeded", "The maximum number of subnets has been reached.")
	}
	made := t.addSubnet(s)
	if err := t.tag(string(made.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Subnet: made}, nil
}

func (t *tx) addSubnet(s ec2.Subnet) *ec2.Subnet {
	s.ID = ec2.SubnetID(t.meta.longID("subnet", t.serial()))
	t.put(tableSubnet, &s)
	return &s
}

// overlapping returns another subnet of the VPC that shares addresses with s, or nil.
func (t *tx) overlapping(s *ec2.Subnet) *ec2.Subnet {
	for o := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(s.VPC)) {
		if o.CIDR.Overlaps(s.CIDR) {
			return o
		}
	}
	return nil
}

// checkZone returns EC2's error for a zone that the region does not have.
func (t *tx) checkZone(region ec2.Region, zone string) error {
	zones := t.zones(region)
	if slices.Contains(zones, zone) {
		return nil
	}
	return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: %s.", ec2.Clip(zone), strings.Join(zones, ", "))
}

// DeleteSubnet deletes a subnet without interfaces, and its association with a route table.
// Result: Subnet.
type DeleteSubnet struct {
	Account ec2.AccountID
	Region  ec2.Region
	Subnet  ec2.SubnetID
}

func (r *DeleteSubnet) apply(t *tx) (Result, error) {
	s, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	var dependents []string
	for eni := range rows[ec2.Interface](t.Txn, tableInterface, indexSubnet, key(s.ID)) {
		dependents = append(dependents, string(eni.ID))
	}
	if len(dependents) > 0 {
		return Result{}, hasDependents("subnet", s.ID, dependents)
	}
	if rt, at := associated(t.Txn, s); rt != nil {
		t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Associations = slices.Delete(now.Associations, at, at+1) })
	}
	t.untag(string(s.ID))
	t.del(tableSubnet, s)
	return Result{Subnet: s}, nil
}

// ModifySubnet changes an attribute of a subnet. Result: Subnet.
type ModifySubnet struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Subnet    ec2.SubnetID
	MapPublic *bool `json:",omitempty"`
}

func (r *ModifySubnet) apply(t *tx) (Result, error) {
	was, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	if r.MapPublic == nil {
		return Result{}, ec2.Missing("mapPublicIpOnLaunch")
	}
	s := *was
	s.MapPublic = *r.MapPublic
	t.put(tableSubnet, &s)
	return Result{Subnet: &s}, nil
}
