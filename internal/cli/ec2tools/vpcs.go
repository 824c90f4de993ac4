package ec2tools

import "net/url"

// The lines of VPCs and subnets, with the columns of the tools since 2012:
//
//	VPC     ID  STATE  CIDR  DHCP-OPTIONS  TENANCY  [DEFAULT]
//	SUBNET  ID  STATE  VPC  CIDR  FREE-ADDRESSES  ZONE  [DEFAULT  MAPS-PUBLIC-ADDRESSES]
//
// Only ec2-describe-* prints the columns in brackets.

type vpc struct {
	ID      string `xml:"vpcId"`
	State   string `xml:"state"`
	CIDR    string `xml:"cidrBlock"`
	DHCP    string `xml:"dhcpOptionsId"`
	Tenancy string `xml:"instanceTenancy"`
	Default string `xml:"isDefault"`
	tags
}

func (v vpc) columns() []string {
	return []string{"VPC", v.ID, v.State, v.CIDR, v.DHCP, v.Tenancy}
}

type newVPC struct {
	VPC vpc `xml:"vpc"`
}

var createVPCTool = singleCall[newVPC]{
	summary: "create a VPC", synopsis: "CIDR", example: "ec2-create-vpc 10.0.0.0/16",
	call: "CreateVpc", param: "CidrBlock", need: "which CIDR block? as in: 10.0.0.0/16",
	options: []option{{long: "tenancy", param: "InstanceTenancy", usage: "`TENANCY` of its instances: default"}},
	show: func(_ url.Values, a newVPC) [][]string {
		return [][]string{a.VPC.columns()}
	},
}.tool()

type vpcs struct {
	VPCs []vpc `xml:"vpcSet>item"`
}

var describeVPCsTool = listing[vpcs]{
	summary: "list VPCs", synopsis: "[VPC]...", example: "ec2-describe-vpcs vpc-1a2b3c4d",
	call: "DescribeVpcs", param: "VpcId",
	show: func(a vpcs) (rows [][]string) {
		for _, v := range a.VPCs {
			rows = append(append(rows, append(v.columns(), v.Default)), v.rows("vpc", v.ID)...)
		}
		return rows
	},
}.tool()

var deleteVPCTool = singleCall[returned]{
	summary: "delete an empty VPC", synopsis: "VPC", example: "ec2-delete-vpc vpc-1a2b3c4d",
	call: "DeleteVpc", param: "VpcId", need: "which VPC? ec2-describe-vpcs lists them",
	show: showParameter("VPC", "VpcId"),
}.tool()

type subnet struct {
	ID        string `xml:"subnetId"`
	State     string `xml:"state"`
	VPC       string `xml:"vpcId"`
	CIDR      string `xml:"cidrBlock"`
	Free      string `xml:"availableIpAddressCount"`
	Zone      string `xml:"availabilityZone"`
	Default   string `xml:"defaultForAz"`
	MapPublic string `xml:"mapPublicIpOnLaunch"`
	tags
}

func (s subnet) columns() []string {
	return []string{"SUBNET", s.ID, s.State, s.VPC, s.CIDR, s.Free, s.Zone}
}

// vpcOption is -c.
var vpcOption = option{long: "vpc", short: "c", param: "VpcId", usage: "the `VPC`", need: "in which VPC? as in: -c vpc-1a2b3c4d; ec2-describe-vpcs lists them"}

type newSubnet struct {
	Subnet subnet `xml:"subnet"`
}

var createSubnetTool = singleCall[newSubnet]{
	summary: "create a subnet in a VPC", synopsis: "-c VPC -i CIDR [-z ZONE]", example: "ec2-create-subnet -c vpc-1a2b3c4d -i 10.0.1.0/24",
	call: "CreateSubnet",
	options: []option{vpcOption,
		{long: "cidr", short: "i", param: "CidrBlock", usage: "`CIDR` of the subnet, inside the VPC's", need: "which CIDR block? as in: -i 10.0.1.0/24"},
		{long: "availability-zone", short: "z", param: "AvailabilityZone", usage: "`ZONE` to create it in"},
	},
	show: func(_ url.Values, a newSubnet) [][]string {
		return [][]string{a.Subnet.columns()}
	},
}.tool()

type subnets struct {
	Subnets []subnet `xml:"subnetSet>item"`
}

var describeSubnetsTool = listing[subnets]{
	summary: "list subnets", synopsis: "[SUBNET]...", example: "ec2-describe-subnets -F vpc-id=vpc-1a2b3c4d",
	call: "DescribeSubnets", param: "SubnetId",
	show: func(a subnets) (rows [][]string) {
		for _, s := range a.Subnets {
			rows = append(append(rows, append(s.columns(), s.Default, s.MapPublic)), s.rows("subnet", s.ID)...)
		}
		return rows
	},
}.tool()

var modifySubnetTool = singleCall[returned]{
	summary: "set whether a launch into a subnet gets a public address", synopsis: "SUBNET --map-public-ip-on-launch true|false",
	example: "ec2-modify-subnet-attribute subnet-9d4a7b6c --map-public-ip-on-launch true",
	call:    "ModifySubnetAttribute", param: "SubnetId", need: "which subnet? ec2-describe-subnets lists them",
	options: []option{{long: "map-public-ip-on-launch", param: "MapPublicIpOnLaunch.Value", usage: "`BOOL`: true or false", need: "give --map-public-ip-on-launch true, or false"}},
	show:    showReturn,
}.tool()

var deleteSubnetTool = singleCall[returned]{
	summary: "delete an empty subnet", synopsis: "SUBNET", example: "ec2-delete-subnet subnet-9d4a7b6c",
	call: "DeleteSubnet", param: "SubnetId", need: "which subnet? ec2-describe-subnets lists them",
	show: showParameter("SUBNET", "SubnetId"),
}.tool()
