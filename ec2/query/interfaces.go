package query

import (
	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// interfaceActions manage the interfaces of a VPC.
var interfaceActions = map[string]handler{
	"CreateNetworkInterface":            action(createNetworkInterface),
	"DeleteNetworkInterface":            action(deleteNetworkInterface),
	"DescribeNetworkInterfaces":         action(describeNetworkInterfaces),
	"AttachNetworkInterface":            action(attachNetworkInterface),
	"DetachNetworkInterface":            action(detachNetworkInterface),
	"ModifyNetworkInterfaceAttribute":   action(modifyNetworkInterfaceAttribute),
	"ResetNetworkInterfaceAttribute":    action(resetNetworkInterfaceAttribute),
	"DescribeNetworkInterfaceAttribute": action(describeNetworkInterfaceAttribute),
	"AssignPrivateIpAddresses":          action(assignPrivateAddresses),
	"UnassignPrivateIpAddresses":        action(unassignPrivateAddresses),
}

type createNetworkInterfaceRequest struct {
	interfaceSpec
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type createNetworkInterfaceAnswer struct {
	Interface   interfaceItem `wire:"networkInterface"`
	ClientToken string        `wire:"clientToken"`
}

func createNetworkInterface(c *call, r *createNetworkInterfaceRequest) (*createNetworkInterfaceAnswer, error) {
	spec, err := r.spec()
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "network-interface")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateNetworkInterface{Account: c.account, Region: c.region, Spec: spec, ClientToken: r.ClientToken, Tags: tags})
	if err != nil {
		return nil, err
	}
	return &createNetworkInterfaceAnswer{c.newInterfaceItem(result.Interface), r.ClientToken}, nil
}

type interfaceRequest struct {
	Interface ec2.InterfaceID `wire:"NetworkInterfaceId"`
}

func deleteNetworkInterface(c *call, r *interfaceRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteNetworkInterface{Account: c.account, Region: c.region, Interface: r.Interface}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeNetworkInterfacesRequest struct {
	IDs []string `wire:"NetworkInterfaceId"`
	listed
}

type describeNetworkInterfacesAnswer struct {
	Interfaces []interfaceItem `wire:"networkInterfaceSet"`
	NextToken  string          `wire:"nextToken"`
}

var interfaceListing = listing[interfaceItem]{kind: "eni", id: func(i interfaceItem) string { return string(i.ID) }, filters: interfaceFilters}

func describeNetworkInterfaces(c *call, r *describeNetworkInterfacesRequest) (*describeNetworkInterfacesAnswer, error) {
	wanted := make(map[string]bool)
	for _, id := range r.IDs {
		if err := ec2.CheckInterfaceID(ec2.InterfaceID(id)); err != nil {
			return nil, err
		}
		wanted[id] = true
	}
	if err := r.checkNoIDs(len(r.IDs), "networkInterfaceIdSet"); err != nil {
		return nil, err
	}
	var items []interfaceItem
	for eni := range c.view.InterfacesOf(c.account, c.region) {
		if eni.VPC != "" && (len(wanted) == 0 || wanted[string(eni.ID)]) {
			items = append(items, c.newInterfaceItem(eni))
		}
	}
	items, next, err := interfaceListing.pick(c, items, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeNetworkInterfacesAnswer{items, next}, nil
}

type attachNetworkInterfaceRequest struct {
	interfaceRequest
	Instance    ec2.InstanceID `wire:"InstanceId"`
	DeviceIndex *int           `wire:"DeviceIndex"`
	Card        int            `wire:"NetworkCardIndex"`
}

type attachNetworkInterfaceAnswer struct {
	Attachment ec2.AttachmentID `wire:"attachmentId"`
	Card       int              `wire:"networkCardIndex"`
}

func attachNetworkInterface(c *call, r *attachNetworkInterfaceRequest) (*attachNetworkInterfaceAnswer, error) {
	if r.DeviceIndex == nil {
		return nil, ec2.Missing("deviceIndex")
	}
	if r.Card != 0 {
		return nil, ec2.Errorf("InvalidParameterValue", "Network card index '%d' is not valid: instances have one card here", r.Card)
	}
	result, err := c.apply(&state.AttachNetworkInterface{
		Account: c.account, Region: c.region, Interface: r.Interface, Instance: r.Instance, DeviceIndex: *r.DeviceIndex,
	})
	if err != nil {
		return nil, err
	}
	return &attachNetworkInterfaceAnswer{Attachment: result.Interface.Attachment.ID}, nil
}

type detachNetworkInterfaceRequest struct {
	Attachment ec2.AttachmentID `wire:"AttachmentId"`
	Force      bool             `wire:"Force"`
}

func detachNetworkInterface(c *call, r *detachNetworkInterfaceRequest) (*returned, error) {
	if _, err := c.apply(&state.DetachNetworkInterface{Account: c.account, Region: c.region, Attachment: r.Attachment, Force: r.Force}); err != nil {
		return nil, err
	}
	return &done, nil
}

type assignPrivateAddressesRequest struct {
	interfaceRequest
	Addresses []string `wire:"PrivateIpAddress"`
	Count     int      `wire:"SecondaryPrivateIpAddressCount"`
	Reassign  bool     `wire:"AllowReassignment"`
}

type assignPrivateAddressesAnswer struct {
	Interface ec2.InterfaceID   `wire:"networkInterfaceId"`
	Assigned  []assignedAddress `wire:"assignedPrivateIpAddressesSet"`
	Prefixes  []tag             `wire:"assignedIpv4PrefixSet"` // prefixes are not served
	returned
}

type assignedAddress struct {
	Address string `wire:"privateIpAddress"`
}

func assignPrivateAddresses(c *call, r *assignPrivateAddressesRequest) (*assignPrivateAddressesAnswer, error) {
	request := &state.AssignPrivateAddresses{Account: c.account, Region: c.region, Interface: r.Interface, Count: r.Count, Reassign: r.Reassign}
	var err error
	if request.Addresses, err = parseAddresses(r.Addresses); err != nil {
		return nil, err
	}
	result, err := c.apply(request)
	if err != nil {
		return nil, err
	}
	answer := &assignPrivateAddressesAnswer{Interface: r.Interface, returned: done}
	for _, a := range result.Addresses {
		answer.Assigned = append(answer.Assigned, assignedAddress{a.String()})
	}
	return answer, nil
}

type unassignPrivateAddressesRequest struct {
	interfaceRequest
	Addresses []string `wire:"PrivateIpAddress"`
}

func unassignPrivateAddresses(c *call, r *unassignPrivateAddressesRequest) (*returned, error) {
	addresses, err := parseAddresses(r.Addresses)
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.UnassignPrivateAddresses{Account: c.account, Region: c.region, Interface: r.Interface, Addresses: addresses}); err != nil {
		return nil, err
	}
	return &done, nil
}

// An interfaceSpec has the parameters of an interface to create.
type interfaceSpec struct {
	Subnet         ec2.SubnetID   `wire:"SubnetId"`
	Groups         []ec2.GroupID  `wire:"SecurityGroupId"`
	Description    string         `wire:"Description"`
	PrivateAddress string         `wire:"PrivateIpAddress"`
	Addresses      []addressParam `wire:"PrivateIpAddresses"`
	SecondaryCount int            `wire:"SecondaryPrivateIpAddressCount"`
	Type           string         `wire:"InterfaceType"`
}

type addressParam struct {
	Address string `wire:"PrivateIpAddress"`
	Primary bool   `wire:"Primary"`
}

// The method spec returns the properties of an interface to create. The primary address may
// be a parameter of its own or in the list of addresses.
func (s interfaceSpec) spec() (spec state.InterfaceSpec, err error) {
	if s.Type != "" && s.Type != "interface" {
		return spec, ec2.Errorf("UnsupportedOperation", "Network interfaces of type %s are not served here", wire.Quote(s.Type))
	}
	if err := checkGroupIDs(s.Groups); err != nil {
		return spec, err
	}
	spec = state.InterfaceSpec{Subnet: s.Subnet, Groups: s.Groups, Description: s.Description, SecondaryCount: s.SecondaryCount}
	if spec.Private, err = parseAddress(s.PrivateAddress); err != nil {
		return spec, err
	}
	for _, x := range s.Addresses {
		a, err := parseAddress(x.Address)
		switch {
		case err != nil:
			return spec, err
		case !a.IsValid():
			return spec, ec2.Missing("privateIpAddress")
		case !x.Primary:
			spec.Secondary = append(spec.Secondary, a)
		case spec.Private.IsValid() && spec.Private != a:
			return spec, ec2.Errorf("InvalidParameterCombination", "Only one primary private IP address can be specified.")
		default:
			spec.Private = a
		}
	}
	return spec, nil
}
