package state

import "palisade/ec2"

// launchSamples returns one request of each type of launchRequests, with all fields set.
func launchSamples() []Request {
	const lt, i = ec2.LaunchTemplateID("lt-0a1b2c3d4e5f60718"), ec2.InstanceID("i-0a1b2c3d4e5f60718")
	data, tags := map[string]string{"ImageId": "ami-eca54085", "SecurityGroupId.1": "sg-0a1b2c3d"}, map[string]string{"Name": "web"}
	sel := TemplateSelector{ID: lt, Name: "web"}
	return []Request{
		&CreateLaunchTemplate{albert, east, "web", "first", data, "token", tags},
		&CreateLaunchTemplateVersion{albert, east, sel, 1, "second", data, "token"},
		&ModifyLaunchTemplate{albert, east, sel, 2},
		&DeleteLaunchTemplate{albert, east, sel},
		&DeleteLaunchTemplateVersions{albert, east, sel, []int{1, 2}},
		&CreatePlacementGroup{albert, east, "near", "partition", 3, "rack", tags},
		&DeletePlacementGroup{albert, east, "near"},
		&CreateDHCPOptions{albert, east, []ec2.DHCPOption{{Key: "domain-name", Values: []string{"example.com"}}}, tags},
		&DeleteDHCPOptions{albert, east, "dopt-0a1b2c3d4e5f60718"},
		&AssociateDHCPOptions{albert, east, "vpc-0a1b2c3d4e5f60718", ec2.NoDHCPOptions},
		&MonitorInstances{albert, east, []ec2.InstanceID{i}, true},
		&ModifyInstanceOptions{
			Account: albert, Region: east, Instance: i, Metadata: &ec2.MetadataOptions{Endpoint: "disabled", IPv6: "enabled"},
			PlacementGroup: new("near"), Partition: new(2), Tenancy: new("dedicated"), Affinity: new("host"), Cores: new(2), ThreadsOfCore: new(1),
			Credits: new("unlimited"), NoRecovery: new(true), Reservation: new("none"), HostnameType: new("resource-name"), ARecord: new(true),
			AAAARecord: new(true), EBSOptimized: new(true),
		},
	}
}

// sampleLaunch returns a launch from a template, with all options.
func sampleLaunch() *RunInstances {
	return &RunInstances{
		Account: albert, Region: east, Image: "ami-eca54085", Type: "m1.small", MinCount: 1, MaxCount: 1, Monitored: true,
		Options: ec2.InstanceOptions{
			PlacementGroup: "near", Partition: 2, Tenancy: "dedicated", Affinity: "host", Credits: "unlimited", Cores: 2, ThreadsOfCore: 1, SEVSNP: "enabled",
			EBSOptimized: true, Hibernation: true, Enclave: true, NoRecovery: true, Reservation: "none", HostnameType: "resource-name", ARecord: true, AAAARecord: true,
		},
		Template: &ec2.TemplateVersion{Template: "lt-0a1b2c3d4e5f60718", Version: 2},
	}
}
