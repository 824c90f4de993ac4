package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

type modifyNetworkInterfaceAttributeRequest struct {
	interfaceRequest
	Description textParam     `wire:"Description"`
	Groups      []ec2.GroupID `wire:"SecurityGroupId"`
	Checked     boolParam     `wire:"SourceDestCheck"`
	Attachment  struct {
		ID                  ec2.AttachmentID `wire:"AttachmentId"`
		DeleteOnTermination *bool            `wire:"DeleteOnTermination"`
	} `wire:"Attachment"`
	Public *bool `wire:"AssociatePublicIpAddress"`
}

// modifyNetworkInterfaceAttribute changes one attribute (EC2 API Reference,
// "ModifyNetworkInterfaceAttribute").
func modifyNetworkInterfaceAttribute(c *call, r *modifyNetworkInterfaceAttributeRequest) (*returned, error) {
	if r.Public != nil {
		return nil, unserved(c.action, "AssociatePublicIpAddress")
	}
	change := &state.ModifyNetworkInterface{
		Account: c.account, Region: c.region, Interface: r.Interface, Description: r.Description.Value, Groups: r.Groups,
		Attachment: r.Attachment.ID, DeleteOnTermination: r.Attachment.DeleteOnTermination,
	}
	if r.Checked.Value != nil {
		change.Unchecked = new(!*r.Checked.Value)
	}
	if err := checkGroupIDs(r.Groups); err != nil {
		return nil, err
	}
	if err := onlyOne(change.Description != nil, len(change.Groups) > 0, change.Unchecked != nil, change.DeleteOnTermination != nil); err != nil {
		return nil, err
	}
	if _, err := c.apply(change); err != nil {
		return nil, err
	}
	return &done, nil
}

type resetNetworkInterfaceAttributeRequest struct {
	interfaceRequest
	Checked *string `wire:"SourceDestCheck"`
}

// resetNetworkInterfaceAttribute turns the source/destination check on again. It is the
// only attribute that can be reset.
func resetNetworkInterfaceAttribute(c *call, r *resetNetworkInterfaceAttributeRequest) (*returned, error) {
	if r.Checked == nil {
		return nil, ec2.Missing("sourceDestCheck")
	}
	if _, err := c.apply(&state.ModifyNetworkInterface{Account: c.account, Region: c.region, Interface: r.Interface, Unchecked: new(false)}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeNetworkInterfaceAttributeRequest struct {
	interfaceRequest
	Attribute string `wire:"Attribute"`
}

type describeNetworkInterfaceAttributeAnswer struct {
	Interface   ec2.InterfaceID `wire:"networkInterfaceId"`
	Description *textValue      `wire:"description"`
	Checked     *boolValue      `wire:"sourceDestCheck"`
	Attachment  *attachmentItem `wire:"attachment"`
	Groups      *[]groupName    `wire:"groupSet"`
	Public      *bool           `wire:"associatePublicIpAddress"`
}

func describeNetworkInterfaceAttribute(c *call, r *describeNetworkInterfaceAttributeRequest) (*describeNetworkInterfaceAttributeAnswer, error) {
	eni, err := c.view.FindInterface(c.account, c.region, r.Interface)
	if err != nil {
		return nil, err
	}
	item := c.newInterfaceItem(eni)
	answer := &describeNetworkInterfaceAttributeAnswer{Interface: eni.ID}
	switch r.Attribute {
	case "description":
		answer.Description = &textValue{string(item.Description)}
	case "sourceDestCheck":
		answer.Checked = &boolValue{item.Checked}
	case "attachment":
		answer.Attachment = item.Attachment
	case "groupSet":
		answer.Groups = &item.Groups
	case "associatePublicIpAddress":
		answer.Public = new(eni.AutoPublic)
	case "":
		return nil, ec2.Missing("attribute")
	default:
		return nil, unknownAttribute(r.Attribute)
	}
	return answer, nil
}
