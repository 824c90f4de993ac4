package catalogue

import (
	"slices"
	"strings"
	"time"
)

// Amazon recommends an image for 90 days (AL2023 User Guide, "Deprecated AMIs"); a public image is
// deprecated after two years (EC2 User Guide, "Deprecate an AMI"), by which the others go.
var (
	amazon    = publisher{account: "137112412989", recommended: 90 * 24 * time.Hour}
	canonical = publisher{account: "099720109477", recommended: 2 * 365 * 24 * time.Hour, architecture: map[string]string{"amd64": "x86_64"}}
	debian    = publisher{account: "136693071363", recommended: 2 * 365 * 24 * time.Hour, architecture: map[string]string{"amd64": "x86_64"}}
)

var allSeries = slices.Concat(amazonLinux2023(), amazonLinux2(), ubuntu(), debians())

const amazonParameters = "/aws/service/ami-amazon-linux-latest/"

var releasesOf2023 = strings.Fields(`
	2023.0.20230315.0 2023.0.20230419.0 2023.0.20230503.0 2023.0.20230614.0 2023.1.20230629.0 2023.1.20230705.0 2023.1.20230725.0
	2023.1.20230809.0 2023.1.20230912.0 2023.2.20231011.0 2023.2.20231113.0 2023.3.20231218.0 2023.3.20240117.0 2023.3.20240122.0
	2023.3.20240131.0 2023.3.20240205.2 2023.3.20240219.0 2023.3.20240304.0 2023.3.20240312.0 2023.4.20240401.1 2023.4.20240528.0
	2023.4.20240611.0 2023.5.20240701.0 2023.5.20240708.0 2023.5.20240722.0 2023.5.20240805.0 2023.5.20240819.0 2023.5.20240903.0
	2023.5.20240916.0 2023.5.20241001.1 2023.6.20241010.0 2023.6.20241111.0 2023.6.20241212.0 2023.6.20250107.0 2023.6.20250123.4
	2023.6.20250203.1 2023.7.20250331.0 2023.7.20250512.0 2023.7.20250527.1 2023.7.20250609.0 2023.8.20250707.0 2023.8.20250721.2
	2023.8.20250808.1 2023.8.20250818.0 2023.8.20250908.0 2023.8.20250915.0 2023.9.20250929.0 2023.9.20251014.0 2023.9.20251110.1
	2023.9.20251117.1 2023.9.20251208.0 2023.10.20260105.0 2023.10.20260120.4 2023.10.20260202.2 2023.10.20260216.1
	2023.10.20260302.1 2023.10.20260325.0 2023.11.20260413.0 2023.11.20260509.0 2023.11.20260514.0 2023.11.20260526.0
	2023.12.20260710.0 2023.12.20260724.0 2023.12.20260803.3 2023.12.20260817.0 2023.12.20260831.0 2023.12.20260914.0
	2023.12.20260918.0 2023.12.20260928.0 2023.12.20260930.0`)

// from returns the releases that are not before the date.
func from(date string, releases []string) []string {
	return slices.DeleteFunc(slices.Clone(releases), func(r string) bool { return dateOf(r).Format("20060102") < date })
}

// amazonLinux2023 returns the images with each kernel, standard and minimal.
func amazonLinux2023() []series {
	var list []series
	for _, kernel := range []struct {
		version, since string
		words          []string // for the kernel, in the names of parameters
	}{
		{"6.1", "20230315", []string{"6.1", "default"}},
		{"6.12", "20250331", []string{"6.12"}},
		{"6.18", "20260302", []string{"6.18"}},
	} {
		for _, variant := range []struct {
			infix string
			size  int
		}{{"", 8}, {"minimal-", 2}} {
			s := series{
				publisher: amazon, architectures: []string{"x86_64", "arm64"}, releases: from(kernel.since, releasesOf2023),
				name:        "al2023-ami-" + variant.infix + "{release}-kernel-" + kernel.version + "-{arch}",
				description: "Amazon Linux 2023 AMI {release} {arch} HVM kernel-" + kernel.version,
				device:      "/dev/xvda", size: variant.size, volumeType: "gp3",
				bootModes: map[string]string{"x86_64": "uefi-preferred", "arm64": "uefi"}, imds: "v2.0", data: "text",
			}
			if variant.infix != "" {
				s.description = "Amazon Linux 2023 AMI {release} {arch} Minimal HVM kernel-" + kernel.version
			}
			for _, word := range kernel.words {
				s.newest = append(s.newest, amazonParameters+"al2023-ami-"+variant.infix+"kernel-"+word+"-{arch}")
			}
			list = append(list, s)
		}
	}
	return list
}

var releasesOf2 = strings.Fields(`
	2.0.20200520.1 2.0.20200619.0 2.0.20200722.0 2.0.20210126.0 2.0.20210427.0 2.0.20210721.2 2.0.20220316.0 2.0.20220606.1
	2.0.20221004.0 2.0.20221103.3 2.0.20221210.1 2.0.20230119.1 2.0.20230418.0 2.0.20230504.1 2.0.20231012.1 2.0.20231218.0
	2.0.20240131.0 2.0.20240306.2 2.0.20240412.0 2.0.20250108.0 2.0.20250405.0 2.0.20250512.0 2.0.20250721.2 2.0.20250818.2
	2.0.20250902.3 2.0.20250929.2 2.0.20251014.0 2.0.20251121.0 2.0.20260120.1 2.0.20260923.0`)

func amazonLinux2() []series {
	var list []series
	for _, v := range []struct {
		prefix, words, since string
		x86, arm             []string // suffixes
		size                 int
	}{
		{"amzn2-ami-hvm-", "Amazon Linux 2 AMI {release} {arch} HVM ", "20200520", []string{"gp2", "ebs"}, []string{"gp2"}, 8},
		{"amzn2-ami-kernel-5.10-hvm-", "Amazon Linux 2 Kernel 5.10 AMI {release} {arch} HVM ", "20220316", []string{"gp2", "ebs"}, []string{"gp2"}, 8},
		{"amzn2-ami-minimal-hvm-", "Amazon Linux 2 AMI {release} {arch} Minimal HVM ", "20200520", []string{"ebs"}, []string{"ebs"}, 2},
	} {
		add := func(arch, suffix string) {
			kind := map[string]string{"gp2": "gp2", "ebs": "standard"}[suffix]
			s := series{
				publisher: amazon, architectures: []string{arch}, releases: from(v.since, releasesOf2),
				name: v.prefix + "{release}-{arch}-" + suffix, description: v.words + suffix,
				device: "/dev/xvda", size: v.size, volumeType: kind, data: "text",
				newest: []string{amazonParameters + v.prefix + "{arch}-" + suffix},
			}
			if arch == "arm64" {
				s.bootModes = map[string]string{"arm64": "uefi"}
			}
			list = append(list, s)
		}
		for _, suffix := range v.x86 {
			add("x86_64", suffix)
		}
		for _, suffix := range v.arm {
			add("arm64", suffix)
		}
	}
	return list
}

// ubuntu returns the server images. The names have hvm-ssd-gp3 since 23.10, and so have the parameters
// ebs-gp3 (Canonical, "Find Ubuntu images on AWS").
func ubuntu() []series {
	var list []series
	for _, v := range []struct{ name, version, directory, volume, description, releases string }{
		{"xenial", "16.04", "hvm-ssd", "gp2", "Canonical, Ubuntu, 16.04 LTS, {arch} xenial image build on {date}", `20200129 20200407 20200729 20210928`},
		{"bionic", "18.04", "hvm-ssd", "gp2", "Canonical, Ubuntu, 18.04 LTS, {arch} bionic image build on {date}",
			`20200112 20200408 20200430 20200611 20200923 20210128 20210415 20211129 20221201`},
		{"focal", "20.04", "hvm-ssd", "gp2", "Canonical, Ubuntu, 20.04 LTS, {arch} focal image build on {date}",
			`20201026 20210119.1 20210430 20210511 20211118 20220131 20220810 20220914 20221018 20230517 20231025 20250111 20250603 20250624`},
		{"jammy", "22.04", "hvm-ssd", "gp2", "Canonical, Ubuntu, 22.04, {arch} jammy image",
			`20220420 20230208 20230325 20230516 20230601 20230919 20231128 20231207 20240411 20240607 20240701 20240927 20241120 20250112
			20250305 20250712 20250822 20251015 20251111 20260218 20260410 20260430 20260702 20260731`},
		{"noble", "24.04", "hvm-ssd-gp3", "gp3", "Canonical, Ubuntu, 24.04, {arch} noble image",
			`20240423 20240523.1 20240801 20240809 20240927 20250115 20250305 20250530 20250610 20250627 20250821 20251212 20260203 20260313
			20260610 20260626 20260701 20260714 20260718 20260820 20260904 20260923 20261004`},
		{"resolute", "26.04", "hvm-ssd-gp3", "gp3", "Canonical, Ubuntu, 26.04, {arch} resolute image", `20260421 20260604 20260916 20261003`},
	} {
		s := series{
			publisher: canonical, architectures: []string{"amd64", "arm64"}, releases: strings.Fields(v.releases),
			name: "ubuntu/images/" + v.directory + "/ubuntu-" + v.name + "-" + v.version + "-{arch}-server-{release}", description: v.description,
			device: "/dev/sda1", size: 8, volumeType: v.volume, ephemeral: []string{"/dev/sdb", "/dev/sdc"},
			bootModes: map[string]string{"arm64": "uefi"}, data: "aws:ec2:image",
			each: "/aws/service/canonical/ubuntu/server/" + v.version + "/stable/{release}/{arch}/hvm/ebs-" + v.volume + "/ami-id",
		}
		if v.volume == "gp3" {
			s.bootModes["amd64"], s.imds = "uefi-preferred", "v2.0"
		}
		for _, word := range []string{v.version, v.name} {
			s.newest = append(s.newest, "/aws/service/canonical/ubuntu/server/"+word+"/stable/current/{arch}/hvm/ebs-"+v.volume+"/ami-id")
		}
		list = append(list, s)
	}
	return list
}

func debians() []series {
	var list []series
	for _, v := range []struct{ version, name, volume, releases string }{
		{"10", "buster", "gp2", `20200210-166 20200803-347 20200928-407 20210208-542 20210329-591 20220911-1135 20240204-1647`},
		{"11", "bullseye", "gp2", `20220503-998 20230124-1270 20230515-1381 20231013-1532 20240717-1811 20241202-1949`},
		{"12", "bookworm", "gp3", `20230531-1397 20230723-1450 20231013-1532 20231210-1591 20240415-1718 20240701-1740 20240717-1811 20250210-2019
			20250316-2053 20250331-1966 20250530-2128 20251008-2233 20251112-2294 20260210-2384 20260821-2577 20260923-2610 20261006-2623`},
		{"13", "trixie", "gp3", `20250810-2160 20250814-2204 20251006-2257 20251117-2299 20260316-2418 20260601-2496 20260712-2537 20260914-2601`},
	} {
		s := series{
			publisher: debian, architectures: []string{"amd64", "arm64"}, releases: strings.Fields(v.releases),
			name: "debian-" + v.version + "-{arch}-{release}", description: "Debian " + v.version + " ({release})",
			device: "/dev/xvda", size: 8, volumeType: v.volume, data: "text",
			bootModes: map[string]string{"arm64": "uefi"},
		}
		if v.volume == "gp3" {
			s.bootModes["amd64"] = "uefi-preferred"
		}
		for _, word := range []string{v.version, v.name} {
			s.newest = append(s.newest, "/aws/service/debian/release/"+word+"/latest/{arch}")
		}
		list = append(list, s)
	}
	return list
}
