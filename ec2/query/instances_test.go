package query_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// describeInstance returns what DescribeInstances shows of an instance.
func describeInstance(t *testing.T, api *sdk.Client, id string) types.Instance {
	t.Helper()
	out := ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{id}}))
	return out.Reservations[0].Instances[0]
}

func TestInstanceIsLaunchedStoppedAndStarted(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	input := &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(2), ClientToken: aws.String("token")}
	run := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, input))
	if len(run.Instances) != 2 || run.Instances[0].State.Name != types.InstanceStateNamePending || *run.Instances[1].AmiLaunchIndex != 1 || *run.Groups[0].GroupName != "default" {
		t.Fatalf("RunInstances returned %+v, want two pending instances in the group default", run)
	}
	again := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, input))
	if *again.ReservationId != *run.ReservationId || *again.Instances[1].InstanceId != *run.Instances[1].InstanceId {
		t.Errorf("two requests with one client token returned reservations %s and %s, want the same instances", *run.ReservationId, *again.ReservationId)
	}
	input.MaxCount = aws.Int32(3)
	_, err := api.RunInstances(ctx, input)
	wantCode(t, "same token, other request", err, "IdempotentParameterMismatch", "")

	w.report(t)
	id := *run.Instances[0].InstanceId
	before := describeInstance(t, api, id)
	if before.State.Name != types.InstanceStateNameRunning || *before.PrivateIpAddress != "10.10.0.2" || *before.PrivateDnsName != "ip-10-10-0-2.ec2.internal" ||
		*before.PublicIpAddress != "198.18.0.2" || *before.Placement.AvailabilityZone != "us-east-1a" || *before.SecurityGroups[0].GroupName != "default" || time.Since(*before.LaunchTime).Abs() > time.Hour {
		t.Errorf("a running instance shows %+v, want 10.10.0.2 and 198.18.0.2 in us-east-1a, with the group default", before)
	}

	stop := ok[*sdk.StopInstancesOutput](t)(api.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: []string{id}}))
	if c := stop.StoppingInstances[0]; c.CurrentState.Name != "stopping" || c.PreviousState.Name != "running" {
		t.Errorf("StopInstances returned %+v, want a change from running to stopping", c)
	}
	if got := describeInstance(t, api, id); got.PrivateIpAddress != nil {
		t.Errorf("a stopping instance shows address %s, want none", *got.PrivateIpAddress)
	}
	_, err = api.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{id}})
	wantCode(t, "start while stopping", err, "IncorrectInstanceState", "")
	w.report(t)
	if got := describeInstance(t, api, id); got.State.Name != "stopped" || got.PrivateIpAddress != nil {
		t.Errorf("a stopped instance shows %+v, want state stopped without address", got)
	}
	if _, err := api.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.report(t)
	if got := describeInstance(t, api, id); *got.PrivateIpAddress == *before.PrivateIpAddress || *got.PublicIpAddress == *before.PublicIpAddress {
		t.Errorf("a restarted instance has addresses %s and %s, want two new ones", *got.PrivateIpAddress, *got.PublicIpAddress)
	}
}

func TestGroupOfAnInstanceCannotBeDeleted(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("used"), Description: aws.String("x")}))
	used := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-0123456789abcdef0"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SecurityGroups: []string{"used", "default"}}))
	_, err := api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("used")})
	wantCode(t, "delete a group in use", err, "InvalidGroup.InUse", "There are active instances using security group 'used'")
	if _, err := api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*used.Instances[0].InstanceId}}); err != nil {
		t.Fatal(err)
	}
	w.report(t)
	if got := describeInstance(t, api, *used.Instances[0].InstanceId); got.State.Name != "terminated" || *got.StateReason.Code != "Client.UserInitiatedShutdown" {
		t.Errorf("a terminated instance shows %+v, want state terminated by Client.UserInitiatedShutdown", got)
	}
	if _, err := api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("used")}); err != nil {
		t.Errorf("delete a group whose instance is terminated: %v", err)
	}
}

var invalidLaunches = []struct {
	what  string
	input sdk.RunInstancesInput
	code  string
}{
	{"bad image", sdk.RunInstancesInput{ImageId: aws.String("ami-x")}, "InvalidAMIID.Malformed"},
	{"zero", sdk.RunInstancesInput{MinCount: aws.Int32(0)}, "InvalidParameterValue"},
	{"min over max", sdk.RunInstancesInput{MinCount: aws.Int32(3)}, "InvalidParameterCombination"},
	{"a million", sdk.RunInstancesInput{MinCount: aws.Int32(1000000), MaxCount: aws.Int32(1000000)}, "InstanceLimitExceeded"},
	{"unknown key", sdk.RunInstancesInput{KeyName: aws.String("nokey")}, "InvalidKeyPair.NotFound"},
	{"unknown group", sdk.RunInstancesInput{SecurityGroups: []string{"nobody"}}, "InvalidGroup.NotFound"},
	{"user data", sdk.RunInstancesInput{UserData: aws.String("%%%")}, "InvalidParameterValue"},
	{"subnet", sdk.RunInstancesInput{SubnetId: aws.String("subnet-1")}, "InvalidSubnetID.NotFound"},
	{"zone", sdk.RunInstancesInput{Placement: &types.Placement{AvailabilityZone: aws.String("mars-1a")}}, "InvalidParameterValue"},
}

func TestInvalidLaunchesAreRefused(t *testing.T) {
	api := newWorld(t).as("albert")
	for _, c := range invalidLaunches {
		in := c.input
		if in.ImageId == nil {
			in.ImageId = aws.String("ami-eca54085")
		}
		if in.MinCount == nil {
			in.MinCount = aws.Int32(1)
		}
		if in.MaxCount == nil {
			in.MaxCount = aws.Int32(1)
		}
		_, err := api.RunInstances(t.Context(), &in)
		wantCode(t, c.what, err, c.code, "")
	}
}

func TestChangesOfUnknownInstancesAreRefused(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	run := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}))
	id := *run.Instances[0].InstanceId
	_, err := api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{"i-00000001", "i-00000002"}})
	wantCode(t, "terminate unknown", err, "InvalidInstanceID.NotFound", "The instance IDs 'i-00000001, i-00000002' do not exist")
	_, err = w.as("mary").TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{id}})
	wantCode(t, "terminate another's", err, "InvalidInstanceID.NotFound", "")
	_, err = api.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: []string{"sg-1"}})
	wantCode(t, "stop malformed", err, "InvalidInstanceID.Malformed", "")
}

func TestChangeOfNoInstancesIsRefused(t *testing.T) {
	w := newWorld(t)
	for _, action := range []string{"TerminateInstances", "StopInstances", "StartInstances", "RebootInstances"} {
		for _, ids := range []string{"", "&InstanceId=", "&DryRun=true"} {
			code, message := w.ask(t, "dev", "Action="+action+"&Version=2016-11-15"+ids)
			if code != "InvalidParameterCombination" || message != "No instances specified" {
				t.Errorf("%s%s: got %s: %s, want InvalidParameterCombination: No instances specified", action, ids, code, message)
			}
		}
	}
}
