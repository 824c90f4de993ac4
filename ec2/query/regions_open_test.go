package query_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// everywhere makes the world serve every region of AWS.
func (w *world) everywhere(t *testing.T) {
	t.Helper()
	w.change(t, &state.SetRegions{Every: new(true)})
}

// in returns a client of the named account for a region.
func (w *world) in(account, name string) *sdk.Client {
	options := w.as(account).Options()
	options.Region = name
	return sdk.New(options)
}

func TestIDsOfAnotherRegionDoNotExist(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t)
	east, west := w.in("dev", region), w.in("dev", "eu-west-1")
	ctx := t.Context()
	vpc := ok[*sdk.DescribeVpcsOutput](t)(east.DescribeVpcs(ctx, nil)).Vpcs[0].VpcId
	if there := ok[*sdk.DescribeVpcsOutput](t)(west.DescribeVpcs(ctx, nil)).Vpcs; len(there) != 1 || *there[0].VpcId == *vpc || !*there[0].IsDefault {
		t.Fatalf("the first request for eu-west-1 shows the VPCs %+v, want a default VPC of its own", there)
	}
	subnet := ok[*sdk.DescribeSubnetsOutput](t)(east.DescribeSubnets(ctx, nil)).Subnets[0].SubnetId
	group := ok[*sdk.CreateSecurityGroupOutput](t)(east.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web"), VpcId: vpc})).GroupId
	instance := ok[*sdk.RunInstancesOutput](t)(east.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})).Instances[0]
	eni := instance.NetworkInterfaces[0].NetworkInterfaceId
	gateway := ok[*sdk.DescribeInternetGatewaysOutput](t)(east.DescribeInternetGateways(ctx, nil)).InternetGateways[0].InternetGatewayId
	table := ok[*sdk.DescribeRouteTablesOutput](t)(east.DescribeRouteTables(ctx, nil)).RouteTables[0].RouteTableId
	allocation := ok[*sdk.AllocateAddressOutput](t)(east.AllocateAddress(ctx, nil)).AllocationId
	acl := ok[*sdk.DescribeNetworkAclsOutput](t)(east.DescribeNetworkAcls(ctx, nil)).NetworkAcls[0].NetworkAclId
	rule := ok[*sdk.DescribeSecurityGroupRulesOutput](t)(east.DescribeSecurityGroupRules(ctx, nil)).SecurityGroupRules[0].SecurityGroupRuleId
	own := ok[*sdk.DescribeSecurityGroupsOutput](t)(west.DescribeSecurityGroups(ctx, nil)).SecurityGroups[0].GroupId
	for _, c := range []struct {
		what, code string
		err        error
	}{
		{"VPC", "InvalidVpcID.NotFound", second(west.DescribeVpcs(ctx, &sdk.DescribeVpcsInput{VpcIds: []string{*vpc}}))},
		{"subnet", "InvalidSubnetID.NotFound", second(west.DescribeSubnets(ctx, &sdk.DescribeSubnetsInput{SubnetIds: []string{*subnet}}))},
		{"group", "InvalidGroup.NotFound", second(west.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupIds: []string{*group}}))},
		{"rule", "InvalidSecurityGroupRuleId.NotFound", second(west.DescribeSecurityGroupRules(ctx, &sdk.DescribeSecurityGroupRulesInput{SecurityGroupRuleIds: []string{*rule}}))},
		{"instance", "InvalidInstanceID.NotFound", second(west.DescribeInstances(ctx, &sdk.DescribeInstancesInput{InstanceIds: []string{*instance.InstanceId}}))},
		{"instance to end", "InvalidInstanceID.NotFound", second(west.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*instance.InstanceId}}))},
		{"interface", "InvalidNetworkInterfaceID.NotFound", second(west.DescribeNetworkInterfaces(ctx, &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{*eni}}))},
		{"gateway", "InvalidInternetGatewayID.NotFound", second(west.DescribeInternetGateways(ctx, &sdk.DescribeInternetGatewaysInput{InternetGatewayIds: []string{*gateway}}))},
		{"route table", "InvalidRouteTableID.NotFound", second(west.DescribeRouteTables(ctx, &sdk.DescribeRouteTablesInput{RouteTableIds: []string{*table}}))},
		{"address", "InvalidAllocationID.NotFound", second(west.DescribeAddresses(ctx, &sdk.DescribeAddressesInput{AllocationIds: []string{*allocation}}))},
		{"network ACL", "InvalidNetworkAclID.NotFound", second(west.DescribeNetworkAcls(ctx, &sdk.DescribeNetworkAclsInput{NetworkAclIds: []string{*acl}}))},
		{"VPC of a group", "InvalidVpcID.NotFound", second(west.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web"), VpcId: vpc}))},
		{"VPC of a subnet", "InvalidVpcID.NotFound", second(west.CreateSubnet(ctx, &sdk.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String("172.31.200.0/24")}))},
		{"source group", "InvalidGroup.NotFound", second(west.AuthorizeSecurityGroupIngress(ctx, &sdk.AuthorizeSecurityGroupIngressInput{GroupId: own, IpPermissions: []types.IpPermission{
			{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: group}}}}}))},
		{"subnet of a launch", "InvalidSubnetID.NotFound", second(west.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: subnet}))},
		{"resource to tag", "InvalidVpcID.NotFound", second(west.CreateTags(ctx, &sdk.CreateTagsInput{Resources: []string{*vpc}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}))},
	} {
		wantCode(t, c.what+" of another region", c.err, c.code, "")
	}
	_, err := west.CreateSubnet(ctx, &sdk.CreateSubnetInput{VpcId: ok[*sdk.DescribeVpcsOutput](t)(west.DescribeVpcs(ctx, nil)).Vpcs[0].VpcId, CidrBlock: aws.String("172.31.200.0/24"), AvailabilityZone: aws.String("us-east-1a")})
	wantCode(t, "zone of another region", err, "InvalidParameterValue", "Value (us-east-1a) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: eu-west-1a, eu-west-1b, eu-west-1c.")
	_, err = west.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), Placement: &types.Placement{AvailabilityZone: aws.String("us-east-1a")}})
	wantCode(t, "zone of another region at launch", err, "InvalidParameterValue", "Invalid availability zone: [us-east-1a]. Region eu-west-1 has: eu-west-1a, eu-west-1b, eu-west-1c.")
}

func second[T any](_ T, err error) error { return err }

func TestNamesAndARNsAreOfTheRegion(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t)
	api := w.in("dev", "ap-northeast-1")
	i := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(t.Context(), &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})).Instances[0]
	w.report(t)
	i = ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), nil)).Reservations[0].Instances[0]
	if !strings.HasSuffix(*i.PrivateDnsName, ".ap-northeast-1.compute.internal") || !strings.HasSuffix(*i.PublicDnsName, ".ap-northeast-1.compute.amazonaws.com") || *i.Placement.AvailabilityZone != "ap-northeast-1a" {
		t.Errorf("the instance has the names %s and %s in %s, want those of ap-northeast-1", *i.PrivateDnsName, *i.PublicDnsName, *i.Placement.AvailabilityZone)
	}
	s := ok[*sdk.DescribeSubnetsOutput](t)(api.DescribeSubnets(t.Context(), &sdk.DescribeSubnetsInput{SubnetIds: []string{*i.SubnetId}})).Subnets[0]
	if *s.SubnetArn != "arn:aws:ec2:ap-northeast-1:"+dev+":subnet/"+*s.SubnetId || *s.AvailabilityZoneId != "apne1-az4" {
		t.Errorf("the subnet has ARN %s and zone id %s", *s.SubnetArn, *s.AvailabilityZoneId)
	}
	var offered []string
	for _, o := range ok[*sdk.DescribeInstanceTypeOfferingsOutput](t)(api.DescribeInstanceTypeOfferings(t.Context(), &sdk.DescribeInstanceTypeOfferingsInput{LocationType: "availability-zone",
		Filters: []types.Filter{{Name: aws.String("instance-type"), Values: []string{"t3.micro"}}}})).InstanceTypeOfferings {
		offered = append(offered, *o.Location)
	}
	if slices.Sort(offered); strings.Join(offered, " ") != "ap-northeast-1a ap-northeast-1c ap-northeast-1d" {
		t.Errorf("t3.micro is offered in %v, want the three zones of ap-northeast-1", offered)
	}
}

// Many first requests at once make each region once, and none of them fails.
func TestFirstRequestsForARegionMayBeConcurrent(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t)
	var wg sync.WaitGroup
	for n := range 30 {
		wg.Go(func() {
			account, name := []string{"dev", "albert", "mary"}[n%3], []string{"eu-west-1", "ap-southeast-2"}[n/3%2]
			if _, err := w.in(account, name).DescribeSecurityGroups(t.Context(), nil); err != nil {
				t.Errorf("request %d of %s for %s: %v", n, account, name, err)
			}
		})
	}
	wg.Wait()
	networks, groups := map[ec2.Region]int{}, map[string]int{}
	view := w.cluster.View()
	for n := range view.Networks() {
		if n.VPC == "" {
			networks[n.Region]++
		}
	}
	for g := range view.Groups() {
		groups[fmt.Sprint(g.Account, " ", g.Region)]++
	}
	for _, name := range []ec2.Region{"eu-west-1", "ap-southeast-2"} {
		if networks[name] != 1 {
			t.Errorf("%s has %d EC2-Classic networks, want 1", name, networks[name])
		}
		for _, account := range []string{dev, albert, mary} {
			if n := groups[account+" "+string(name)]; n != 1 {
				t.Errorf("%s has %d groups in %s, want the default one", account, n, name)
			}
		}
	}
}

func TestRegionIsOpenedForValidRequestsOnly(t *testing.T) {
	w, f := newFailingWorld(t)
	w.everywhere(t)
	index := w.cluster.View().Index()
	west := w.in("dev", "eu-west-1")
	const cutOff = "this node knows no leader: it reaches 1 of 3 voters (node1)"
	f.Lock()
	f.apply = []error{noLeader{cutOff}}
	f.Unlock()
	_, err := west.DescribeVpcs(t.Context(), nil)
	wantCode(t, "the first read without a leader", err, "Unavailable", cutOff)

	_, err = sdk.New(sdk.Options{
		BaseEndpoint: &w.url, Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDDEV", "wrong", ""), Retryer: aws.NopRetryer{},
	}).DescribeVpcs(t.Context(), nil)
	wantCode(t, "a wrong secret", err, "AuthFailure", "")
	for _, name := range []string{"moon-1", "us-east-1a", "cn-north-1"} {
		_, err = w.in("dev", name).DescribeVpcs(t.Context(), nil)
		wantCode(t, "region "+name, err, "AuthFailure", "")
		if err == nil || !strings.Contains(err.Error(), "not '"+name+"'") || !strings.Contains(err.Error(), "eu-west-1, eu-west-2") {
			t.Errorf("the error for region %s is %v, want one that names it and the regions", name, err)
		}
	}
	form := "Action=DescribeVpcs&Version=2016-11-15"
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set(query.ReadHeader, "stale")
	signIn(t, r, form, "dev", "ec2", "eu-west-1", time.Now())
	res, err := http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a stale read: %v, error %v; want 200", res, err)
	}
	res.Body.Close()
	if now := w.cluster.View().Index(); now != index {
		t.Errorf("requests that may not open a region wrote entries: index %d, want %d", now, index)
	}
	if vpcs := ok[*sdk.DescribeVpcsOutput](t)(west.DescribeVpcs(t.Context(), nil)).Vpcs; len(vpcs) != 1 || w.cluster.View().Index() != index+1 {
		t.Errorf("the first valid request shows %d VPCs after %d entries, want 1 and 1", len(vpcs), w.cluster.View().Index()-index)
	}
	ok[*sdk.DescribeVpcsOutput](t)(west.DescribeVpcs(t.Context(), nil))
	if now := w.cluster.View().Index(); now != index+1 {
		t.Errorf("the second request wrote an entry: index %d, want %d", now, index+1)
	}
}

// A region that cannot be opened is refused without a log entry, however often it is asked for.
func TestRegionThatCannotBeOpenedWritesNoEntry(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t)
	w.change(t, &state.PutNetwork{Network: ec2.Network{VNI: 1<<24 - 2, Region: "last-1", Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	index := w.cluster.View().Index()
	for range 3 {
		_, err := w.in("mary", "eu-west-1").DescribeSecurityGroups(t.Context(), nil)
		wantCode(t, "a region, when no VNI is free", err, "VpcLimitExceeded", "")
	}
	if now := w.cluster.View().Index(); now != index {
		t.Errorf("requests for a region that cannot be opened wrote entries: index %d, want %d", now, index)
	}
}
