package instancetype

import (
	"slices"
	"strconv"
	"strings"
)

// freeTier are the types of the free tier (AWS Free Tier; accounts made before July 2025).
var freeTier = []string{"t2.micro", "t3.micro"}

// typeOf returns the type of a family with a name.
func (f *family) typeOf(name string) *Type {
	_, size, _ := strings.Cut(name, ".")
	o := odd[name]
	vcpus := first(o.vcpus, f.vcpus(size))
	interfaces, addresses := cards(vcpus)
	t := &Type{
		Name: name, Current: !f.old, FreeTier: slices.Contains(freeTier, name), BareMetal: strings.HasPrefix(size, "metal"), Burstable: Burstable(name),
		Architectures: []string{"x86_64"}, Hypervisor: "nitro", Virtualization: []string{"hvm"}, RootDevices: []string{"ebs"},
		UsageClasses: []string{"on-demand", "spot"}, BootModes: []string{"legacy-bios", "uefi"}, Clock: f.clock,
		VCPUs: vcpus, ThreadsPerCore: f.threads, MemoryMiB: first(o.memory, vcpus*f.memory),
		Interfaces: first(o.interfaces, interfaces), Addresses: first(o.addresses, addresses),
		IPv6: !f.old || f.name == "c3" || f.name == "r3", ENA: "required", NVMe: "required", EBSOptimized: "default", Encrypted: !f.plain,
		Strategies: []string{"cluster", "partition", "spread"},
	}
	if f.arch == arm {
		t.Architectures, t.BootModes = []string{arm}, []string{"uefi"}
	}
	if f.xen {
		f.onXen(t)
	}
	if f.flexible || f.name == "m1" || f.name == "m3" || f.name == "c1" {
		t.Strategies = []string{"partition", "spread"}
	}
	if t.BareMetal {
		t.Hypervisor = ""
	}
	if f.ebs != "" {
		t.EBSOptimized = f.ebs
	}
	if t.ThreadsPerCore == 0 {
		t.ThreadsPerCore = 2
		if f.arch == arm {
			t.ThreadsPerCore = 1
		}
	}
	t.ThreadsPerCore = min(t.ThreadsPerCore, t.VCPUs)
	t.Cores = t.VCPUs / t.ThreadsPerCore
	if f.upTo != "" && !t.BareMetal && vcpus <= 16 {
		t.Network = "Up to " + f.upTo + " Gigabit"
	}
	if f.name == "t2" || f.name == "t1" {
		t.Network = oldNetwork[size]
	}
	return t
}

var oldNetwork = map[string]string{
	"nano": "Low to Moderate", "micro": "Low to Moderate", "small": "Low to Moderate", "medium": "Low to Moderate", "large": "Low to Moderate",
	"xlarge": "Moderate", "2xlarge": "Moderate",
}

// onXen sets what types on the older hypervisor have.
func (f *family) onXen(t *Type) {
	t.Hypervisor, t.ENA, t.NVMe, t.BootModes = "xen", "unsupported", "unsupported", []string{"legacy-bios"}
	if f.ena != "" || t.Name == "m4.16xlarge" {
		t.ENA = "supported"
	}
	switch f.name {
	case "t1", "m1", "m2", "c1":
		t.Virtualization = []string{"paravirtual"}
	case "m3", "c3":
		t.Virtualization = []string{"hvm", "paravirtual"}
	}
	switch t.Name {
	case "t1.micro", "m1.small", "m1.medium", "c1.medium", "t2.nano", "t2.micro", "t2.small", "t2.medium", "c3.large":
		t.Architectures = []string{"x86_64", "i386"}
	}
	if f.old && f.name != "t1" {
		t.RootDevices = []string{"ebs", "instance-store"}
	}
}

// vcpus returns the virtual processors of a size: an xlarge has 4, a 12xlarge 48. A bare metal type
// has as many as the largest other size of its family.
func (f *family) vcpus(size string) int {
	switch size {
	case "nano", "micro", "small", "medium":
		return 1
	case "large":
		return 2
	case "xlarge":
		return 4
	case "metal":
		most := 0
		for _, name := range sizesOf(f.name) {
			if _, other, _ := strings.Cut(name, "."); other != "metal" {
				most = max(most, f.vcpus(other))
			}
		}
		return most
	}
	digits, _, _ := strings.Cut(strings.TrimPrefix(size, "metal-"), "xl")
	n, _ := strconv.Atoi(digits)
	return 4 * n
}

// cards returns the network interfaces and the addresses of each that most types with so many vCPUs
// have (EC2 Instance Types Guide, "Network specifications").
func cards(vcpus int) (interfaces, addresses int) {
	switch {
	case vcpus <= 1:
		return 2, 4
	case vcpus <= 2:
		return 3, 10
	case vcpus <= 8:
		return 4, 15
	case vcpus <= 48:
		return 8, 30
	}
	return 15, 50
}

func first(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}
