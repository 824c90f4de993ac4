package query_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/ec2/state"
)

var networkDialogs = []string{"vpcs.txt", "vpcs_blocks.txt", "acls.txt", "routes.txt", "routes_targets.txt", "addresses.txt", "tags.txt", "peerings.txt", "prefix_lists.txt"}

func TestNetworkAnswersMatchDialogs(t *testing.T) {
	for _, name := range networkDialogs {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if name == "addresses.txt" {
				w.dialog(t, name, w.placed(t)...)
				return
			}
			w.dialog(t, name)
		})
	}
}

// placed creates a running instance in dev's default VPC, and a detached interface.
func (w *world) placed(t *testing.T) (ids []string) {
	t.Helper()
	apply := func(r state.Request) state.Result {
		result, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	i := apply(&state.RunInstances{Account: dev, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1}).Instances[0].After
	w.report(t)
	eni := apply(&state.CreateNetworkInterface{Account: dev, Region: region, Spec: state.InterfaceSpec{Subnet: i.Subnet, SecondaryCount: 1}}).Interface
	return []string{string(i.ID), string(i.Interface), string(eni.ID)}
}

// In the dialogs each Action about networks succeeds at least once and is refused at
// least once.
func TestDialogsCoverEveryNetworkAction(t *testing.T) {
	outcomes := make(map[string]string)
	for _, name := range networkDialogs {
		data, err := os.ReadFile(filepath.Join("testdata", "dialogs", name))
		if err != nil {
			t.Fatal(err)
		}
		action := ""
		for line := range strings.Lines(string(data)) {
			if _, request, ok := strings.Cut(line, "> "); ok && line[0] != '<' && line[0] != ' ' {
				action = strings.Fields(request)[0]
			} else if action != "" {
				outcomes[action] += line[:1]
			}
		}
	}
	for _, action := range strings.Fields(`
		CreateVpc CreateDefaultVpc DeleteVpc DescribeVpcs DescribeVpcAttribute ModifyVpcAttribute DescribeDhcpOptions
		CreateSubnet CreateDefaultSubnet DeleteSubnet DescribeSubnets ModifySubnetAttribute
		CreateInternetGateway DeleteInternetGateway AttachInternetGateway DetachInternetGateway DescribeInternetGateways
		CreateRouteTable DeleteRouteTable DescribeRouteTables CreateRoute ReplaceRoute DeleteRoute
		AssociateRouteTable DisassociateRouteTable ReplaceRouteTableAssociation
		AllocateAddress ReleaseAddress AssociateAddress DisassociateAddress DescribeAddresses DescribeAddressesAttribute
		CreateNetworkAcl DeleteNetworkAcl DescribeNetworkAcls CreateNetworkAclEntry ReplaceNetworkAclEntry DeleteNetworkAclEntry ReplaceNetworkAclAssociation
		CreateTags DeleteTags DescribeTags DescribeAccountAttributes DescribeAvailabilityZones`) {
		if !strings.Contains(outcomes[action], "<") || !strings.Contains(outcomes[action], "!") {
			t.Errorf("%s has the outcomes %q in the dialogs, want successes (<) and errors (!)", action, outcomes[action])
		}
	}
}

// A page begins after the last item of the previous page, even if that item was deleted
// meanwhile.
func TestSubnetsAreDescribedInPages(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	vpc := ok[*sdk.CreateVpcOutput](t)(api.CreateVpc(ctx, &sdk.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})).Vpc.VpcId
	all := make(map[string]bool)
	for n := range 12 {
		made := ok[*sdk.CreateSubnetOutput](t)(api.CreateSubnet(ctx, &sdk.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String(fmt.Sprintf("10.0.%d.0/24", n))}))
		all[*made.Subnet.SubnetId] = true
	}
	pages := sdk.NewDescribeSubnetsPaginator(api, &sdk.DescribeSubnetsInput{MaxResults: aws.Int32(5)})
	count := 0
	for pages.HasMorePages() {
		page := ok[*sdk.DescribeSubnetsOutput](t)(pages.NextPage(ctx))
		count++
		for _, s := range page.Subnets {
			if !all[*s.SubnetId] {
				t.Errorf("page %d has %s, which is on another page or was not created", count, *s.SubnetId)
			}
			delete(all, *s.SubnetId)
		}
		if last := page.Subnets[len(page.Subnets)-1].SubnetId; count == 1 {
			ok[*sdk.DeleteSubnetOutput](t)(api.DeleteSubnet(ctx, &sdk.DeleteSubnetInput{SubnetId: last}))
		}
	}
	if count != 3 || len(all) != 0 {
		t.Errorf("got %d pages, with %d subnets missing, want 3 and 0", count, len(all))
	}
}
