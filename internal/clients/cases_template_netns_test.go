package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// launchTemplate launches from two versions of a template, which name different groups, with the
// groups as parameters of the instance and of its interface.
func (s *testbed) launchTemplate(t *testing.T) {
	ctx := t.Context()
	open, shut := s.group(t, s.vpc, "template-open"), s.group(t, s.vpc, "template-shut")
	s.admit(t, open, permission("tcp", 7200, 7200, "10.0.0.0/16"))
	made, err := s.c.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("cases"), LaunchTemplateData: &types.RequestLaunchTemplateData{
		ImageId: aws.String("ami-eca54085"), InstanceType: types.InstanceTypeT3Micro,
		NetworkInterfaces: []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{DeviceIndex: aws.Int32(0), SubnetId: &s.serverSubnet, Groups: []string{open}}},
	}})
	check(t, err)
	id := made.LaunchTemplate.LaunchTemplateId
	_, err = s.c.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: id, LaunchTemplateData: &types.RequestLaunchTemplateData{
		ImageId: aws.String("ami-eca54085"), SecurityGroupIds: []string{shut},
	}})
	check(t, err)
	from := func(version string) *ec2.RunInstancesInput {
		return &ec2.RunInstancesInput{LaunchTemplate: &types.LaunchTemplateSpecification{LaunchTemplateId: id, Version: &version}}
	}
	first := s.run(t, "first", from("$Default"))
	input := from("$Latest")
	input.SubnetId = &s.serverSubnet
	second := s.run(t, "second", input)
	s.wantAnswers(t, "launched from version 1", to(s.client.host, first, "tcp/7200"))
	s.wantSilence(t, "launched from version 2", to(s.client.host, second, "tcp/7200"))

	_, err = s.c.ModifyLaunchTemplate(ctx, &ec2.ModifyLaunchTemplateInput{LaunchTemplateId: id, DefaultVersion: aws.String("2")})
	check(t, err)
	_, err = s.c.DeleteLaunchTemplateVersions(ctx, &ec2.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: id, Versions: []string{"1"}})
	check(t, err)
	input = from("$Default")
	input.SubnetId, input.SecurityGroupIds = &s.serverSubnet, []string{open} // instead of the group of version 2
	third := s.run(t, "third", input)
	_, err = s.c.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: id})
	check(t, err)
	s.wantAnswers(t, "launched with a group of its own; the template is deleted", to(s.client.host, first, "tcp/7200"), to(s.client.host, third, "tcp/7200"))
	s.wantSilence(t, "the template is deleted", to(s.client.host, second, "tcp/7200"))

	ids := []string{first.id, second.id, third.id}
	_, err = s.c.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	check(t, err)
	for _, in := range []instance{first, second, third} {
		s.waitState(t, in, "terminated")
	}
	for _, group := range []string{open, shut} {
		_, err = s.c.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &group})
		check(t, err)
	}
}
