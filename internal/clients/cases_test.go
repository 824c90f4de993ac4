package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A packetCase shows by packets what actions do. It counts for those that it names, and
// fails if it does not do them.
type packetCase struct {
	name    string
	actions []string
	play    func(*stage, *testing.T)
}

// cases are played one after the other on a stage.
var cases = []packetCase{
	{"rules by properties", []string{"AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"}, (*stage).rulesByProperties},
	{"rules by id", []string{"UpdateSecurityGroupRuleDescriptionsIngress"}, (*stage).rulesByID},
	{"rules of every protocol", nil, (*stage).rulesOfEveryProtocol},
	{"egress rules", []string{"AuthorizeSecurityGroupEgress", "RevokeSecurityGroupEgress", "UpdateSecurityGroupRuleDescriptionsEgress"}, (*stage).egressRules},
	{"a group as source", nil, (*stage).groupAsSource},
	{"a rule modified", []string{"ModifySecurityGroupRules"}, (*stage).ruleModified},
	{"a revoke matches the source", nil, (*stage).revokeMatchesTheSource},
	{"groups of a running instance", []string{"ModifyInstanceAttribute", "ModifyNetworkInterfaceAttribute"}, (*stage).groupsOfARunningInstance},
	{"a refused change changes nothing", nil, (*stage).refusedChange},
	{"what an instance does inside", nil, (*stage).insideTheInstance},
	{"interfaces", []string{"CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface"}, (*stage).interfaces},
	{"secondary addresses", []string{"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"}, (*stage).secondaryAddresses},
	{"source and destination check", []string{"ResetNetworkInterfaceAttribute", "ResetInstanceAttribute"}, (*stage).sourceDestCheck},
	{"elastic addresses", []string{"AllocateAddress", "AssociateAddress", "DisassociateAddress", "ReleaseAddress"}, (*stage).elasticAddresses},
	{"routes", []string{"CreateRoute", "DeleteRoute"}, (*stage).routesToTheGateway},
	{"gateways", []string{"CreateInternetGateway", "AttachInternetGateway", "DetachInternetGateway", "DeleteInternetGateway", "ReplaceRoute"}, (*stage).gateways},
	{"route tables of a subnet", []string{"CreateRouteTable", "AssociateRouteTable", "ReplaceRouteTableAssociation", "DisassociateRouteTable", "DeleteRouteTable"}, (*stage).routeTablesOfASubnet},
	{"subnets that map public addresses", []string{"ModifySubnetAttribute"}, (*stage).publicSubnets},
	{"two VPCs with equal addresses", []string{"CreateVpc", "CreateSubnet", "DeleteSubnet", "DeleteVpc"}, (*stage).equalAddresses},
	{"the default VPC made again", []string{"CreateDefaultVpc", "CreateDefaultSubnet"}, (*stage).defaultNetwork},
	{"stop, start, terminate", []string{"CreateSecurityGroup", "RunInstances", "StopInstances", "StartInstances", "RebootInstances", "TerminateInstances", "DeleteSecurityGroup"}, (*stage).lives},
}

// withoutPackets are the actions that change something, and no packet's fate.
var withoutPackets = map[string]string{
	"CreateTags":         "tags are names",
	"DeleteTags":         "tags are names",
	"CreateKeyPair":      "who may log in is the instance's own affair",
	"ImportKeyPair":      "who may log in is the instance's own affair",
	"DeleteKeyPair":      "who may log in is the instance's own affair",
	"ModifyVpcAttribute": "names are not resolved here",
}

var (
	actionTitle = regexp.MustCompile(`(?m)^### ([A-Za-z]+)$`)
	onlyReads   = regexp.MustCompile(`^(Describe|Get)`)
)

// TestEveryChangeHasACase: an action that is served and that changes something has a case,
// or a reason why it needs none. docs/API.md is the table of actions: a test of its own
// holds it to that.
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
				t.Errorf("the case %q is of %s, which is not served", c.name, action)
			}
		}
	}
	var missing []string
	for action := range served {
		switch needless := withoutPackets[action] != ""; {
		case onlyReads.MatchString(action):
		case shown[action] && needless:
			t.Errorf("%s has a case and needs none", action)
		case !shown[action] && !needless:
			missing = append(missing, action)
		}
	}
	for action := range withoutPackets {
		if !served[action] {
			t.Errorf("%s needs no case, and is not served", action)
		}
	}
	slices.Sort(missing)
	if len(served) < 80 || len(missing) > 0 {
		t.Errorf("%d actions are served, of which no case sends packets: %s", len(served), strings.Join(missing, ", "))
	}
}
