package query

import (
	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// volumeActions manage volumes. A volume is a record: an instance's file system is in memory, whatever its
// volumes are.
var volumeActions = map[string]handler{
	"AttachVolume":                 action(attachVolume),
	"CreateVolume":                 action(createVolume),
	"DeleteVolume":                 action(deleteVolume),
	"DescribeVolumeAttribute":      action(describeVolumeAttribute),
	"DescribeVolumeStatus":         action(describeVolumeStatus),
	"DescribeVolumes":              action(describeVolumes),
	"DescribeVolumesModifications": action(describeVolumesModifications),
	"DetachVolume":                 action(detachVolume),
	"ModifyVolume":                 action(modifyVolume),
	"ModifyVolumeAttribute":        action(modifyVolumeAttribute),
}

type createVolumeRequest struct {
	zoneRequest
	ClientToken string             `wire:"ClientToken"`
	Encrypted   bool               `wire:"Encrypted"`
	IOPS        int                `wire:"Iops"`
	KMSKey      string             `wire:"KmsKeyId"`
	MultiAttach bool               `wire:"MultiAttachEnabled"`
	Outpost     string             `wire:"OutpostArn"`
	Size        *int               `wire:"Size"`
	Snapshot    string             `wire:"SnapshotId"`
	Tags        []tagSpecification `wire:"TagSpecification"`
	Throughput  int                `wire:"Throughput"`
	Type        string             `wire:"VolumeType"`
}

func createVolume(c *call, r *createVolumeRequest) (*volumeItem, error) {
	if r.Outpost != "" {
		return nil, unserved(c.action, "OutpostArn")
	}
	if err := checkSizeGiven(r.Size); err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "volume")
	if err != nil {
		return nil, err
	}
	zone, err := r.zone(c)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateVolume{
		Account: c.account, Region: c.region, Zone: zone, MultiAttach: r.MultiAttach, Tags: tags, ClientToken: r.ClientToken,
		Disk: ec2.Disk{Size: deref(r.Size), Type: r.Type, IOPS: r.IOPS, Throughput: r.Throughput, Encrypted: r.Encrypted, KMSKey: r.KMSKey, Snapshot: r.Snapshot},
	})
	if err != nil {
		return nil, err
	}
	item := c.newVolumeItem(result.Volume.After)
	if result.Volume.Before == nil {
		item.State = "creating" // as EC2 answers; the volume is available at once
	}
	return &item, nil
}

// checkSizeGiven refuses a size of 0, because state takes 0 for a size that is not given.
func checkSizeGiven(size *int) error {
	if size != nil && *size == 0 {
		return ec2.Errorf("InvalidParameterValue", "Volume of 0GiB is too small; minimum is 1GiB.")
	}
	return nil
}

type volumeRequest struct {
	Volume ec2.VolumeID `wire:"VolumeId"`
}

func deleteVolume(c *call, r *volumeRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteVolume{Account: c.account, Region: c.region, Volume: r.Volume}); err != nil {
		return nil, err
	}
	return &done, nil
}

type attachVolumeRequest struct {
	Volume   ec2.VolumeID   `wire:"VolumeId"`
	Instance ec2.InstanceID `wire:"InstanceId"`
	Device   string         `wire:"Device"`
}

func attachVolume(c *call, r *attachVolumeRequest) (*volumeAttachmentItem, error) {
	result, err := c.apply(&state.AttachVolume{Account: c.account, Region: c.region, Volume: r.Volume, Instance: r.Instance, Device: r.Device})
	if err != nil {
		return nil, err
	}
	v := result.Volume.After
	item := newVolumeAttachmentItem(v, v.Attachments[len(v.Attachments)-1])
	item.State = "attaching"
	return &item, nil
}

type detachVolumeRequest struct {
	attachVolumeRequest
	Force bool `wire:"Force"` // no instance uses a volume, so there is nothing to force
}

func detachVolume(c *call, r *detachVolumeRequest) (*volumeAttachmentItem, error) {
	result, err := c.apply(&state.DetachVolume{Account: c.account, Region: c.region, Volume: r.Volume, Instance: r.Instance, Device: r.Device})
	if err != nil {
		return nil, err
	}
	before, after := result.Volume.Before, result.Volume.After
	kept := make(map[ec2.InstanceID]bool)
	for _, a := range after.Attachments {
		kept[a.Instance] = true
	}
	for _, a := range before.Attachments {
		if !kept[a.Instance] {
			item := newVolumeAttachmentItem(before, a)
			item.State = "detaching"
			return &item, nil
		}
	}
	return nil, ec2.Errorf("IncorrectState", "Volume '%s' is not attached.", before.ID)
}

type modifyVolumeRequest struct {
	Volume      ec2.VolumeID `wire:"VolumeId"`
	Size        *int         `wire:"Size"`
	Type        string       `wire:"VolumeType"`
	IOPS        int          `wire:"Iops"`
	Throughput  int          `wire:"Throughput"`
	MultiAttach *bool        `wire:"MultiAttachEnabled"`
}

type modifyVolumeAnswer struct {
	Modification volumeModificationItem `wire:"volumeModification"`
}

func modifyVolume(c *call, r *modifyVolumeRequest) (*modifyVolumeAnswer, error) {
	if err := checkSizeGiven(r.Size); err != nil {
		return nil, err
	}
	change := &state.ModifyVolume{
		Account: c.account, Region: c.region, Volume: r.Volume, MultiAttach: r.MultiAttach,
		Disk: ec2.Disk{Size: deref(r.Size), Type: r.Type, IOPS: r.IOPS, Throughput: r.Throughput},
	}
	if change.Disk == (ec2.Disk{}) && r.MultiAttach == nil {
		return nil, ec2.Errorf("InvalidParameterCombination", "The request must contain a size, a volume type, iops, a throughput or multiAttachEnabled")
	}
	result, err := c.apply(change)
	if err != nil {
		return nil, err
	}
	return &modifyVolumeAnswer{newVolumeModificationItem(result.Volume.After)}, nil
}

type modifyVolumeAttributeRequest struct {
	Volume       ec2.VolumeID `wire:"VolumeId"`
	AutoEnableIO boolParam    `wire:"AutoEnableIO"`
}

func modifyVolumeAttribute(c *call, r *modifyVolumeAttributeRequest) (*returned, error) {
	if r.AutoEnableIO.Value == nil {
		return nil, ec2.Errorf("MissingParameter", "The request must contain the attribute to change and its value")
	}
	if _, err := c.apply(&state.ModifyVolume{Account: c.account, Region: c.region, Volume: r.Volume, AutoEnableIO: r.AutoEnableIO.Value}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeVolumesRequest struct {
	IDs []string `wire:"VolumeId"`
	listed
}

// check returns EC2's error for an id that has not the form of one, and for ids together with pages.
func (r *describeVolumesRequest) check() error {
	for _, id := range r.IDs {
		if ec2.CheckVolumeID(ec2.VolumeID(id)) != nil {
			return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter volumes is invalid. Expected: 'vol-...'.", wire.Quote(id))
		}
	}
	return r.checkNoIDs(len(r.IDs), "volumeIds")
}

type describeVolumesAnswer struct {
	Volumes   []volumeItem `wire:"volumeSet"`
	NextToken string       `wire:"nextToken"`
}

func describeVolumes(c *call, r *describeVolumesRequest) (*describeVolumesAnswer, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	items, next, err := describe(c, volumeListing, c.view.VolumesOf(c.account, c.region), c.newVolumeItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeVolumesAnswer{items, next}, nil
}

type describeVolumeStatusAnswer struct {
	Status    []volumeStatusItem `wire:"volumeStatusSet"`
	NextToken string             `wire:"nextToken"`
}

func describeVolumeStatus(c *call, r *describeVolumesRequest) (*describeVolumeStatusAnswer, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	items, next, err := describe(c, volumeStatusListing, c.view.VolumesOf(c.account, c.region), newVolumeStatusItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeVolumeStatusAnswer{items, next}, nil
}

type describeVolumesModificationsAnswer struct {
	Modifications []volumeModificationItem `wire:"volumeModificationSet"`
	NextToken     string                   `wire:"nextToken"`
}

func describeVolumesModifications(c *call, r *describeVolumesRequest) (*describeVolumesModificationsAnswer, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var modified []*ec2.Volume
	for v := range c.view.VolumesOf(c.account, c.region) {
		if v.Modified != nil {
			modified = append(modified, v)
		}
	}
	for _, id := range r.IDs {
		v, err := c.view.FindVolume(c.account, c.region, ec2.VolumeID(id))
		if err != nil {
			return nil, err
		}
		if v.Modified == nil {
			return nil, ec2.Errorf("InvalidVolumeModification.NotFound", "Modification for volume '%s' does not exist.", id)
		}
	}
	var items []volumeModificationItem
	for _, v := range modified {
		items = append(items, newVolumeModificationItem(v))
	}
	items, next, err := volumeModificationListing.pick(c, items, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeVolumesModificationsAnswer{items, next}, nil
}

type describeVolumeAttributeRequest struct {
	Volume    ec2.VolumeID `wire:"VolumeId"`
	Attribute string       `wire:"Attribute"`
}

type describeVolumeAttributeAnswer struct {
	Volume       ec2.VolumeID `wire:"volumeId"`
	AutoEnableIO *boolValue   `wire:"autoEnableIO"`
	ProductCodes *[]tag       `wire:"productCodes"`
}

func describeVolumeAttribute(c *call, r *describeVolumeAttributeRequest) (*describeVolumeAttributeAnswer, error) {
	v, err := c.view.FindVolume(c.account, c.region, r.Volume)
	if err != nil {
		return nil, err
	}
	answer := &describeVolumeAttributeAnswer{Volume: v.ID}
	switch r.Attribute {
	case "":
		return nil, ec2.Missing("attribute")
	case "autoEnableIO":
		answer.AutoEnableIO = &boolValue{v.AutoEnableIO}
	case "productCodes":
		answer.ProductCodes = new([]tag)
	default:
		return nil, unknownAttribute(r.Attribute)
	}
	return answer, nil
}
