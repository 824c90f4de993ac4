package query

import (
	"cmp"
	"encoding/base64"
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/query/wire"
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
	Placement      placementParam     `wire:"Placement"`
	Metadata       *metadataParam     `wire:"MetadataOptions"`
	unservedLaunch
}

// A launchInterface is one interface of a launch.
type launchInterface struct {
	DeviceIndex         *int            `wire:"DeviceIndex"`
	Interface           ec2.InterfaceID `wire:"NetworkInterfaceId"`
	Public              *bool           `wire:"AssociatePublicIpAddress"`
	DeleteOnTermination *bool           `wire:"DeleteOnTermination"`
	interfaceSpec
}

// An interfaceSpec is what an interface that is made shall be like.
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

type placementParam struct {
	Zone    string `wire:"AvailabilityZone"`
	Tenancy string `wire:"Tenancy"`
	Host    string `wire:"HostId"`
}

type metadataParam struct {
	Endpoint string `wire:"HttpEndpoint"`
	Tokens   string `wire:"HttpTokens"`
	Hops     int    `wire:"HttpPutResponseHopLimit"`
	Tags     string `wire:"InstanceMetadataTags"`
}

type runInstancesAnswer struct {
	reservationItem
}

// defaultType is what EC2 launched when asked for no type.
const defaultType = "m1.small"

func runInstances(c *call, r *runInstancesRequest) (*runInstancesAnswer, error) {
	if r.MinCount == nil || r.MaxCount == nil {
		return nil, ec2.Errorf("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
	}
	if err := r.refuse(); err != nil {
		return nil, err
	}
	run := &ec2.RunInstances{
		Account:     c.account,
		Region:      c.region,
		Image:       r.ImageID,
		Type:        cmp.Or(r.InstanceType, defaultType),
		KeyName:     r.KeyName,
		MinCount:    *r.MinCount,
		MaxCount:    *r.MaxCount,
		Zone:        r.Placement.Zone,
		ClientToken: r.ClientToken,
		Subnet:      r.SubnetID,

		TerminationProtected: r.NoTermination,
		StopProtected:        r.NoStop,
	}
	if m := r.Metadata; m != nil {
		run.Metadata = &ec2.MetadataOptions{Endpoint: m.Endpoint, Tokens: m.Tokens, Hops: m.Hops, Tags: m.Tags}
	}
	var err error
	if run.UserData, err = userData(r.UserData); err != nil {
		return nil, err
	}
	if run.TerminateOnShutdown, err = onShutdown(r.OnShutdown); err != nil {
		return nil, err
	}
	if run.Tags, err = tagsFor(r.Tags, "instance", "network-interface", "volume"); err != nil {
		return nil, err
	}
	if run.InterfaceTags, err = tagsFor(r.Tags, "network-interface", "instance", "volume"); err != nil {
		return nil, err
	}
	if err := r.network(run); err != nil {
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

// network reads where the instances go.
func (r *runInstancesRequest) network(run *ec2.RunInstances) (err error) {
	for _, id := range r.GroupIDs {
		if err := ec2.CheckGroupID(id); err != nil {
			return err
		}
		run.Groups = append(run.Groups, ec2.GroupSelector{ID: id})
	}
	for _, name := range r.GroupNames {
		run.Groups = append(run.Groups, ec2.GroupSelector{Name: name})
	}
	if run.Private, err = parseAddress(r.PrivateAddress); err != nil {
		return err
	}
	for _, x := range r.Interfaces {
		if x.DeviceIndex == nil {
			return ec2.Errorf("MissingParameter", "Each network interface requires a device index.")
		}
		l := ec2.LaunchInterface{DeviceIndex: *x.DeviceIndex, Interface: x.Interface, Public: x.Public, DeleteOnTermination: x.DeleteOnTermination}
		if l.Spec, err = x.spec(); err != nil {
			return err
		}
		run.Interfaces = append(run.Interfaces, l)
	}
	return nil
}

// spec reads what an interface shall be like. Its primary address may stand by itself or
// in the list.
func (s interfaceSpec) spec() (spec ec2.InterfaceSpec, err error) {
	if s.Type != "" && s.Type != "interface" {
		return spec, ec2.Errorf("UnsupportedOperation", "Network interfaces of type %s are not served here", wire.Quote(s.Type))
	}
	for _, id := range s.Groups {
		if err := ec2.CheckGroupID(id); err != nil {
			return spec, err
		}
	}
	spec = ec2.InterfaceSpec{Subnet: s.Subnet, Groups: s.Groups, Description: s.Description, FurtherCount: s.SecondaryCount}
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
			spec.Further = append(spec.Further, a)
		case spec.Private.IsValid() && spec.Private != a:
			return spec, ec2.Errorf("InvalidParameterCombination", "Only one primary private IP address can be specified.")
		default:
			spec.Private = a
		}
	}
	return spec, nil
}

// parseAddress reads an IPv4 address; nothing is none.
func parseAddress(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, ec2.Errorf("InvalidParameterValue", "invalid value for parameter address: [%s]", wire.Quote(text))
	}
	return a, nil
}

func parseAddresses(list []string) (addresses []netip.Addr, err error) {
	for _, text := range list {
		a, err := parseAddress(text)
		if err != nil {
			return nil, err
		}
		if a.IsValid() {
			addresses = append(addresses, a)
		}
	}
	return addresses, nil
}

func userData(text string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid BASE64 encoding of user data")
	}
	return data, nil
}

// onShutdown reads InstanceInitiatedShutdownBehavior.
func onShutdown(text string) (terminate bool, err error) {
	switch text {
	case "", "stop":
		return false, nil
	case "terminate":
		return true, nil
	}
	return false, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter instanceInitiatedShutdownBehavior is invalid. It is stop or terminate.", wire.Quote(text))
}
