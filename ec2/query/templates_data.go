package query

import (
	"fmt"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// templateData has the parameters of a version of a launch template. The fields are pointers,
// because answers show only what was given. What is not here and decides about traffic is refused.
type templateData struct {
	Image        string              `wire:"ImageId"`
	Type         string              `wire:"InstanceType"`
	Key          string              `wire:"KeyName"`
	Kernel       string              `wire:"KernelId"`
	RAMDisk      string              `wire:"RamdiskId"`
	RAMDiskGiven string              `wire:"RamDiskId"` // in requests for templates
	UserData     string              `wire:"UserData"`
	OnShutdown   string              `wire:"InstanceInitiatedShutdownBehavior"`
	EBS          *bool               `wire:"EbsOptimized"`
	NoTerminate  *bool               `wire:"DisableApiTermination"`
	NoStop       *bool               `wire:"DisableApiStop"`
	GroupIDs     []string            `wire:"SecurityGroupId"`
	Groups       []string            `wire:"SecurityGroup"`
	Profile      *profileParam       `wire:"IamInstanceProfile"`
	Monitoring   *monitoringParam    `wire:"Monitoring"`
	Placement    *templatePlacement  `wire:"Placement"`
	Interfaces   []templateInterface `wire:"NetworkInterface"`
	Volumes      []templateVolume    `wire:"BlockDeviceMapping"`
	Tags         []tagSpecification  `wire:"TagSpecification"`
	Market       *marketParam        `wire:"InstanceMarketOptions"`
	Credits      *creditsParam       `wire:"CreditSpecification"`
	CPU          *cpuParam           `wire:"CpuOptions"`
	Capacity     *capacityParam      `wire:"CapacityReservationSpecification"`
	Licenses     []licenseParam      `wire:"LicenseSpecification"`
	Hibernation  *hibernationParam   `wire:"HibernationOptions"`
	Metadata     *metadataParam      `wire:"MetadataOptions"`
	Enclave      *enclaveParam       `wire:"EnclaveOptions"`
	Names        *dnsNamesParam      `wire:"PrivateDnsNameOptions"`
	Maintenance  *maintenanceParam   `wire:"MaintenanceOptions"`
	Requirements *struct{}           `wire:"InstanceRequirements"`
}

type (
	profileParam struct {
		ARN  string `wire:"Arn"`
		Name string `wire:"Name"`
	}
	templatePlacement struct {
		zoneRequest
		groupPlacement
		Domain string `wire:"SpreadDomain"`
	}
	templateInterface struct {
		launchInterface
		Card *int `wire:"NetworkCardIndex"`
	}
	templateVolume struct {
		Device   string          `wire:"DeviceName"`
		Virtual  string          `wire:"VirtualName"`
		NoDevice *string         `wire:"NoDevice"`
		EBS      *templateVolEBS `wire:"Ebs"`
	}
	templateVolEBS struct {
		Delete     *bool  `wire:"DeleteOnTermination"`
		Encrypted  *bool  `wire:"Encrypted"`
		IOPS       *int   `wire:"Iops"`
		Key        string `wire:"KmsKeyId"`
		Snapshot   string `wire:"SnapshotId"`
		Throughput *int   `wire:"Throughput"`
		Size       *int   `wire:"VolumeSize"`
		Type       string `wire:"VolumeType"`
	}
	marketParam struct {
		Type string     `wire:"MarketType"`
		Spot *spotParam `wire:"SpotOptions"`
	}
	spotParam struct {
		Minutes   *int   `wire:"BlockDurationMinutes"`
		Interrupt string `wire:"InstanceInterruptionBehavior"`
		Price     string `wire:"MaxPrice"`
		Type      string `wire:"SpotInstanceType"`
	}
	licenseParam struct {
		ARN string `wire:"LicenseConfigurationArn"`
	}
)

// check returns an error for parameters that a template cannot have here. The other parameters are
// checked when an instance is launched, as at EC2.
func (d *templateData) check(action string) error {
	if d.Requirements != nil {
		return unserved(action, "LaunchTemplateData.InstanceRequirements")
	}
	for _, s := range d.Tags {
		if s.ResourceType == "" {
			return ec2.Errorf("MissingParameter", "Tag specification resource type must have a value")
		}
		if _, err := tagMap(s.Tags); err != nil {
			return err
		}
	}
	return nil
}

// storedTemplateData reads the parameters of a stored version.
func storedTemplateData(v *ec2.LaunchTemplateVersion) (*templateData, error) {
	p, err := paramsOf(v.Data)
	if err == nil {
		data := new(templateData)
		if err = wire.Decode(p, data); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("read version %d of launch template %s: %w", v.Number, v.Template, err)
}

func paramsOf(values map[string]string) (*wire.Param, error) {
	p := new(wire.Param)
	for name, value := range values {
		if !p.Set(name, value) {
			return nil, fmt.Errorf("parameter %s has too many parts", name)
		}
	}
	return p, nil
}

type templateDataItem struct {
	Kernel      string                  `wire:"kernelId"`
	EBS         *bool                   `wire:"ebsOptimized"`
	Profile     *profileItem            `wire:"iamInstanceProfile"`
	Volumes     []templateVolumeItem    `wire:"blockDeviceMappingSet"`
	Interfaces  []templateInterfaceItem `wire:"networkInterfaceSet"`
	Image       string                  `wire:"imageId"`
	Type        string                  `wire:"instanceType"`
	Key         string                  `wire:"keyName"`
	Monitoring  *enabledItem            `wire:"monitoring"`
	Placement   *templatePlacementItem  `wire:"placement"`
	RAMDisk     string                  `wire:"ramDiskId"`
	NoTerminate *bool                   `wire:"disableApiTermination"`
	NoStop      *bool                   `wire:"disableApiStop"`
	OnShutdown  string                  `wire:"instanceInitiatedShutdownBehavior"`
	UserData    string                  `wire:"userData"`
	Tags        []templateTagsItem      `wire:"tagSpecificationSet"`
	GroupIDs    []string                `wire:"securityGroupIdSet"`
	Groups      []string                `wire:"securityGroupSet"`
	Market      *marketItem             `wire:"instanceMarketOptions"`
	Credits     *creditsOnlyItem        `wire:"creditSpecification"`
	CPU         *cpuItem                `wire:"cpuOptions"`
	Capacity    *capacityItem           `wire:"capacityReservationSpecification"`
	Licenses    []licenseItem           `wire:"licenseSet"`
	Hibernation *configuredItem         `wire:"hibernationOptions"`
	Metadata    *templateMetadataItem   `wire:"metadataOptions"`
	Enclave     *enabledItem            `wire:"enclaveOptions"`
	Names       *hostnameType           `wire:"privateDnsNameOptions"`
	Maintenance *recoveryItem           `wire:"maintenanceOptions"`
}

type (
	profileItem struct {
		ARN  string `wire:"arn"`
		Name string `wire:"name"`
	}
	enabledItem struct {
		Enabled bool `wire:"enabled"`
	}
	configuredItem struct {
		Configured bool `wire:"configured"`
	}
	creditsOnlyItem struct {
		CPU string `wire:"cpuCredits"`
	}
	cpuItem struct {
		Cores   *int   `wire:"coreCount"`
		Threads *int   `wire:"threadsPerCore"`
		SEVSNP  string `wire:"amdSevSnp"`
	}
	capacityItem struct {
		Preference string `wire:"capacityReservationPreference"`
	}
	recoveryItem struct {
		Recovery string `wire:"autoRecovery"`
	}
	licenseItem struct {
		ARN string `wire:"licenseConfigurationArn"`
	}
	templateTagsItem struct {
		Type string `wire:"resourceType"`
		Tags []tag  `wire:"tagSet"`
	}
	marketItem struct {
		Type string    `wire:"marketType"`
		Spot *spotItem `wire:"spotOptions"`
	}
	spotItem struct {
		Minutes   *int   `wire:"blockDurationMinutes"`
		Interrupt string `wire:"instanceInterruptionBehavior"`
		Price     string `wire:"maxPrice"`
		Type      string `wire:"spotInstanceType"`
	}
	templatePlacementItem struct {
		Zone      string               `wire:"availabilityZone"`
		ZoneID    string               `wire:"availabilityZoneId"`
		Affinity  string               `wire:"affinity"`
		Group     string               `wire:"groupName"`
		GroupID   ec2.PlacementGroupID `wire:"groupId"`
		Host      string               `wire:"hostId"`
		HostGroup string               `wire:"hostResourceGroupArn"`
		Tenancy   string               `wire:"tenancy"`
		Domain    string               `wire:"spreadDomain"`
		Partition *int                 `wire:"partitionNumber"`
	}
	templateMetadataItem struct {
		State    string `wire:"state"`
		Tokens   string `wire:"httpTokens"`
		Hops     *int   `wire:"httpPutResponseHopLimit"`
		Endpoint string `wire:"httpEndpoint"`
		IPv6     string `wire:"httpProtocolIpv6"`
		Tags     string `wire:"instanceMetadataTags"`
	}
	templateVolumeItem struct {
		Device   string              `wire:"deviceName"`
		Virtual  string              `wire:"virtualName"`
		NoDevice *string             `wire:"noDevice"`
		EBS      *templateVolEBSItem `wire:"ebs"`
	}
	templateVolEBSItem struct {
		Encrypted  *bool  `wire:"encrypted"`
		Delete     *bool  `wire:"deleteOnTermination"`
		IOPS       *int   `wire:"iops"`
		Key        string `wire:"kmsKeyId"`
		Snapshot   string `wire:"snapshotId"`
		Size       *int   `wire:"volumeSize"`
		Type       string `wire:"volumeType"`
		Throughput *int   `wire:"throughput"`
	}
	templateInterfaceItem struct {
		Public              *bool                 `wire:"associatePublicIpAddress"`
		DeleteOnTermination *bool                 `wire:"deleteOnTermination"`
		Description         string                `wire:"description"`
		DeviceIndex         *int                  `wire:"deviceIndex"`
		Groups              []string              `wire:"groupSet,groupId"`
		Type                string                `wire:"interfaceType"`
		Interface           ec2.InterfaceID       `wire:"networkInterfaceId"`
		Address             string                `wire:"privateIpAddress"`
		Addresses           []templateAddressItem `wire:"privateIpAddressesSet"`
		SecondaryCount      *int                  `wire:"secondaryPrivateIpAddressCount"`
		Subnet              ec2.SubnetID          `wire:"subnetId"`
		Card                *int                  `wire:"networkCardIndex"`
	}
	templateAddressItem struct {
		Primary bool   `wire:"primary"`
		Address string `wire:"privateIpAddress"`
	}
)
