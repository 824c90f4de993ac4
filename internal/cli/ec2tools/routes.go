package ec2tools

import "net/url"

// The lines of internet gateways and route tables:
//
//	INTERNETGATEWAY  ID
//	ATTACHMENT       VPC  STATE
//	ROUTETABLE       ID  VPC
//	ROUTE            GATEWAY  INSTANCE  STATE  DESTINATION  INTERFACE  -  ORIGIN
//	ASSOCIATION      ID  ROUTETABLE  SUBNET, or main

type internetGateway struct {
	ID          string `xml:"internetGatewayId"`
	Attachments []struct {
		VPC   string `xml:"vpcId"`
		State string `xml:"state"`
	} `xml:"attachmentSet>item"`
	tags
}

type newGateway struct {
	Gateway internetGateway `xml:"internetGateway"`
}

var createGatewayTool = singleCall[newGateway]{
	summary: "create an internet gateway", example: "ec2-create-internet-gateway",
	call: "CreateInternetGateway",
	show: func(_ url.Values, a newGateway) [][]string {
		return [][]string{{"INTERNETGATEWAY", a.Gateway.ID}}
	},
}.tool()

type internetGateways struct {
	Gateways []internetGateway `xml:"internetGatewaySet>item"`
}

var describeGatewaysTool = listing[internetGateways]{
	summary: "list internet gateways", synopsis: "[GATEWAY]...", example: "ec2-describe-internet-gateways",
	call: "DescribeInternetGateways", param: "InternetGatewayId",
	show: func(a internetGateways) (rows [][]string) {
		for _, g := range a.Gateways {
			rows = append(rows, []string{"INTERNETGATEWAY", g.ID})
			for _, at := range g.Attachments {
				rows = append(rows, []string{"ATTACHMENT", at.VPC, at.State})
			}
			rows = append(rows, g.rows("internet-gateway", g.ID)...)
		}
		return rows
	},
}.tool()

const whichGateway = "which gateway? ec2-describe-internet-gateways lists them"

var attachGatewayTool = singleCall[returned]{
	summary: "attach an internet gateway to a VPC", synopsis: "GATEWAY -c VPC", example: "ec2-attach-internet-gateway igw-c3a643aa -c vpc-1a2b3c4d",
	call: "AttachInternetGateway", param: "InternetGatewayId", need: whichGateway, options: []option{vpcOption},
	show: func(asked url.Values, _ returned) [][]string {
		return [][]string{{"ATTACHMENT", asked.Get("VpcId"), "attaching"}}
	},
}.tool()

var detachGatewayTool = singleCall[returned]{
	summary: "detach an internet gateway from its VPC", synopsis: "GATEWAY -c VPC", example: "ec2-detach-internet-gateway igw-c3a643aa -c vpc-1a2b3c4d",
	call: "DetachInternetGateway", param: "InternetGatewayId", need: whichGateway, options: []option{vpcOption},
	show: showReturn,
}.tool()

var deleteGatewayTool = singleCall[returned]{
	summary: "delete a detached internet gateway", synopsis: "GATEWAY", example: "ec2-delete-internet-gateway igw-c3a643aa",
	call: "DeleteInternetGateway", param: "InternetGatewayId", need: whichGateway,
	show: showParameter("INTERNETGATEWAY", "InternetGatewayId"),
}.tool()

type routeTable struct {
	ID     string `xml:"routeTableId"`
	VPC    string `xml:"vpcId"`
	Routes []struct {
		Destination string `xml:"destinationCidrBlock"`
		Gateway     string `xml:"gatewayId"`
		Instance    string `xml:"instanceId"`
		Interface   string `xml:"networkInterfaceId"`
		State       string `xml:"state"`
		Origin      string `xml:"origin"`
	} `xml:"routeSet>item"`
	Associations []struct {
		ID     string `xml:"routeTableAssociationId"`
		Table  string `xml:"routeTableId"`
		Subnet string `xml:"subnetId"`
		Main   bool   `xml:"main"`
	} `xml:"associationSet>item"`
	tags
}

func (t routeTable) rows() [][]string {
	rows := [][]string{{"ROUTETABLE", t.ID, t.VPC}}
	for _, r := range t.Routes {
		rows = append(rows, []string{"ROUTE", r.Gateway, r.Instance, r.State, r.Destination, r.Interface, "", r.Origin})
	}
	for _, a := range t.Associations {
		of := a.Subnet
		if a.Main {
			of = "main"
		}
		rows = append(rows, []string{"ASSOCIATION", a.ID, a.Table, of})
	}
	return append(rows, t.tags.rows("route-table", t.ID)...)
}

type newTable struct {
	Table routeTable `xml:"routeTable"`
}

var createRouteTableTool = singleCall[newTable]{
	summary: "create a route table in a VPC", synopsis: "VPC", example: "ec2-create-route-table vpc-1a2b3c4d",
	call: "CreateRouteTable", param: "VpcId", need: "in which VPC? ec2-describe-vpcs lists them",
	show: func(_ url.Values, a newTable) [][]string {
		return a.Table.rows()
	},
}.tool()

type routeTables struct {
	Tables []routeTable `xml:"routeTableSet>item"`
}

var describeRouteTablesTool = listing[routeTables]{
	summary: "list route tables, their routes and associations", synopsis: "[ROUTETABLE]...", example: "ec2-describe-route-tables -F vpc-id=vpc-1a2b3c4d",
	call: "DescribeRouteTables", param: "RouteTableId",
	show: func(a routeTables) (rows [][]string) {
		for _, t := range a.Tables {
			rows = append(rows, t.rows()...)
		}
		return rows
	},
}.tool()

const whichTable = "which route table? ec2-describe-route-tables lists them"

var deleteRouteTableTool = singleCall[returned]{
	summary: "delete a route table that no subnet is associated with", synopsis: "ROUTETABLE", example: "ec2-delete-route-table rtb-1122334a",
	call: "DeleteRouteTable", param: "RouteTableId", need: whichTable,
	show: showParameter("ROUTETABLE", "RouteTableId"),
}.tool()

var (
	destinationOption = option{long: "cidr", short: "r", param: "DestinationCidrBlock", usage: "destination as a `CIDR`", need: "which destination? as in: -r 0.0.0.0/0"}
	gatewayOption     = option{long: "gateway", short: "g", param: "GatewayId", usage: "target `GATEWAY`", need: "which gateway? as in: -g igw-c3a643aa"}
)

var (
	createRouteTool  = routeTool("ec2-create-route", "add a route to a route table", "CreateRoute")
	replaceRouteTool = routeTool("ec2-replace-route", "lead a route of a table elsewhere", "ReplaceRoute")
)

func routeTool(name, summary, call string) tool {
	return singleCall[returned]{
		summary: summary, synopsis: "ROUTETABLE -r CIDR -g GATEWAY", example: name + " rtb-1122334a -r 0.0.0.0/0 -g igw-c3a643aa",
		call: call, param: "RouteTableId", need: whichTable, options: []option{destinationOption, gatewayOption},
		show: func(asked url.Values, _ returned) [][]string {
			return [][]string{{"ROUTE", asked.Get("GatewayId"), "", "", asked.Get("DestinationCidrBlock")}}
		},
	}.tool()
}

var deleteRouteTool = singleCall[returned]{
	summary: "remove a route from a route table", synopsis: "ROUTETABLE -r CIDR", example: "ec2-delete-route rtb-1122334a -r 0.0.0.0/0",
	call: "DeleteRoute", param: "RouteTableId", need: whichTable, options: []option{destinationOption},
	show: showReturn,
}.tool()

type newTableAssociation struct {
	ID string `xml:"associationId"`
}

var associateRouteTableTool = singleCall[newTableAssociation]{
	summary: "associate a route table with a subnet", synopsis: "ROUTETABLE -s SUBNET", example: "ec2-associate-route-table rtb-1122334a -s subnet-9d4a7b6c",
	call: "AssociateRouteTable", param: "RouteTableId", need: whichTable,
	options: []option{{long: "subnet", short: "s", param: "SubnetId", usage: "the `SUBNET`", need: "for which subnet? as in: -s subnet-9d4a7b6c"}},
	show: func(asked url.Values, a newTableAssociation) [][]string {
		return [][]string{{"ASSOCIATION", a.ID, asked.Get("RouteTableId"), asked.Get("SubnetId")}}
	},
}.tool()

const whichAssociation = "which association? as in: rtbassoc-9cb00df9; ec2-describe-route-tables lists them"

type replacedAssociation struct {
	ID string `xml:"newAssociationId"`
}

var replaceAssociationTool = singleCall[replacedAssociation]{
	summary: "replace the route table of a subnet, or a VPC's main route table", synopsis: "ASSOCIATION -r ROUTETABLE",
	example: "ec2-replace-route-table-association rtbassoc-9cb00df9 -r rtb-1122334a",
	call:    "ReplaceRouteTableAssociation", param: "AssociationId", need: whichAssociation,
	options: []option{{long: "route-table", short: "r", param: "RouteTableId", usage: "the `ROUTETABLE`", need: whichTable}},
	show: func(asked url.Values, a replacedAssociation) [][]string {
		return [][]string{{"ASSOCIATION", a.ID, asked.Get("RouteTableId")}}
	},
}.tool()

var disassociateRouteTableTool = singleCall[returned]{
	summary: "end the association of a subnet; the main route table applies again", synopsis: "ASSOCIATION", example: "ec2-disassociate-route-table rtbassoc-9cb00df9",
	call: "DisassociateRouteTable", param: "AssociationId", need: whichAssociation,
	show: showReturn,
}.tool()
