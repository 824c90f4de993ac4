package query

import "strconv"

// instanceTypeFilters returns the filters of EC2's API Reference, "DescribeInstanceTypes".
func instanceTypeFilters() filterable[instanceTypeItem] {
	type item = instanceTypeItem
	text := func(value func(item) string) func(item) []string {
		return func(i item) []string { return nonEmpty(value(i)) }
	}
	number := func(value func(item) int) func(item) []string {
		return func(i item) []string { return nonEmpty(strconv.Itoa(value(i))) }
	}
	yes := func(value func(item) bool) func(item) []string {
		return func(i item) []string { return boolean(value(i)) }
	}
	all := filterable[item]{
		"auto-recovery-supported":                      yes(func(i item) bool { return i.Recovery }),
		"bare-metal":                                   yes(func(i item) bool { return i.BareMetal }),
		"burstable-performance-supported":              yes(func(i item) bool { return i.Burstable }),
		"current-generation":                           yes(func(i item) bool { return i.Current }),
		"dedicated-hosts-supported":                    yes(func(i item) bool { return i.Dedicated }),
		"ebs-info.ebs-optimized-support":               text(func(i item) string { return i.EBS.Optimized }),
		"ebs-info.encryption-support":                  text(func(i item) string { return i.EBS.Encryption }),
		"ebs-info.nvme-support":                        text(func(i item) string { return i.EBS.NVMe }),
		"free-tier-eligible":                           yes(func(i item) bool { return i.FreeTier }),
		"hibernation-supported":                        yes(func(i item) bool { return i.Hibernation }),
		"hypervisor":                                   text(func(i item) string { return i.Hypervisor }),
		"instance-storage-supported":                   yes(func(i item) bool { return i.Storage }),
		"instance-type":                                text(func(i item) string { return i.Type }),
		"memory-info.size-in-mib":                      func(i item) []string { return optionalInt(i.Memory.MiB) },
		"network-info.efa-supported":                   yes(func(i item) bool { return i.Network.EFA }),
		"network-info.ena-support":                     text(func(i item) string { return i.Network.ENA }),
		"network-info.ipv6-supported":                  yes(func(i item) bool { return i.Network.IPv6 }),
		"network-info.encryption-in-transit-supported": yes(func(i item) bool { return i.Network.Encrypted }),
		"network-info.ipv4-addresses-per-interface":    number(func(i item) int { return i.Network.Addresses }),
		"network-info.ipv6-addresses-per-interface":    number(func(i item) int { return i.Network.IPv6Addresses }),
		"network-info.maximum-network-cards":           number(func(i item) int { return i.Network.Cards }),
		"network-info.maximum-network-interfaces":      number(func(i item) int { return i.Network.Interfaces }),
		"network-info.network-performance":             text(func(i item) string { return i.Network.Performance }),
		"nitro-enclaves-support":                       text(func(i item) string { return i.Enclaves }),
		"nitro-tpm-support":                            text(func(i item) string { return i.TPM }),
		"processor-info.supported-architecture":        func(i item) []string { return i.Processor.Architectures },
		"processor-info.sustained-clock-speed-in-ghz":  text(func(i item) string { return i.Processor.Clock }),
		"supported-boot-mode":                          func(i item) []string { return i.BootModes },
		"supported-root-device-type":                   func(i item) []string { return i.RootDevices },
		"supported-usage-class":                        func(i item) []string { return i.Usage },
		"supported-virtualization-type":                func(i item) []string { return i.Virtualizations },
		"vcpu-info.default-cores":                      func(i item) []string { return optionalInt(i.VCPU.Cores) },
		"vcpu-info.default-threads-per-core":           func(i item) []string { return optionalInt(i.VCPU.Threads) },
		"vcpu-info.default-vcpus":                      number(func(i item) int { return i.VCPU.Default }),
		"vcpu-info.valid-threads-per-core": func(i item) (list []string) {
			for _, n := range i.VCPU.Valid {
				list = append(list, strconv.Itoa(n))
			}
			return list
		},
	}
	for _, name := range unknownTypeProperties {
		all[name] = never[item]
	}
	return all
}

// unknownTypeProperties are filters on properties that no item shows.
var unknownTypeProperties = []string{
	"ebs-info.attachment-limit-type", "ebs-info.maximum-ebs-attachments", "ebs-info.ebs-optimized-info.baseline-bandwidth-in-mbps",
	"ebs-info.ebs-optimized-info.baseline-iops", "ebs-info.ebs-optimized-info.baseline-throughput-in-mbps",
	"ebs-info.ebs-optimized-info.maximum-bandwidth-in-mbps", "ebs-info.ebs-optimized-info.maximum-iops",
	"ebs-info.ebs-optimized-info.maximum-throughput-in-mbps", "instance-storage-info.disk.count", "instance-storage-info.disk.size-in-gb",
	"instance-storage-info.disk.type", "instance-storage-info.encryption-support", "instance-storage-info.nvme-support",
	"instance-storage-info.total-size-in-gb", "network-info.bandwidth-weightings", "network-info.efa-info.maximum-efa-interfaces",
	"network-info.flexible-ena-queues-support", "nitro-tpm-info.supported-versions", "processor-info.supported-features",
	"reboot-migration-support", "vcpu-info.valid-cores",
}
