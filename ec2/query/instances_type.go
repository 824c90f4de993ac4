package query

import (
	"regexp"
	"slices"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

// instanceTypeActions show instance types. An instance may have any well-formed type, and
// gets the same whatever its type: a share of its node's processors, and 512 MiB of memory.
var instanceTypeActions = map[string]handler{
	"DescribeInstanceTypes":                action(describeInstanceTypes),
	"DescribeInstanceTypeOfferings":        action(describeInstanceTypeOfferings),
	"DescribeInstanceCreditSpecifications": action(describeInstanceCreditSpecifications),
}

// usualTypes are shown if a request names no type.
var usualTypes = []string{
	"c1.medium", "c5.large", "m1.large", "m1.medium", "m1.small", "m5.large", "t1.micro", "t2.micro", "t2.small", "t3.medium", "t3.micro", "t3.nano", "t3.small",
}

var typeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}$`)

const (
	typeMemoryMiB = 512 // the nodes' limit for an instance
	typeVCPUs     = 1   // shared with other instances
)

// An instanceTypeItem shows what an instance of a type gets. Features that are not served
// are false or empty.
type instanceTypeItem struct {
	Type            string   `wire:"instanceType"`
	Current         bool     `wire:"currentGeneration"`
	FreeTier        bool     `wire:"freeTierEligible"`
	Usage           []string `wire:"supportedUsageClasses"`
	RootDevices     []string `wire:"supportedRootDeviceTypes"`
	Virtualizations []string `wire:"supportedVirtualizationTypes"`
	BareMetal       bool     `wire:"bareMetal"`
	Processor       struct {
		Architectures []string `wire:"supportedArchitectures"`
	} `wire:"processorInfo"`
	VCPU struct {
		Default int `wire:"defaultVCpus"`
	} `wire:"vCpuInfo"`
	Memory struct {
		MiB int `wire:"sizeInMiB"`
	} `wire:"memoryInfo"`
	Storage     bool            `wire:"instanceStorageSupported"`
	EBS         ebsInfo         `wire:"ebsInfo"`
	Network     typeNetworkInfo `wire:"networkInfo"`
	Hibernation bool            `wire:"hibernationSupported"`
	Burstable   bool            `wire:"burstablePerformanceSupported"`
	Dedicated   bool            `wire:"dedicatedHostsSupported"`
	Recovery    bool            `wire:"autoRecoverySupported"`
}

type ebsInfo struct {
	Optimized  string `wire:"ebsOptimizedSupport"`
	Encryption string `wire:"encryptionSupport"`
	NVMe       string `wire:"nvmeSupport"`
}

type typeNetworkInfo struct {
	Interfaces    int               `wire:"maximumNetworkInterfaces"`
	Cards         int               `wire:"maximumNetworkCards"`
	DefaultCard   int               `wire:"defaultNetworkCardIndex"`
	EachCard      []networkCardItem `wire:"networkCards"`
	Addresses     int               `wire:"ipv4AddressesPerInterface"`
	IPv6Addresses int               `wire:"ipv6AddressesPerInterface"`
	IPv6          bool              `wire:"ipv6Supported"`
	ENA           string            `wire:"enaSupport"`
	EFA           bool              `wire:"efaSupported"`
}

type networkCardItem struct {
	Index      int `wire:"networkCardIndex"`
	Interfaces int `wire:"maximumNetworkInterfaces"`
}

func (c *call) newInstanceType(name string) instanceTypeItem {
	limits := c.view.Settings()
	item := instanceTypeItem{
		Type: name, Current: true, Usage: []string{"on-demand"}, RootDevices: []string{"instance-store"}, Virtualizations: []string{"hvm"},
		EBS: ebsInfo{"unsupported", "unsupported", "unsupported"},
		Network: typeNetworkInfo{
			Interfaces: limits.InterfacesPerInstance, Cards: 1, EachCard: []networkCardItem{{0, limits.InterfacesPerInstance}},
			Addresses: limits.AddressesPerInterface, ENA: "unsupported",
		},
	}
	item.Processor.Architectures = []string{"x86_64"}
	item.VCPU.Default, item.Memory.MiB = typeVCPUs, typeMemoryMiB
	return item
}

var instanceTypeListing = listing[instanceTypeItem]{
	id: func(i instanceTypeItem) string { return i.Type },
	filters: filterable[instanceTypeItem]{
		"auto-recovery-supported":         func(i instanceTypeItem) []string { return boolean(i.Recovery) },
		"bare-metal":                      func(i instanceTypeItem) []string { return boolean(i.BareMetal) },
		"burstable-performance-supported": func(i instanceTypeItem) []string { return boolean(i.Burstable) },
		"current-generation":              func(i instanceTypeItem) []string { return boolean(i.Current) },
		"dedicated-hosts-supported":       func(i instanceTypeItem) []string { return boolean(i.Dedicated) },
		"ebs-info.ebs-optimized-support":  func(i instanceTypeItem) []string { return nonEmpty(i.EBS.Optimized) },
		"ebs-info.encryption-support":     func(i instanceTypeItem) []string { return nonEmpty(i.EBS.Encryption) },
		"ebs-info.nvme-support":           func(i instanceTypeItem) []string { return nonEmpty(i.EBS.NVMe) },
		"free-tier-eligible":              func(i instanceTypeItem) []string { return boolean(i.FreeTier) },
		"hibernation-supported":           func(i instanceTypeItem) []string { return boolean(i.Hibernation) },
		"hypervisor":                      never[instanceTypeItem],
		"instance-storage-supported":      func(i instanceTypeItem) []string { return boolean(i.Storage) },
		"instance-type":                   func(i instanceTypeItem) []string { return nonEmpty(i.Type) },
		"memory-info.size-in-mib":         func(i instanceTypeItem) []string { return nonEmpty(strconv.Itoa(i.Memory.MiB)) },
		"network-info.efa-supported":      func(i instanceTypeItem) []string { return boolean(i.Network.EFA) },
		"network-info.ena-support":        func(i instanceTypeItem) []string { return nonEmpty(i.Network.ENA) },
		"network-info.ipv6-supported":     func(i instanceTypeItem) []string { return boolean(i.Network.IPv6) },
		"network-info.maximum-network-interfaces": func(i instanceTypeItem) []string {
			return nonEmpty(strconv.Itoa(i.Network.Interfaces))
		},
		"processor-info.supported-architecture": func(i instanceTypeItem) []string { return i.Processor.Architectures },
		"supported-boot-mode":                   never[instanceTypeItem],
		"supported-root-device-type":            func(i instanceTypeItem) []string { return i.RootDevices },
		"supported-usage-class":                 func(i instanceTypeItem) []string { return i.Usage },
		"supported-virtualization-type":         func(i instanceTypeItem) []string { return i.Virtualizations },
		"vcpu-info.default-vcpus":               func(i instanceTypeItem) []string { return nonEmpty(strconv.Itoa(i.VCPU.Default)) },
	},
}

type describeInstanceTypesRequest struct {
	Types []string `wire:"InstanceType"`
	listed
}

type describeInstanceTypesAnswer struct {
	Types     []instanceTypeItem `wire:"instanceTypeSet"`
	NextToken string             `wire:"nextToken"`
}

func describeInstanceTypes(c *call, r *describeInstanceTypesRequest) (*describeInstanceTypesAnswer, error) {
	var unknown string
	for _, name := range r.Types {
		if !typeName.MatchString(name) {
			unknown = name
		}
	}
	if unknown != "" {
		return nil, ec2.Errorf("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", wire.Quote(unknown))
	}
	var items []instanceTypeItem
	for _, name := range c.types(r.Types, r.Filters) {
		items = append(items, c.newInstanceType(name))
	}
	items, next, err := instanceTypeListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInstanceTypesAnswer{items, next}, nil
}

// types returns the types that the request names. If it names none, these are the usual
// types, the types of the account's instances, and the types in filters.
func (c *call) types(names []string, filters []filter) []string {
	if len(names) == 0 {
		names = slices.Clone(usualTypes)
		for i := range c.view.InstancesOf(c.account, c.region) {
			names = append(names, i.Type)
		}
		for _, f := range filters {
			if f.Name == "instance-type" {
				names = append(names, f.Values...)
			}
		}
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !typeName.MatchString(name) })
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
	default:
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter locationType is invalid.", wire.Quote(locationType))
	}
	slices.Sort(locations)
	var items []offeringItem
	for _, name := range c.types(nil, r.Filters) {
		for _, location := range slices.Compact(slices.Clone(locations)) {
			items = append(items, offeringItem{name, locationType, location})
		}
	}
	items, next, err := offeringListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInstanceTypeOfferingsAnswer{items, next}, nil
}

type describeCreditsRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	listed
}

type describeCreditsAnswer struct {
	Credits []tag `wire:"instanceCreditSpecificationSet"`
}

// describeInstanceCreditSpecifications shows none: no instance has CPU credits.
func describeInstanceCreditSpecifications(c *call, r *describeCreditsRequest) (*describeCreditsAnswer, error) {
	if err := (filterable[tag]{"instance-id": never[tag]}).check(r.Filters); err != nil {
		return nil, err
	}
	if _, err := c.selectInstances(r.InstanceIDs); err != nil {
		return nil, err
	}
	if len(r.InstanceIDs) > 0 {
		return nil, ec2.Errorf("InstanceCreditSpecification.NotSupported", "The specified instance does not use CPU credits for billing: %s", r.InstanceIDs[0])
	}
	return &describeCreditsAnswer{}, nil
}
