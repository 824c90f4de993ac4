// Package instancetype has what AWS publishes of its instance types. The names are complete as of the
// Go SDK in go.mod; the properties are those of the usual families of types (EC2 Instance Types
// Guide, "Specifications").
//
// Reading order: Find returns a Type. families.go has the families, sizes.go computes the properties
// of one size. Apply must not use this package: its data changes between releases, and all nodes must
// decide alike.
package instancetype

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

//go:embed names.txt
var namesText string

// A Type is an instance type whose properties are known.
type Type struct {
	Name           string
	Current        bool // of the current generation
	FreeTier       bool
	BareMetal      bool
	Burstable      bool     // has CPU credits
	Architectures  []string // "x86_64", "arm64" or "i386", the best first
	Hypervisor     string   // "nitro" or "xen"; "" on bare metal
	Virtualization []string // "hvm" or "paravirtual"
	RootDevices    []string // "ebs" or "instance-store"
	UsageClasses   []string
	BootModes      []string
	Clock          string // GHz: "3.1"
	VCPUs          int
	Cores          int
	ThreadsPerCore int
	MemoryMiB      int
	Interfaces     int // the most network interfaces
	Addresses      int // the most private IPv4 addresses of an interface
	IPv6           bool
	Network        string // performance: "Up to 10 Gigabit"; "" if it is not known here
	ENA            string // "required", "supported" or "unsupported"
	NVMe           string // of EBS volumes
	EBSOptimized   string // "default", "supported" or "unsupported"
	Encrypted      bool   // traffic between instances is encrypted by AWS
	Strategies     []string
}

// names has all names of AWS's types, sorted.
var names = sync.OnceValue(func() []string { return strings.Fields(namesText) })

// types has every type whose properties are known, by name.
var types = sync.OnceValue(func() map[string]*Type {
	all := make(map[string]*Type)
	for _, f := range families {
		for _, name := range sizesOf(f.name) {
			all[name] = f.typeOf(name)
		}
	}
	return all
})

// sizesOf returns the names of a family's types.
func sizesOf(family string) []string {
	at, _ := slices.BinarySearch(names(), family+".")
	list := names()[at:]
	for n, name := range list {
		if !strings.HasPrefix(name, family+".") {
			return list[:n]
		}
	}
	return list
}

// Find returns the type with a name, if its properties are known.
func Find(name string) (*Type, bool) {
	t, ok := types()[name]
	return t, ok
}

// Exists reports whether AWS has a type with this name.
func Exists(name string) bool {
	_, ok := slices.BinarySearch(names(), name)
	return ok
}

// FamilyExists reports whether AWS has types that begin like name: m5.large is like m5.tiny.
func FamilyExists(name string) bool {
	family, _, _ := strings.Cut(name, ".")
	return len(sizesOf(family)) > 0
}

// Names returns the names of the types whose properties are known, sorted.
func Names() []string {
	var list []string
	for _, name := range names() {
		if _, ok := Find(name); ok {
			list = append(list, name)
		}
	}
	return list
}

// Architecture returns the best architecture of any type of AWS. The names of types with AWS's own
// processors have a g after the generation: c6gn.
func Architecture(name string) string {
	if t, ok := Find(name); ok {
		return t.Architectures[0]
	}
	family, _, _ := strings.Cut(name, ".")
	letters := strings.TrimLeft(family, "abcdefghijklmnopqrstuvwxyz")
	if strings.HasPrefix(strings.TrimLeft(letters, "0123456789"), "g") || family == "a1" || strings.HasPrefix(family, "mac2") || strings.HasPrefix(family, "mac-") {
		return "arm64"
	}
	return "x86_64"
}

// Burstable reports whether a type has CPU credits: its family is t2 or later.
func Burstable(name string) bool {
	family, _, _ := strings.Cut(name, ".")
	return len(family) > 1 && family[0] == 't' && family[1] >= '2' && family[1] <= '9'
}

// DefaultCredits returns the credit option that instances of a burstable type have at first (EC2 User
// Guide, "Unlimited mode concepts").
func DefaultCredits(name string) string {
	if strings.HasPrefix(name, "t2.") {
		return "standard"
	}
	return "unlimited"
}
