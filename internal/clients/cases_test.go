package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A packetCase calls some actions of the API and checks with packets what they change. It fails
// if it does not call each of its actions.
type packetCase struct {
	name    string
	actions []string
	run     func(*testbed, *testing.T)
}

// cases are the packet cases. They run one after the other on one testbed.
var cases = []packetCase{
	{"rules by properties", []string{"AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"}, (*testbed).rulesByProperties},
	{"rules by id", []string{"UpdateSecurityGroupRuleDescriptionsIngress"}, (*testbed).rulesByID},
	{"rules of every protocol", nil, (*testbed).rulesOfEveryProtocol},
	{"egress rules", []string{"AuthorizeSecurityGroupEgress", "RevokeSecurityGroupEgress", "UpdateSecurityGroupRuleDescriptionsEgress"}, (*testbed).egressRules},
	{"group as source", nil, (*testbed).groupAsSource},
	{"prefix lists", []string{"CreateManagedPrefixList", "ModifyManagedPrefixList", "RestoreManagedPrefixListVersion", "DeleteManagedPrefixList"}, (*testbed).prefixLists},
	{"modified rule", []string{"ModifySecurityGroupRules"}, (*testbed).ruleModified},
	{"IPv6 rules", nil, (*testbed).ipv6Rules},
	{"revoke matches the source", nil, (*testbed).revokeMatchesTheSource},
	{"groups of a running instance", []string{"ModifyInstanceAttribute", "ModifyNetworkInterfaceAttribute"}, (*testbed).groupsOfARunningInstance},
	{"refused change changes nothing", nil, (*testbed).refusedChange},
	{"firewall inside an instance", nil, (*testbed).firewallInsideInstance},
	{"interfaces", []string{"CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface"}, (*testbed).interfaces},
	{"secondary addresses", []string{"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"}, (*testbed).secondaryAddresses},
	{"moved address", nil, (*testbed).movedAddress},
	{"trace", nil, (*testbed).traced},
	{"source and destination check", []string{"ResetNetworkInterfaceAttribute", "ResetInstanceAttribute"}, (*testbed).sourceDestCheck},
	{"elastic addresses", []string{"AllocateAddress", "AssociateAddress", "DisassociateAddress", "ReleaseAddress"}, (*testbed).elasticAddresses},
	{"routes", []string{"CreateRoute", "DeleteRoute"}, (*testbed).routesToTheGateway},
	{"gateways", []string{"CreateInternetGateway", "AttachInternetGateway", "DetachInternetGateway", "DeleteInternetGateway", "ReplaceRoute"}, (*testbed).gateways},
	{"NAT gateways", []string{"CreateNatGateway", "DeleteNatGateway"}, (*testbed).natGateways},
	{"route tables of a subnet", []string{"CreateRouteTable", "AssociateRouteTable", "ReplaceRouteTableAssociation", "DisassociateRouteTable", "DeleteRouteTable"}, (*testbed).routeTablesOfASubnet},
	{"network ACL", []string{"CreateNetworkAclEntry", "ReplaceNetworkAclEntry", "DeleteNetworkAclEntry"}, (*testbed).networkACL},
	{"network ACL of a subnet", []string{"CreateNetworkAcl", "ReplaceNetworkAclAssociation", "DeleteNetworkAcl"}, (*testbed).networkACLOfASubnet},
	{"subnets that map public addresses", []string{"ModifySubnetAttribute"}, (*testbed).publicSubnets},
	{"further blocks of a VPC", []string{"AssociateVpcCidrBlock", "DisassociateVpcCidrBlock"}, (*testbed).furtherBlocks},
	{"two VPCs with equal addresses", []string{"CreateVpc", "CreateSubnet", "DeleteSubnet", "DeleteVpc"}, (*testbed).equalAddresses},
	{"peered accounts", []string{"CreateVpcPeeringConnection", "AcceptVpcPeeringConnection", "DeleteVpcPeeringConnection", "RejectVpcPeeringConnection"}, (*testbed).peeredAccounts},
	{"peered regions", nil, (*testbed).peeredRegions},
	{"group in another VPC", []string{"AssociateSecurityGroupVpc", "DisassociateSecurityGroupVpc"}, (*testbed).groupInAnotherVPC},
	{"default VPC and subnet created again", []string{"CreateDefaultVpc", "CreateDefaultSubnet"}, (*testbed).defaultNetwork},
	{"launch template", []string{"CreateLaunchTemplate", "CreateLaunchTemplateVersion", "ModifyLaunchTemplate", "DeleteLaunchTemplateVersions", "DeleteLaunchTemplate"}, (*testbed).launchTemplate},
	{"stop, start, terminate", []string{"CreateSecurityGroup", "RunInstances", "StopInstances", "StartInstances", "RebootInstances", "TerminateInstances", "DeleteSecurityGroup"}, (*testbed).lifeCycle},
}

// needNoCase has the mutating actions that need no case because they do not affect packets, each
// with the reason.
var needNoCase = map[string]string{
	"CreateTags":         "tags are names",
	"DeleteTags":         "tags are names",
	"CreateKeyPair":      "keys are used inside the instance",
	"ImportKeyPair":      "keys are used inside the instance",
	"DeleteKeyPair":      "keys are used inside the instance",
	"ModifyVpcAttribute": "the cases resolve no names",

	"ModifyVpcPeeringConnectionOptions": "the cases resolve no names",

	"MonitorInstances":                            "no packet depends on it",
	"UnmonitorInstances":                          "no packet depends on it",
	"ModifyInstanceMetadataOptions":               "there is no metadata service",
	"ModifyInstancePlacement":                     "no packet depends on it",
	"ModifyInstanceCpuOptions":                    "no packet depends on it",
	"ModifyInstanceMaintenanceOptions":            "no packet depends on it",
	"ModifyInstanceCapacityReservationAttributes": "no packet depends on it",
	"ModifyPrivateDnsNameOptions":                 "the cases resolve no names",
	"ModifyInstanceCreditSpecification":           "no packet depends on it",
	"CreatePlacementGroup":                        "no packet depends on it",
	"DeletePlacementGroup":                        "no packet depends on it",
	"CreateDhcpOptions":                           "there is no DHCP",
	"DeleteDhcpOptions":                           "there is no DHCP",
	"AssociateDhcpOptions":                        "there is no DHCP",
	"AttachVolume":                                "volumes are records",
	"CreateVolume":                                "volumes are records",
	"DeleteVolume":                                "volumes are records",
	"DetachVolume":                                "volumes are records",
	"ModifyVolume":                                "volumes are records",
	"ModifyVolumeAttribute":                       "volumes are records",
}

var (
	actionTitle    = regexp.MustCompile(`(?m)^### ([A-Za-z]+)$`)
	readOnlyAction = regexp.MustCompile(`^(Describe|Get)`)
)

// Every mutating action has a packet case, or a reason in needNoCase. docs/API.md lists the
// actions; a test of ec2/query checks that list.
func TestEveryChangeHasACase(t *testing.T) {
	document, err := os.ReadFile(filepath.Join("..", "..", "docs", "API.md"))
	check(t, err)
	served := map[string]bool{}
	for _, m := range actionTitle.FindAllStringSubmatch(string(document), -1) {
		served[m[1]] = true
	}
	shown := map[string]bool{}
	for _, c := range cases {
		for _, action := range c.actions {
			shown[action] = true
			if !served[action] {
				t.Errorf("the case %q names %s, which is not an action of docs/API.md", c.name, action)
			}
		}
	}
	var missing []string
	for action := range served {
		switch exempt := needNoCase[action] != ""; {
		case readOnlyAction.MatchString(action):
		case shown[action] && exempt:
			t.Errorf("the action %s has a case and is also in needNoCase", action)
		case !shown[action] && !exempt:
			missing = append(missing, action)
		}
	}
	for action := range needNoCase {
		if !served[action] {
			t.Errorf("needNoCase has %s, which is not an action of docs/API.md", action)
		}
	}
	slices.Sort(missing)
	if len(served) < 80 || len(missing) > 0 {
		t.Errorf("docs/API.md has %d actions, want at least 80; mutating actions without a case, want none: %s", len(served), strings.Join(missing, ", "))
	}
}
