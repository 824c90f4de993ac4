package query

import (
	"cmp"
	"encoding/base64"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

type runInstancesRequest struct {
	ImageID        string             `wire:"ImageId"`
	MinCount       *int               `wire:"MinCount"`
	MaxCount       *int               `wire:"MaxCount"`
	GroupNames     []string           `wire:"SecurityGroup"`
	GroupIDs       []ec2.GroupID      `wire:"SecurityGroupId"`
	KeyName        string             `wire:"KeyName"`
	UserData       string             `wire:"UserData"`
	InstanceType   string             `wire:"InstanceType"`
	ClientToken    string             `wire:"ClientToken"`
	SubnetID       ec2.SubnetID       `wire:"SubnetId"`
	PrivateAddress string             `wire:"PrivateIpAddress"`
	Interfaces     []launchInterface  `wire:"NetworkInterface"`
	NoTermination  bool               `wire:"DisableApiTermination"`
	NoStop         bool               `wire:"DisableApiStop"`
	OnShutdown     string             `wire:"InstanceInitiatedShutdownBehavior"`
	Tags           []tagSpecification `wire:"TagSpecification"`
	Template       launchTemplate     `wire:"LaunchTemplate"`
	Volumes        []blockDeviceParam `wire:"BlockDeviceMapping"`
	launchOptions
	unservedLaunch
}

// A launchInterface is an interface that a launch makes or attaches.
type launchInterface struct {
	DeviceIndex         *int            `wire:"DeviceIndex"`
	Interface           ec2.InterfaceID `wire:"NetworkInterfaceId"`
	Public              *bool           `wire:"AssociatePublicIpAddress"`
	DeleteOnTermination *bool           `wire:"DeleteOnTermination"`
	interfaceSpec
}

// A launchTemplate names the version of a template, "" the default one, which has the parameters
// that the launch itself does not have.
type launchTemplate struct {
	templateRequest
	Version string `wire:"Version"`
}

type runInstancesAnswer struct {
	reservationItem
}

// defaultType is the type of a launch that names none, as at EC2.
const defaultType = "m1.small"

func runInstances(c *call, r *runInstancesRequest) (*runInstancesAnswer, error) {
	run, err := r.launch(c)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(run)
	if err != nil {
		return nil, err
	}
	var made []*ec2.Instance
	for _, change := range result.Instances {
		made = append(made, change.After)
	}
	return &runInstancesAnswer{c.newReservation(made)}, nil
}

// launch returns the launch that a request asks for, with the parameters of its template.
func (r *runInstancesRequest) launch(c *call) (*state.RunInstances, error) {
	var template *ec2.TemplateVersion
	if r.Template != (launchTemplate{}) {
		whole, version, err := r.withTemplate(c)
		if err != nil {
			return nil, err
		}
		r, template = whole, version
	}
	if r.MinCount == nil || r.MaxCount == nil {
		return nil, ec2.Errorf("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
	}
	if err := cmp.Or(r.refuse(), checkLaunchType(cmp.Or(r.InstanceType, defaultType))); err != nil {
		return nil, err
	}
	image, err := c.launchedImage(r.ImageID)
	if err != nil {
		return nil, err
	}
	run := &state.RunInstances{
		Account:     c.account,
		Region:      c.region,
		Image:       image,
		Type:        cmp.Or(r.InstanceType, defaultType),
		KeyName:     r.KeyName,
		MinCount:    *r.MinCount,
		MaxCount:    *r.MaxCount,
		ClientToken: r.ClientToken,
		Subnet:      r.SubnetID,

		TerminationProtected: r.NoTermination,
		StopProtected:        r.NoStop,
		Metadata:             r.Metadata.options(),
		Monitored:            r.Monitoring.Enabled,
		Template:             template,
	}
	if run.Zone, err = r.Placement.zone(c); err != nil {
		return nil, err
	}
	if run.Options, err = r.options(c); err != nil {
		return nil, err
	}
	if run.UserData, err = userData(r.UserData); err != nil {
		return nil, err
	}
	if run.TerminateOnShutdown, err = onShutdown(r.OnShutdown); err != nil {
		return nil, err
	}
	if run.Tags, err = tagsFor(r.Tags, "instance", "network-interface", "volume"); err != nil {
		return nil, err
	}
	if err := r.disks(c, run); err != nil {
		return nil, err
	}
	if err := r.network(run); err != nil {
		return nil, err
	}
	return run, nil
}

// withTemplate returns the request that the parameters of a template and those of r make together:
// where both have a parameter, that of r counts. The result is decoded and checked like a request
// that has all of them, so nothing in a template is enforced less.
func (r *runInstancesRequest) withTemplate(c *call) (*runInstancesRequest, *ec2.TemplateVersion, error) {
	t, err := c.view.FindLaunchTemplate(c.account, c.region, r.Template.selector())
	if err != nil {
		return nil, nil, err
	}
	number, err := versionNumber(t, cmp.Or(r.Template.Version, defaultVersion))
	if err != nil {
		return nil, nil, err
	}
	version, err := c.view.LaunchTemplateVersion(t.ID, number)
	if err != nil {
		return nil, nil, err
	}
	own := make(map[string]string)
	c.params.Each(func(name, value string) {
		if value != "" {
			own[name] = value
		}
	})
	p, err := paramsOf(ec2.Overlay(version.Data, own))
	if err != nil {
		return nil, nil, err
	}
	whole := new(runInstancesRequest)
	if err := wire.Decode(p, whole); err != nil {
		return nil, nil, err
	}
	if err := c.refuseUnread(p); err != nil {
		return nil, nil, err
	}
	return whole, &ec2.TemplateVersion{Template: t.ID, Version: number}, nil
}

// The method network copies the groups, addresses and interfaces of the request to run.
func (r *runInstancesRequest) network(run *state.RunInstances) (err error) {
	if run.InterfaceTags, err = tagsFor(r.Tags, "network-interface", "instance", "volume"); err != nil {
		return err
	}
	for _, id := range r.GroupIDs {
		if err := ec2.CheckGroupID(id); err != nil {
			return err
		}
		run.Groups = append(run.Groups, state.GroupSelector{ID: id})
	}
	for _, name := range r.GroupNames {
		run.Groups = append(run.Groups, state.GroupSelector{Name: name})
	}
	if run.Private, err = parseAddress(r.PrivateAddress); err != nil {
		return err
	}
	for _, x := range r.Interfaces {
		if x.DeviceIndex == nil {
			return ec2.Errorf("MissingParameter", "Each network interface requires a device index.")
		}
		l := state.LaunchInterface{DeviceIndex: *x.DeviceIndex, Interface: x.Interface, Public: x.Public, DeleteOnTermination: x.DeleteOnTermination}
		if l.Spec, err = x.spec(); err != nil {
			return err
		}
		run.Interfaces = append(run.Interfaces, l)
	}
	return nil
}

func userData(text string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid BASE64 encoding of user data")
	}
	return data, nil
}

// onShutdown reads InstanceInitiatedShutdownBehavior and reports whether an instance that
// shuts itself down is terminated.
func onShutdown(text string) (terminate bool, err error) {
	switch text {
	case "", "stop":
		return false, nil
	case "terminate":
		return true, nil
	}
	return false, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter instanceInitiatedShutdownBehavior is invalid. It is stop or terminate.", wire.Quote(text))
}

// unservedLaunch has the parameters of a launch for features that users would rely on and
// that are not served: IAM roles, isolation. Each is refused unless it turns the
// feature off. Parameters about speed and price are ignored, and no answer shows them.
type unservedLaunch struct {
	Kernel    string        `wire:"KernelId"`
	RAMDisk   string        `wire:"RamdiskId"`
	Profile   *profileParam `wire:"IamInstanceProfile"`
	Market    *struct{}     `wire:"InstanceMarketOptions"`
	GPU       []struct{}    `wire:"ElasticGpuSpecification"`
	Inference []struct{}    `wire:"ElasticInferenceAccelerator"`
	License   []struct{}    `wire:"LicenseSpecification"`
}

// refuse returns the error for the first parameter that asks for a feature that is not
// served.
func (r *runInstancesRequest) refuse() error {
	if p := r.Profile; p != nil {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile is invalid. There are no IAM instance profiles here", wire.Quote(cmp.Or(p.ARN, p.Name)))
	}
	return refuseAskedFor("RunInstances", []askedFor{
		{"KernelId", r.Kernel != ""},
		{"RamdiskId", r.RAMDisk != ""},
		{"InstanceMarketOptions", r.Market != nil},
		{"ElasticGpuSpecification", len(r.GPU) > 0},
		{"ElasticInferenceAccelerator", len(r.Inference) > 0},
		{"LicenseSpecification", len(r.License) > 0},
	})
}
