package query

import (
	"regexp"
	"slices"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/instancetype"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

// instanceTypeActions show instance types as AWS publishes them. An instance gets the same here
// whatever its type: a share of its node's processors, and 512 MiB of memory.
var instanceTypeActions = map[string]handler{
	"DescribeInstanceTypes":         action(describeInstanceTypes),
	"DescribeInstanceTypeOfferings": action(describeInstanceTypeOfferings),
}

var typeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}$`)

// checkLaunchType refuses a type that AWS does not have. Types of a family that is not in the list of
// instancetype are accepted, because AWS adds families.
func checkLaunchType(name string) error {
	if !typeName.MatchString(name) || instancetype.FamilyExists(name) && !instancetype.Exists(name) {
		return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for InstanceType.", wire.Quote(name))
	}
	return nil
}

type instanceTypeItem struct {
	Type            string            `wire:"instanceType"`
	Current         bool              `wire:"currentGeneration"`
	FreeTier        bool              `wire:"freeTierEligible"`
	Usage           []string          `wire:"supportedUsageClasses"`
	RootDevices     []string          `wire:"supportedRootDeviceTypes"`
	Virtualizations []string          `wire:"supportedVirtualizationTypes"`
	BareMetal       bool              `wire:"bareMetal"`
	Hypervisor      string            `wire:"hypervisor"`
	Processor       typeProcessorInfo `wire:"processorInfo"`
	VCPU            typeVCPUInfo      `wire:"vCpuInfo"`
	Memory          typeMemoryInfo    `wire:"memoryInfo"`
	Storage         bool              `wire:"instanceStorageSupported"`
	EBS             ebsInfo           `wire:"ebsInfo"`
	Network         typeNetworkInfo   `wire:"networkInfo"`
	Placement       typePlacementInfo `wire:"placementGroupInfo"`
	Hibernation     bool              `wire:"hibernationSupported"`
	Burstable       bool              `wire:"burstablePerformanceSupported"`
	Dedicated       bool              `wire:"dedicatedHostsSupported"`
	Recovery        bool              `wire:"autoRecoverySupported"`
	BootModes       []string          `wire:"supportedBootModes"`
	Enclaves        string            `wire:"nitroEnclavesSupport"`
	TPM             string            `wire:"nitroTpmSupport"`
}

type (
	typeProcessorInfo struct {
		Architectures []string `wire:"supportedArchitectures"`
		Clock         string   `wire:"sustainedClockSpeedInGhz"`
	}
	typeVCPUInfo struct {
		Default int   `wire:"defaultVCpus"`
		Cores   *int  `wire:"defaultCores"`
		Threads *int  `wire:"defaultThreadsPerCore"`
		Valid   []int `wire:"validThreadsPerCore"`
	}
	typeMemoryInfo struct {
		MiB *int `wire:"sizeInMiB"`
	}
	typePlacementInfo struct {
		Strategies []string `wire:"supportedStrategies"`
	}
)

type ebsInfo struct {
	Optimized  string `wire:"ebsOptimizedSupport"`
	Encryption string `wire:"encryptionSupport"`
	NVMe       string `wire:"nvmeSupport"`
}

type typeNetworkInfo struct {
	Performance   string            `wire:"networkPerformance"`
	Interfaces    int               `wire:"maximumNetworkInterfaces"`
	Cards         int               `wire:"maximumNetworkCards"`
	DefaultCard   int               `wire:"defaultNetworkCardIndex"`
	EachCard      []networkCardItem `wire:"networkCards"`
	Addresses     int               `wire:"ipv4AddressesPerInterface"`
	IPv6Addresses int               `wire:"ipv6AddressesPerInterface"`
	IPv6          bool              `wire:"ipv6Supported"`
	ENA           string            `wire:"enaSupport"`
	EFA           bool              `wire:"efaSupported"`
	Encrypted     bool              `wire:"encryptionInTransitSupported"`
}

type networkCardItem struct {
	Index       int    `wire:"networkCardIndex"`
	Performance string `wire:"networkPerformance"`
	Interfaces  int    `wire:"maximumNetworkInterfaces"`
}

// newInstanceType returns the item of a type. Of a type that instancetype has no data of, it shows
// the limits of this cluster, and no memory or cores.
func (c *call) newInstanceType(name string) instanceTypeItem {
	t, ok := instancetype.Find(name)
	if !ok {
		limits := c.view.Settings()
		t = &instancetype.Type{
			Name: name, Current: true, Burstable: instancetype.Burstable(name), Architectures: []string{instancetype.Architecture(name)},
			Hypervisor: "nitro", Virtualization: []string{"hvm"}, RootDevices: []string{"ebs"}, UsageClasses: []string{"on-demand", "spot"}, VCPUs: 1,
			Interfaces: limits.InterfacesPerInstance, Addresses: limits.AddressesPerInterface, ENA: "required", NVMe: "required", EBSOptimized: "default",
		}
	}
	item := instanceTypeItem{
		Type: t.Name, Current: t.Current, FreeTier: t.FreeTier, Usage: t.UsageClasses, RootDevices: t.RootDevices, Virtualizations: t.Virtualization,
		BareMetal: t.BareMetal, Hypervisor: t.Hypervisor, Burstable: t.Burstable, BootModes: t.BootModes, Recovery: !t.BareMetal,
		Processor: typeProcessorInfo{t.Architectures, t.Clock},
		VCPU:      typeVCPUInfo{Default: t.VCPUs, Cores: nonZero(t.Cores), Threads: nonZero(t.ThreadsPerCore)},
		Memory:    typeMemoryInfo{nonZero(t.MemoryMiB)},
		EBS:       ebsInfo{t.EBSOptimized, "supported", t.NVMe},
		Network: typeNetworkInfo{
			Performance: t.Network, Interfaces: t.Interfaces, Cards: 1, EachCard: []networkCardItem{{0, t.Network, t.Interfaces}},
			Addresses: t.Addresses, IPv6: t.IPv6, ENA: t.ENA, Encrypted: t.Encrypted,
		},
		Placement: typePlacementInfo{t.Strategies}, Enclaves: "unsupported", TPM: "unsupported",
	}
	if t.IPv6 {
		item.Network.IPv6Addresses = t.Addresses
	}
	if t.Hypervisor == "nitro" {
		item.TPM = "supported"
		if !t.Burstable && t.VCPUs >= 4 {
			item.Enclaves = "supported"
		}
		for n := 1; n <= t.ThreadsPerCore; n++ {
			item.VCPU.Valid = append(item.VCPU.Valid, n)
		}
	}
	return item
}

var instanceTypeListing = listing[instanceTypeItem]{id: func(i instanceTypeItem) string { return i.Type }, filters: instanceTypeFilters()}

type describeInstanceTypesRequest struct {
	Types []string `wire:"InstanceType"`
	listed
}

type describeInstanceTypesAnswer struct {
	Types     []instanceTypeItem `wire:"instanceTypeSet"`
	NextToken string             `wire:"nextToken"`
}

func describeInstanceTypes(c *call, r *describeInstanceTypesRequest) (*describeInstanceTypesAnswer, error) {
	if err := r.checkNoIDs(len(r.Types), "instanceTypes"); err != nil {
		return nil, err
	}
	var items []instanceTypeItem
	for _, name := range r.Types {
		if !c.knowsType(name) {
			return nil, ec2.Errorf("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", wire.Quote(name))
		}
	}
	for _, name := range c.types(r.Types, r.Filters) {
		items = append(items, c.newInstanceType(name))
	}
	items, next, err := instanceTypeListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInstanceTypesAnswer{items, next}, nil
}

// knowsType reports whether a type can be described: one of AWS, or that of an instance.
func (c *call) knowsType(name string) bool {
	if instancetype.Exists(name) {
		return true
	}
	for i := range c.view.InstancesOf(c.account, c.region) {
		if i.Type == name {
			return true
		}
	}
	return false
}

// types returns the types that the request names. If it names none, these are the types
// whose properties are known, the types of the account's instances, and the types in filters.
func (c *call) types(names []string, filters []filter) []string {
	if len(names) == 0 {
		names = instancetype.Names()
		for i := range c.view.InstancesOf(c.account, c.region) {
			names = append(names, i.Type)
		}
		for _, f := range filters {
			if f.Name == "instance-type" {
				names = append(names, f.Values...)
			}
		}
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !c.knowsType(name) })
	slices.Sort(names)
	return slices.Compact(names)
}

type describeInstanceTypeOfferingsRequest struct {
	LocationType string `wire:"LocationType"`
	listed
}

type describeInstanceTypeOfferingsAnswer struct {
	Offerings []offeringItem `wire:"instanceTypeOfferingSet"`
	NextToken string         `wire:"nextToken"`
}

type offeringItem struct {
	Type         string `wire:"instanceType"`
	LocationType string `wire:"locationType"`
	Location     string `wire:"location"`
}

var offeringListing = listing[offeringItem]{
	id: func(o offeringItem) string { return o.Type + " " + o.Location },
	filters: filterable[offeringItem]{
		"instance-type": func(o offeringItem) []string { return nonEmpty(o.Type) },
		"location":      func(o offeringItem) []string { return nonEmpty(o.Location) },
	},
}

// describeInstanceTypeOfferings shows every type as offered in the region and in each zone
// that has a node.
func describeInstanceTypeOfferings(c *call, r *describeInstanceTypeOfferingsRequest) (*describeInstanceTypeOfferingsAnswer, error) {
	locationType := r.LocationType
	var locations []string
	switch locationType {
	case "", "region":
		locationType, locations = "region", []string{string(c.region)}
	case "availability-zone", "availability-zone-id":
		for _, z := range c.view.Zones(c.region) {
			switch {
			case len(z.Nodes) == 0:
			case locationType == "availability-zone-id":
				locations = append(locations, region.ZoneID(z.Name))
			default:
				locations = append(locations, z.Name)
			}
		}
	case "outpost": // no account has one
	default:
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter locationType is invalid.", wire.Quote(locationType))
	}
	slices.Sort(locations)
	locations = slices.Compact(locations)
	var items []offeringItem
	for _, name := range c.types(nil, r.Filters) {
		for _, location := range locations {
			items = append(items, offeringItem{name, locationType, location})
		}
	}
	items, next, err := offeringListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInstanceTypeOfferingsAnswer{items, next}, nil
}

func optionalInt(n *int) []string {
	if n == nil {
		return nil
	}
	return nonEmpty(strconv.Itoa(*n))
}
