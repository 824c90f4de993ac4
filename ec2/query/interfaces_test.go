package query_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

func TestInterfaceAnswersMatchDialogs(t *testing.T) {
	for _, name := range []string{"interfaces.txt", "instances.txt", "machines.txt", "options.txt", "templates.txt", "volumes.txt"} {
		t.Run(name, func(t *testing.T) { newWorld(t).dialog(t, name) })
	}
}

func TestInterfacesAreDescribedInPages(t *testing.T) {
	p := newVPCWorld(t)
	api, ctx := p.as("dev"), t.Context()
	all := make(map[string]bool)
	for n := range 11 {
		in := &sdk.CreateNetworkInterfaceInput{SubnetId: &p.subnet, Description: aws.String(fmt.Sprint(n))}
		all[*ok[*sdk.CreateNetworkInterfaceOutput](t)(api.CreateNetworkInterface(ctx, in)).NetworkInterface.NetworkInterfaceId] = true
	}
	pages, count := sdk.NewDescribeNetworkInterfacesPaginator(api, &sdk.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(5)}), 0
	for ; pages.HasMorePages(); count++ {
		for _, eni := range ok[*sdk.DescribeNetworkInterfacesOutput](t)(pages.NextPage(ctx)).NetworkInterfaces {
			if !all[*eni.NetworkInterfaceId] {
				t.Errorf("%s is on two pages or was not created", *eni.NetworkInterfaceId)
			}
			delete(all, *eni.NetworkInterfaceId)
		}
	}
	if count != 3 || len(all) != 0 {
		t.Errorf("got %d pages, with %d interfaces missing, want 3 and 0", count, len(all))
	}
}
