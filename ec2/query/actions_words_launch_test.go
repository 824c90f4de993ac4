package query

import "maps"

// launchDescriptions has the Actions for launch templates, instance types and the options of
// instances, placement groups and DHCP options.
var launchDescriptions = map[string]description{
	"AssociateDhcpOptions":                        {"Associates a VPC with a set of DHCP options, or with none.", ""},
	"CreateDhcpOptions":                           {"Creates a set of DHCP options.", "There is no DHCP server yet, so instances do not get them."},
	"CreateLaunchTemplate":                        {"Creates a launch template with version 1.", "A version has at most 32 KiB of parameters. InstanceRequirements is UnsupportedOperation."},
	"CreateLaunchTemplateVersion":                 {"Adds a version to a launch template.", "As CreateLaunchTemplate."},
	"CreatePlacementGroup":                        {"Creates a placement group.", "It is stored and shown; instances are placed on nodes without it."},
	"DeleteDhcpOptions":                           {"Deletes a set of DHCP options that no VPC has.", "The default set of a region cannot be deleted."},
	"DeleteLaunchTemplate":                        {"Deletes a launch template and its versions.", ""},
	"DeleteLaunchTemplateVersions":                {"Deletes versions of a launch template, except the default one.", ""},
	"DeletePlacementGroup":                        {"Deletes a placement group that no instance has.", ""},
	"DescribeDhcpOptions":                         {"Shows sets of DHCP options, with the default one of the region.", ""},
	"DescribeInstanceCreditSpecifications":        {"Shows the CPU credits of burstable instances.", ""},
	"DescribeInstanceTypeOfferings":               {"Shows where instance types are offered: everywhere.", ""},
	"DescribeInstanceTypes":                       {"Shows the instance types of AWS.", "The numbers are AWS's. Here an instance gets a share of the node's processors and 512 MiB whatever its type, and the cluster's settings limit its interfaces. Memory and cores are shown of the usual families without local disks. IPv6 is not served."},
	"DescribeLaunchTemplateVersions":              {"Shows versions of a launch template, or the latest or default versions of all.", ""},
	"DescribeLaunchTemplates":                     {"Shows launch templates.", ""},
	"DescribePlacementGroups":                     {"Shows placement groups.", ""},
	"GetLaunchTemplateData":                       {"Shows the parameters of a launch that would make an instance like an existing one.", ""},
	"ModifyInstanceCapacityReservationAttributes": {"Changes which capacity reservations an instance can use.", "Stored and shown. There are no reservations, so a target is NotFound."},
	"ModifyInstanceCpuOptions":                    {"Changes the cores and threads of a stopped instance.", "Stored and shown; an instance gets a share of the node's processors."},
	"ModifyInstanceCreditSpecification":           {"Changes the CPU credits of burstable instances, each for itself.", "Stored and shown."},
	"ModifyInstanceMaintenanceOptions":            {"Changes whether an instance is recovered automatically.", "Stored and shown."},
	"ModifyInstanceMetadataOptions":               {"Changes the options of the metadata service of an instance.", "They are stored and shown as applied, but there is no metadata service."},
	"ModifyInstancePlacement":                     {"Changes placement group, partition, tenancy or affinity of a stopped instance.", "Stored and shown. There are no dedicated hosts, so every host id is NotFound."},
	"ModifyLaunchTemplate":                        {"Makes a version the default one.", ""},
	"ModifyPrivateDnsNameOptions":                 {"Changes the form of an instance's private name.", "Stored and shown; names keep the form ip-name."},
	"MonitorInstances":                            {"Turns detailed monitoring on.", "The setting is stored and shown; there is no CloudWatch."},
	"UnmonitorInstances":                          {"Turns detailed monitoring off.", ""},
}

func init() { maps.Copy(descriptions, launchDescriptions) }
