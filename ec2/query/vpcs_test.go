package query_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnswersAboutNetworksElementByElement(t *testing.T) {
	for _, name := range []string{"vpcs.txt", "routes.txt", "addresses.txt", "tags.txt"} {
		t.Run(name, func(t *testing.T) { newWorld(t).dialog(t, name) })
	}
}

// Each Action of networks succeeds in a dialog and is refused in one.
func TestDialogsHaveEveryActionOfNetworks(t *testing.T) {
	outcomes := make(map[string]string)
	for _, name := range []string{"vpcs.txt", "routes.txt", "addresses.txt", "tags.txt"} {
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
		AllocateAddress ReleaseAddress DescribeAddresses DescribeAddressesAttribute
		DescribeNetworkAcls CreateTags DeleteTags DescribeTags DescribeAccountAttributes DescribeAvailabilityZones`) {
		if !strings.Contains(outcomes[action], "<") || !strings.Contains(outcomes[action], "!") {
			t.Errorf("%s is answered %q in the dialogs, want successes and errors", action, outcomes[action])
		}
	}
}
