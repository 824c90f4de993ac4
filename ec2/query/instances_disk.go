package query

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/catalogue"
	"palisade/ec2/instancetype"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// A blockDeviceParam is a device of a launch.
type blockDeviceParam struct {
	Device  string    `wire:"DeviceName"`
	Virtual string    `wire:"VirtualName"`
	None    *string   `wire:"NoDevice"`
	EBS     *ebsParam `wire:"Ebs"`
}

type ebsParam struct {
	DeleteOnTermination *bool  `wire:"DeleteOnTermination"`
	Encrypted           *bool  `wire:"Encrypted"`
	IOPS                int    `wire:"Iops"`
	KMSKey              string `wire:"KmsKeyId"`
	Outpost             string `wire:"OutpostArn"`
	Snapshot            string `wire:"SnapshotId"`
	Throughput          int    `wire:"Throughput"`
	Size                *int   `wire:"VolumeSize"`
	Type                string `wire:"VolumeType"`
}

var ephemeralName = regexp.MustCompile(`^ephemeral(1?[0-9]|2[0-3])$`)

// check refuses a mapping that says nothing or contradicts itself.
func (p *blockDeviceParam) check() error {
	switch {
	case p.Device == "":
		return ec2.Missing("deviceName")
	case p.None != nil && (p.EBS != nil || p.Virtual != ""), p.EBS != nil && p.Virtual != "":
		return ec2.Errorf("InvalidBlockDeviceMapping", "The mapping of device '%s' must have only one of ebs, virtualName and noDevice", wire.Quote(p.Device))
	case p.None == nil && p.EBS == nil && p.Virtual == "":
		return ec2.Errorf("MissingParameter", "The mapping of device '%s' must have one of ebs, virtualName and noDevice", wire.Quote(p.Device))
	case p.Virtual != "" && !ephemeralName.MatchString(p.Virtual):
		return ec2.Errorf("InvalidBlockDeviceMapping", "Invalid virtual name '%s' for device '%s'", wire.Quote(p.Virtual), wire.Quote(p.Device))
	case p.EBS != nil && p.EBS.Outpost != "":
		return unserved("RunInstances", "BlockDeviceMapping.Ebs.OutpostArn")
	case p.EBS != nil:
		return checkSizeGiven(p.EBS.Size)
	}
	return nil
}

// volume returns the volume that a mapping asks for. What the mapping leaves out is as in from, the volume that
// the image has at that device. Volumes of a launch are deleted with the instance unless the mapping says
// otherwise (EC2 User Guide, "Preserve data when an instance is terminated").
func (p *blockDeviceParam) volume(from ec2.Disk) state.LaunchVolume {
	e := p.EBS
	d := ec2.Disk{
		Size: cmp.Or(deref(e.Size), from.Size), Type: cmp.Or(e.Type, from.Type), IOPS: e.IOPS, Throughput: e.Throughput,
		Encrypted: deref(e.Encrypted), KMSKey: e.KMSKey, Snapshot: cmp.Or(e.Snapshot, from.Snapshot),
	}
	return state.LaunchVolume{Device: p.Device, Disk: d, Keep: e.DeleteOnTermination != nil && !*e.DeleteOnTermination}
}

// disks sets the volumes of a launch: those of the image, changed and completed by the mappings of the request.
// Instance store is accepted and not shown, because the types of today have none.
func (r *runInstancesRequest) disks(c *call, run *state.RunInstances) (err error) {
	if run.VolumeTags, err = tagsFor(r.Tags, "volume", "instance", "network-interface"); err != nil {
		return err
	}
	if !imageID.MatchString(run.Image) {
		return nil // state refuses it
	}
	if err := c.checkArchitecture(run.Image, run.Type); err != nil {
		return err
	}
	devices, err := devicesOf(r.Volumes)
	if err != nil {
		return err
	}
	published, known := catalogue.Find(string(c.region), run.Image)
	var root ec2.Disk
	if from := imageNamed(c.region, run.Image); from.RootType == "ebs" {
		e := from.BlockDevices[0].EBS
		root = ec2.Disk{Size: e.Size, Type: e.Type, Snapshot: e.Snapshot}
		run.RootDevice = from.RootName
		if !known {
			run.RootDevice = rootAmong(devices)
		}
		if !slices.Contains(devices, run.RootDevice) {
			run.Volumes = append(run.Volumes, state.LaunchVolume{Device: run.RootDevice, Disk: root})
		}
	}
	for _, p := range r.Volumes {
		switch {
		case p.EBS == nil && p.Device == run.RootDevice:
			return ec2.Errorf("InvalidBlockDeviceMapping", "The root device '%s' must be an EBS volume", wire.Quote(p.Device))
		case p.EBS == nil:
		case p.Device != run.RootDevice:
			run.Volumes = append(run.Volumes, p.volume(ec2.Disk{}))
		case known && p.EBS.Size != nil && *p.EBS.Size < published.Root.Size:
			return ec2.Errorf("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", *p.EBS.Size, published.Root.Snapshot, published.Root.Size)
		default:
			run.Volumes = slices.Insert(run.Volumes, 0, p.volume(root))
		}
	}
	return nil
}

// devicesOf checks mappings and returns the names of their devices.
func devicesOf(mappings []blockDeviceParam) (devices []string, err error) {
	for _, p := range mappings {
		if err := p.check(); err != nil {
			return nil, err
		}
		if slices.Contains(devices, p.Device) {
			return nil, ec2.Errorf("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", wire.Quote(p.Device))
		}
		devices = append(devices, p.Device)
	}
	return devices, nil
}

// rootAmong returns the root device of an image outside of the catalogue: the one that the launch names, because
// its author knows the image.
func rootAmong(devices []string) string {
	if slices.Contains(devices, otherRoot) || !slices.Contains(devices, "/dev/sda1") {
		return otherRoot
	}
	return "/dev/sda1"
}

// checkArchitecture refuses a published image on a type with other processors. The architecture of another
// image is not known.
func (c *call) checkArchitecture(image, instanceType string) error {
	has := []string{instancetype.Architecture(instanceType)}
	if t, ok := instancetype.Find(instanceType); ok {
		has = t.Architectures
	}
	if published, ok := catalogue.Find(string(c.region), image); ok && !slices.Contains(has, published.Architecture) {
		return ec2.Errorf("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the architecture of the instance type or AMI.", strings.Join(has, ","), published.Architecture)
	}
	return nil
}

// architectureOf returns what an instance shows.
func (c *call) architectureOf(i *ec2.Instance) string {
	if published, ok := catalogue.Find(string(i.Region), i.Image); ok {
		return published.Architecture
	}
	return instancetype.Architecture(i.Type)
}

// An instanceDeviceItem is a volume of an instance, as the instance shows it.
type instanceDeviceItem struct {
	Device string `wire:"deviceName"`
	EBS    struct {
		Volume              ec2.VolumeID `wire:"volumeId"`
		State               string       `wire:"status"`
		Since               time.Time    `wire:"attachTime"`
		DeleteOnTermination bool         `wire:"deleteOnTermination"`
	} `wire:"ebs"`
}

// devices returns the volumes of an instance: the root first, then by device name.
func (c *call) devices(i *ec2.Instance) []instanceDeviceItem {
	var items []instanceDeviceItem
	for v := range c.view.VolumesAt(i.ID) {
		for _, a := range v.Attachments {
			if a.Instance != i.ID {
				continue
			}
			item := instanceDeviceItem{Device: a.Device}
			item.EBS.Volume, item.EBS.State, item.EBS.Since, item.EBS.DeleteOnTermination = v.ID, "attached", a.Since, a.DeleteOnTermination
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b instanceDeviceItem) int {
		if (a.Device == i.RootDevice) != (b.Device == i.RootDevice) {
			return map[bool]int{true: -1, false: 1}[a.Device == i.RootDevice]
		}
		return strings.Compare(a.Device, b.Device)
	})
	return items
}

// deviceFilters are the filters of DescribeInstances on disks.
func deviceFilters() filterable[shownInstance] {
	each := func(value func(instanceDeviceItem) string) func(shownInstance) []string {
		return func(s shownInstance) []string { return valuesOf(s.item.Disks, value) }
	}
	return filterable[shownInstance]{
		"block-device-mapping.attach-time": each(func(d instanceDeviceItem) string { return wire.FormatTime(d.EBS.Since) }),
		"block-device-mapping.delete-on-termination": each(func(d instanceDeviceItem) string {
			return strconv.FormatBool(d.EBS.DeleteOnTermination)
		}),
		"block-device-mapping.device-name": each(func(d instanceDeviceItem) string { return d.Device }),
		"block-device-mapping.status":      each(func(d instanceDeviceItem) string { return d.EBS.State }),
		"block-device-mapping.volume-id":   each(func(d instanceDeviceItem) string { return string(d.EBS.Volume) }),
		"root-device-name":                 func(s shownInstance) []string { return nonEmpty(s.item.RootName) },
	}
}

// An instanceDeviceParam changes whether a volume of an instance is deleted with it.
type instanceDeviceParam struct {
	Device string `wire:"DeviceName"`
	EBS    struct {
		Volume              string `wire:"VolumeId"`
		DeleteOnTermination *bool  `wire:"DeleteOnTermination"`
	} `wire:"Ebs"`
}

// retention returns the change that the parameters ask for. Without a value it is deletion (EC2 API Reference,
// "ModifyInstanceAttribute").
func retention(list []instanceDeviceParam) (changes []state.VolumeRetention, err error) {
	for _, p := range list {
		if p.Device == "" {
			return nil, ec2.Missing("deviceName")
		}
		changes = append(changes, state.VolumeRetention{Device: p.Device, Keep: p.EBS.DeleteOnTermination != nil && !*p.EBS.DeleteOnTermination})
	}
	return changes, nil
}
