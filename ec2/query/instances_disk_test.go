package query_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func disk(device string, ebs types.EbsBlockDevice) types.BlockDeviceMapping {
	return types.BlockDeviceMapping{DeviceName: &device, Ebs: &ebs}
}

// The mappings are those of docker-machine, of Terraform's root_block_device and of the CLI's manual.
func TestLaunchMapsDisks(t *testing.T) {
	w := newVPCWorld(t)
	api := w.as("dev")
	ubuntu := *images(t, api, &sdk.DescribeImagesInput{Owners: []string{"099720109477"}, Filters: []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*")}})[0].ImageId
	const other = "ami-0123456789abcdef0"
	for _, c := range []struct {
		what, image string
		mappings    []types.BlockDeviceMapping
		root        string
		volumes     map[string]string // type by device, root included
	}{
		{"nothing", ubuntu, nil, "/dev/sda1", map[string]string{"/dev/sda1": "gp3"}},
		{"a larger root", ubuntu, []types.BlockDeviceMapping{disk("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(20), VolumeType: "gp3", DeleteOnTermination: aws.Bool(true)})}, "/dev/sda1", map[string]string{"/dev/sda1": "gp3"}},
		{"an encrypted root", other, []types.BlockDeviceMapping{disk("/dev/xvda", types.EbsBlockDevice{Encrypted: aws.Bool(true)}), disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(100)})}, "/dev/xvda", map[string]string{"/dev/xvda": "gp2", "/dev/sdf": "gp2"}},
		{"the root of an image outside of the catalogue", other, []types.BlockDeviceMapping{disk("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(20)})}, "/dev/sda1", map[string]string{"/dev/sda1": "gp2"}},
		{"a fast disk", other, []types.BlockDeviceMapping{disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(100), VolumeType: "io2", Iops: aws.Int32(5000), KmsKeyId: aws.String("alias/x"), Encrypted: aws.Bool(true)})}, "/dev/xvda", map[string]string{"/dev/xvda": "gp2", "/dev/sdf": "io2"}},
		{"no instance store", ubuntu, []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb"), NoDevice: aws.String("")}}, "/dev/sda1", map[string]string{"/dev/sda1": "gp3"}},
		{"instance store", ubuntu, []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb"), VirtualName: aws.String("ephemeral0")}}, "/dev/sda1", map[string]string{"/dev/sda1": "gp3"}},
		{"a disk beside an instance store root", "ami-eca54085", []types.BlockDeviceMapping{disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)})}, "", map[string]string{"/dev/sdf": "gp2"}},
	} {
		i := w.run(t, func(in *sdk.RunInstancesInput) {
			in.ImageId, in.InstanceType, in.BlockDeviceMappings = aws.String(c.image), "t3.micro", c.mappings
		})
		got := ok[*sdk.DescribeVolumesOutput](t)(api.DescribeVolumes(t.Context(), &sdk.DescribeVolumesInput{Filters: []types.Filter{filterOf("attachment.instance-id", *i.InstanceId)}})).Volumes
		if aws.ToString(i.RootDeviceName) != c.root || len(i.BlockDeviceMappings) != len(c.volumes) || len(got) != len(c.volumes) {
			t.Errorf("%s: root %q with %d disks and %d volumes, want %q with %v", c.what, aws.ToString(i.RootDeviceName), len(i.BlockDeviceMappings), len(got), c.root, c.volumes)
			continue
		}
		for _, v := range got {
			if device := *v.Attachments[0].Device; c.volumes[device] != string(v.VolumeType) || *v.AvailabilityZone != *i.Placement.AvailabilityZone || v.State != "in-use" {
				t.Errorf("%s: the volume at %s is %+v, want type %s", c.what, device, v, c.volumes[device])
			}
		}
		for n, m := range i.BlockDeviceMappings {
			if n == 0 && c.root != "" && *m.DeviceName != c.root || !*m.Ebs.DeleteOnTermination || m.Ebs.Status != "attached" {
				t.Errorf("%s: disk %d is %s with %+v, want the root first, and all attached and deleted on termination", c.what, n, *m.DeviceName, *m.Ebs)
			}
		}
	}
	_, err := api.RunInstances(t.Context(), w.input(func(in *sdk.RunInstancesInput) {
		in.ImageId, in.InstanceType, in.BlockDeviceMappings = &ubuntu, "t3.micro", []types.BlockDeviceMapping{disk("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(2)})}
	}))
	if errorCode(err) != "InvalidBlockDeviceMapping" {
		t.Errorf("a root smaller than the image's: got %v, want InvalidBlockDeviceMapping", err)
	}
}

// An instance is found by its disks, and shows each volume that is attached later.
func TestInstancesAreFoundByTheirDisks(t *testing.T) {
	w := newVPCWorld(t)
	api := w.as("dev")
	i := w.run(t, func(in *sdk.RunInstancesInput) {
		in.ImageId, in.InstanceType = aws.String("ami-0123456789abcdef0"), "t3.micro"
	})
	w.report(t)
	v := ok[*sdk.CreateVolumeOutput](t)(api.CreateVolume(t.Context(), &sdk.CreateVolumeInput{AvailabilityZone: i.Placement.AvailabilityZone, Size: aws.Int32(10)}))
	ok[*sdk.AttachVolumeOutput](t)(api.AttachVolume(t.Context(), &sdk.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: i.InstanceId, Device: aws.String("/dev/sdf")}))
	for filter, value := range map[string]string{
		"block-device-mapping.volume-id":             *v.VolumeId,
		"block-device-mapping.device-name":           "/dev/sdf",
		"block-device-mapping.status":                "attached",
		"block-device-mapping.delete-on-termination": "false",
		"root-device-name":                           "/dev/xvda",
		"root-device-type":                           "ebs",
	} {
		out := ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{Filters: []types.Filter{filterOf(filter, value)}}))
		if len(out.Reservations) != 1 || len(out.Reservations[0].Instances[0].BlockDeviceMappings) != 2 {
			t.Errorf("%s=%s finds %d reservations, want the instance with two disks", filter, value, len(out.Reservations))
		}
	}
	pages := sdk.NewDescribeVolumesPaginator(api, &sdk.DescribeVolumesInput{MaxResults: aws.Int32(5)})
	count := 0
	for pages.HasMorePages() {
		count += len(ok[*sdk.DescribeVolumesOutput](t)(pages.NextPage(t.Context())).Volumes)
	}
	if count != 2 {
		t.Errorf("the pages have %d volumes, want 2", count)
	}
}
