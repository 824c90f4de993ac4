package ec2tools

import "net/url"

// The lines of interfaces, and of the interfaces of an instance (NIC…):
//
//	NETWORKINTERFACE  ID  SUBNET  VPC  ZONE  DESCRIPTION  OWNER  REQUESTER-MANAGED  STATE  MAC  PRIVATE-IP  PRIVATE-NAME  CHECKED
//	NIC               ID  SUBNET  VPC  OWNER  STATE  PRIVATE-IP  PRIVATE-NAME  CHECKED
//	NICATTACHMENT     ID  DEVICE-INDEX  STATE  TIME  DELETED-ON-TERMINATION
//	NICASSOCIATION    PUBLIC-IP  ADDRESS-OWNER  PRIVATE-IP
//	GROUP             ID  NAME
//	PRIVATEIPADDRESS  IP  PRIVATE-NAME  PUBLIC-NAME

type networkInterface struct {
	ID          string  `xml:"networkInterfaceId"`
	Subnet      string  `xml:"subnetId"`
	VPC         string  `xml:"vpcId"`
	Zone        string  `xml:"availabilityZone"`
	Description string  `xml:"description"`
	Owner       string  `xml:"ownerId"`
	Managed     string  `xml:"requesterManaged"`
	State       string  `xml:"status"`
	MAC         string  `xml:"macAddress"`
	Private     string  `xml:"privateIpAddress"`
	PrivateDNS  string  `xml:"privateDnsName"`
	Checked     string  `xml:"sourceDestCheck"`
	Groups      []group `xml:"groupSet>item"`
	Attachment  struct {
		ID       string `xml:"attachmentId"`
		Instance string `xml:"instanceId"`
		Index    string `xml:"deviceIndex"`
		State    string `xml:"status"`
		Time     string `xml:"attachTime"`
		Delete   string `xml:"deleteOnTermination"`
	} `xml:"attachment"`
	Association nicAssociation `xml:"association"`
	Addresses   []struct {
		Private     string         `xml:"privateIpAddress"`
		PrivateDNS  string         `xml:"privateDnsName"`
		Association nicAssociation `xml:"association"`
	} `xml:"privateIpAddressesSet>item"`
	tags
}

type nicAssociation struct {
	IP    string `xml:"publicIp"`
	DNS   string `xml:"publicDnsName"`
	Owner string `xml:"ipOwnerId"`
}

// own returns the lines of an interface in a list of interfaces.
func (n networkInterface) own() [][]string {
	rows := [][]string{{"NETWORKINTERFACE", n.ID, n.Subnet, n.VPC, n.Zone, n.Description, n.Owner, n.Managed, n.State, n.MAC, n.Private, n.PrivateDNS, n.Checked}}
	if at := n.Attachment; at.ID != "" {
		rows = append(rows, []string{"ATTACHMENT", at.Instance, at.ID, at.Index, at.State, stamp(at.Time), at.Delete})
	}
	return append(append(rows, n.details("ASSOCIATION")...), n.tags.rows("network-interface", n.ID)...)
}

// rowsOfInstance returns the lines of an interface below its instance.
func (n networkInterface) rowsOfInstance() [][]string {
	rows := [][]string{{"NIC", n.ID, n.Subnet, n.VPC, n.Owner, n.State, n.Private, n.PrivateDNS, n.Checked}}
	if at := n.Attachment; at.ID != "" {
		rows = append(rows, []string{"NICATTACHMENT", at.ID, at.Index, at.State, stamp(at.Time), at.Delete})
	}
	return append(rows, n.details("NICASSOCIATION")...)
}

func (n networkInterface) details(association string) [][]string {
	var rows [][]string
	if a := n.Association; a.IP != "" {
		rows = append(rows, []string{association, a.IP, a.Owner, n.Private})
	}
	for _, g := range n.Groups {
		rows = append(rows, []string{"GROUP", g.ID, g.Name})
	}
	for _, a := range n.Addresses {
		rows = append(rows, []string{"PRIVATEIPADDRESS", a.Private, a.PrivateDNS, a.Association.DNS})
	}
	return rows
}

type newInterface struct {
	Interface networkInterface `xml:"networkInterface"`
}

var createInterfaceTool = singleCall[newInterface]{
	summary: "create a network interface in a subnet", synopsis: "SUBNET [-d DESCRIPTION] [-g GROUP-ID]... [--private-ip-address IP]",
	example: "ec2-create-network-interface subnet-9d4a7b6c -g sg-1a2b3c4d",
	call:    "CreateNetworkInterface", param: "SubnetId", need: "in which subnet? ec2-describe-subnets lists them",
	options: []option{
		{long: "description", short: "d", param: "Description", usage: "`TEXT` that describes it"},
		{long: "group", short: "g", param: "SecurityGroupId", usage: "`GROUP-ID`; the VPC's default group if none is given", list: true},
		{long: "private-ip-address", param: "PrivateIpAddress", usage: "its `IP`; chosen from the subnet if none is given"},
		{long: "secondary-private-ip-address-count", param: "SecondaryPrivateIpAddressCount", usage: "number of secondary addresses: `COUNT`"},
	},
	show: func(_ url.Values, a newInterface) [][]string {
		return a.Interface.own()
	},
}.tool()

type networkInterfaces struct {
	Interfaces []networkInterface `xml:"networkInterfaceSet>item"`
}

var describeInterfacesTool = listing[networkInterfaces]{
	summary: "list network interfaces", synopsis: "[INTERFACE]...", example: "ec2-describe-network-interfaces -F group-id=sg-1a2b3c4d",
	call: "DescribeNetworkInterfaces", param: "NetworkInterfaceId",
	show: func(a networkInterfaces) (rows [][]string) {
		for _, n := range a.Interfaces {
			rows = append(rows, n.own()...)
		}
		return rows
	},
}.tool()

const whichInterface = "which interface? ec2-describe-network-interfaces lists them"

var deleteInterfaceTool = singleCall[returned]{
	summary: "delete a detached network interface", synopsis: "INTERFACE", example: "ec2-delete-network-interface eni-b35da6da",
	call: "DeleteNetworkInterface", param: "NetworkInterfaceId", need: whichInterface,
	show: showParameter("NETWORKINTERFACE", "NetworkInterfaceId"),
}.tool()

type newAttachment struct {
	ID string `xml:"attachmentId"`
}

var attachInterfaceTool = singleCall[newAttachment]{
	summary: "attach a network interface to an instance", synopsis: "INTERFACE -i INSTANCE -d INDEX", example: "ec2-attach-network-interface eni-b35da6da -i i-cfd732a6 -d 1",
	call: "AttachNetworkInterface", param: "NetworkInterfaceId", need: whichInterface,
	options: []option{
		{long: "instance", short: "i", param: "InstanceId", usage: "the `INSTANCE`", need: "to which instance? as in: -i i-cfd732a6"},
		{long: "device-index", short: "d", param: "DeviceIndex", usage: "its device `INDEX`, from 1", need: "at which device index? as in: -d 1"},
	},
	show: func(_ url.Values, a newAttachment) [][]string {
		return [][]string{{"ATTACHMENT", a.ID}}
	},
}.tool()

var detachInterfaceTool = singleCall[returned]{
	summary: "detach a network interface", synopsis: "ATTACHMENT [-f true]", example: "ec2-detach-network-interface eni-attach-29f7c423",
	call: "DetachNetworkInterface", param: "AttachmentId", need: "which attachment? as in: eni-attach-29f7c423; ec2-describe-network-interfaces lists them",
	options: []option{{long: "force", short: "f", param: "Force", usage: "`BOOL`: detach even if the node does not report it"}},
	show:    showReturn,
}.tool()

var (
	interfaceOption = option{long: "network-interface", short: "n", param: "NetworkInterfaceId", usage: "the `INTERFACE`", need: "of which interface? as in: -n eni-b35da6da"}
	secondaryOption = option{long: "secondary-private-ip-address", param: "PrivateIpAddress", usage: "an `IP` of the subnet", list: true}
)

var assignAddressesTool = singleCall[returned]{
	summary: "give an interface more private addresses", synopsis: "-n INTERFACE --secondary-private-ip-address IP...",
	example: "ec2-assign-private-ip-addresses -n eni-b35da6da --secondary-private-ip-address-count 2",
	call:    "AssignPrivateIpAddresses",
	options: []option{interfaceOption, secondaryOption,
		{long: "secondary-private-ip-address-count", param: "SecondaryPrivateIpAddressCount", usage: "number of addresses to choose from the subnet: `COUNT`"}},
	show: showReturn,
}.tool()

var unassignAddressesTool = singleCall[returned]{
	summary: "take private addresses from an interface", synopsis: "-n INTERFACE --secondary-private-ip-address IP...",
	example: "ec2-unassign-private-ip-addresses -n eni-b35da6da --secondary-private-ip-address 10.0.1.9",
	call:    "UnassignPrivateIpAddresses",
	options: []option{interfaceOption, secondaryOption},
	show:    showReturn,
}.tool()

// attributeOptions are the attributes of an interface that can be changed while it is in use.
func attributeOptions(groups string) []option {
	return []option{
		{long: "group-id", short: "g", param: groups, usage: "`GROUP-ID`s that replace all its groups", list: true},
		{long: "source-dest-check", param: "SourceDestCheck.Value", usage: "`BOOL`: whether to drop packets that are neither from nor to its addresses"},
	}
}

var modifyInterfaceTool = singleCall[returned]{
	summary: "change the groups of an interface, or its source check", synopsis: "INTERFACE -g GROUP-ID... | --source-dest-check BOOL",
	example: "ec2-modify-network-interface-attribute eni-b35da6da --source-dest-check false",
	call:    "ModifyNetworkInterfaceAttribute", param: "NetworkInterfaceId", need: whichInterface,
	options: attributeOptions("SecurityGroupId"),
	show:    showReturn,
}.tool()

var modifyInstanceTool = singleCall[returned]{
	summary: "change the groups of an instance in a VPC, or its source check", synopsis: "INSTANCE -g GROUP-ID... | --source-dest-check BOOL",
	example: "ec2-modify-instance-attribute i-cfd732a6 -g sg-1a2b3c4d -g sg-5e6f7a8b",
	call:    "ModifyInstanceAttribute", param: "InstanceId", need: "which instance? ec2-describe-instances lists them",
	options: attributeOptions("GroupId"),
	show:    showReturn,
}.tool()
