package ec2

import (
	"cmp"
	"time"
)

// Settings are the limits and waiting times of a cluster. They are part of the State,
// so that every node decides alike.
type Settings struct {
	// GroupsPerRegion bounds the EC2-Classic groups of an account in a region.
	// Default 500 (EC2 User Guide 2012, "Using Security Groups").
	GroupsPerRegion int
	// RulesPerGroup bounds the rules of an EC2-Classic group. Default 100 (ibid.).
	RulesPerGroup int
	// InstancesPerRegion bounds the instances of an account in a region that are
	// not terminated. Default 5000.
	InstancesPerRegion int
	// Quarantine is how long an address rests between two leases. Default 60 s.
	Quarantine time.Duration
	// TerminatedFor is how long a terminated instance is still described. Default
	// one hour.
	TerminatedFor time.Duration

	// The rest bounds what is in VPCs. Zero reads as the default: a State of an earlier
	// release has none of it. Defaults are those of today (Amazon VPC User Guide,
	// "Amazon VPC quotas").

	VPCsPerRegion      int `json:",omitempty"` // of an account. Default 5
	SubnetsPerVPC      int `json:",omitempty"` // default 200
	GatewaysPerRegion  int `json:",omitempty"` // internet gateways of an account. Default 5
	RouteTablesPerVPC  int `json:",omitempty"` // default 200
	RoutesPerTable     int `json:",omitempty"` // besides the local one. Default 50
	AddressesPerRegion int `json:",omitempty"` // elastic ones of an account. Default 5
	VPCGroupsPerRegion int `json:",omitempty"` // groups of an account, in all of its VPCs. Default 2500
	GroupsPerVPC       int `json:",omitempty"` // default 2500
	RulesPerVPCGroup   int `json:",omitempty"` // of one direction and one address family. Default 60
	GroupsPerInterface int `json:",omitempty"` // default 5

	// AuditRecords bounds the records of who asked for what. Default 10,000.
	AuditRecords int `json:",omitempty"`

	InterfacesPerRegion   int `json:",omitempty"` // of an account, in VPCs. Default 5000
	InterfacesPerInstance int `json:",omitempty"` // whatever its type. Default 8
	AddressesPerInterface int `json:",omitempty"` // private ones. Default 30
}

// DefaultSettings are those of a State that was told nothing else.
func DefaultSettings() Settings {
	return Settings{
		GroupsPerRegion:    500,
		RulesPerGroup:      100,
		InstancesPerRegion: 5000,
		Quarantine:         time.Minute,
		TerminatedFor:      time.Hour,

		VPCsPerRegion:      5,
		SubnetsPerVPC:      200,
		GatewaysPerRegion:  5,
		RouteTablesPerVPC:  200,
		RoutesPerTable:     50,
		AddressesPerRegion: 5,
		VPCGroupsPerRegion: 2500,
		GroupsPerVPC:       2500,
		RulesPerVPCGroup:   60,
		GroupsPerInterface: 5,

		AuditRecords: 10_000,

		InterfacesPerRegion:   5000,
		InterfacesPerInstance: 8,
		AddressesPerInterface: 30,
	}
}

// Preset returns the limits of a time by its name: "classic-2012", "vpc-2012" or "today",
// which is the default. What a time says nothing of is as by default.
func Preset(name string) (Settings, bool) {
	s := DefaultSettings()
	switch name {
	case "today", "classic-2012":
	case "vpc-2012": // Amazon VPC User Guide (2012), "Appendix B: Limits"
		s.SubnetsPerVPC = 20
		s.RouteTablesPerVPC = 10
		s.RoutesPerTable = 20
		s.GroupsPerVPC = 50
		s.RulesPerVPCGroup = 50
	default:
		return Settings{}, false
	}
	return s, true
}

// WithDefaults replaces each zero field by its default.
func (s Settings) WithDefaults() Settings {
	d := DefaultSettings()
	s.GroupsPerRegion = cmp.Or(s.GroupsPerRegion, d.GroupsPerRegion)
	s.RulesPerGroup = cmp.Or(s.RulesPerGroup, d.RulesPerGroup)
	s.InstancesPerRegion = cmp.Or(s.InstancesPerRegion, d.InstancesPerRegion)
	s.Quarantine = cmp.Or(s.Quarantine, d.Quarantine)
	s.TerminatedFor = cmp.Or(s.TerminatedFor, d.TerminatedFor)
	s.VPCsPerRegion = cmp.Or(s.VPCsPerRegion, d.VPCsPerRegion)
	s.SubnetsPerVPC = cmp.Or(s.SubnetsPerVPC, d.SubnetsPerVPC)
	s.GatewaysPerRegion = cmp.Or(s.GatewaysPerRegion, d.GatewaysPerRegion)
	s.RouteTablesPerVPC = cmp.Or(s.RouteTablesPerVPC, d.RouteTablesPerVPC)
	s.RoutesPerTable = cmp.Or(s.RoutesPerTable, d.RoutesPerTable)
	s.AddressesPerRegion = cmp.Or(s.AddressesPerRegion, d.AddressesPerRegion)
	s.VPCGroupsPerRegion = cmp.Or(s.VPCGroupsPerRegion, d.VPCGroupsPerRegion)
	s.GroupsPerVPC = cmp.Or(s.GroupsPerVPC, d.GroupsPerVPC)
	s.RulesPerVPCGroup = cmp.Or(s.RulesPerVPCGroup, d.RulesPerVPCGroup)
	s.GroupsPerInterface = cmp.Or(s.GroupsPerInterface, d.GroupsPerInterface)
	s.AuditRecords = cmp.Or(s.AuditRecords, d.AuditRecords)
	s.InterfacesPerRegion = cmp.Or(s.InterfacesPerRegion, d.InterfacesPerRegion)
	s.InterfacesPerInstance = cmp.Or(s.InterfacesPerInstance, d.InterfacesPerInstance)
	s.AddressesPerInterface = cmp.Or(s.AddressesPerInterface, d.AddressesPerInterface)
	return s
}
