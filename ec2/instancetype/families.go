package instancetype

// A family has what its types have in common. A zero field means what most families have: see the
// comments.
type family struct {
	name     string
	arch     string // "": x86_64
	memory   int    // MiB for each vCPU, unless sizes has the type
	clock    string
	threads  int  // of a core; 0: 2 of x86_64, 1 of arm64
	old      bool // not of the current generation
	xen      bool // xen instead of nitro
	ena      string
	ebs      string // "": default
	upTo     string // network performance of types up to 4xlarge
	plain    bool   // traffic between instances is not encrypted
	flexible bool   // cannot be in a cluster placement group
}

// families are the general, compute and memory families of EC2 without local disks.
var families = []family{
	{name: "t1", clock: "", threads: 1, old: true, xen: true, ebs: "unsupported", plain: true, flexible: true},
	{name: "t2", clock: "2.5", threads: 1, xen: true, ebs: "unsupported", plain: true, flexible: true},
	{name: "t3", clock: "2.5", upTo: "5", plain: true, flexible: true},
	{name: "t3a", clock: "2.2", upTo: "5", plain: true, flexible: true},
	{name: "t4g", arch: arm, clock: "2.5", upTo: "5", plain: true, flexible: true},

	{name: "m1", threads: 1, old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "m2", threads: 1, old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "c1", threads: 1, old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "m3", clock: "2.5", old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "m4", memory: 4096, clock: "2.4", xen: true, plain: true},
	{name: "m5", memory: 4096, clock: "3.1", upTo: "10", plain: true},
	{name: "m5a", memory: 4096, clock: "2.5", upTo: "10", plain: true},
	{name: "m5n", memory: 4096, clock: "3.1", upTo: "25"},
	{name: "m5zn", memory: 4096, clock: "4.5"},
	{name: "m6a", memory: 4096, clock: "3.6", upTo: "12.5"},
	{name: "m6g", arch: arm, memory: 4096, clock: "2.5", upTo: "10", plain: true},
	{name: "m6i", memory: 4096, clock: "3.5", upTo: "12.5"},
	{name: "m6in", memory: 4096, clock: "3.5"},
	{name: "m7a", memory: 4096, clock: "3.7", threads: 1, upTo: "12.5"},
	{name: "m7g", arch: arm, memory: 4096, clock: "2.6"},
	{name: "m7i", memory: 4096, clock: "3.2", upTo: "12.5"},
	{name: "m7i-flex", memory: 4096, clock: "3.2", upTo: "12.5", flexible: true},
	{name: "m8g", arch: arm, memory: 4096, clock: "2.8"},

	{name: "c3", clock: "2.8", old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "c4", memory: 1920, clock: "2.9", xen: true, plain: true},
	{name: "c5", memory: 2048, clock: "3.4", upTo: "10", plain: true},
	{name: "c5a", memory: 2048, clock: "3.3", upTo: "10"},
	{name: "c5n", memory: 2688, clock: "3.4", upTo: "25"},
	{name: "c6a", memory: 2048, clock: "3.6", upTo: "12.5"},
	{name: "c6g", arch: arm, memory: 2048, clock: "2.5", upTo: "10", plain: true},
	{name: "c6gn", arch: arm, memory: 2048, clock: "2.5"},
	{name: "c6i", memory: 2048, clock: "3.5", upTo: "12.5"},
	{name: "c6in", memory: 2048, clock: "3.5"},
	{name: "c7a", memory: 2048, clock: "3.7", threads: 1, upTo: "12.5"},
	{name: "c7g", arch: arm, memory: 2048, clock: "2.6"},
	{name: "c7gn", arch: arm, memory: 2048, clock: "2.6"},
	{name: "c7i", memory: 2048, clock: "3.2", upTo: "12.5"},
	{name: "c7i-flex", memory: 2048, clock: "3.2", upTo: "12.5", flexible: true},
	{name: "c8g", arch: arm, memory: 2048, clock: "2.8"},

	{name: "r3", clock: "2.5", old: true, xen: true, ebs: "unsupported", plain: true},
	{name: "r4", memory: 7808, clock: "2.3", xen: true, ena: "supported", plain: true},
	{name: "r5", memory: 8192, clock: "3.1", upTo: "10", plain: true},
	{name: "r5a", memory: 8192, clock: "2.5", upTo: "10", plain: true},
	{name: "r5b", memory: 8192, clock: "3.1", upTo: "10", plain: true},
	{name: "r5n", memory: 8192, clock: "3.1", upTo: "25"},
	{name: "r6a", memory: 8192, clock: "3.6", upTo: "12.5"},
	{name: "r6g", arch: arm, memory: 8192, clock: "2.5", upTo: "10", plain: true},
	{name: "r6i", memory: 8192, clock: "3.5", upTo: "12.5"},
	{name: "r6in", memory: 8192, clock: "3.5"},
	{name: "r7a", memory: 8192, clock: "3.7", threads: 1, upTo: "12.5"},
	{name: "r7g", arch: arm, memory: 8192, clock: "2.6"},
	{name: "r7i", memory: 8192, clock: "3.2", upTo: "12.5"},
	{name: "r8g", arch: arm, memory: 8192, clock: "2.8"},
}

const arm = "arm64"

// odd has the types that do not follow the rules of sizes.go: vCPUs, MiB of memory, network
// interfaces and addresses of an interface. A zero follows the rule.
var odd = map[string]struct{ vcpus, memory, interfaces, addresses int }{
	"t1.micro":  {1, 627, 2, 2},
	"t2.nano":   {1, 512, 2, 2},
	"t2.micro":  {1, 1024, 2, 2},
	"t2.small":  {1, 2048, 3, 4},
	"t2.medium": {2, 4096, 3, 6},
	"t2.large":  {2, 8192, 3, 12},
	"t2.xlarge": {4, 16384, 3, 15}, "t2.2xlarge": {8, 32768, 3, 15},

	"t3.nano": {2, 512, 2, 2}, "t3a.nano": {2, 512, 2, 2}, "t4g.nano": {2, 512, 2, 2},
	"t3.micro": {2, 1024, 2, 2}, "t3a.micro": {2, 1024, 2, 2}, "t4g.micro": {2, 1024, 2, 2},
	"t3.small": {2, 2048, 3, 4}, "t3a.small": {2, 2048, 2, 4}, "t4g.small": {2, 2048, 3, 4},
	"t3.medium": {2, 4096, 3, 6}, "t3a.medium": {2, 4096, 3, 6}, "t4g.medium": {2, 4096, 3, 6},
	"t3.large": {2, 8192, 3, 12}, "t3a.large": {2, 8192, 3, 12}, "t4g.large": {2, 8192, 3, 12},
	"t3.xlarge": {4, 16384, 4, 15}, "t3a.xlarge": {4, 16384, 4, 15}, "t4g.xlarge": {4, 16384, 4, 15},
	"t3.2xlarge": {8, 32768, 4, 15}, "t3a.2xlarge": {8, 32768, 4, 15}, "t4g.2xlarge": {8, 32768, 4, 15},

	"m1.small": {1, 1740, 2, 4}, "m1.medium": {1, 3788, 2, 6}, "m1.large": {2, 7680, 3, 10}, "m1.xlarge": {4, 15360, 4, 15},
	"m2.xlarge": {2, 17510, 4, 15}, "m2.2xlarge": {4, 35020, 4, 30}, "m2.4xlarge": {8, 70041, 8, 30},
	"c1.medium": {2, 1740, 2, 6}, "c1.xlarge": {8, 7168, 4, 15},
	"m3.medium": {1, 3788, 2, 6}, "m3.large": {2, 7680, 3, 10}, "m3.xlarge": {4, 15360, 4, 15}, "m3.2xlarge": {8, 30720, 4, 30},
	"c3.large": {2, 3840, 3, 10}, "c3.xlarge": {4, 7680, 4, 15}, "c3.2xlarge": {8, 15360, 4, 15}, "c3.4xlarge": {16, 30720, 8, 30}, "c3.8xlarge": {32, 61440, 8, 30},
	"r3.large": {2, 15360, 3, 10}, "r3.xlarge": {4, 31232, 4, 15}, "r3.2xlarge": {8, 62464, 4, 15}, "r3.4xlarge": {16, 124928, 8, 30}, "r3.8xlarge": {32, 249856, 8, 30},

	"m4.large": {interfaces: 2, addresses: 10}, "m4.16xlarge": {interfaces: 8, addresses: 30},
	"c4.8xlarge":  {36, 61440, 8, 30},
	"c5n.9xlarge": {memory: 98304}, "c5n.18xlarge": {memory: 196608}, "c5n.metal": {memory: 196608},
}
