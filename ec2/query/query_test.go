package query_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

const (
	albert = "598916040194"
	mary   = "495219933132"
	dev    = "123456789012"
	region = "us-east-1"
)

// A world is a real cluster of one voter behind a real HTTP server.
type world struct {
	cluster *cluster.Cluster
	url     string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, ec2.Settings{}, func(c *cluster.Cluster) query.Backend { return c })
}

// newWorldBehind puts something between the API and the cluster.
func newWorldBehind(t testing.TB, backend func(*cluster.Cluster) query.Backend) *world {
	t.Helper()
	return newWorldWith(t, ec2.Settings{}, backend)
}

func newWorldWith(t testing.TB, settings ec2.Settings, backend func(*cluster.Cluster) query.Backend) *world {
	t.Helper()
	account := func(id ec2.AccountID, name string, platform ec2.Platform) state.Command {
		return state.Command{Request: &state.CreateAccount{ID: id, Name: name, Platform: platform, AccessKey: "AKID" + strings.ToUpper(name), Secret: "secret of " + name}}
	}
	c, err := cluster.New(cluster.Config{
		Node: "node1",
		Dir:  t.TempDir(),
		Bootstrap: []state.Command{
			{Request: &state.Bootstrap{Seed: "a seed of the API's tests", Settings: settings}},
			{Request: &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}}},
			{Request: &state.PutNetwork{Network: ec2.Network{
				VNI:         1,
				Region:      region,
				Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
				Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
				PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
			}}},
			account(albert, "albert", ec2.Classic),
			account(mary, "mary", ec2.Classic),
			account(dev, "dev", ec2.VPCOnly),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(ctx) }()
	select {
	case <-c.Ready():
	case err := <-stopped:
		t.Fatalf("cluster stopped: %v", err)
	}
	api, err := query.New(query.Config{Backend: backend(c)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("cluster: %v", err)
		}
	})
	return &world{c, server.URL}
}

// as returns an SDK client of an account, by its name.
func (w *world) as(name string) *sdk.Client {
	return sdk.New(sdk.Options{
		BaseEndpoint: &w.url,
		Region:       region,
		Credentials:  credentials.NewStaticCredentialsProvider("AKID"+strings.ToUpper(name), "secret of "+name, ""),
		Retryer:      aws.NopRetryer{},
	})
}

// report plays the node: every instance that is on its way arrives, and every port that
// is to go down is down.
func (w *world) report(t *testing.T) {
	t.Helper()
	apply := func(r state.Request) {
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r}); err != nil {
			t.Fatal(err)
		}
	}
	view := w.cluster.View()
	for i := range view.Instances() {
		eni, ok := view.Interface(i.Interface)
		if !ok {
			continue
		}
		reached := ec2.Running
		switch i.State {
		case ec2.Stopping:
			reached = ec2.Stopped
		case ec2.ShuttingDown:
			reached = ec2.Terminated
		}
		apply(&state.ReportInstance{Instance: i.ID, InterfaceEpoch: eni.Epoch, State: reached})
	}
	for eni := range view.Interfaces() {
		if eni.State == ec2.Draining {
			apply(&state.ReportInterface{Interface: eni.ID, Epoch: eni.Epoch})
		}
	}
}

func wantCode(t *testing.T, what string, err error, code, message string) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Errorf("%s: got %v, want %s", what, err, code)
		return
	}
	if e.ErrorCode() != code || message != "" && e.ErrorMessage() != message {
		t.Errorf("%s:\n got %s: %s\nwant %s: %s", what, e.ErrorCode(), e.ErrorMessage(), code, message)
	}
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(answer T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

func TestGroupsOfAClassicAccount(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()

	groups := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, nil)).SecurityGroups
	if len(groups) != 1 || *groups[0].GroupName != "default" || *groups[0].Description != "default group" || *groups[0].OwnerId != albert {
		t.Fatalf("a new account has %+v, want its default group", groups)
	}
	var got []string
	for _, p := range groups[0].IpPermissions {
		if len(p.UserIdGroupPairs) != 1 || *p.UserIdGroupPairs[0].GroupId != *groups[0].GroupId || *p.UserIdGroupPairs[0].GroupName != "default" {
			t.Errorf("permission %s is from %+v, want from the group itself", *p.IpProtocol, p.UserIdGroupPairs)
		}
		got = append(got, *p.IpProtocol)
	}
	if strings.Join(got, " ") != "tcp udp icmp" {
		t.Errorf("the default group admits itself on %v", got)
	}

	made := ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("Apache"), Description: aws.String("a & b <c>")}))
	if len(*made.GroupId) != len("sg-455b6c31") {
		t.Errorf("group id %s, want 8 hex digits", *made.GroupId)
	}
	_, err := api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("Apache"), Description: aws.String("again")})
	wantCode(t, "create twice", err, "InvalidGroup.Duplicate", "The security group 'Apache' already exists")
	_, err = api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("default"), Description: aws.String("mine")})
	wantCode(t, "create default", err, "InvalidGroup.Reserved", "The security group 'default' is reserved")
	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("default")})
	wantCode(t, "delete default", err, "InvalidGroup.Reserved", "")
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupNames: []string{"nobody"}})
	wantCode(t, "describe unknown", err, "InvalidGroup.NotFound", "The security group 'nobody' does not exist")
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupIds: []string{"i-0d95"}})
	wantCode(t, "describe malformed", err, "InvalidGroupId.Malformed", `Invalid id: "i-0d95" (expecting "sg-...")`)
	_, err = w.as("mary").DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupIds: []string{*made.GroupId}})
	wantCode(t, "describe another's", err, "InvalidGroup.NotFound", "")
	devs := ok[*sdk.CreateSecurityGroupOutput](t)(w.as("dev").CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("x"), Description: aws.String("x")}))
	if len(*devs.GroupId) != len("sg-0a1b2c3d4e5f60718") {
		t.Errorf("group id %s in a default VPC, want 17 hex digits", *devs.GroupId)
	}

	for _, c := range []struct {
		filter string
		values []string
		want   int
	}{
		{"group-name", []string{"Apa*"}, 1},
		{"group-name", []string{"apa*"}, 0},
		{"group-name", []string{"A?ache", "default"}, 2},
		{"description", []string{"a & b*"}, 1},
		{"ip-permission.protocol", []string{"icmp"}, 1},
		{"ip-permission.group-name", []string{"default"}, 1},
		{"vpc-id", []string{"vpc-1"}, 0},
		{"tag:Name", []string{"x"}, 0},
		{"group-id", []string{"sg-00000000"}, 0},
	} {
		found := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: &c.filter, Values: c.values}}}))
		if len(found.SecurityGroups) != c.want {
			t.Errorf("filter %s %q: %d groups, want %d", c.filter, c.values, len(found.SecurityGroups), c.want)
		}
	}
	_, err = api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("colour")}}})
	wantCode(t, "unknown filter", err, "InvalidParameterValue", "The filter 'colour' is invalid")

	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId, DryRun: aws.Bool(true)})
	wantCode(t, "dry run", err, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	if _, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId}); err != nil {
		t.Fatal(err)
	}
	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupId: made.GroupId})
	wantCode(t, "delete twice", err, "InvalidGroup.NotFound", "")
}

func TestGroupsComeInPages(t *testing.T) {
	w := newWorld(t)
	api := w.as("albert")
	for _, name := range strings.Split("abcdefghijkl", "") {
		if _, err := api.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: &name, Description: &name}); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	pages := sdk.NewDescribeSecurityGroupsPaginator(api, &sdk.DescribeSecurityGroupsInput{MaxResults: aws.Int32(5)})
	for n := 0; pages.HasMorePages(); n++ {
		page := ok[*sdk.DescribeSecurityGroupsOutput](t)(pages.NextPage(t.Context()))
		if len(page.SecurityGroups) > 5 || n > 3 {
			t.Fatalf("page %d has %d groups", n, len(page.SecurityGroups))
		}
		for _, g := range page.SecurityGroups {
			seen[*g.GroupName] = true
		}
	}
	if len(seen) != 13 {
		t.Errorf("the pages show %d groups, want 13", len(seen))
	}
	_, err := api.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{NextToken: aws.String("%%")})
	wantCode(t, "bad token", err, "InvalidNextToken", "")
}

func TestRulesAreAuthorizedAndRevoked(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	if _, err := api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("web")}); err != nil {
		t.Fatal(err)
	}
	permission := func(protocol string, from, to int32, cidrs ...string) types.IpPermission {
		p := types.IpPermission{IpProtocol: &protocol, FromPort: &from, ToPort: &to}
		for _, c := range cidrs {
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: &c})
		}
		return p
	}
	authorize := func(p ...types.IpPermission) (*sdk.AuthorizeSecurityGroupIngressOutput, error) {
		return api.AuthorizeSecurityGroupIngress(ctx, &sdk.AuthorizeSecurityGroupIngressInput{GroupName: aws.String("web"), IpPermissions: p})
	}
	rules := func() string {
		g := ok[*sdk.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(ctx, &sdk.DescribeSecurityGroupsInput{GroupNames: []string{"web"}})).SecurityGroups[0]
		var b strings.Builder
		for _, p := range g.IpPermissions {
			b.WriteString(*p.IpProtocol)
			for _, r := range p.IpRanges {
				b.WriteString(" " + *r.CidrIp)
			}
			for _, r := range p.UserIdGroupPairs {
				b.WriteString(" " + *r.UserId + "/" + *r.GroupName)
			}
			b.WriteString("; ")
		}
		return b.String()
	}

	added := ok[*sdk.AuthorizeSecurityGroupIngressOutput](t)(authorize(permission("TCP", 22, 22, "203.0.113.25/32", "100.68.0.18/18"), permission("1", -1, -1, "0.0.0.0/0")))
	if len(added.SecurityGroupRules) != 3 || len(*added.SecurityGroupRules[0].SecurityGroupRuleId) != len("sgr-")+17 {
		t.Errorf("authorize answers %+v, want three rules", added.SecurityGroupRules)
	}
	if got, want := rules(), "tcp 203.0.113.25/32 100.68.0.0/18; icmp 0.0.0.0/0; "; got != want {
		t.Errorf("rules %q, want %q", got, want)
	}

	_, err := authorize(permission("tcp", 80, 80, "0.0.0.0/0"), permission("6", 22, 22, "203.0.113.25/32"))
	wantCode(t, "duplicate", err, "InvalidPermission.Duplicate", `the specified rule "peer: 203.0.113.25/32, TCP, from port: 22, to port: 22, ALLOW" already exists`)
	_, err = authorize(permission("tcp", 80, 80, "10.0.0.1/8", "10.0.0.0/8"))
	wantCode(t, "same twice", err, "InvalidParameterValue", "The same permission must not appear multiple times")
	for _, c := range []struct {
		what string
		p    types.IpPermission
		code string
	}{
		{"no length", permission("tcp", 1, 2, "203.0.113.5"), "InvalidParameterValue"},
		{"octal", permission("tcp", 1, 2, "010.0.0.0/8"), "InvalidParameterValue"},
		{"length 33", permission("tcp", 1, 2, "10.0.0.0/33"), "InvalidParameterValue"},
		{"length 08", permission("tcp", 1, 2, "10.0.0.0/08"), "InvalidParameterValue"},
		{"IPv6", permission("tcp", 1, 2, "::/0"), "InvalidParameterValue"},
		{"mapped", permission("tcp", 1, 2, "::ffff:10.0.0.0/104"), "InvalidParameterValue"},
		{"ports crossed", permission("tcp", 90, 80, "10.0.0.0/8"), "InvalidParameterValue"},
		{"port too high", permission("udp", 1, 65536, "10.0.0.0/8"), "InvalidParameterValue"},
		{"port -1", permission("tcp", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
		{"type 256", permission("icmp", 256, 0, "10.0.0.0/8"), "InvalidParameterValue"},
		{"any type, one code", permission("icmp", -1, 3, "10.0.0.0/8"), "InvalidParameterValue"},
		{"gre", permission("47", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
		{"all", permission("-1", -1, -1, "10.0.0.0/8"), "InvalidParameterValue"},
		{"no such protocol", permission("tcpp", 1, 2, "10.0.0.0/8"), "InvalidParameterValue"},
		{"no source", permission("tcp", 1, 2), "MissingParameter"},
		{"no ports", types.IpPermission{IpProtocol: aws.String("tcp"), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}, "InvalidParameterValue"},
		{"no protocol", types.IpPermission{IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}, "MissingParameter"},
		{"unknown group", types.IpPermission{UserIdGroupPairs: []types.UserIdGroupPair{{GroupName: aws.String("nobody")}}}, "InvalidGroup.NotFound"},
		{"IPv6 range beside", types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(1), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}, Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}, "InvalidParameterValue"},
	} {
		_, err := authorize(permission("tcp", 8080, 8080, "10.0.0.0/8"), c.p)
		wantCode(t, c.what, err, c.code, "")
	}
	if got, want := rules(), "tcp 203.0.113.25/32 100.68.0.0/18; icmp 0.0.0.0/0; "; got != want {
		t.Errorf("after refusals the rules are %q, want %q: a part was done", got, want)
	}

	// Another account's group, without protocol: all three that EC2-Classic filters.
	_, err = api.AuthorizeSecurityGroupIngress(ctx, &sdk.AuthorizeSecurityGroupIngressInput{
		GroupName: aws.String("web"), SourceSecurityGroupName: aws.String("default"), SourceSecurityGroupOwnerId: aws.String(mary),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := rules(), "tcp 203.0.113.25/32 100.68.0.0/18; icmp 0.0.0.0/0 495219933132/default; tcp 495219933132/default; udp 495219933132/default; "; got != want {
		t.Errorf("rules %q, want %q", got, want)
	}

	revoked := ok[*sdk.RevokeSecurityGroupIngressOutput](t)(api.RevokeSecurityGroupIngress(ctx, &sdk.RevokeSecurityGroupIngressInput{
		GroupName:     aws.String("web"),
		IpPermissions: []types.IpPermission{permission("tcp", 22, 22, "100.68.7.7/18", "192.0.2.0/24")},
	}))
	if len(revoked.UnknownIpPermissions) != 1 || *revoked.UnknownIpPermissions[0].IpRanges[0].CidrIp != "192.0.2.0/24" || len(revoked.RevokedSecurityGroupRules) != 1 {
		t.Errorf("revoke answers %+v, want one revoked and one unknown", revoked)
	}
	if got, want := rules(), "tcp 203.0.113.25/32; icmp 0.0.0.0/0 495219933132/default; tcp 495219933132/default; udp 495219933132/default; "; got != want {
		t.Errorf("rules %q, want %q", got, want)
	}
	_, err = api.AuthorizeSecurityGroupEgress(ctx, &sdk.AuthorizeSecurityGroupEgressInput{GroupId: added.SecurityGroupRules[0].GroupId, IpPermissions: []types.IpPermission{permission("tcp", 1, 1, "0.0.0.0/0")}})
	wantCode(t, "egress", err, "InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
}

func TestInstancesLiveAndDie(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	describe := func(id string) types.Instance {
		t.Helper()
		out := ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(ctx, &sdk.DescribeInstancesInput{InstanceIds: []string{id}}))
		return out.Reservations[0].Instances[0]
	}
	input := &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(1), MaxCount: aws.Int32(2), ClientToken: aws.String("token")}
	run := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, input))
	if len(run.Instances) != 2 || run.Instances[0].State.Name != types.InstanceStateNamePending || *run.Instances[1].AmiLaunchIndex != 1 || *run.Groups[0].GroupName != "default" {
		t.Fatalf("run answers %+v", run)
	}
	again := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, input))
	if *again.ReservationId != *run.ReservationId || *again.Instances[1].InstanceId != *run.Instances[1].InstanceId {
		t.Errorf("the same token launched again: %s and %s", *run.ReservationId, *again.ReservationId)
	}
	input.MaxCount = aws.Int32(3)
	_, err := api.RunInstances(ctx, input)
	wantCode(t, "same token, other request", err, "IdempotentParameterMismatch", "")

	w.report(t)
	id := *run.Instances[0].InstanceId
	before := describe(id)
	if before.State.Name != types.InstanceStateNameRunning || *before.PrivateIpAddress != "10.10.0.2" || *before.PrivateDnsName != "ip-10-10-0-2.ec2.internal" ||
		*before.PublicIpAddress != "198.18.0.2" || *before.Placement.AvailabilityZone != "us-east-1a" || *before.SecurityGroups[0].GroupName != "default" || time.Since(*before.LaunchTime).Abs() > time.Hour {
		t.Errorf("a running instance is %+v", before)
	}

	stop := ok[*sdk.StopInstancesOutput](t)(api.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: []string{id}}))
	if c := stop.StoppingInstances[0]; c.CurrentState.Name != "stopping" || c.PreviousState.Name != "running" {
		t.Errorf("stop answers %+v", c)
	}
	if got := describe(id); got.PrivateIpAddress != nil {
		t.Errorf("a stopping instance still shows %s", *got.PrivateIpAddress)
	}
	_, err = api.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{id}})
	wantCode(t, "start while stopping", err, "IncorrectInstanceState", "")
	w.report(t)
	if got := describe(id); got.State.Name != "stopped" || got.PrivateIpAddress != nil {
		t.Errorf("a stopped instance is %+v", got)
	}
	if _, err := api.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.report(t)
	if got := describe(id); *got.PrivateIpAddress == *before.PrivateIpAddress || *got.PublicIpAddress == *before.PublicIpAddress {
		t.Errorf("a restarted instance kept %s or %s", *got.PrivateIpAddress, *got.PublicIpAddress)
	}

	if _, err := api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: aws.String("held"), Description: aws.String("x")}); err != nil {
		t.Fatal(err)
	}
	held := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(ctx, &sdk.RunInstancesInput{ImageId: aws.String("ami-0123456789abcdef0"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SecurityGroups: []string{"held", "default"}}))
	_, err = api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("held")})
	wantCode(t, "delete a group in use", err, "InvalidGroup.InUse", "There are active instances using security group 'held'")
	if _, err := api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*held.Instances[0].InstanceId}}); err != nil {
		t.Fatal(err)
	}
	w.report(t)
	if got := describe(*held.Instances[0].InstanceId); got.State.Name != "terminated" || *got.StateReason.Code != "Client.UserInitiatedShutdown" {
		t.Errorf("a terminated instance is %+v", got)
	}
	if _, err := api.DeleteSecurityGroup(ctx, &sdk.DeleteSecurityGroupInput{GroupName: aws.String("held")}); err != nil {
		t.Errorf("delete a group whose instance has gone: %v", err)
	}

	for _, c := range []struct {
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
	} {
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
		_, err := api.RunInstances(ctx, &in)
		wantCode(t, c.what, err, c.code, "")
	}
	_, err = api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{"i-00000001", "i-00000002"}})
	wantCode(t, "terminate unknown", err, "InvalidInstanceID.NotFound", "The instance IDs 'i-00000001, i-00000002' do not exist")
	_, err = w.as("mary").TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{id}})
	wantCode(t, "terminate another's", err, "InvalidInstanceID.NotFound", "")
	_, err = api.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: []string{"sg-1"}})
	wantCode(t, "stop malformed", err, "InvalidInstanceID.Malformed", "")
}

func TestMutationsTellTheirIndex(t *testing.T) {
	w := newWorld(t)
	form := "Action=CreateSecurityGroup&Version=2012-05-01&GroupName=a&GroupDescription=b"
	res := w.post(t, form, nil)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get(query.IndexHeader) == "" || res.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("status %d, headers %v", res.StatusCode, res.Header)
	}
	if want := `<CreateSecurityGroupResponse xmlns="http://ec2.amazonaws.com/doc/2012-05-01/"><requestId>`; !strings.Contains(string(body), want) {
		t.Errorf("answer %s\nlacks %s", body, want)
	}
	if !strings.Contains(string(body), "<tagSet/>") {
		t.Errorf("answer %s lacks its empty list", body)
	}
}
