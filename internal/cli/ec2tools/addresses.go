package ec2tools

import "net/url"

// The lines of elastic addresses:
//
//	ADDRESS  IP  INSTANCE  standard|vpc  ALLOCATION  ASSOCIATION  INTERFACE  PRIVATE-IP
//
// A tool that changes an address prints only the columns that identify it.
// ec2-associate-address prints ADDRESS IP INSTANCE ALLOCATION ASSOCIATION PRIVATE-IP.

var allocateAddressTool = singleCall[address]{
	summary: "allocate an elastic address", synopsis: "[-d vpc]", example: "ec2-allocate-address -d vpc",
	call:    "AllocateAddress",
	options: []option{{long: "domain", short: "d", param: "Domain", usage: "`DOMAIN` of the address: vpc"}},
	show: func(_ url.Values, a address) [][]string {
		if a.Allocation == "" {
			return [][]string{{"ADDRESS", a.IP, a.Domain}}
		}
		return [][]string{{"ADDRESS", a.IP, "", a.Domain, a.Allocation}}
	},
}.tool()

type address struct {
	IP          string `xml:"publicIp"`
	Domain      string `xml:"domain"`
	Allocation  string `xml:"allocationId"`
	Instance    string `xml:"instanceId"`
	Association string `xml:"associationId"`
	Interface   string `xml:"networkInterfaceId"`
	Private     string `xml:"privateIpAddress"`
	tags
}

type addresses struct {
	Addresses []address `xml:"addressesSet>item"`
}

var describeAddressesTool = listing[addresses]{
	summary: "list elastic addresses and their associations", synopsis: "[IP]...", example: "ec2-describe-addresses -F domain=vpc",
	call: "DescribeAddresses", param: "PublicIp",
	show: func(a addresses) (rows [][]string) {
		for _, a := range a.Addresses {
			rows = append(rows, []string{"ADDRESS", a.IP, a.Instance, a.Domain, a.Allocation, a.Association, a.Interface, a.Private})
			rows = append(rows, a.rows("elastic-ip", a.Allocation)...)
		}
		return rows
	},
}.tool()

// allocationOption is -a, for tools that name an address by its allocation.
var allocationOption = option{long: "allocation-id", short: "a", param: "AllocationId", usage: "`ALLOCATION` id of the address"}

type newAddressAssociation struct {
	Association string `xml:"associationId"`
}

var associateAddressTool = singleCall[newAddressAssociation]{
	summary: "associate an elastic address with an instance or an interface", synopsis: "[IP] -i INSTANCE | -n INTERFACE [-a ALLOCATION] [-p PRIVATE-IP]",
	example: "ec2-associate-address -a eipalloc-5723d13e -i i-cfd732a6",
	call:    "AssociateAddress", param: "PublicIp",
	options: []option{
		allocationOption,
		{long: "instance", short: "i", param: "InstanceId", usage: "the `INSTANCE` that gets it"},
		{long: "network-interface", short: "n", param: "NetworkInterfaceId", usage: "the `INTERFACE` that gets it"},
		{long: "private-ip-address", short: "p", param: "PrivateIpAddress", usage: "private `IP` of the interface"},
		{long: "allow-reassociation", param: "AllowReassociation", usage: "`BOOL`: take the address from its present interface"},
	},
	show: func(asked url.Values, a newAddressAssociation) [][]string {
		row := []string{"ADDRESS", asked.Get("PublicIp"), asked.Get("InstanceId") + asked.Get("NetworkInterfaceId")}
		if a.Association != "" {
			row = append(row, asked.Get("AllocationId"), a.Association)
		}
		if private := asked.Get("PrivateIpAddress"); private != "" {
			row = append(row, private)
		}
		return [][]string{row}
	},
}.tool()

var disassociateAddressTool = singleCall[returned]{
	summary: "disassociate an elastic address", synopsis: "IP | -a ASSOCIATION", example: "ec2-disassociate-address -a eipassoc-36ffb553",
	call: "DisassociateAddress", param: "PublicIp",
	options: []option{{long: "association-id", short: "a", param: "AssociationId", usage: "`ASSOCIATION` id of the address"}},
	show: func(asked url.Values, _ returned) [][]string {
		return [][]string{{"ADDRESS", asked.Get("PublicIp") + asked.Get("AssociationId")}}
	},
}.tool()

var releaseAddressTool = singleCall[returned]{
	summary: "release an elastic address", synopsis: "IP | -a ALLOCATION", example: "ec2-release-address -a eipalloc-5723d13e",
	call: "ReleaseAddress", param: "PublicIp", options: []option{allocationOption},
	show: func(asked url.Values, _ returned) [][]string {
		return [][]string{{"ADDRESS", asked.Get("PublicIp") + asked.Get("AllocationId")}}
	},
}.tool()
