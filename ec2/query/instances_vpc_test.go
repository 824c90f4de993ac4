package query_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"palisade/ec2"
	"palisade/ec2/state"
)

// A vpcWorld is a world in which dev has a VPC with a subnet 10.0.1.0/24, a group and an
// internet gateway.
type vpcWorld struct {
	*world
	vpc    ec2.VPCID
	subnet string
	group  string
}

func newVPCWorld(t *testing.T) *vpcWorld {
	t.Helper()
	w := newWorld(t)
	do := func(r state.Request) state.Result {
		result, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r})
		if err != nil {
			t.Fatalf("apply %T: %v", r, err)
		}
		return result
	}
	vpc := do(&state.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	do(&state.ModifyVPC{Account: dev, Region: region, VPC: vpc.ID, DNSHostnames: new(true)})
	gateway := do(&state.CreateInternetGateway{Account: dev, Region: region}).Gateway
	do(&state.AttachInternetGateway{Account: dev, Region: region, Gateway: gateway.ID, VPC: vpc.ID})
	subnet := do(&state.CreateSubnet{Account: dev, Region: region, VPC: vpc.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}).Subnet
	group := do(&state.CreateSecurityGroup{Account: dev, Region: region, Name: "web", Description: "web", VPC: vpc.ID}).Group
	return &vpcWorld{w, vpc.ID, string(subnet.ID), string(group.ID)}
}

func (p *vpcWorld) run(t *testing.T, change func(*sdk.RunInstancesInput)) types.Instance {
	t.Helper()
	out := ok[*sdk.RunInstancesOutput](t)(p.as("dev").RunInstances(t.Context(), p.input(change)))
	p.report(t)
	return p.describe(t, *out.Instances[0].InstanceId)
}

func (p *vpcWorld) input(change func(*sdk.RunInstancesInput)) *sdk.RunInstancesInput {
	in := &sdk.RunInstancesInput{ImageId: aws.String("ami-0123456789abcdef0"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &p.subnet}
	if change != nil {
		change(in)
	}
	return in
}

func (p *vpcWorld) describe(t *testing.T, id string) types.Instance {
	t.Helper()
	out := ok[*sdk.DescribeInstancesOutput](t)(p.as("dev").DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{id}}))
	return out.Reservations[0].Instances[0]
}

func TestVPCInstanceShowsItsInterfaces(t *testing.T) {
	p := newVPCWorld(t)
	i := p.run(t, func(in *sdk.RunInstancesInput) {
		in.SubnetId = nil
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), SubnetId: &p.subnet, Groups: []string{p.group}, AssociatePublicIpAddress: aws.Bool(true),
			Description: aws.String("front"), SecondaryPrivateIpAddressCount: aws.Int32(1),
		}}
		in.TagSpecifications = []types.TagSpecification{
			{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("web")}}},
			{ResourceType: "volume", Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("none")}}},
			{ResourceType: "network-interface", Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("nic")}}},
		}
	})
	if *i.VpcId != string(p.vpc) || *i.SubnetId != p.subnet || *i.PrivateIpAddress != "10.0.1.4" || *i.PrivateDnsName != "ip-10-0-1-4.ec2.internal" || !*i.SourceDestCheck {
		t.Errorf("the instance is in %s and %s at %s (%s) with source check %v, want %s, %s, 10.0.1.4 and true", *i.VpcId, *i.SubnetId, *i.PrivateIpAddress, *i.PrivateDnsName, *i.SourceDestCheck, p.vpc, p.subnet)
	}
	if i.PublicIpAddress == nil || !strings.HasPrefix(*i.PublicIpAddress, "198.18.") || *i.PublicDnsName != "ec2-"+strings.ReplaceAll(*i.PublicIpAddress, ".", "-")+".compute-1.amazonaws.com" {
		t.Errorf("the instance has public address %v with name %v, want an address from 198.18.0.0/16 and its name", aws.ToString(i.PublicIpAddress), aws.ToString(i.PublicDnsName))
	}
	if len(i.SecurityGroups) != 1 || *i.SecurityGroups[0].GroupId != p.group || *i.SecurityGroups[0].GroupName != "web" || len(i.Tags) != 1 || *i.Tags[0].Value != "web" {
		t.Errorf("the instance has groups %+v and tags %+v, want the group web and the tag web", i.SecurityGroups, i.Tags)
	}
	if i.EbsOptimized == nil || *i.EbsOptimized || i.RootDeviceType != "ebs" || len(i.BlockDeviceMappings) != 1 || i.MetadataOptions.HttpEndpoint != "disabled" {
		t.Errorf("the instance shows root device %v, disks %v and metadata options %v, want a root volume and no metadata service", i.RootDeviceType, i.BlockDeviceMappings, i.MetadataOptions)
	}
	if len(i.NetworkInterfaces) != 1 {
		t.Fatalf("the instance shows interfaces %+v, want one", i.NetworkInterfaces)
	}
	nic := i.NetworkInterfaces[0]
	if *nic.Description != "front" || *nic.VpcId != string(p.vpc) || *nic.SubnetId != p.subnet || nic.Status != "in-use" || *nic.OwnerId != dev ||
		*nic.PrivateIpAddress != "10.0.1.4" || len(*nic.MacAddress) != 17 || len(nic.Groups) != 1 || *nic.Groups[0].GroupId != p.group {
		t.Errorf("the interface is %+v, want front, in use at 10.0.1.4 in subnet %s with group %s", nic, p.subnet, p.group)
	}
	if a := nic.Attachment; a.Status != "attached" || *a.DeviceIndex != 0 || !*a.DeleteOnTermination || a.AttachTime == nil || !strings.HasPrefix(*a.AttachmentId, "eni-attach-") {
		t.Errorf("the attachment is %+v, want device index 0, attached and deleted on termination", a)
	}
	if a := nic.Association; a == nil || *a.PublicIp != *i.PublicIpAddress || *a.IpOwnerId != "amazon" {
		t.Errorf("the association is %+v, want address %s of amazon", a, *i.PublicIpAddress)
	}
	if x := nic.PrivateIpAddresses; len(x) != 2 || !*x[0].Primary || *x[1].Primary || *x[1].PrivateIpAddress != "10.0.1.5" || x[1].Association != nil {
		t.Errorf("the private addresses are %+v, want a primary one and 10.0.1.5 without public address", x)
	}
}

func TestVPCInstancesAreFiltered(t *testing.T) {
	p := newVPCWorld(t)
	i := p.run(t, func(in *sdk.RunInstancesInput) { in.SecurityGroupIds = []string{p.group} })
	p.run(t, func(in *sdk.RunInstancesInput) { in.SubnetId = nil })
	for _, c := range []struct{ filter, value string }{
		{"vpc-id", string(p.vpc)},
		{"subnet-id", p.subnet},
		{"instance.group-id", p.group},
		{"private-ip-address", "10.0.1.*"},
		{"network-interface.network-interface-id", *i.NetworkInterfaces[0].NetworkInterfaceId},
		{"network-interface.addresses.private-ip-address", "10.0.1.4"},
		{"network-interface.group-name", "web"},
		{"network-interface.attachment.instance-id", *i.InstanceId},
	} {
		in := &sdk.DescribeInstancesInput{Filters: []types.Filter{{Name: &c.filter, Values: []string{c.value}}}}
		out := ok[*sdk.DescribeInstancesOutput](t)(p.as("dev").DescribeInstances(t.Context(), in))
		if len(out.Reservations) != 1 || *out.Reservations[0].Instances[0].InstanceId != *i.InstanceId {
			t.Errorf("%s=%s finds %d reservations, want the one of the instance", c.filter, c.value, len(out.Reservations))
		}
	}
}

func TestVPCInstanceKeepsPrivateAddressWhenStopped(t *testing.T) {
	p := newVPCWorld(t)
	api, ctx := p.as("dev"), t.Context()
	i := p.run(t, func(in *sdk.RunInstancesInput) { in.SubnetId = nil })
	one := []string{*i.InstanceId}
	if _, err := api.RebootInstances(ctx, &sdk.RebootInstancesInput{InstanceIds: one}); err != nil {
		t.Fatal(err)
	}
	if now := p.describe(t, *i.InstanceId); now.State.Name != "running" || *now.PublicIpAddress != *i.PublicIpAddress {
		t.Errorf("after a reboot the instance is %s at %s, want running at the same address", now.State.Name, *now.PublicIpAddress)
	}
	ok[*sdk.StopInstancesOutput](t)(api.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: one}))
	p.report(t)
	now := p.describe(t, *i.InstanceId)
	if now.State.Name != "stopped" || *now.PrivateIpAddress != *i.PrivateIpAddress || now.PublicIpAddress != nil || len(now.NetworkInterfaces) != 1 || *now.VpcId != *i.VpcId {
		t.Errorf("a stopped instance shows %+v, want its interface and private address, without public address", now)
	}
	_, err := api.RebootInstances(ctx, &sdk.RebootInstancesInput{InstanceIds: one})
	wantCode(t, "reboot a stopped one", err, "IncorrectInstanceState", "")
	ok[*sdk.StartInstancesOutput](t)(api.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: one}))
	p.report(t)
	if now := p.describe(t, *i.InstanceId); *now.PrivateIpAddress != *i.PrivateIpAddress || now.PublicIpAddress == nil || *now.PublicIpAddress == *i.PublicIpAddress {
		t.Errorf("a restarted instance shows %+v, want the same private and another public address", now)
	}
	ok[*sdk.TerminateInstancesOutput](t)(api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: one}))
	p.report(t)
	if now := p.describe(t, *i.InstanceId); now.State.Name != "terminated" || now.VpcId != nil || now.PrivateIpAddress != nil || len(now.NetworkInterfaces) != 0 {
		t.Errorf("a terminated instance shows %+v, want no VPC, address or interface", now)
	}
}

// A refused launch gets the same error in a dry run, and creates nothing.
func TestRefusedLaunchLeavesNothing(t *testing.T) {
	p := newVPCWorld(t)
	api := p.as("dev")
	nic := func(spec types.InstanceNetworkInterfaceSpecification) func(*sdk.RunInstancesInput) {
		return func(in *sdk.RunInstancesInput) {
			in.SubnetId, in.NetworkInterfaces = nil, []types.InstanceNetworkInterfaceSpecification{spec}
		}
	}
	for _, c := range []struct {
		what   string
		change func(*sdk.RunInstancesInput)
		code   string
	}{
		{"group names with a subnet", func(in *sdk.RunInstancesInput) { in.SecurityGroups = []string{"web"} }, "InvalidParameterCombination"},
		{"a group of another VPC", func(in *sdk.RunInstancesInput) { in.SubnetId, in.SecurityGroupIds = nil, []string{p.group} }, "InvalidGroup.NotFound"},
		{"malformed group id", func(in *sdk.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-1", "i-2"} }, "InvalidGroupId.Malformed"},
		{"unknown subnet", func(in *sdk.RunInstancesInput) { in.SubnetId = aws.String("subnet-00000000") }, "InvalidSubnetID.NotFound"},
		{"malformed address", func(in *sdk.RunInstancesInput) { in.PrivateIpAddress = aws.String("10.0.1") }, "InvalidParameterValue"},
		{"an IPv6 address", func(in *sdk.RunInstancesInput) { in.Ipv6AddressCount = aws.Int32(1) }, "UnsupportedOperation"},
		{"a subnet twice", func(in *sdk.RunInstancesInput) {
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}}
		}, "InvalidParameterCombination"},
		{"no device index", nic(types.InstanceNetworkInterfaceSpecification{SubnetId: &p.subnet}), "MissingParameter"},
		{"an interface of type efa", nic(types.InstanceNetworkInterfaceSpecification{DeviceIndex: aws.Int32(0), SubnetId: &p.subnet, InterfaceType: aws.String("efa")}), "UnsupportedOperation"},
		{"two primaries", nic(types.InstanceNetworkInterfaceSpecification{DeviceIndex: aws.Int32(0), SubnetId: &p.subnet, PrivateIpAddresses: []types.PrivateIpAddressSpecification{
			{PrivateIpAddress: aws.String("10.0.1.7"), Primary: aws.Bool(true)}, {PrivateIpAddress: aws.String("10.0.1.8"), Primary: aws.Bool(true)},
		}}), "InvalidParameterCombination"},
		{"a disk", func(in *sdk.RunInstancesInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(8), VolumeType: "st1"}}}
		}, "InvalidParameterValue"},
		{"a dedicated host", func(in *sdk.RunInstancesInput) { in.Placement = &types.Placement{Tenancy: "host"} }, "InsufficientHostCapacity"},
		{"an unknown placement group", func(in *sdk.RunInstancesInput) { in.Placement = &types.Placement{GroupName: aws.String("x")} }, "InvalidPlacementGroup.Unknown"},
		{"an unknown template", func(in *sdk.RunInstancesInput) {
			in.LaunchTemplate = &types.LaunchTemplateSpecification{LaunchTemplateId: aws.String("lt-0a1b2c3d")}
		}, "InvalidLaunchTemplateId.NotFound"},
		{"an unknown type", func(in *sdk.RunInstancesInput) { in.InstanceType = "t3.tiny" }, "InvalidParameterValue"},
		{"an IAM profile", func(in *sdk.RunInstancesInput) {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("x")}
		}, "InvalidParameterValue"},
		{"unknown shutdown behavior", func(in *sdk.RunInstancesInput) { in.InstanceInitiatedShutdownBehavior = "sleep" }, "InvalidParameterValue"},
		{"tags for a VPC", func(in *sdk.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "vpc", Tags: []types.Tag{{Key: aws.String("a")}}}}
		}, "InvalidParameterValue"},
		{"a tag key reserved for AWS", func(in *sdk.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "network-interface", Tags: []types.Tag{{Key: aws.String("aws:a")}}}}
		}, "InvalidParameterValue"},
	} {
		_, err := api.RunInstances(t.Context(), p.input(c.change))
		wantCode(t, c.what, err, c.code, "")
		dry := p.input(c.change)
		dry.DryRun = aws.Bool(true)
		if _, again := api.RunInstances(t.Context(), dry); errorCode(again) != errorCode(err) {
			t.Errorf("%s: the dry run got %v, want the same code as %v", c.what, again, err)
		}
	}
	if out := ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), nil)); len(out.Reservations) != 0 {
		t.Errorf("refused launches created %+v, want no instance", out.Reservations)
	}
	dry := p.input(nil)
	dry.DryRun = aws.Bool(true)
	_, err := api.RunInstances(t.Context(), dry)
	wantCode(t, "a dry run", err, "DryRunOperation", "")
}

func errorCode(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}
