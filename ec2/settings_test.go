package ec2

import (
	"testing"
	"time"
)

func TestPresetsHaveVPCLimitsOfTheirTime(t *testing.T) {
	for _, c := range []struct {
		name                            string
		blocks, subnets, tables, routes int
	}{
		{"today", 5, 200, 200, 50},
		{"vpc-2012", 1, 20, 10, 20},
		{"classic-2012", 5, 200, 200, 50}, // its guide names no limits of VPCs
	} {
		s, ok := Preset(c.name)
		if !ok || s.BlocksPerVPC != c.blocks || s.SubnetsPerVPC != c.subnets || s.RouteTablesPerVPC != c.tables || s.RoutesPerTable != c.routes || s.VPCsPerRegion != 5 || s.GatewaysPerRegion != 5 || s.AddressesPerRegion != 5 {
			t.Errorf("preset %s is %+v, want %d blocks, %d subnets, %d route tables, %d routes, and 5 VPCs, gateways and addresses", c.name, s, c.blocks, c.subnets, c.tables, c.routes)
		}
	}
	if s, ok := Preset("tomorrow"); ok {
		t.Errorf("the unknown preset tomorrow was found: %+v", s)
	}
}

// Each preset has the values that the guide of its time names.
func TestPresetsHaveGroupLimitsOfTheirTime(t *testing.T) {
	for _, c := range []struct {
		preset       string
		groups, vpcs int
		rules        int
	}{
		{"today", 2500, 2500, 60},
		{"vpc-2012", 50, 2500, 50},
		{"classic-2012", 2500, 2500, 60},
	} {
		s, ok := Preset(c.preset)
		if !ok || s.GroupsPerVPC != c.groups || s.VPCGroupsPerRegion != c.vpcs || s.RulesPerVPCGroup != c.rules || s.GroupsPerInterface != 5 || s.GroupsPerRegion != 500 || s.RulesPerGroup != 100 {
			t.Errorf("preset %s is %+v, want %d groups of a VPC, %d in all VPCs and %d rules of a group", c.preset, s, c.groups, c.vpcs, c.rules)
		}
	}
}

func TestDefaultSettingsAreThoseOfTheGuides(t *testing.T) {
	if d := DefaultSettings(); d.GroupsPerRegion != 500 || d.RulesPerGroup != 100 || d.Quarantine != time.Minute {
		t.Errorf("default settings are %+v, want 500 groups, 100 rules and a quarantine of a minute", d)
	}
}
