package instancetype

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write names.txt")

var sdkName = regexp.MustCompile(`InstanceType = "([a-z0-9-]+\.[a-z0-9-]+)"`)

// names.txt is generated from the source of the Go SDK, which has the name of every type.
func TestNamesAreThoseOfTheSDK(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("find the source of the SDK: %v", err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "types", "enums.go"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range sdkName.FindAllStringSubmatch(string(source), -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	want := strings.Join(slices.Compact(list), "\n") + "\n"
	if len(list) < 1000 {
		t.Fatalf("found only %d types in the SDK: the form of its source has changed", len(list))
	}
	if *update {
		if err := os.WriteFile("names.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(namesText, want); diff != "" {
		t.Errorf("names.txt differs from the SDK; go test ./ec2/instancetype -run %s -update writes it:\n%s", t.Name(), diff)
	}
}

// The numbers are from the EC2 Instance Types Guide, "Specifications".
func TestTypesHaveThePublishedNumbers(t *testing.T) {
	for _, c := range []struct {
		name                                                 string
		vcpus, cores, threads, memory, interfaces, addresses int
		arch, hypervisor                                     string
		burstable, current                                   bool
	}{
		{"t1.micro", 1, 1, 1, 627, 2, 2, "x86_64", "xen", false, false},
		{"m1.small", 1, 1, 1, 1740, 2, 4, "x86_64", "xen", false, false},
		{"t2.micro", 1, 1, 1, 1024, 2, 2, "x86_64", "xen", true, true},
		{"t2.xlarge", 4, 4, 1, 16384, 3, 15, "x86_64", "xen", true, true},
		{"t3.micro", 2, 1, 2, 1024, 2, 2, "x86_64", "nitro", true, true},
		{"t3a.small", 2, 1, 2, 2048, 2, 4, "x86_64", "nitro", true, true},
		{"t4g.small", 2, 2, 1, 2048, 3, 4, "arm64", "nitro", true, true},
		{"m4.large", 2, 1, 2, 8192, 2, 10, "x86_64", "xen", false, true},
		{"m5.large", 2, 1, 2, 8192, 3, 10, "x86_64", "nitro", false, true},
		{"m5.24xlarge", 96, 48, 2, 393216, 15, 50, "x86_64", "nitro", false, true},
		{"m5.metal", 96, 48, 2, 393216, 15, 50, "x86_64", "", false, true},
		{"m6g.medium", 1, 1, 1, 4096, 2, 4, "arm64", "nitro", false, true},
		{"m7a.medium", 1, 1, 1, 4096, 2, 4, "x86_64", "nitro", false, true},
		{"m7i.metal-48xl", 192, 96, 2, 786432, 15, 50, "x86_64", "", false, true},
		{"c4.8xlarge", 36, 18, 2, 61440, 8, 30, "x86_64", "xen", false, true},
		{"c5.9xlarge", 36, 18, 2, 73728, 8, 30, "x86_64", "nitro", false, true},
		{"c5.18xlarge", 72, 36, 2, 147456, 15, 50, "x86_64", "nitro", false, true},
		{"c5n.large", 2, 1, 2, 5376, 3, 10, "x86_64", "nitro", false, true},
		{"c7g.xlarge", 4, 4, 1, 8192, 4, 15, "arm64", "nitro", false, true},
		{"r4.16xlarge", 64, 32, 2, 499712, 15, 50, "x86_64", "xen", false, true},
		{"r5.4xlarge", 16, 8, 2, 131072, 8, 30, "x86_64", "nitro", false, true},
		{"r6g.metal", 64, 64, 1, 524288, 15, 50, "arm64", "", false, true},
	} {
		x, ok := Find(c.name)
		if !ok {
			t.Errorf("%s is not known", c.name)
			continue
		}
		if x.VCPUs != c.vcpus || x.Cores != c.cores || x.ThreadsPerCore != c.threads || x.MemoryMiB != c.memory || x.Interfaces != c.interfaces || x.Addresses != c.addresses ||
			x.Architectures[0] != c.arch || x.Hypervisor != c.hypervisor || x.Burstable != c.burstable || x.Current != c.current {
			t.Errorf("%s is %+v, want %+v", c.name, *x, c)
		}
	}
}

func TestEveryTypeOfAFamilyIsComplete(t *testing.T) {
	for _, f := range families {
		if len(sizesOf(f.name)) == 0 {
			t.Errorf("AWS has no type of family %s", f.name)
		}
	}
	for _, name := range Names() {
		x, _ := Find(name)
		if x.VCPUs == 0 || x.MemoryMiB == 0 || x.Interfaces == 0 || x.Addresses == 0 || x.Cores*x.ThreadsPerCore != x.VCPUs || x.Clock == "" && x.Current {
			t.Errorf("%s is incomplete: %+v", name, *x)
		}
	}
	for name := range odd {
		if !Exists(name) {
			t.Errorf("AWS has no type %s", name)
		}
	}
}

func TestArchitectureIsReadFromTheNameOfAnUnknownType(t *testing.T) {
	for name, want := range map[string]string{
		"c6gd.large": "arm64", "g5g.xlarge": "arm64", "x2gd.medium": "arm64", "im4gn.large": "arm64", "a1.medium": "arm64", "mac2.metal": "arm64",
		"g5.xlarge": "x86_64", "g4dn.xlarge": "x86_64", "p3.2xlarge": "x86_64", "inf1.xlarge": "x86_64", "mac1.metal": "x86_64", "gr6.4xlarge": "x86_64", "u-6tb1.metal": "x86_64",
	} {
		if got := Architecture(name); got != want {
			t.Errorf("the architecture of %s is %s, want %s", name, got, want)
		}
	}
	if Exists("t3.tiny") || !Exists("p5.48xlarge") || !FamilyExists("t3.tiny") || FamilyExists("x9.huge") {
		t.Error("t3.tiny exists, p5.48xlarge does not, or families are mixed up")
	}
}
