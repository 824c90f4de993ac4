package catalogue

import (
	"regexp"
	"strings"
	"testing"
)

var (
	imageID    = regexp.MustCompile(`^ami-0[0-9a-f]{16}$`)
	snapshotID = regexp.MustCompile(`^snap-0[0-9a-f]{16}$`)
)

// The names are those that the publishers gave, as Terraform modules, manuals and scripts have them.
func TestCatalogueHasPublishedNames(t *testing.T) {
	byName := make(map[string]Image)
	for _, i := range Images("us-east-1") {
		if _, twice := byName[i.Name]; twice {
			t.Errorf("the catalogue has %s twice", i.Name)
		}
		byName[i.Name] = i
	}
	for _, want := range []struct{ name, owner, arch, device, volume, description string }{
		{"al2023-ami-2023.6.20241111.0-kernel-6.1-x86_64", "137112412989", "x86_64", "/dev/xvda", "gp3", "Amazon Linux 2023 AMI 2023.6.20241111.0 x86_64 HVM kernel-6.1"},
		{"al2023-ami-minimal-2023.6.20241212.0-kernel-6.1-arm64", "137112412989", "arm64", "/dev/xvda", "gp3", ""},
		{"al2023-ami-2023.10.20260302.1-kernel-6.18-x86_64", "137112412989", "x86_64", "/dev/xvda", "gp3", ""},
		{"amzn2-ami-hvm-2.0.20231218.0-x86_64-gp2", "137112412989", "x86_64", "/dev/xvda", "gp2", "Amazon Linux 2 AMI 2.0.20231218.0 x86_64 HVM gp2"},
		{"amzn2-ami-hvm-2.0.20210721.2-x86_64-ebs", "137112412989", "x86_64", "/dev/xvda", "standard", ""},
		{"amzn2-ami-kernel-5.10-hvm-2.0.20240412.0-x86_64-gp2", "137112412989", "x86_64", "/dev/xvda", "gp2", ""},
		{"ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20210430", "099720109477", "x86_64", "/dev/sda1", "gp2", ""},
		{"ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20230516", "099720109477", "x86_64", "/dev/sda1", "gp2", ""},
		{"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-20240927", "099720109477", "arm64", "/dev/sda1", "gp3", "Canonical, Ubuntu, 24.04, arm64 noble image"},
		{"debian-12-amd64-20231013-1532", "136693071363", "x86_64", "/dev/xvda", "gp3", "Debian 12 (20231013-1532)"},
		{"debian-13-arm64-20251117-2299", "136693071363", "arm64", "/dev/xvda", "gp3", ""},
	} {
		i, ok := byName[want.name]
		if !ok {
			t.Errorf("the catalogue lacks %s", want.name)
			continue
		}
		if i.Owner != want.owner || i.Alias != "amazon" || i.Architecture != want.arch || i.Root.Device != want.device || i.Root.VolumeType != want.volume ||
			want.description != "" && i.Description != want.description || !imageID.MatchString(i.ID) || !snapshotID.MatchString(i.Root.Snapshot) {
			t.Errorf("%s is %+v, want %+v", want.name, i, want)
		}
		if found, ok := Find("us-east-1", i.ID); !ok || found.Name != i.Name {
			t.Errorf("id %s names %q, want %s", i.ID, found.Name, i.Name)
		}
	}
}

func TestIDsDifferBetweenRegionsAndStayTheSame(t *testing.T) {
	seen := make(map[string]string)
	for _, region := range []string{"us-east-1", "eu-west-1", "ap-southeast-2"} {
		for n, i := range Images(region) {
			if seen[i.ID] != "" {
				t.Errorf("%s is %s in %s, and also %s", i.ID, i.Name, region, seen[i.ID])
			}
			seen[i.ID] = i.Name + " in " + region
			if n > 0 && Images(region)[n-1].Created.Before(i.Created) {
				t.Errorf("%s is listed after an older image", i.Name)
			}
			if _, ok := Find("eu-north-1", i.ID); ok {
				t.Errorf("%s of %s is found in another region", i.Name, region)
			}
		}
	}
	again := build("eu-west-1")
	for n, i := range Images("eu-west-1") {
		if again.images[n].ID != i.ID {
			t.Fatalf("the catalogue has %s at place %d, and at the next start %s", i.ID, n, again.images[n].ID)
		}
	}
}

func TestParametersNameTheNewestImage(t *testing.T) {
	for name, part := range map[string]string{
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-x86_64":                   "al2023-ami-2023.",
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64":                "-kernel-6.1-arm64",
		"/aws/service/ami-amazon-linux-latest/al2023-ami-minimal-kernel-default-x86_64":       "al2023-ami-minimal-2023.",
		"/aws/service/ami-amazon-linux-latest/amzn2-ami-hvm-x86_64-gp2":                       "amzn2-ami-hvm-2.0.",
		"/aws/service/ami-amazon-linux-latest/amzn2-ami-hvm-x86_64-ebs":                       "-x86_64-ebs",
		"/aws/service/ami-amazon-linux-latest/amzn2-ami-kernel-5.10-hvm-x86_64-gp2":           "amzn2-ami-kernel-5.10-hvm-",
		"/aws/service/ami-amazon-linux-latest/amzn2-ami-minimal-hvm-arm64-ebs":                "amzn2-ami-minimal-hvm-",
		"/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id":  "ubuntu-jammy-22.04-amd64",
		"/aws/service/canonical/ubuntu/server/focal/stable/current/arm64/hvm/ebs-gp2/ami-id":  "ubuntu-focal-20.04-arm64",
		"/aws/service/canonical/ubuntu/server/noble/stable/current/amd64/hvm/ebs-gp3/ami-id":  "ubuntu-noble-24.04-amd64",
		"/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id":  "ubuntu-noble-24.04-arm64",
		"/aws/service/canonical/ubuntu/server/22.04/stable/20230516/amd64/hvm/ebs-gp2/ami-id": "jammy-22.04-amd64-server-20230516",
		"/aws/service/debian/release/12/latest/amd64":                                         "debian-12-amd64-",
		"/aws/service/debian/release/bookworm/latest/arm64":                                   "debian-12-arm64-",
	} {
		p, ok := FindParameter("eu-west-1", name)
		image, exists := Find("eu-west-1", p.Value)
		if !ok || !exists || !strings.Contains(image.Name, part) || p.Version < 1 || !p.Modified.Equal(image.Created) {
			t.Errorf("parameter %s is %+v, which names %q, want one with %s", name, p, image.Name, part)
		}
		for _, other := range Images("eu-west-1") {
			sameSeries := other.Newest && other.Name == image.Name
			if !strings.Contains(name, "20230516") && other.Name == image.Name && !sameSeries {
				t.Errorf("parameter %s names %s, which is not the newest", name, image.Name)
			}
		}
	}
	if _, ok := FindParameter("eu-west-1", "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp2/ami-id"); ok {
		t.Error("Canonical publishes no ebs-gp2 parameter of 24.04, but the catalogue has one")
	}
}
