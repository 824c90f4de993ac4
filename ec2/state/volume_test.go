package state

import (
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/region"
)

// volumeSamples returns one request of each type of volumeRequests, with all fields set, and those with
// fields for volumes that earlier releases did not have.
func volumeSamples() map[string]Request {
	const v, i = ec2.VolumeID("vol-0a1b2c3d4e5f60718"), ec2.InstanceID("i-0a1b2c3d4e5f60718")
	disk := ec2.Disk{Size: 20, Type: "gp3", IOPS: 4000, Throughput: 250, Encrypted: true, KMSKey: "alias/data", Snapshot: "snap-0a1b2c3d4e5f60718"}
	tags := map[string]string{"Name": "data"}
	return map[string]Request{
		"CreateVolume": &CreateVolume{albert, east, "us-east-1a", disk, true, tags, "token"},
		"DeleteVolume": &DeleteVolume{albert, east, v},
		"AttachVolume": &AttachVolume{albert, east, v, i, "/dev/sdf"},
		"DetachVolume": &DetachVolume{albert, east, v, i, "/dev/sdf"},
		"ModifyVolume": &ModifyVolume{albert, east, v, disk, new(true), new(false)},
		"RunInstances-volumes": &RunInstances{
			Account: albert, Region: east, Image: "ami-0123456789abcdef0", MinCount: 1, MaxCount: 1, RootDevice: "/dev/xvda",
			Volumes: []LaunchVolume{{"/dev/xvda", disk, false}, {"/dev/sdf", ec2.Disk{Size: 1}, true}}, VolumeTags: tags,
		},
		"ModifyInstance-volumes": &ModifyInstance{Account: albert, Region: east, Instance: i, Volumes: []VolumeRetention{{"/dev/sdf", true}}},
	}
}

// withVolumes launches an instance with a root volume and a data volume that is kept.
func (w *vpcWorld) withVolumes() ec2.InstanceID {
	w.t.Helper()
	i := w.must(&RunInstances{
		Account: dev, Region: east, Image: "ami-0123456789abcdef0", Subnet: w.subnet.ID, MinCount: 1, MaxCount: 1, RootDevice: "/dev/xvda",
		Volumes:    []LaunchVolume{{Device: "/dev/xvda", Disk: ec2.Disk{Size: 20, Type: "gp3"}}, {Device: "/dev/sdf", Disk: ec2.Disk{Size: 100}, Keep: true}},
		VolumeTags: map[string]string{"Name": "disk"},
	}).Instances[0].After.ID
	w.report(i, ec2.Running)
	return i
}

// volumes returns the volumes of the account dev by the device that they are attached at, "" for those that
// are not.
func (w *vpcWorld) volumes() map[string]*ec2.Volume {
	all := make(map[string]*ec2.Volume)
	for v := range w.state.View().VolumesOf(dev, east) {
		at := ""
		if len(v.Attachments) > 0 {
			at = v.Attachments[0].Device
		}
		all[at] = v
	}
	return all
}

func TestVolumesOfALaunchLiveAsLongAsTheyShould(t *testing.T) {
	w := newVPCWorld(t)
	i := w.withVolumes()
	at := w.volumes()
	root, data := at["/dev/xvda"], at["/dev/sdf"]
	if len(at) != 2 || root.Size != 20 || root.IOPS != 3000 || root.Throughput != 125 || data.Type != "gp2" || data.IOPS != 0 || root.Zone != w.subnet.Zone {
		t.Fatalf("the launch made %+v, want a root of 20 GiB of gp3 and 100 GiB of gp2", at)
	}
	for range w.state.View().Tags(string(data.ID)) {
		at["tagged"] = data
	}
	if at["tagged"] == nil {
		t.Error("the data volume has no tag")
	}
	w.must(&TerminateInstances{Account: dev, Region: east, Instances: []ec2.InstanceID{i}})
	if len(w.volumes()) != 2 {
		t.Error("the volumes are gone while the instance shuts down")
	}
	w.report(i, ec2.Terminated)
	if at := w.volumes(); len(at) != 1 || at[""] == nil || at[""].ID != data.ID {
		t.Errorf("the terminated instance leaves %+v, want its data volume attached to nothing", at)
	}
	if w.state.View().AnyTags(string(root.ID)) {
		t.Error("the deleted root volume has a tag")
	}
	w.must(&DeleteVolume{dev, east, data.ID})
	if len(w.volumes()) != 0 {
		t.Errorf("after the deletion there are %+v", w.volumes())
	}
}

func TestRetentionOfVolumesIsChanged(t *testing.T) {
	w := newVPCWorld(t)
	i := w.withVolumes()
	w.must(&ModifyInstance{Account: dev, Region: east, Instance: i, Volumes: []VolumeRetention{{"/dev/xvda", true}, {"/dev/sdf", false}}})
	w.refused(&ModifyInstance{Account: dev, Region: east, Instance: i, Volumes: []VolumeRetention{{"/dev/sdz", true}}}, "InvalidInstanceAttributeValue")
	root := w.volumes()["/dev/xvda"].ID
	w.stop(i)
	w.must(&TerminateInstances{Account: dev, Region: east, Instances: []ec2.InstanceID{i}})
	if at := w.volumes(); len(at) != 1 || at[""].ID != root {
		t.Errorf("the terminated instance leaves %+v, want its root volume", at)
	}
}

func TestVolumeIsAttachedToOneInstanceOfItsZone(t *testing.T) {
	w := newVPCWorld(t)
	i, other := w.withVolumes(), w.running()
	create := &CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: ec2.Disk{Size: 1}, ClientToken: "once"}
	v := w.must(create).Volume.After
	if again := w.must(create).Volume.After; again.ID != v.ID {
		t.Errorf("the same token made %s and %s", v.ID, again.ID)
	}
	changed := *create
	changed.Disk.Size = 2
	w.refused(&changed, "IdempotentParameterMismatch")
	w.refused(&AttachVolume{dev, east, v.ID, i, "/dev/sdf"}, "InvalidParameterValue") // in use
	w.refused(&AttachVolume{dev, east, v.ID, i, "sdf/1"}, "InvalidParameterValue")
	w.refused(&AttachVolume{dev, east, "vol-0a1b2c3d", i, "/dev/sdg"}, "InvalidVolume.NotFound")
	w.refused(&AttachVolume{albert, east, v.ID, i, "/dev/sdg"}, "InvalidVolume.NotFound")
	if a := w.must(&AttachVolume{dev, east, v.ID, i, "/dev/sdg"}).Volume.After.Attachments[0]; a.DeleteOnTermination || a.Instance != i {
		t.Errorf("the attachment is %+v, want one to %s that keeps the volume", a, i)
	}
	w.refused(&AttachVolume{dev, east, v.ID, other, "/dev/sdg"}, "VolumeInUse")
	w.refused(&DeleteVolume{dev, east, v.ID}, "VolumeInUse")
	w.refused(&DetachVolume{Account: dev, Region: east, Volume: v.ID, Instance: other}, "InvalidAttachment.NotFound")
	w.refused(&DetachVolume{Account: dev, Region: east, Volume: w.volumes()["/dev/xvda"].ID}, "IncorrectState") // the root
	w.must(&DetachVolume{Account: dev, Region: east, Volume: v.ID})
	w.refused(&DetachVolume{Account: dev, Region: east, Volume: v.ID}, "IncorrectState")
	w.refused(&CreateVolume{Account: dev, Region: east, Zone: "us-east-1z", Disk: ec2.Disk{Size: 1}}, "InvalidZone.NotFound")

	zones := w.state.View().Zones(east)
	far := zones[slices.IndexFunc(zones, func(z region.Zone) bool { return z.Name != w.subnet.Zone })].Name
	distant := w.must(&CreateVolume{Account: dev, Region: east, Zone: far, Disk: ec2.Disk{Size: 1}}).Volume.After
	w.refused(&AttachVolume{dev, east, distant.ID, i, "/dev/sdg"}, "InvalidVolume.ZoneMismatch")

	shared := w.must(&CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: ec2.Disk{Size: 4, Type: "io2", IOPS: 100}, MultiAttach: true}).Volume.After
	w.must(&AttachVolume{dev, east, shared.ID, i, "/dev/sdh"})
	w.must(&AttachVolume{dev, east, shared.ID, other, "/dev/sdh"})
	w.refused(&DetachVolume{Account: dev, Region: east, Volume: shared.ID}, "InvalidParameterCombination")
	w.must(&DetachVolume{Account: dev, Region: east, Volume: shared.ID, Instance: other})
	w.stop(i)
	w.must(&DetachVolume{Account: dev, Region: east, Volume: w.volumes()["/dev/xvda"].ID}) // of a stopped instance
}

func TestVolumesAreLimited(t *testing.T) {
	w := newVPCWorld(t)
	i := w.running()
	for n := range maxVolumesAtInstance + 1 {
		v := w.must(&CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: ec2.Disk{Size: 1}}).Volume.After
		attach := &AttachVolume{dev, east, v.ID, i, "/dev/xvdb" + string(rune('a'+n%26))}
		if n >= 26 {
			attach.Device = "/dev/xvdc" + string(rune('a'+n%26))
		}
		if n < maxVolumesAtInstance {
			w.must(attach)
		} else {
			w.refused(attach, "AttachmentLimitExceeded")
		}
	}
	many := &RunInstances{Account: dev, Region: east, Image: "ami-0123456789abcdef0", Subnet: w.subnet.ID, MinCount: 1, MaxCount: 1}
	for range maxVolumesAtInstance + 1 {
		many.Volumes = append(many.Volumes, LaunchVolume{Device: "/dev/sdf", Disk: ec2.Disk{Size: 1}})
	}
	w.refused(many, "AttachmentLimitExceeded")
	many.Volumes = many.Volumes[:2]
	w.refused(many, "InvalidBlockDeviceMapping") // one device twice
	many.Volumes = many.Volumes[:1]
	w.must(many)

	few := &replay{t: t, state: NewState(), now: epoch0}
	few.must(&Bootstrap{Seed: "few", Settings: ec2.Settings{VolumesPerRegion: 3}})
	for _, req := range firstRequests()[1:] {
		few.must(req)
	}
	run := &RunInstances{Account: albert, Region: east, Image: "ami-0123456789abcdef0", MinCount: 1, MaxCount: 5, Volumes: []LaunchVolume{{Device: "/dev/sdf", Disk: ec2.Disk{Size: 1}}}}
	if made := few.must(run).Instances; len(made) != 3 {
		t.Errorf("a launch of up to 5 made %d instances, want 3 for 3 volumes", len(made))
	}
	few.refused(run, "VolumeLimitExceeded")
	few.refused(&CreateVolume{Account: albert, Region: east, Zone: "us-east-1a", Disk: ec2.Disk{Size: 1}}, "VolumeLimitExceeded")
}

// The limits are those of the EC2 API Reference, "CreateVolume".
func TestDisksAreCheckedByType(t *testing.T) {
	w := newVPCWorld(t)
	for _, c := range []struct {
		disk ec2.Disk
		code string
		text string
	}{
		{ec2.Disk{}, "MissingParameter", "size or snapshotId"},
		{ec2.Disk{Size: 1, Type: "gp9"}, "UnknownVolumeType", "gp9"},
		{ec2.Disk{Size: 16385, Type: "gp2"}, "InvalidParameterValue", "too large for volume type gp2; maximum is 16384GiB"},
		{ec2.Disk{Size: 1025, Type: "standard"}, "InvalidParameterValue", "1024GiB"},
		{ec2.Disk{Size: 124, Type: "st1"}, "InvalidParameterValue", "minimum is 125GiB"},
		{ec2.Disk{Size: 3, Type: "io1", IOPS: 100}, "InvalidParameterValue", "minimum is 4GiB"},
		{ec2.Disk{Size: -1}, "InvalidParameterValue", "too small"},
		{ec2.Disk{Size: 10, IOPS: 300}, "InvalidParameterCombination", "The parameter iops is not supported for gp2 volumes."},
		{ec2.Disk{Size: 10, Type: "io1"}, "MissingParameter", "iops must be specified for io1"},
		{ec2.Disk{Size: 100, Type: "io1", IOPS: 8000}, "InvalidParameterValue", "Iops to volume size ratio of 80.000000 is too high; maximum is 50"},
		{ec2.Disk{Size: 5, Type: "gp3", IOPS: 6000}, "InvalidParameterValue", "ratio of 1200.000000"},
		{ec2.Disk{Size: 500, Type: "gp3", IOPS: 2999}, "InvalidParameterValue", "minimum is 3000"},
		{ec2.Disk{Size: 500, Type: "gp3", IOPS: 80001}, "InvalidParameterValue", "maximum is 80000"},
		{ec2.Disk{Size: 500, Type: "gp3", Throughput: 1000}, "InvalidParameterValue", "maximum is 0.250000 MiBps per iops"},
		{ec2.Disk{Size: 500, Type: "gp2", Throughput: 125}, "InvalidParameterCombination", "throughput is not supported for gp2"},
		{ec2.Disk{Size: 1, KMSKey: "alias/x"}, "InvalidParameterDependency", "KmsKeyId"},
		{ec2.Disk{Snapshot: "snap-x"}, "InvalidSnapshotID.Malformed", "snap-"},
	} {
		w.refused(&CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: c.disk}, c.code)
		if _, err := settle(c.disk); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: got %v, want a text with %q", c.disk, err, c.text)
		}
	}
	for _, good := range []ec2.Disk{
		{Size: 1}, {Size: 1, Type: "gp3"}, {Size: 65536, Type: "gp3", IOPS: 80000, Throughput: 2000}, {Size: 4, Type: "io2", IOPS: 4000}, {Size: 2, Type: "gp3", Throughput: 750},
		{Size: 125, Type: "sc1"}, {Size: 1024, Type: "standard"}, {Snapshot: "snap-0a1b2c3d"}, {Size: 1, Encrypted: true, KMSKey: "alias/x"},
	} {
		w.must(&CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: good})
	}
}

func TestVolumesAreModified(t *testing.T) {
	w := newVPCWorld(t)
	v := w.must(&CreateVolume{Account: dev, Region: east, Zone: w.subnet.Zone, Disk: ec2.Disk{Size: 100}}).Volume.After
	modify := func(d ec2.Disk) *ModifyVolume {
		return &ModifyVolume{Account: dev, Region: east, Volume: v.ID, Disk: d}
	}
	w.refused(modify(ec2.Disk{Size: 99}), "InvalidParameterValue")
	w.refused(modify(ec2.Disk{IOPS: 4000}), "InvalidParameterCombination")
	w.refused(modify(ec2.Disk{Type: "io1"}), "MissingParameter")
	now := w.must(modify(ec2.Disk{Size: 200, Type: "gp3", IOPS: 4000})).Volume.After
	if now.Size != 200 || now.Type != "gp3" || now.IOPS != 4000 || now.Throughput != 125 || now.Modified.Before.Type != "gp2" || now.Modified.Before.Size != 100 {
		t.Errorf("the volume is %+v, want 200 GiB of gp3, which was 100 GiB of gp2", now)
	}
	if back := w.must(modify(ec2.Disk{Type: "gp2"})).Volume.After; back.IOPS != 0 || back.Throughput != 0 || back.Size != 200 {
		t.Errorf("the volume is %+v, want gp2 without IOPS and throughput", back)
	}
}

func TestRestoredVolumesBelongToInstances(t *testing.T) {
	w := newVPCWorld(t)
	i := w.withVolumes()
	good := string(w.snapshot())
	restored, err := Restore(strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if again := string(snapshotOf(t, restored)); again != good {
		t.Error("a restored state with volumes writes another snapshot")
	}
	for what, bad := range map[string]string{
		"a volume at no instance":       strings.Replace(good, `"Attachments":[{"Instance":"`+string(i), `"Attachments":[{"Instance":"i-0a1b2c3d`, 1),
		"a volume of no type":           strings.Replace(good, `"Type":"gp3"`, `"Type":"gp9"`, 1),
		"a volume without size":         strings.Replace(good, `"Size":20`, `"Size":0`, 1),
		"a volume at two without leave": strings.Replace(good, `"Attachments":[{`, `"Attachments":[{"Instance":"`+string(i)+`","Device":"/dev/sdq","Since":"2026-01-02T03:04:05Z"},{`, 1),
	} {
		if bad == good {
			t.Fatalf("%s: the snapshot has no such row", what)
		}
		if _, err := Restore(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was restored", what)
		}
	}
}
