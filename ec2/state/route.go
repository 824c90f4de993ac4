package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

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

// CreateRoute adds a route. One for a prefix list counts as MaxEntries of the list. Result: RouteTable.
type CreateRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
	Gateway     ec2.GatewayID

	// PrefixList takes the place of Destination. One of the others takes the place of Gateway.
	PrefixList ec2.PrefixListID `json:",omitempty"`
	NAT        ec2.NATGatewayID `json:",omitempty"`
	Peering    ec2.PeeringID    `json:",omitempty"`
	Interface  ec2.InterfaceID  `json:",omitempty"`
	Instance   ec2.InstanceID   `json:",omitempty"`
}

func (r *CreateRoute) route() ec2.Route {
	return ec2.Route{Destination: r.Destination, PrefixList: r.PrefixList, Gateway: r.Gateway, NAT: r.NAT, Peering: r.Peering, Interface: r.Interface, Instance: r.Instance}
}

func (r *CreateRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	route := r.route()
	if err := t.checkRoute(rt, route); err != nil {
		return Result{}, err
	}
	if slices.ContainsFunc(rt.Routes, sameDestination(route)) || t.isLocal(rt, r.Destination) {
		return Result{}, ec2.Errorf("RouteAlreadyExists", "The route identified by %s already exists.", destinationOf(route))
	}
	if route, err = t.checkTarget(rt, route); err != nil {
		return Result{}, err
	}
	if t.countRoutes(rt, nil)+cmp.Or(t.weight(r.PrefixList, nil), 1) > t.limits().RoutesPerTable {
		return Result{}, ec2.Errorf("RouteLimitExceeded", "The maximum number of routes has been reached.")
	}
	return Result{RouteTable: t.addRoute(rt, route)}, nil
}

func (t *tx) addRoute(rt *ec2.RouteTable, route ec2.Route) *ec2.RouteTable {
	return t.putRouteTable(rt, func(now *ec2.RouteTable) {
		now.Routes = append(now.Routes, route)
		slices.SortFunc(now.Routes, byDestination)
	})
}

// ReplaceRoute changes the target of a route. A route for a block of the VPC takes the place of the local route, until
// the target is Local again. Result: RouteTable.
type ReplaceRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
	Gateway     ec2.GatewayID

	// PrefixList takes the place of Destination. One of the others takes the place of Gateway.
	PrefixList ec2.PrefixListID `json:",omitempty"`
	NAT        ec2.NATGatewayID `json:",omitempty"`
	Peering    ec2.PeeringID    `json:",omitempty"`
	Interface  ec2.InterfaceID  `json:",omitempty"`
	Instance   ec2.InstanceID   `json:",omitempty"`
	Local      bool             `json:",omitempty"`
}

func (r *ReplaceRoute) route() ec2.Route {
	return ec2.Route{Destination: r.Destination, PrefixList: r.PrefixList, Gateway: r.Gateway, NAT: r.NAT, Peering: r.Peering, Interface: r.Interface, Instance: r.Instance}
}

func (r *ReplaceRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	route := r.route()
	if err := t.checkRoute(rt, route); err != nil {
		return Result{}, err
	}
	at := slices.IndexFunc(rt.Routes, sameDestination(route))
	if r.Local {
		return t.restoreLocalRoute(rt, route, at)
	}
	if route, err = t.checkTarget(rt, route); err != nil {
		return Result{}, err
	}
	switch {
	case at >= 0:
		return Result{RouteTable: t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Routes[at] = route })}, nil
	case t.isLocal(rt, route.Destination):
		return Result{RouteTable: t.addRoute(rt, route)}, nil
	}
	return Result{}, ec2.Errorf("InvalidParameterValue", "There is no route defined for '%s' in the route table. Use CreateRoute instead.", destinationOf(route))
}

// restoreLocalRoute makes the route for a block of the VPC the local route again. at is the index of the route that has
// taken its place; negative if none has.
func (t *tx) restoreLocalRoute(rt *ec2.RouteTable, route ec2.Route, at int) (Result, error) {
	switch {
	case route != ec2.Route{Destination: route.Destination}:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "The parameter LocalTarget cannot be used together with another target")
	case !t.isLocal(rt, route.Destination):
		return Result{}, ec2.Errorf("InvalidParameterValue", "The target local is for the route of the VPC's own range, not for %s", route.Destination)
	case at < 0:
		return Result{RouteTable: rt}, nil
	}
	return Result{RouteTable: t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Routes = slices.Delete(now.Routes, at, at+1) })}, nil
}

// DeleteRoute deletes a route. Result: RouteTable.
type DeleteRoute struct {
	Account     ec2.AccountID
	Region      ec2.Region
	RouteTable  ec2.RouteTableID
	Destination netip.Prefix
	PrefixList  ec2.PrefixListID `json:",omitempty"` // in place of Destination
}

func (r *DeleteRoute) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	route := ec2.Route{Destination: r.Destination, PrefixList: r.PrefixList}
	if err := t.checkRoute(rt, route); err != nil {
		return Result{}, err
	}
	if t.isLocal(rt, r.Destination) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "cannot remove local route %s in route table %s", r.Destination, rt.ID)
	}
	at := slices.IndexFunc(rt.Routes, sameDestination(route))
	if at < 0 {
		return Result{}, ec2.Errorf("InvalidRoute.NotFound", "no route with destination-%s %s in route table %s", destinationKind(route), destinationOf(route), rt.ID)
	}
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Routes = slices.Delete(now.Routes, at, at+1) })
	return Result{RouteTable: now}, nil
}

// checkRoute checks the destination of a route: a range of addresses, or a prefix list.
func (t *tx) checkRoute(rt *ec2.RouteTable, r ec2.Route) error {
	destination := r.Destination
	switch {
	case r.PrefixList != "" && destination.IsValid():
		return ec2.Errorf("InvalidParameterCombination", "The parameters destinationCidrBlock and destinationPrefixListId cannot be used together")
	case r.PrefixList != "":
		l, err := findPrefixList(t.Txn, owner{rt.Account, rt.Region}, r.PrefixList)
		if err == nil && l.IPv6 {
			return ec2.Errorf("UnsupportedOperation", "IPv6 is not served: no route can have the prefix list %s, which is of IPv6", l.ID)
		}
		return err
	case !destination.IsValid():
		return ec2.Missing("destinationCidrBlock")
	case !destination.Addr().Is4() || destination != destination.Masked():
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.", destination)
	}
	return nil
}

func sameDestination(as ec2.Route) func(ec2.Route) bool {
	return func(r ec2.Route) bool { return r.Destination == as.Destination && r.PrefixList == as.PrefixList }
}

// destinationOf returns the destination of a route as a client sees it.
func destinationOf(r ec2.Route) string {
	if r.PrefixList != "" {
		return string(r.PrefixList)
	}
	return r.Destination.String()
}

func destinationKind(r ec2.Route) string {
	if r.PrefixList != "" {
		return "prefix-list-id"
	}
	return "cidr-block"
}

// byDestination orders the routes of a table by their address, and routes with the same address from
// the narrowest to the widest. Routes to prefix lists follow, by id.
func byDestination(a, b ec2.Route) int {
	if a.PrefixList != b.PrefixList {
		return strings.Compare(string(a.PrefixList), string(b.PrefixList))
	}
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
