package query

import (
	"encoding/base64"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// instanceAttributeActions show and change single attributes of instances.
var instanceAttributeActions = map[string]handler{
	"DescribeInstanceAttribute": action(describeInstanceAttribute),
	"ModifyInstanceAttribute":   action(modifyInstanceAttribute),
	"ResetInstanceAttribute":    action(resetInstanceAttribute),
}

type instanceAttributeRequest struct {
	Instance  ec2.InstanceID `wire:"InstanceId"`
	Attribute string         `wire:"Attribute"`
}

// An instanceAttributeAnswer has the element of one attribute. Attributes that no instance
// has here are shown as empty elements.
type instanceAttributeAnswer struct {
	Instance     ec2.InstanceID        `wire:"instanceId"`
	Type         *textValue            `wire:"instanceType"`
	Kernel       *textValue            `wire:"kernel"`
	RAMDisk      *textValue            `wire:"ramdisk"`
	UserData     *textValue            `wire:"userData"`
	NoTerminate  *boolValue            `wire:"disableApiTermination"`
	NoStop       *boolValue            `wire:"disableApiStop"`
	OnShutdown   *textValue            `wire:"instanceInitiatedShutdownBehavior"`
	RootDevice   *textValue            `wire:"rootDeviceName"`
	BlockDevices *[]instanceDeviceItem `wire:"blockDeviceMapping"`
	ProductCodes *[]tag                `wire:"productCodes"`
	Checked      *boolValue            `wire:"sourceDestCheck"`
	Groups       *[]groupName          `wire:"groupSet"`
	EBS          *boolValue            `wire:"ebsOptimized"`
	ENA          *boolValue            `wire:"enaSupport"`
	SRIOV        *textValue            `wire:"sriovNetSupport"`
	Enclave      *enabledItem          `wire:"enclaveOptions"`
}

func describeInstanceAttribute(c *call, r *instanceAttributeRequest) (*instanceAttributeAnswer, error) {
	i, err := c.view.FindInstance(c.account, c.region, r.Instance)
	if err != nil {
		return nil, err
	}
	answer := &instanceAttributeAnswer{Instance: i.ID}
	show, ok := instanceAttributes[r.Attribute]
	switch {
	case r.Attribute == "":
		return nil, ec2.Missing("attribute")
	case !ok:
		return nil, unknownAttribute(r.Attribute)
	}
	show(c, i, answer)
	return answer, nil
}

var instanceAttributes = map[string]func(*call, *ec2.Instance, *instanceAttributeAnswer){
	"instanceType": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) { a.Type = &textValue{i.Type} },
	"kernel":       func(_ *call, _ *ec2.Instance, a *instanceAttributeAnswer) { a.Kernel = &textValue{} },
	"ramdisk":      func(_ *call, _ *ec2.Instance, a *instanceAttributeAnswer) { a.RAMDisk = &textValue{} },
	"userData": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		a.UserData = &textValue{base64.StdEncoding.EncodeToString(i.UserData)}
	},
	"disableApiTermination": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		a.NoTerminate = &boolValue{i.TerminationProtected}
	},
	"disableApiStop": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) { a.NoStop = &boolValue{i.StopProtected} },
	"instanceInitiatedShutdownBehavior": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		a.OnShutdown = &textValue{"stop"}
		if i.TerminateOnShutdown {
			a.OnShutdown = &textValue{"terminate"}
		}
	},
	"rootDeviceName":     func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) { a.RootDevice = &textValue{i.RootDevice} },
	"blockDeviceMapping": func(c *call, i *ec2.Instance, a *instanceAttributeAnswer) { a.BlockDevices = new(c.devices(i)) },
	"productCodes":       func(_ *call, _ *ec2.Instance, a *instanceAttributeAnswer) { a.ProductCodes = new([]tag) },
	"sourceDestCheck": func(c *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		eni, ok := c.view.Interface(i.Interface)
		a.Checked = &boolValue{!ok || !eni.Unchecked}
	},
	"groupSet": func(c *call, i *ec2.Instance, a *instanceAttributeAnswer) { a.Groups = new(c.groupNames(i.Groups)) },
	"ebsOptimized": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		a.EBS = &boolValue{i.Options.EBSOptimized}
	},
	"enaSupport":      func(_ *call, _ *ec2.Instance, a *instanceAttributeAnswer) { a.ENA = &boolValue{} },
	"sriovNetSupport": func(_ *call, _ *ec2.Instance, a *instanceAttributeAnswer) { a.SRIOV = &textValue{} },
	"enclaveOptions": func(_ *call, i *ec2.Instance, a *instanceAttributeAnswer) {
		a.Enclave = &enabledItem{i.Options.Enclave}
	},
}

type modifyInstanceAttributeRequest struct {
	instanceAttributeRequest
	Value        *string               `wire:"Value"` // of Attribute
	Groups       []ec2.GroupID         `wire:"GroupId"`
	Checked      boolParam             `wire:"SourceDestCheck"`
	Type         textParam             `wire:"InstanceType"`
	UserData     textParam             `wire:"UserData"`
	NoTerminate  boolParam             `wire:"DisableApiTermination"`
	NoStop       boolParam             `wire:"DisableApiStop"`
	OnShutdown   textParam             `wire:"InstanceInitiatedShutdownBehavior"`
	EBS          boolParam             `wire:"EbsOptimized"`
	ENA          boolParam             `wire:"EnaSupport"`
	Kernel       textParam             `wire:"Kernel"`
	RAMDisk      textParam             `wire:"Ramdisk"`
	SRIOV        textParam             `wire:"SriovNetSupport"`
	BlockDevices []instanceDeviceParam `wire:"BlockDeviceMapping"`
}

// modifyInstanceAttribute changes one attribute. A parameter named after the attribute has
// its new value. In the API's first versions, Attribute has the name and Value the value.
func modifyInstanceAttribute(c *call, r *modifyInstanceAttributeRequest) (*returned, error) {
	if err := r.takeValue(); err != nil {
		return nil, err
	}
	if err := onlyOne(
		len(r.Groups) > 0, r.Checked.Value != nil, r.Type.Value != nil, r.UserData.Value != nil, r.NoTerminate.Value != nil, r.NoStop.Value != nil,
		r.OnShutdown.Value != nil, r.EBS.Value != nil, r.ENA.Value != nil, r.Kernel.Value != nil, r.RAMDisk.Value != nil, r.SRIOV.Value != nil, len(r.BlockDevices) > 0,
	); err != nil {
		return nil, err
	}
	if err := refuseAskedFor(c.action, []askedFor{
		{"EnaSupport", deref(r.ENA.Value)},
		{"Kernel", r.Kernel.Value != nil},
		{"Ramdisk", r.RAMDisk.Value != nil},
		{"SriovNetSupport", r.SRIOV.Value != nil},
	}); err != nil {
		return nil, err
	}
	if err := checkGroupIDs(r.Groups); err != nil {
		return nil, err
	}
	if r.EBS.Value != nil {
		_, err := c.modify(oneInstanceRequest{r.Instance}, state.ModifyInstanceOptions{EBSOptimized: r.EBS.Value})
		return &done, err
	}
	if r.Type.Value != nil {
		if err := checkLaunchType(*r.Type.Value); err != nil {
			return nil, err
		}
	}
	change := &state.ModifyInstance{
		Account: c.account, Region: c.region, Instance: r.Instance, Groups: r.Groups, Type: r.Type.Value,
		TerminationProtected: r.NoTerminate.Value, StopProtected: r.NoStop.Value,
	}
	var err error
	if change.Volumes, err = retention(r.BlockDevices); err != nil {
		return nil, err
	}
	if r.Checked.Value != nil {
		change.Unchecked = new(!*r.Checked.Value)
	}
	if r.UserData.Value != nil {
		data, err := userData(*r.UserData.Value)
		if err != nil {
			return nil, err
		}
		change.UserData = &data
	}
	if r.OnShutdown.Value != nil {
		terminate, err := onShutdown(*r.OnShutdown.Value)
		if err != nil {
			return nil, err
		}
		change.TerminateOnShutdown = &terminate
	}
	if _, err := c.apply(change); err != nil {
		return nil, err
	}
	return &done, nil
}

// takeValue copies Value to the parameter named after the attribute.
func (r *modifyInstanceAttributeRequest) takeValue() error {
	if r.Attribute == "" {
		if r.Value != nil {
			return ec2.Missing("attribute")
		}
		return nil
	}
	texts := map[string]*textParam{
		"instanceType": &r.Type, "userData": &r.UserData, "instanceInitiatedShutdownBehavior": &r.OnShutdown,
		"kernel": &r.Kernel, "ramdisk": &r.RAMDisk, "sriovNetSupport": &r.SRIOV,
	}
	bools := map[string]*boolParam{
		"sourceDestCheck": &r.Checked, "disableApiTermination": &r.NoTerminate, "disableApiStop": &r.NoStop,
		"ebsOptimized": &r.EBS, "enaSupport": &r.ENA,
	}
	switch {
	case r.Value == nil:
		return nil // the parameter named after the attribute has the value
	case texts[r.Attribute] != nil:
		texts[r.Attribute].Value = r.Value
	case bools[r.Attribute] != nil:
		on := strings.EqualFold(*r.Value, "true")
		if !on && !strings.EqualFold(*r.Value, "false") {
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for %s. It must be true or false.", wire.Quote(*r.Value), r.Attribute)
		}
		bools[r.Attribute].Value = &on
	default:
		return unknownAttribute(r.Attribute)
	}
	return nil
}

// resetInstanceAttribute turns the source/destination check on again. EC2 can also reset
// kernels and RAM disks, which are not served.
func resetInstanceAttribute(c *call, r *instanceAttributeRequest) (*returned, error) {
	switch r.Attribute {
	case "":
		return nil, ec2.Missing("attribute")
	case "kernel", "ramdisk":
		return nil, ec2.Errorf("UnsupportedOperation", "Attribute %s is not served here", r.Attribute)
	case "sourceDestCheck":
	default:
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter attribute is invalid. It cannot be reset.", wire.Quote(r.Attribute))
	}
	if _, err := c.apply(&state.ModifyInstance{Account: c.account, Region: c.region, Instance: r.Instance, Unchecked: new(false)}); err != nil {
		return nil, err
	}
	return &done, nil
}
