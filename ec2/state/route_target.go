package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// checkTarget returns a route with its target completed, or EC2's error if the table cannot have the route: the
// target does not exist or is of another VPC, or the destination is inside of the VPC and the target is none
// that can be there.
func (t *tx) checkTarget(rt *ec2.RouteTable, r ec2.Route) (ec2.Route, error) {
	named := []string{}
	for _, p := range []struct{ name, id string }{
		{"gatewayId", string(r.Gateway)}, {"natGatewayId", string(r.NAT)}, {"vpcPeeringConnectionId", string(r.Peering)},
		{"networkInterfaceId", string(r.Interface)}, {"instanceId", string(r.Instance)},
	} {
		if p.id != "" {
			named = append(named, p.name)
		}
	}
	switch {
	case len(named) == 0:
		return r, ec2.Missing("gatewayId")
	case len(named) > 1:
		return r, ec2.Errorf("InvalidParameterCombination", "The parameters %s and %s cannot be used together: a route has one target", named[0], named[1])
	}
	if err := t.checkInside(rt, r); err != nil {
		return r, err
	}
	switch {
	case r.Gateway != "":
		return r, t.checkGatewayTarget(rt, r.Gateway)
	case r.NAT != "":
		return r, t.checkNATTarget(rt, r.NAT)
	case r.Peering != "":
		return r, t.checkPeeringTarget(rt, r.Peering)
	case r.Instance != "":
		eni, err := t.onlyInterface(rt, r.Instance)
		if err != nil {
			return r, err
		}
		r.Interface = eni.ID
	}
	return r, t.checkInterfaceTarget(rt, r.Interface)
}

// checkInside returns EC2's error for a route to addresses of the VPC itself that does not lead to an interface, or
// whose destination is neither a block of the VPC nor a subnet (VPC User Guide, "Middlebox routing").
func (t *tx) checkInside(rt *ec2.RouteTable, r ec2.Route) error {
	vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(rt.VPC))
	if vpc == nil || !r.Destination.IsValid() || !vpc.Contains(r.Destination) {
		return nil
	}
	if r.Interface == "" && r.Instance == "" {
		return ec2.Errorf("InvalidParameterValue", "The destination CIDR block %s is equal to or more specific than one of this VPC's CIDR blocks. This route can target only an interface or an instance.", r.Destination)
	}
	if t.isLocal(rt, r.Destination) {
		return nil
	}
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(rt.VPC)) {
		if s.CIDR == r.Destination {
			return nil
		}
	}
	return ec2.Errorf("InvalidParameterValue", "The destination CIDR block %s is more specific than one of this VPC's CIDR blocks. It must be the CIDR block of a subnet.", r.Destination)
}

func (t *tx) checkGatewayTarget(rt *ec2.RouteTable, id ec2.GatewayID) error {
	g, err := t.gateway(rt.Account, rt.Region, id)
	if err != nil {
		return ec2.Errorf("InvalidGatewayID.NotFound", "The gateway ID '%s' does not exist", ec2.Clip(string(id)))
	}
	if g.VPC != rt.VPC {
		return ofAnotherNetwork(rt, "network gateway", g.ID)
	}
	return nil
}

func (t *tx) checkNATTarget(rt *ec2.RouteTable, id ec2.NATGatewayID) error {
	g := ownedRow[ec2.NATGateway](t.Txn, tableNAT, owner{rt.Account, rt.Region}, id)
	if g == nil || g.Interface == "" {
		return ec2.Errorf("InvalidNatGatewayID.NotFound", "The natGateway ID '%s' does not exist", ec2.Clip(string(id)))
	}
	if g.VPC != rt.VPC {
		return ofAnotherNetwork(rt, "nat gateway", g.ID)
	}
	return nil
}

// checkPeeringTarget admits a peering that waits for its acceptance: the route is a black hole until it is active
// (VPC Peering Guide, "Update your route tables for a VPC peering connection").
func (t *tx) checkPeeringTarget(rt *ec2.RouteTable, id ec2.PeeringID) error {
	p := first[ec2.VPCPeering](t.Txn, tablePeering, indexID, key(id))
	if p == nil || !p.SeenBy(rt.Account, rt.Region, t.meta.Time) {
		return ec2.Errorf("InvalidVpcPeeringConnectionID.NotFound", "The vpcPeeringConnection ID '%s' does not exist", ec2.Clip(string(id)))
	}
	if _, _, ok := p.Side(rt.VPC); !ok {
		return ofAnotherNetwork(rt, "network gateway", p.ID)
	}
	if p.Ended() {
		return ec2.Errorf("InvalidParameterValue", "The VPC peering connection %s is not active: it is %s", p.ID, p.Status)
	}
	return nil
}

func (t *tx) checkInterfaceTarget(rt *ec2.RouteTable, id ec2.InterfaceID) error {
	eni, err := t.interfaceOf(rt.Account, rt.Region, id)
	if err != nil {
		return err
	}
	if eni.VPC != rt.VPC {
		return ofAnotherNetwork(rt, "interface", eni.ID)
	}
	if eni.NATGateway != "" {
		return ec2.Errorf("InvalidParameterValue", "The interface %s belongs to the NAT gateway %s. Name the NAT gateway as the target of the route.", eni.ID, eni.NATGateway)
	}
	return nil
}

// onlyInterface returns the interface of an instance that has one alone.
func (t *tx) onlyInterface(rt *ec2.RouteTable, id ec2.InstanceID) (*ec2.Interface, error) {
	in, err := t.instance(rt.Account, rt.Region, id)
	if err != nil {
		return nil, err
	}
	all := slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexHolder, key(in.ID)))
	switch {
	case len(all) > 1:
		return nil, ec2.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", in.ID)
	case len(all) == 0:
		return nil, ec2.Errorf("InvalidInstanceID", "There is no interface attached to instance '%s'.", in.ID)
	case all[0].VPC == "":
		return nil, ofAnotherNetwork(rt, "interface", all[0].ID)
	}
	return all[0], nil
}

func ofAnotherNetwork[ID ~string](rt *ec2.RouteTable, kind string, id ID) *ec2.Error {
	return ec2.Errorf("InvalidParameterValue", "route table %s and %s %s belong to different networks", rt.ID, kind, id)
}

// Leads reports whether a route of a VPC leads somewhere. If not it is a black hole: its target does not exist, is not
// attached to the VPC, has ended, or is not active.
func (v *View) Leads(vpc ec2.VPCID, r ec2.Route) bool {
	switch {
	case r.Gateway != "":
		g, ok := v.InternetGateway(r.Gateway)
		return ok && g.VPC == vpc
	case r.NAT != "":
		g, ok := v.NATGateway(r.NAT)
		return ok && g.VPC == vpc && g.Interface != ""
	case r.Peering != "":
		p, ok := v.Peering(r.Peering)
		return ok && p.Active()
	case r.Interface != "":
		eni, ok := v.Interface(r.Interface)
		return ok && eni.VPC == vpc && eni.State == ec2.Active
	}
	return false
}

// isLocal reports whether a table has a local route to a destination: a block of the VPC.
func (t *tx) isLocal(rt *ec2.RouteTable, destination netip.Prefix) bool {
	vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(rt.VPC))
	return vpc != nil && slices.ContainsFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return b.CIDR == destination })
}
