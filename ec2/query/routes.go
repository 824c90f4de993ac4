package query

import (
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
)

// routeActions manage route tables, their routes, and their associations with subnets.
var routeActions = map[string]handler{
	"CreateRouteTable":             action(createRouteTable),
	"DeleteRouteTable":             action(deleteRouteTable),
	"DescribeRouteTables":          action(describeRouteTables),
	"CreateRoute":                  action(createRoute),
	"ReplaceRoute":                 action(replaceRoute),
	"DeleteRoute":                  action(deleteRoute),
	"AssociateRouteTable":          action(associateRouteTable),
	"DisassociateRouteTable":       action(disassociateRouteTable),
	"ReplaceRouteTableAssociation": action(replaceRouteTableAssociation),
}

type createRouteTableRequest struct {
	VPC         ec2.VPCID          `wire:"VpcId"`
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type createRouteTableAnswer struct {
	Table       routeTableItem `wire:"routeTable"`
	ClientToken string         `wire:"clientToken"`
}

type routeTableItem struct {
	ID           ec2.RouteTableID  `wire:"routeTableId"`
	VPC          ec2.VPCID         `wire:"vpcId"`
	Owner        ec2.AccountID     `wire:"ownerId"`
	Routes       []routeItem       `wire:"routeSet"`
	Associations []associationItem `wire:"associationSet"`
	Propagating  []routeItem       `wire:"propagatingVgwSet"`
	Tags         []tag             `wire:"tagSet"`
}

type routeItem struct {
	Destination   string           `wire:"destinationCidrBlock"`
	PrefixList    ec2.PrefixListID `wire:"destinationPrefixListId"`
	Gateway       ec2.GatewayID    `wire:"gatewayId"`
	Instance      ec2.InstanceID   `wire:"instanceId"`
	InstanceOwner ec2.AccountID    `wire:"instanceOwnerId"`
	Interface     ec2.InterfaceID  `wire:"networkInterfaceId"`
	Peering       ec2.PeeringID    `wire:"vpcPeeringConnectionId"`
	NAT           ec2.NATGatewayID `wire:"natGatewayId"`
	State         string           `wire:"state"`
	Origin        string           `wire:"origin"`
}

type associationItem struct {
	ID     ec2.AssociationID `wire:"routeTableAssociationId"`
	Table  ec2.RouteTableID  `wire:"routeTableId"`
	Subnet ec2.SubnetID      `wire:"subnetId"`
	Main   bool              `wire:"main"`
	State  associationState  `wire:"associationState"`
}

type associationState struct {
	State string `wire:"state"`
}

var associated = associationState{"associated"}

// localGateway is the target of a VPC's local route, the route for its own addresses.
const localGateway ec2.GatewayID = "local"

func (c *call) newRouteTableItem(t *ec2.RouteTable) routeTableItem {
	item := routeTableItem{ID: t.ID, VPC: t.VPC, Owner: t.Account, Tags: c.tags(string(t.ID))}
	item.Routes = c.newRouteItems(t)
	if t.Main != "" {
		item.Associations = append(item.Associations, associationItem{ID: t.Main, Table: t.ID, Main: true, State: associated})
	}
	for _, a := range t.Associations {
		item.Associations = append(item.Associations, associationItem{ID: a.ID, Table: t.ID, Subnet: a.Subnet, State: associated})
	}
	return item
}

// newRouteItems lists the local routes of a table, or what has taken the place of one, and then its other routes.
func (c *call) newRouteItems(t *ec2.RouteTable) (items []routeItem) {
	vpc, ok := c.view.VPC(t.VPC)
	if !ok {
		return nil
	}
	at := map[netip.Prefix]int{}
	for i, b := range vpc.Blocks() {
		at[b.CIDR] = i
		items = append(items, routeItem{Destination: b.CIDR.String(), Gateway: localGateway, State: "active", Origin: "CreateRouteTable"})
	}
	for _, r := range t.Routes {
		item := c.newRouteItem(t, r)
		if i, ok := at[r.Destination]; ok {
			item.Origin, items[i] = items[i].Origin, item
			continue
		}
		items = append(items, item)
	}
	return items
}

func (c *call) newRouteItem(t *ec2.RouteTable, r ec2.Route) routeItem {
	item := routeItem{PrefixList: r.PrefixList, Gateway: r.Gateway, Instance: r.Instance, Interface: r.Interface, Peering: r.Peering, NAT: r.NAT,
		State: "blackhole", Origin: "CreateRoute"}
	if r.PrefixList == "" {
		item.Destination = r.Destination.String()
	}
	if c.view.Leads(t.VPC, r) {
		item.State = "active"
	}
	if eni, ok := c.view.Interface(r.Interface); ok && r.Interface != "" {
		item.Instance = eni.Instance
	}
	if item.Instance != "" {
		item.InstanceOwner = t.Account
	}
	return item
}

func createRouteTable(c *call, r *createRouteTableRequest) (*createRouteTableAnswer, error) {
	tags, err := tagsFor(r.Tags, "route-table")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateRouteTable{Account: c.account, Region: c.region, VPC: r.VPC, Tags: tags, ClientToken: r.ClientToken})
	if err != nil {
		return nil, err
	}
	return &createRouteTableAnswer{c.newRouteTableItem(result.RouteTable), r.ClientToken}, nil
}

type routeTableRequest struct {
	Table ec2.RouteTableID `wire:"RouteTableId"`
}

func deleteRouteTable(c *call, r *routeTableRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteRouteTable{Account: c.account, Region: c.region, RouteTable: r.Table}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeRouteTablesRequest struct {
	IDs []string `wire:"RouteTableId"`
	listed
}

type describeRouteTablesAnswer struct {
	Tables    []routeTableItem `wire:"routeTableSet"`
	NextToken string           `wire:"nextToken"`
}

var routeTableListing = listing[routeTableItem]{
	kind: "rtb",
	id:   func(t routeTableItem) string { return string(t.ID) },
	filters: filterable[routeTableItem]{
		"owner-id":       func(t routeTableItem) []string { return nonEmpty(t.Owner) },
		"route-table-id": func(t routeTableItem) []string { return nonEmpty(t.ID) },
		"vpc-id":         func(t routeTableItem) []string { return nonEmpty(t.VPC) },

		"association.main":                       tableAssociations(func(a associationItem) []string { return boolean(a.Main) }),
		"association.route-table-association-id": tableAssociations(func(a associationItem) []string { return nonEmpty(a.ID) }),
		"association.route-table-id":             tableAssociations(func(a associationItem) []string { return nonEmpty(a.Table) }),
		"association.subnet-id":                  tableAssociations(func(a associationItem) []string { return nonEmpty(a.Subnet) }),
		"association.gateway-id":                 never[routeTableItem],

		"route.destination-cidr-block": tableRoutes(func(r routeItem) []string { return nonEmpty(r.Destination) }),
		"route.gateway-id":             tableRoutes(func(r routeItem) []string { return nonEmpty(r.Gateway) }),

		"route.destination-prefix-list-id": tableRoutes(func(r routeItem) []string { return nonEmpty(r.PrefixList) }),
		"route.instance-id":                tableRoutes(func(r routeItem) []string { return nonEmpty(r.Instance) }),
		"route.nat-gateway-id":             tableRoutes(func(r routeItem) []string { return nonEmpty(r.NAT) }),
		"route.vpc-peering-connection-id":  tableRoutes(func(r routeItem) []string { return nonEmpty(r.Peering) }),

		"route.origin": tableRoutes(func(r routeItem) []string { return nonEmpty(r.Origin) }),
		"route.state":  tableRoutes(func(r routeItem) []string { return nonEmpty(r.State) }),

		"route.destination-ipv6-cidr-block":     never[routeTableItem],
		"route.egress-only-internet-gateway-id": never[routeTableItem],
		"route.transit-gateway-id":              never[routeTableItem],
	},
}

func tableAssociations(values func(associationItem) []string) func(routeTableItem) []string {
	return eachOf(func(t routeTableItem) []associationItem { return t.Associations }, values)
}

func tableRoutes(values func(routeItem) []string) func(routeTableItem) []string {
	return eachOf(func(t routeTableItem) []routeItem { return t.Routes }, values)
}

func describeRouteTables(c *call, r *describeRouteTablesRequest) (*describeRouteTablesAnswer, error) {
	items, next, err := describe(c, routeTableListing, c.view.RouteTablesOf(c.account, c.region), c.newRouteTableItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeRouteTablesAnswer{items, next}, nil
}

type routeRequest struct {
	Table       ec2.RouteTableID `wire:"RouteTableId"`
	Destination string           `wire:"DestinationCidrBlock"`
	PrefixList  ec2.PrefixListID `wire:"DestinationPrefixListId"`
	Gateway     ec2.GatewayID    `wire:"GatewayId"`
	NAT         ec2.NATGatewayID `wire:"NatGatewayId"`
	Peering     ec2.PeeringID    `wire:"VpcPeeringConnectionId"`
	Interface   ec2.InterfaceID  `wire:"NetworkInterfaceId"`
	Instance    ec2.InstanceID   `wire:"InstanceId"`
	LocalTarget bool             `wire:"LocalTarget"` // of ReplaceRoute

	IPv6Destination string `wire:"DestinationIpv6CidrBlock"`
	targets
}

// targets has the targets of a route that are not served.
type targets struct {
	CarrierGateway    string `wire:"CarrierGatewayId"`
	CoreNetwork       string `wire:"CoreNetworkArn"`
	EgressOnlyGateway string `wire:"EgressOnlyInternetGatewayId"`
	LocalGateway      string `wire:"LocalGatewayId"`
	ODBNetwork        string `wire:"OdbNetworkArn"`
	TransitGateway    string `wire:"TransitGatewayId"`
	Endpoint          string `wire:"VpcEndpointId"`
}

// refuse returns an error for a destination or a target that is not served.
func (r *routeRequest) refuse() error {
	for _, t := range []struct{ asked, what string }{
		{r.IPv6Destination, "for IPv6 (DestinationIpv6CidrBlock)"},
		{r.CarrierGateway, "to carrier gateways (CarrierGatewayId)"},
		{r.CoreNetwork, "to core networks (CoreNetworkArn)"},
		{r.EgressOnlyGateway, "to egress-only internet gateways (EgressOnlyInternetGatewayId)"},
		{r.LocalGateway, "to local gateways (LocalGatewayId)"},
		{r.ODBNetwork, "to ODB networks (OdbNetworkArn)"},
		{r.TransitGateway, "to transit gateways (TransitGatewayId)"},
		{r.Endpoint, "to VPC endpoints (VpcEndpointId)"},
	} {
		if t.asked != "" {
			return ec2.Errorf("UnsupportedOperation", "Routes %s are not served here; a route leads to an internet gateway, a NAT gateway, a VPC peering connection, a network interface or an instance", t.what)
		}
	}
	return nil
}

func createRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.CreateRoute{
		Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block, PrefixList: r.PrefixList,
		Gateway: r.Gateway, NAT: r.NAT, Peering: r.Peering, Interface: r.Interface, Instance: r.Instance,
	}); err != nil {
		return nil, err
	}
	return &done, nil
}

func replaceRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	local := r.LocalTarget || r.Gateway == localGateway
	if r.Gateway == localGateway {
		r.Gateway = ""
	}
	if _, err := c.apply(&state.ReplaceRoute{
		Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block, PrefixList: r.PrefixList, Local: local,
		Gateway: r.Gateway, NAT: r.NAT, Peering: r.Peering, Interface: r.Interface, Instance: r.Instance,
	}); err != nil {
		return nil, err
	}
	return &done, nil
}

func deleteRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.DeleteRoute{Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block, PrefixList: r.PrefixList}); err != nil {
		return nil, err
	}
	return &done, nil
}

type associateRouteTableRequest struct {
	Table   ec2.RouteTableID `wire:"RouteTableId"`
	Subnet  ec2.SubnetID     `wire:"SubnetId"`
	Gateway string           `wire:"GatewayId"`
}

type associateRouteTableAnswer struct {
	ID    ec2.AssociationID `wire:"associationId"`
	State associationState  `wire:"associationState"`
}

func associateRouteTable(c *call, r *associateRouteTableRequest) (*associateRouteTableAnswer, error) {
	if r.Gateway != "" {
		return nil, ec2.Errorf("UnsupportedOperation", "Route tables of gateways (GatewayId) are not served here; a route table is associated with subnets")
	}
	result, err := c.apply(&state.AssociateRouteTable{Account: c.account, Region: c.region, RouteTable: r.Table, Subnet: r.Subnet})
	if err != nil {
		return nil, err
	}
	return &associateRouteTableAnswer{result.Association, associated}, nil
}

type routeAssociationRequest struct {
	Association ec2.AssociationID `wire:"AssociationId"`
	Table       ec2.RouteTableID  `wire:"RouteTableId"`
}

func disassociateRouteTable(c *call, r *routeAssociationRequest) (*returned, error) {
	if _, err := c.apply(&state.DisassociateRouteTable{Account: c.account, Region: c.region, Association: r.Association}); err != nil {
		return nil, err
	}
	return &done, nil
}

type replaceRouteTableAssociationAnswer struct {
	ID    ec2.AssociationID `wire:"newAssociationId"`
	State associationState  `wire:"associationState"`
}

func replaceRouteTableAssociation(c *call, r *routeAssociationRequest) (*replaceRouteTableAssociationAnswer, error) {
	result, err := c.apply(&state.ReplaceRouteTableAssociation{Account: c.account, Region: c.region, Association: r.Association, RouteTable: r.Table})
	if err != nil {
		return nil, err
	}
	return &replaceRouteTableAssociationAnswer{result.Association, associated}, nil
}
