package query_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

func TestAnswersAboutInterfacesElementByElement(t *testing.T) {
	for _, name := range []string{"interfaces.txt", "instances.txt", "machines.txt"} {
		t.Run(name, func(t *testing.T) { newWorld(t).dialog(t, name) })
	}
}

func TestInterfacesAreDescribedInPages(t *testing.T) {
	p := newPlot(t)
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
				t.Errorf("%s comes twice, or nobody made it", *eni.NetworkInterfaceId)
			}
			delete(all, *eni.NetworkInterfaceId)
		}
	}
	if count != 3 || len(all) != 0 {
		t.Errorf("%d pages, and %d interfaces on none", count, len(all))
	}
}
