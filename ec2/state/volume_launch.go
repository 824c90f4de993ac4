package state

import (
	"slices"

	"palisade/ec2"
)

// A LaunchVolume is a volume that each instance of a launch gets. The caller has completed it with what the
// image says, because Apply does not know images.
type LaunchVolume struct {
	Device string
	Disk   ec2.Disk
	Keep   bool `json:",omitempty"` // it stays when the instance is terminated
}

// checkVolumes checks the volumes of a launch, and completes them with the defaults of their types.
func (r *RunInstances) checkVolumes() error {
	if len(r.Volumes) > maxVolumesAtInstance {
		return tooManyAttached()
	}
	var seen []string
	for _, v := range r.Volumes {
		if !deviceName.MatchString(v.Device) {
			return ec2.Errorf("InvalidBlockDeviceMapping", "Invalid device name %s", ec2.Clip(v.Device))
		}
		if slices.Contains(seen, v.Device) {
			return ec2.Errorf("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", v.Device)
		}
		seen = append(seen, v.Device)
		disk, err := settle(v.Disk)
		if err != nil {
			return err
		}
		if v.Device == r.RootDevice && diskTypes[disk.Type].noBoot {
			return ec2.Errorf("InvalidParameterValue", "Volume type %s cannot be used for a boot volume", disk.Type)
		}
	}
	return nil
}

// limitByVolumes returns the number of instances, at most count, whose volumes the account may have.
func (t *tx) limitByVolumes(r *RunInstances, count int) (int, error) {
	if len(r.Volumes) == 0 {
		return count, nil
	}
	count = min(count, t.freeVolumes(r.Account, r.Region)/len(r.Volumes))
	if count < r.MinCount {
		return 0, t.tooManyVolumes()
	}
	return count, nil
}

// addVolumes makes the volumes of a new instance.
func (r *RunInstances) addVolumes(t *tx, i *ec2.Instance) error {
	for _, x := range r.Volumes {
		disk, err := settle(x.Disk)
		if err != nil {
			return err
		}
		v := t.newVolume(r.Account, r.Region, zoneOf(t.Txn, i), disk)
		v.Attachments = []ec2.VolumeAttachment{{Instance: i.ID, Device: x.Device, Since: t.meta.Time, DeleteOnTermination: !x.Keep}}
		t.put(tableVolume, v)
		if err := t.tag(string(v.ID), r.Account, r.Region, r.VolumeTags); err != nil {
			return err
		}
	}
	return nil
}

// releaseVolumes deletes the volumes of an instance that is terminated, or detaches those that stay.
func (t *tx) releaseVolumes(i ec2.InstanceID) {
	for _, v := range slices.Collect(volumesAt(t.Txn, i)) {
		rest := withoutAttachment(v, i)
		if attachmentTo(v, i).DeleteOnTermination && len(rest.Attachments) == 0 {
			t.deleteVolume(v)
		} else {
			t.put(tableVolume, rest)
		}
	}
}

// A VolumeRetention says whether the volume at a device is deleted with its instance.
type VolumeRetention struct {
	Device string
	Keep   bool `json:",omitempty"`
}

// retain changes which volumes of an instance are deleted with it.
func (t *tx) retain(i ec2.InstanceID, changes []VolumeRetention) error {
	for _, c := range changes {
		at := slices.IndexFunc(slices.Collect(volumesAt(t.Txn, i)), func(v *ec2.Volume) bool { return attachmentTo(v, i).Device == c.Device })
		if at < 0 {
			return ec2.Errorf("InvalidInstanceAttributeValue", "No device is currently mapped at %s", ec2.Clip(c.Device))
		}
		now := *slices.Collect(volumesAt(t.Txn, i))[at]
		now.Attachments = slices.Clone(now.Attachments)
		for n := range now.Attachments {
			if now.Attachments[n].Instance == i {
				now.Attachments[n].DeleteOnTermination = !c.Keep
			}
		}
		t.put(tableVolume, &now)
	}
	return nil
}
