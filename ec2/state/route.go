package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// CreateRouteTable makes a route table that has the local route only. A repeated request with the
// same ClientToken returns the same table. Result: RouteTable.
type CreateRouteTable struct {
	Account     ec2.AccountID
	Region      ec2.Region
	VPC         ec2.VPCID
	Tags        map[string]string `json:",omitempty"`
	ClientToken string            `json:",omitempty"`
}

func (r *CreateRouteTable) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	for made := range rows[ec2.RouteTable](t.Txn, tableRoutes, indexOwner, key(r.Account)+key(r.Region)) {
		switch {
		case r.ClientToken == "" || made.ClientToken != r.ClientToken:
		case made.VPC == vpc.ID:
			return Result{RouteTable: made}, nil
		default:
			return Result{}, tokenMismatch()
		}
	}
	count := 0
	for range rows[ec2.RouteTable](t.Txn, tableRoutes, indexVPC, key(vpc.ID)) {
		count++
	}
	if count >= t.limits().RouteTablesPerVPC {
		return Result{}, ec2.Errorf("RouteTableLimitExceeded", "The maximum number of route tables has been reached.")
	}
	rt := &ec2.RouteTable{
		ID:          ec2.RouteTableID(t.meta.longID("rtb", t.serial())),
		Account:     r.Account,
		Region:      r.Region,
		VPC:         vpc.ID,
		ClientToken: r.ClientToken,
	}
	t.put(tableRoutes, rt)
	if err := t.tag(string(rt.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{RouteTable: rt}, nil
}

// DeleteRouteTable deletes a table that is neither the main one nor associated with a subnet.
// Result: RouteTable.
type DeleteRouteTable struct {
	Account    ec2.AccountID
	Region     ec2.Region
	RouteTable ec2.RouteTableID
}

func (r *DeleteRouteTable) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	var dependents []string
	if rt.Main != "" {
		dependents = append(dependents, string(rt.VPC)+" (main)")
	}
	for _, a := range rt.Associations {
		dependents = append(dependents, string(a.Subnet))
	}
	if len(dependents) > 0 {
		return Result{}, hasDependents("routeTable", rt.ID, dependents)
	}
	t.untag(string(rt.ID))
	t.del(tableRoutes, rt)
	return Result{RouteTable: rt}, nil
}

// CreateRoute adds a route to an internet gateway. Result: RouteTable.
type CreateRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
	Gateway     ec2.GatewayID
}

func (r *CreateRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	if err := t.checkRoute(rt, r.Destination); err != nil {
		return Result{}, err
	}
	if slices.ContainsFunc(rt.Routes, hasDestination(r.Destination)) || t.isLocal(rt, r.Destination) {
		return Result{}, ec2.Errorf("RouteAlreadyExists", "The route identified by %s already exists.", r.Destination)
	}
	if err := t.checkTarget(rt, r.Destination, r.Gateway); err != nil {
		return Result{}, err
	}
	if len(rt.Routes) >= t.limits().RoutesPerTable {
		return Result{}, ec2.Errorf("RouteLimitExceeded", "The maximum number of routes has been reached.")
	}
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) {
		now.Routes = append(now.Routes, ec2.Route{Destination: r.Destination, Gateway: r.Gateway})
		slices.SortFunc(now.Routes, byDestination)
	})
	return Result{RouteTable: now}, nil
}

// ReplaceRoute changes the gateway of a route. Result: RouteTable.
type ReplaceRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
	Gateway     ec2.GatewayID
}

func (r *ReplaceRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	if err := t.checkRoute(rt, r.Destination); err != nil {
		return Result{}, err
	}
	if err := t.checkTarget(rt, r.Destination, r.Gateway); err != nil {
		return Result{}, err
	}
	at := slices.IndexFunc(rt.Routes, hasDestination(r.Destination))
	if at < 0 {
		return Result{}, ec2.Errorf("InvalidParameterValue", "There is no route defined for '%s' in the route table. Use CreateRoute instead.", r.Destination)
	}
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Routes[at].Gateway = r.Gateway })
	return Result{RouteTable: now}, nil
}

// DeleteRoute deletes a route. Result: RouteTable.
type DeleteRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
}

func (r *DeleteRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	if err := t.checkRoute(rt, r.Destination); err != nil {
		return Result{}, err
	}
	if t.isLocal(rt, r.Destination) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "cannot remove local route %s in route table %s", r.Destination, rt.ID)
	}
	at := slices.IndexFunc(rt.Routes, hasDestination(r.Destination))
	if at < 0 {
		return Result{}, ec2.Errorf("InvalidRoute.NotFound", "no route with destination-cidr-block %s in route table %s", r.Destination, rt.ID)
	}
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Routes = slices.Delete(now.Routes, at, at+1) })
	return Result{RouteTable: now}, nil
}

func (t *tx) checkRoute(rt *ec2.RouteTable, destination netip.Prefix) error {
	switch {
	case !destination.IsValid():
		return ec2.Missing("destinationCidrBlock")
	case !destination.Addr().Is4() || destination != destination.Masked():
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.", destination)
	}
	return nil
}

// checkTarget returns EC2's error for a gateway that is not attached to the VPC, and for a
// destination inside the VPC, which always has the local route.
func (t *tx) checkTarget(rt *ec2.RouteTable, destination netip.Prefix, id ec2.GatewayID) error {
	if id == "" {
		return ec2.Missing("gatewayId")
	}
	if vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(rt.VPC)); vpc != nil && vpc.Contains(destination) {
		return ec2.Errorf("InvalidParameterValue", "The destination CIDR block %s is equal to or more specific than one of this VPC's CIDR blocks. This route can target only an interface or an instance.", destination)
	}
	g, err := t.gateway(rt.Account, rt.Region, id)
	if err != nil {
		return ec2.Errorf("InvalidGatewayID.NotFound", "The gateway ID '%s' does not exist", ec2.Clip(string(id)))
	}
	if g.VPC != rt.VPC {
		return ec2.Errorf("InvalidParameterValue", "route table %s and network gateway %s belong to different networks", rt.ID, g.ID)
	}
	return nil
}

// isLocal reports whether a table has a local route to a destination: a block of the VPC.
func (t *tx) isLocal(rt *ec2.RouteTable, destination netip.Prefix) bool {
	vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(rt.VPC))
	return vpc != nil && slices.ContainsFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return b.CIDR == destination })
}

func hasDestination(destination netip.Prefix) func(ec2.Route) bool {
	return func(r ec2.Route) bool { return r.Destination == destination }
}

// byDestination orders the routes of a table by their address, and routes with the same address from
// the narrowest to the widest.
func byDestination(a, b ec2.Route) int {
	if c := a.Destination.Addr().Compare(b.Destination.Addr()); c != 0 {
		return c
	}
	return b.Destination.Bits() - a.Destination.Bits()
}

// putRouteTable puts a changed copy of a table and returns it.
func (t *tx) putRouteTable(was *ec2.RouteTable, change func(*ec2.RouteTable)) *ec2.RouteTable {
	now := *was
	now.Routes = slices.Clone(was.Routes)
	now.Associations = slices.Clone(was.Associations)
	change(&now)
	t.put(tableRoutes, &now)
	return &now
}
