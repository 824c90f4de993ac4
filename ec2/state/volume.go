package state

import (
	"iter"
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// volumeRequests are the requests for volumes.
var volumeRequests = []Request{
	&CreateVolume{}, &DeleteVolume{}, &AttachVolume{}, &DetachVolume{}, &ModifyVolume{},
}

const (
	// maxVolumesAtInstance is the most volumes of an instance, its root included (EC2 User Guide, "Instance
	// volume limits").
	maxVolumesAtInstance = 28
	// maxVolumeInstances is the most instances of a volume with MultiAttach (EBS User Guide, "Amazon EBS
	// Multi-Attach").
	maxVolumeInstances = 16
)

// CreateVolume makes a volume that is attached to nothing. Result: Volume.
type CreateVolume struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Zone        string
	Disk        ec2.Disk
	MultiAttach bool              `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
	ClientToken string            `json:",omitempty"`
}

func (r *CreateVolume) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	shape := shapeOf(r)
	if r.ClientToken != "" {
		for v := range volumesOf(t.Txn, r.Account, r.Region) {
			switch {
			case v.ClientToken != r.ClientToken:
			case v.RequestShape != shape:
				return Result{}, tokenMismatch()
			default:
				return Result{Volume: Change[ec2.Volume]{Before: v, After: v}}, nil
			}
		}
	}
	if r.Zone == "" {
		return Result{}, ec2.Missing("zone")
	}
	if !slices.Contains(t.zones(r.Region), r.Zone) {
		return Result{}, ec2.Errorf("InvalidZone.NotFound", "The zone '%s' does not exist.", ec2.Clip(r.Zone))
	}
	disk, err := settle(r.Disk)
	if err != nil {
		return Result{}, err
	}
	if err := checkMultiAttach(disk, r.MultiAttach); err != nil {
		return Result{}, err
	}
	if t.freeVolumes(r.Account, r.Region) < 1 {
		return Result{}, t.tooManyVolumes()
	}
	v := t.newVolume(r.Account, r.Region, r.Zone, disk)
	v.MultiAttach, v.ClientToken = r.MultiAttach, r.ClientToken
	if r.ClientToken != "" {
		v.RequestShape = shape
	}
	t.put(tableVolume, v)
	return Result{Volume: Change[ec2.Volume]{After: v}}, t.tag(string(v.ID), r.Account, r.Region, r.Tags)
}

func checkMultiAttach(disk ec2.Disk, on bool) error {
	if on && disk.Type != "io1" && disk.Type != "io2" {
		return ec2.Errorf("InvalidParameterCombination", "The parameter MultiAttachEnabled is not supported for %s volumes.", disk.Type)
	}
	return nil
}

func (t *tx) newVolume(account ec2.AccountID, region ec2.Region, zone string, disk ec2.Disk) *ec2.Volume {
	return &ec2.Volume{ID: ec2.VolumeID(t.meta.longID("vol", t.serial())), Account: account, Region: region, Zone: zone, Disk: disk, Created: t.meta.Time}
}

func (t *tx) freeVolumes(account ec2.AccountID, region ec2.Region) int {
	free := t.limits().VolumesPerRegion
	for range volumesOf(t.Txn, account, region) {
		free--
	}
	return free
}

func (t *tx) tooManyVolumes() error {
	return ec2.Errorf("VolumeLimitExceeded", "Maximum number of volumes, %d, exceeded.", t.limits().VolumesPerRegion)
}

// DeleteVolume deletes a volume that is attached to nothing.
type DeleteVolume struct {
	Account ec2.AccountID
	Region  ec2.Region
	Volume  ec2.VolumeID
}

func (r *DeleteVolume) apply(t *tx) (Result, error) {
	v, err := t.volume(r.Account, r.Region, r.Volume)
	if err != nil {
		return Result{}, err
	}
	if len(v.Attachments) > 0 {
		return Result{}, ec2.Errorf("VolumeInUse", "Volume %s is currently attached to %s", v.ID, v.Attachments[0].Instance)
	}
	t.deleteVolume(v)
	return Result{Volume: Change[ec2.Volume]{Before: v}}, nil
}

func (t *tx) deleteVolume(v *ec2.Volume) {
	t.untag(string(v.ID))
	t.del(tableVolume, v)
}

// AttachVolume attaches a volume to a running or stopped instance in its zone. Result: Volume.
type AttachVolume struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Volume   ec2.VolumeID
	Instance ec2.InstanceID
	Device   string
}

func (r *AttachVolume) apply(t *tx) (Result, error) {
	v, err := t.volume(r.Account, r.Region, r.Volume)
	if err != nil {
		return Result{}, err
	}
	i, err := t.instance(r.Account, r.Region, r.Instance)
	if err != nil {
		return Result{}, err
	}
	if err := checkDevice(r.Device); err != nil {
		return Result{}, err
	}
	switch {
	case len(v.Attachments) > 0 && !v.MultiAttach, slices.ContainsFunc(v.Attachments, func(a ec2.VolumeAttachment) bool { return a.Instance == i.ID }):
		return Result{}, ec2.Errorf("VolumeInUse", "%s is already attached to an instance", v.ID)
	case len(v.Attachments) >= maxVolumeInstances:
		return Result{}, ec2.Errorf("VolumeInUse", "%s is already attached to %d instances", v.ID, maxVolumeInstances)
	case i.State != ec2.Running && i.State != ec2.Stopped:
		return Result{}, ec2.Errorf("IncorrectState", "Instance '%s' is not 'running'.", i.ID)
	case v.Zone != zoneOf(t.Txn, i):
		return Result{}, ec2.Errorf("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.ID, i.ID)
	}
	others := 0
	for at := range volumesAt(t.Txn, i.ID) {
		if attachmentTo(at, i.ID).Device == r.Device {
			return Result{}, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", r.Device, r.Device)
		}
		others++
	}
	if others >= maxVolumesAtInstance {
		return Result{}, tooManyAttached()
	}
	now := *v
	now.Attachments = append(slices.Clone(v.Attachments), ec2.VolumeAttachment{Instance: i.ID, Device: r.Device, Since: t.meta.Time})
	t.put(tableVolume, &now)
	return Result{Volume: Change[ec2.Volume]{Before: v, After: &now}}, nil
}

func checkDevice(name string) error {
	if name == "" {
		return ec2.Missing("device")
	}
	if !deviceName.MatchString(name) {
		return ec2.Errorf("InvalidParameterValue", "Value (%[1]s) for parameter device is invalid. %[1]s is not a valid EBS device name.", ec2.Clip(name))
	}
	return nil
}

func tooManyAttached() error {
	return ec2.Errorf("AttachmentLimitExceeded", "An instance has at most %d volumes", maxVolumesAtInstance)
}

// DetachVolume detaches a volume. The instance can be left out if there is only one. Result: Volume.
type DetachVolume struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Volume   ec2.VolumeID
	Instance ec2.InstanceID `json:",omitempty"`
	Device   string         `json:",omitempty"`
}

func (r *DetachVolume) apply(t *tx) (Result, error) {
	v, err := t.volume(r.Account, r.Region, r.Volume)
	if err != nil {
		return Result{}, err
	}
	if len(v.Attachments) == 0 {
		return Result{}, ec2.Errorf("IncorrectState", "Volume '%s' is in the 'available' state.", v.ID)
	}
	if r.Instance == "" && len(v.Attachments) > 1 {
		return Result{}, ec2.Errorf("InvalidParameterCombination", "Volume '%s' is attached to %d instances. The request must name one of them.", v.ID, len(v.Attachments))
	}
	n := slices.IndexFunc(v.Attachments, func(a ec2.VolumeAttachment) bool {
		return (r.Instance == "" || a.Instance == r.Instance) && (r.Device == "" || a.Device == r.Device)
	})
	if n < 0 {
		return Result{}, ec2.Errorf("InvalidAttachment.NotFound", "The volume '%s' is not attached to instance '%s' as device '%s'.", v.ID, ec2.Clip(string(r.Instance)), ec2.Clip(r.Device))
	}
	a := v.Attachments[n]
	if i := first[ec2.Instance](t.Txn, tableInstance, indexID, key(a.Instance)); i.RootDevice == a.Device && i.State != ec2.Stopped {
		return Result{}, ec2.Errorf("IncorrectState", "Unable to detach root volume '%s' from instance '%s'", v.ID, i.ID)
	}
	now := withoutAttachment(v, a.Instance)
	t.put(tableVolume, now)
	return Result{Volume: Change[ec2.Volume]{Before: v, After: now}}, nil
}

func withoutAttachment(v *ec2.Volume, i ec2.InstanceID) *ec2.Volume {
	now := *v
	now.Attachments = slices.DeleteFunc(slices.Clone(v.Attachments), func(a ec2.VolumeAttachment) bool { return a.Instance == i })
	return &now
}

// attachmentTo returns the attachment of a volume to an instance.
func attachmentTo(v *ec2.Volume, i ec2.InstanceID) ec2.VolumeAttachment {
	n := slices.IndexFunc(v.Attachments, func(a ec2.VolumeAttachment) bool { return a.Instance == i })
	if n < 0 {
		return ec2.VolumeAttachment{}
	}
	return v.Attachments[n]
}

// ModifyVolume changes the size, the type and the speed of a volume, at once. Zero fields stay as they are;
// with a new type, the speed that the type does not have goes. Result: Volume.
type ModifyVolume struct {
	Account      ec2.AccountID
	Region       ec2.Region
	Volume       ec2.VolumeID
	Disk         ec2.Disk `json:",omitzero"` // Size, Type, IOPS and Throughput
	MultiAttach  *bool    `json:",omitempty"`
	AutoEnableIO *bool    `json:",omitempty"`
}

func (r *ModifyVolume) apply(t *tx) (Result, error) {
	v, err := t.volume(r.Account, r.Region, r.Volume)
	if err != nil {
		return Result{}, err
	}
	now := *v
	if r.AutoEnableIO != nil {
		now.AutoEnableIO = *r.AutoEnableIO
	}
	if r.Disk != (ec2.Disk{}) || r.MultiAttach != nil {
		if now.Disk, err = r.disk(v.Disk); err != nil {
			return Result{}, err
		}
		if r.MultiAttach != nil {
			now.MultiAttach = *r.MultiAttach
		}
		if err := checkMultiAttach(now.Disk, now.MultiAttach); err != nil {
			return Result{}, err
		}
		if len(v.Attachments) > 1 && !now.MultiAttach {
			return Result{}, ec2.Errorf("IncorrectState", "Volume '%s' is attached to several instances.", v.ID)
		}
		now.Modified = &ec2.VolumeModification{Before: v.Disk, MultiAttach: v.MultiAttach, At: t.meta.Time}
	}
	t.put(tableVolume, &now)
	return Result{Volume: Change[ec2.Volume]{Before: v, After: &now}}, nil
}

// disk returns the disk after the change.
func (r *ModifyVolume) disk(was ec2.Disk) (ec2.Disk, error) {
	now := was
	if r.Disk.Type != "" && r.Disk.Type != was.Type {
		now.Type = r.Disk.Type
		if kind := diskTypes[now.Type]; kind.maxIOPS == 0 || kind.iops != 0 {
			now.IOPS = 0
		}
		if diskTypes[now.Type].maxThroughput == 0 {
			now.Throughput = 0
		}
	}
	if r.Disk.Size != 0 {
		now.Size = r.Disk.Size
	}
	if r.Disk.IOPS != 0 {
		now.IOPS = r.Disk.IOPS
	}
	if r.Disk.Throughput != 0 {
		now.Throughput = r.Disk.Throughput
	}
	if now.Size < was.Size {
		return now, ec2.Errorf("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	return settle(now)
}

func (t *tx) volume(account ec2.AccountID, region ec2.Region, id ec2.VolumeID) (*ec2.Volume, error) {
	if id != "" {
		if err := ec2.CheckVolumeID(id); err != nil {
			return nil, err
		}
	}
	return find[ec2.Volume](t.Txn, ofVolume, owner{account, region}, id)
}

func volumesOf(txn *memdb.Txn, account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Volume] {
	return rows[ec2.Volume](txn, tableVolume, indexOwner, key(account)+key(region))
}

func volumesAt(txn *memdb.Txn, i ec2.InstanceID) iter.Seq[*ec2.Volume] {
	return rows[ec2.Volume](txn, tableVolume, indexHolder, key(i))
}

// FindVolume returns a volume of an account, or EC2's error.
func (v *View) FindVolume(account ec2.AccountID, region ec2.Region, id ec2.VolumeID) (*ec2.Volume, error) {
	return find[ec2.Volume](v.txn(), ofVolume, owner{account, region}, id)
}

// VolumesOf yields the volumes of an account in a region, by id.
func (v *View) VolumesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Volume] {
	return volumesOf(v.txn(), account, region)
}

// VolumesAt yields the volumes that are attached to an instance, by id.
func (v *View) VolumesAt(i ec2.InstanceID) iter.Seq[*ec2.Volume] { return volumesAt(v.txn(), i) }
