package query

import (
	"time"

	"palisade/ec2"
)

// A fixedInstanceItem has elements of an instance that are alike for all instances here.
type fixedInstanceItem struct {
	Hypervisor  string           `wire:"hypervisor"` // xen also for an instance of Nitro
	Operator    operatorItem     `wire:"operator"`
	BootMode    string           `wire:"currentInstanceBootMode"`
	UsageTime   time.Time        `wire:"usageOperationUpdateTime"`
	Performance *performanceItem `wire:"networkPerformanceOptions"`
}

// An operatorItem shows that no service of AWS manages a resource.
type operatorItem struct {
	Managed bool `wire:"managed"`
}

type performanceItem struct {
	Weighting string `wire:"bandwidthWeighting"`
}

func newFixedInstanceItem(i *ec2.Instance) fixedInstanceItem {
	item := fixedInstanceItem{Hypervisor: "xen"}
	if i.VPC != "" {
		item.BootMode, item.UsageTime, item.Performance = "legacy-bios", i.LaunchTime, &performanceItem{"default"}
	}
	return item
}
