package ec2

import (
	"cmp"
	"time"
)

// Settings are the limits and waiting times of a cluster. They are part of the State, so that every
// node decides alike. A zero field means its default. A request beyond a limit fails with AWS's
// error code. A limit that is too low refuses useful requests; one that is too high lets an account
// fill the memory of every node, because each holds the whole State.
type Settings struct {
	// GroupsPerRegion is the most EC2-Classic groups of an account in a region. Default 500
	// (EC2 User Guide 2012, "Using Security Groups").
	GroupsPerRegion int
	// RulesPerGroup is the most rules of an EC2-Classic group. Default 100 (ibid.). With
	// more, a node takes longer to compile a change of the group.
	RulesPerGroup int
	// InstancesPerRegion is the most instances of an account in a region that are not
	// terminated. Default 5000. Each running instance takes processes and memory of a node.
	InstancesPerRegion int
	// Quarantine is how long a released address is not leased again. Default 60 s. With less,
	// connections and ARP caches of the old owner can reach the new one; with more, a busy
	// pool runs out of addresses.
	Quarantine time.Duration
	// TerminatedFor is how long a terminated instance is still described. Default one hour.
	// With less, a client that waits for the termination can miss it.
	TerminatedFor time.Duration

	// The limits below are for VPCs, except AuditRecords. Their defaults are from the Amazon VPC
	// User Guide, "Amazon VPC quotas". A State of an earlier release does not have them.

	// VPCsPerRegion is the most VPCs of an account in a region. Default 5.
	VPCsPerRegion int `json:",omitempty"`
	// BlocksPerVPC is the most IPv4 CIDR blocks of a VPC, with the primary one. Default 5.
	BlocksPerVPC int `json:",omitempty"`
	// SubnetsPerVPC is the most subnets of a VPC. Default 200.
	SubnetsPerVPC int `json:",omitempty"`
	// GatewaysPerRegion is the most internet gateways of an account in a region. Default 5.
	GatewaysPerRegion int `json:",omitempty"`
	// NATGatewaysPerZone is the most NAT gateways of an account in a zone. Default 5.
	NATGatewaysPerZone int `json:",omitempty"`
	// RouteTablesPerVPC is the most route tables of a VPC. Default 200.
	RouteTablesPerVPC int `json:",omitempty"`
	// RoutesPerTable is the most routes of a route table, without the local one. Default 50.
	RoutesPerTable int `json:",omitempty"`
	// ACLsPerVPC is the most network ACLs of a VPC, with the default one. Default 200.
	ACLsPerVPC int `json:",omitempty"`
	// EntriesPerACL is the most entries of a network ACL, for each direction and address family.
	// Default 20.
	EntriesPerACL int `json:",omitempty"`
	// AddressesPerRegion is the most elastic addresses of an account in a region. Default 5.
	// With more, one account can take all addresses of the public pools.
	AddressesPerRegion int `json:",omitempty"`
	// VPCGroupsPerRegion is the most groups of an account in a region, in all its VPCs
	// together. Default 2500.
	VPCGroupsPerRegion int `json:",omitempty"`
	// GroupsPerVPC is the most groups of a VPC. Default 2500.
	GroupsPerVPC int `json:",omitempty"`
	// RulesPerVPCGroup is the most rules of a VPC's group, for each direction and address
	// family. Default 60. With more, a node takes longer to compile a change of the group.
	RulesPerVPCGroup int `json:",omitempty"`
	// GroupsPerInterface is the most groups of an interface. Default 5. The rules of all its groups
	// apply to an interface, so it has at most GroupsPerInterface times RulesPerVPCGroup rules.
	GroupsPerInterface int `json:",omitempty"`

	// AuditRecords is the most audit records of one account that are kept, and of the operators.
	// Default 10,000. All accounts together have at most four times as many. Each takes up to 5 kB of
	// memory at every node; with fewer, old records are lost sooner.
	AuditRecords int `json:",omitempty"`

	// InterfacesPerRegion is the most interfaces of an account in the VPCs of a region.
	// Default 5000.
	InterfacesPerRegion int `json:",omitempty"`
	// InterfacesPerInstance is the most interfaces of an instance, whatever its type.
	// Default 8. Each takes a TAP device of the node.
	InterfacesPerInstance int `json:",omitempty"`
	// VolumesPerRegion is the most volumes of an account in a region. Default 10,000: two for each
	// instance.
	VolumesPerRegion int `json:",omitempty"`
	// AddressesPerInterface is the most private addresses of an interface. Default 30. With
	// more, one interface can use up its subnet.
	AddressesPerInterface int `json:",omitempty"`

	// TemplatesPerRegion is the most launch templates of an account in a region. Default 5000
	// (Amazon EC2 User Guide, "Launch template quotas").
	TemplatesPerRegion int `json:",omitempty"`
	// TemplateVersionsPerRegion is the most versions of an account's launch templates in a region,
	// of all templates together. Default 5000. (AWS has 10,000 for each template.) A version takes
	// up to 32 KiB of memory at every node.
	TemplateVersionsPerRegion int `json:",omitempty"`
	// PlacementGroupsPerRegion is the most placement groups of an account in a region. Default 500
	// (Amazon EC2 User Guide, "Placement groups").
	PlacementGroupsPerRegion int `json:",omitempty"`
	// DHCPOptionsPerRegion is the most sets of DHCP options of an account in a region. Default 100.
	DHCPOptionsPerRegion int `json:",omitempty"`

	// PeeringsPerVPC is the most active peerings of a VPC. Default 50.
	PeeringsPerVPC int `json:",omitempty"`
	// PeeringRequests is the most requests of an account in a region to peer VPCs that wait for an
	// answer. Default 25.
	PeeringRequests int `json:",omitempty"`

	// PrefixListsPerRegion is the most managed prefix lists of an account in a region. Default 100
	// (Amazon VPC User Guide, "Amazon VPC quotas").
	PrefixListsPerRegion int `json:",omitempty"`
	// PrefixListEntries is the most entries of a prefix list. Default 1000 (ibid.).
	PrefixListEntries int `json:",omitempty"`
	// PrefixListVersions is the most versions of a prefix list that are kept. Default 1000 (ibid.). The
	// oldest versions are also lost when the differences of all versions have more entries than five
	// times PrefixListEntries. All versions of a list take up to 2 MB of memory at every node.
	PrefixListVersions int `json:",omitempty"`
}

// DefaultSettings returns the default of each setting.
func DefaultSettings() Settings {
	return Settings{
		GroupsPerRegion:    500,
		RulesPerGroup:      100,
		InstancesPerRegion: 5000,
		Quarantine:         time.Minute,
		TerminatedFor:      time.Hour,

		VPCsPerRegion:      5,
		BlocksPerVPC:       5,
		SubnetsPerVPC:      200,
		GatewaysPerRegion:  5,
		NATGatewaysPerZone: 5,
		RouteTablesPerVPC:  200,
		RoutesPerTable:     50,
		ACLsPerVPC:         200,
		EntriesPerACL:      20,
		AddressesPerRegion: 5,
		VPCGroupsPerRegion: 2500,
		GroupsPerVPC:       2500,
		RulesPerVPCGroup:   60,
		GroupsPerInterface: 5,

		AuditRecords: 10_000,

		InterfacesPerRegion:   5000,
		InterfacesPerInstance: 8,
		AddressesPerInterface: 30,

		TemplatesPerRegion:        5000,
		TemplateVersionsPerRegion: 5000,
		PlacementGroupsPerRegion:  500,
		DHCPOptionsPerRegion:      100,
		VolumesPerRegion:          10_000,

		PeeringsPerVPC:  50,
		PeeringRequests: 25,

		PrefixListsPerRegion: 100,
		PrefixListEntries:    1000,
		PrefixListVersions:   1000,
	}
}

// Preset returns the limits that EC2 had at a time: "classic-2012", "vpc-2012" or "today". It
// returns false for any other name. A limit that the guide of that time does not mention has its
// default.
func Preset(name string) (Settings, bool) {
	s := DefaultSettings()
	switch name {
	case "today", "classic-2012":
	case "vpc-2012": // Amazon VPC User Guide (2012), "Appendix B: Limits"
		s.BlocksPerVPC = 1
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

// WithDefaults returns s with the default in each zero field.
func (s Settings) WithDefaults() Settings {
	d := DefaultSettings()
	s.GroupsPerRegion = cmp.Or(s.GroupsPerRegion, d.GroupsPerRegion)
	s.RulesPerGroup = cmp.Or(s.RulesPerGroup, d.RulesPerGroup)
	s.InstancesPerRegion = cmp.Or(s.InstancesPerRegion, d.InstancesPerRegion)
	s.Quarantine = cmp.Or(s.Quarantine, d.Quarantine)
	s.TerminatedFor = cmp.Or(s.TerminatedFor, d.TerminatedFor)
	s.VPCsPerRegion = cmp.Or(s.VPCsPerRegion, d.VPCsPerRegion)
	s.BlocksPerVPC = cmp.Or(s.BlocksPerVPC, d.BlocksPerVPC)
	s.SubnetsPerVPC = cmp.Or(s.SubnetsPerVPC, d.SubnetsPerVPC)
	s.NATGatewaysPerZone = cmp.Or(s.NATGatewaysPerZone, d.NATGatewaysPerZone)
	s.GatewaysPerRegion = cmp.Or(s.GatewaysPerRegion, d.GatewaysPerRegion)
	s.RouteTablesPerVPC = cmp.Or(s.RouteTablesPerVPC, d.RouteTablesPerVPC)
	s.RoutesPerTable = cmp.Or(s.RoutesPerTable, d.RoutesPerTable)
	s.ACLsPerVPC = cmp.Or(s.ACLsPerVPC, d.ACLsPerVPC)
	s.EntriesPerACL = cmp.Or(s.EntriesPerACL, d.EntriesPerACL)
	s.AddressesPerRegion = cmp.Or(s.AddressesPerRegion, d.AddressesPerRegion)
	s.VPCGroupsPerRegion = cmp.Or(s.VPCGroupsPerRegion, d.VPCGroupsPerRegion)
	s.GroupsPerVPC = cmp.Or(s.GroupsPerVPC, d.GroupsPerVPC)
	s.RulesPerVPCGroup = cmp.Or(s.RulesPerVPCGroup, d.RulesPerVPCGroup)
	s.GroupsPerInterface = cmp.Or(s.GroupsPerInterface, d.GroupsPerInterface)
	s.AuditRecords = cmp.Or(s.AuditRecords, d.AuditRecords)
	s.InterfacesPerRegion = cmp.Or(s.InterfacesPerRegion, d.InterfacesPerRegion)
	s.InterfacesPerInstance = cmp.Or(s.InterfacesPerInstance, d.InterfacesPerInstance)
	s.VolumesPerRegion = cmp.Or(s.VolumesPerRegion, d.VolumesPerRegion)
	s.AddressesPerInterface = cmp.Or(s.AddressesPerInterface, d.AddressesPerInterface)
	s.TemplatesPerRegion = cmp.Or(s.TemplatesPerRegion, d.TemplatesPerRegion)
	s.TemplateVersionsPerRegion = cmp.Or(s.TemplateVersionsPerRegion, d.TemplateVersionsPerRegion)
	s.PlacementGroupsPerRegion = cmp.Or(s.PlacementGroupsPerRegion, d.PlacementGroupsPerRegion)
	s.DHCPOptionsPerRegion = cmp.Or(s.DHCPOptionsPerRegion, d.DHCPOptionsPerRegion)
	s.PeeringsPerVPC = cmp.Or(s.PeeringsPerVPC, d.PeeringsPerVPC)
	s.PeeringRequests = cmp.Or(s.PeeringRequests, d.PeeringRequests)
	s.PrefixListsPerRegion = cmp.Or(s.PrefixListsPerRegion, d.PrefixListsPerRegion)
	s.PrefixListEntries = cmp.Or(s.PrefixListEntries, d.PrefixListEntries)
	s.PrefixListVersions = cmp.Or(s.PrefixListVersions, d.PrefixListVersions)
	return s
}
