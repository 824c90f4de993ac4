package query_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func images(t *testing.T, api *sdk.Client, in *sdk.DescribeImagesInput) []types.Image {
	t.Helper()
	return ok[*sdk.DescribeImagesOutput](t)(api.DescribeImages(t.Context(), in)).Images
}

func filterOf(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// The look-ups are those of the manuals of Terraform, Ansible, the AWS CLI and of public modules.
func TestImagesAreFoundByOwnerAndName(t *testing.T) {
	api := newWorld(t).as("dev")
	for _, c := range []struct {
		owner   string
		filters []types.Filter
		name    string // part of the newest image's name
	}{
		{"099720109477", []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd*/ubuntu-*-amd64-server-*"), filterOf("architecture", "x86_64")}, "amd64-server-20"},
		{"099720109477", []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"), filterOf("virtualization-type", "hvm")}, "jammy-22.04-amd64"},
		{"amazon", []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-*"), filterOf("architecture", "arm64")}, "noble-24.04-arm64"},
		{"amazon", []types.Filter{filterOf("name", "al2023-ami-2*-x86_64")}, "al2023-ami-2023."},
		{"amazon", []types.Filter{filterOf("name", "amzn2-ami-hvm-*-x86_64-*"), filterOf("root-device-type", "ebs")}, "amzn2-ami-hvm-2.0."},
		{"137112412989", []types.Filter{filterOf("owner-alias", "amazon"), filterOf("name", "amzn2-ami-hvm-*-x86_64-ebs"), filterOf("block-device-mapping.volume-type", "standard")}, "-ebs"},
		{"136693071363", []types.Filter{filterOf("name", "debian-12-amd64-*"), filterOf("root-device-name", "/dev/xvda"), filterOf("state", "available")}, "debian-12-amd64-"},
		{"amazon", []types.Filter{filterOf("manifest-location", "amazon/ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-*"), filterOf("platform-details", "Linux/UNIX"), filterOf("is-public", "true")}, "focal"},
		{"amazon", []types.Filter{filterOf("public-ssm-parameter-name", amazonLinux)}, "al2023-ami-2023."},
	} {
		found := images(t, api, &sdk.DescribeImagesInput{Owners: []string{c.owner}, Filters: c.filters})
		if len(found) == 0 {
			t.Errorf("owner %s with %s finds no image", c.owner, c.filters[0].Values)
			continue
		}
		newest := slices.MaxFunc(found, func(a, b types.Image) int { return cmp.Compare(*a.CreationDate, *b.CreationDate) })
		root := newest.BlockDeviceMappings[0]
		if newest.ImageId == nil || *found[0].CreationDate != *newest.CreationDate || !strings.Contains(*newest.Name, c.name) || newest.RootDeviceType != "ebs" ||
			*root.DeviceName != *newest.RootDeviceName || *root.Ebs.Encrypted || *root.Ebs.VolumeSize < 2 || *newest.ImageOwnerAlias != "amazon" ||
			*newest.ImageLocation != "amazon/"+*newest.Name || !*newest.Public || newest.Hypervisor != "xen" {
			t.Errorf("owner %s with %s finds first %s of %s, want the newest with %s and an EBS root: %+v", c.owner, c.filters[0].Values, *found[0].Name, *found[0].CreationDate, c.name, newest)
		}
		byID := images(t, api, &sdk.DescribeImagesInput{ImageIds: []string{*newest.ImageId}})
		byFilter := images(t, api, &sdk.DescribeImagesInput{Filters: []types.Filter{filterOf("image-id", *newest.ImageId)}})
		if len(byID) != 1 || len(byFilter) != 1 || *byID[0].Name != *newest.Name || *byFilter[0].Name != *newest.Name {
			t.Errorf("image %s is found %d times by id and %d times by filter, want once each as %s", *newest.ImageId, len(byID), len(byFilter), *newest.Name)
		}
	}
}

func TestImagesOfOthersAreNotShown(t *testing.T) {
	api := newWorld(t).as("dev")
	for what, in := range map[string]*sdk.DescribeImagesInput{
		"owner self":            {Owners: []string{"self"}},
		"owner aws-marketplace": {Owners: []string{"aws-marketplace"}},
		"another account":       {Owners: []string{"123456789013"}},
		"executable by self":    {ExecutableUsers: []string{"self"}},
		"a product code":        {Filters: []types.Filter{filterOf("product-code", "*")}},
		"Windows":               {Filters: []types.Filter{filterOf("platform", "windows")}},
		"the wrong owner":       {Owners: []string{"099720109477"}, Filters: []types.Filter{filterOf("name", "al2023-ami-*")}},
	} {
		if found := images(t, api, in); len(found) != 0 {
			t.Errorf("%s finds %d images, want none", what, len(found))
		}
	}
	if found := images(t, api, &sdk.DescribeImagesInput{ExecutableUsers: []string{"all"}, Owners: []string{"amazon"}}); len(found) == 0 {
		t.Error("executable by all finds no image, want the public ones")
	}
}

// A lab may run years after a publication: the newest image of a series is always found.
func TestDeprecatedImagesAreHiddenUnlessNamed(t *testing.T) {
	api := newWorld(t).as("dev")
	const old = "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20210430"
	series := []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-*")}
	shown := images(t, api, &sdk.DescribeImagesInput{Filters: series})
	all := images(t, api, &sdk.DescribeImagesInput{Filters: series, IncludeDeprecated: aws.Bool(true)})
	named := func(list []types.Image) bool {
		return slices.ContainsFunc(list, func(i types.Image) bool { return *i.Name == old })
	}
	if len(shown) == 0 || named(shown) || !named(all) || len(all) <= len(shown) {
		t.Errorf("the series has %d images and %d with deprecated ones, want %s in the latter only", len(shown), len(all), old)
	}
	exact := images(t, api, &sdk.DescribeImagesInput{Filters: []types.Filter{filterOf("name", old)}})
	if len(exact) != 1 || !strings.HasPrefix(*exact[0].CreationDate, "2021-04-30") || !strings.HasPrefix(*exact[0].DeprecationTime, "2023-04-30") {
		t.Fatalf("the exact name finds %+v, want the image of 2021-04-30, deprecated two years later", exact)
	}
	last := images(t, api, &sdk.DescribeImagesInput{Filters: []types.Filter{filterOf("name", "ubuntu/images/hvm-ssd/ubuntu-xenial-16.04-amd64-server-*")}})
	if len(last) != 1 || !strings.HasSuffix(*last[0].Name, "-20210928") || last[0].DeprecationTime != nil {
		t.Errorf("a series that ended in 2021 has %+v, want its last image", last)
	}
	if byID := images(t, api, &sdk.DescribeImagesInput{ImageIds: []string{*exact[0].ImageId}}); len(byID) != 1 {
		t.Errorf("the id of a deprecated image finds %d images, want it", len(byID))
	}
}

func TestImagesAreListedInPages(t *testing.T) {
	api := newWorld(t).as("dev")
	pages := sdk.NewDescribeImagesPaginator(api, &sdk.DescribeImagesInput{Owners: []string{"amazon"}, MaxResults: aws.Int32(50)})
	var ids []string
	last := "9999"
	for pages.HasMorePages() {
		page := ok[*sdk.DescribeImagesOutput](t)(pages.NextPage(t.Context()))
		if len(page.Images) > 50 {
			t.Errorf("a page has %d images, want at most 50", len(page.Images))
		}
		for _, i := range page.Images {
			ids = append(ids, *i.ImageId)
			if *i.CreationDate > last {
				t.Errorf("%s of %s comes after an image of %s", *i.Name, *i.CreationDate, last)
			}
			last = *i.CreationDate
		}
	}
	at := len(images(t, api, &sdk.DescribeImagesInput{Owners: []string{"amazon"}}))
	slices.Sort(ids)
	if len(ids) != at || len(slices.Compact(ids)) != at || at < 50 {
		t.Errorf("the pages have %d images, %d different ones, want all %d once", len(ids), len(slices.Compact(ids)), at)
	}
}

// Code that names an image outside of the catalogue still finds an image with an EBS root.
func TestAnyImageIDHasAnImage(t *testing.T) {
	w := newVPCWorld(t)
	api := w.as("dev")
	const other = "ami-0123456789abcdef0"
	i := images(t, api, &sdk.DescribeImagesInput{ImageIds: []string{other}})[0]
	if i.RootDeviceType != "ebs" || *i.RootDeviceName != "/dev/xvda" || *i.BlockDeviceMappings[0].DeviceName != "/dev/xvda" {
		t.Errorf("%s is %+v, want an EBS root at /dev/xvda", other, i)
	}
	if found := images(t, api, &sdk.DescribeImagesInput{Filters: []types.Filter{filterOf("image-id", other)}}); len(found) != 1 {
		t.Errorf("the filter image-id finds %d images, want %s", len(found), other)
	}
	classic := images(t, api, &sdk.DescribeImagesInput{ImageIds: []string{"ami-eca54085"}})[0]
	if classic.RootDeviceType != "instance-store" || classic.RootDeviceName != nil || len(classic.BlockDeviceMappings) != 0 {
		t.Errorf("the image of 2006 is %+v, want instance store", classic)
	}
}

// The message is the one that people quote in reports.
func TestImageAndTypeHaveTheSameArchitecture(t *testing.T) {
	w := newVPCWorld(t)
	api := w.as("dev")
	newest := func(arch string) *string {
		return images(t, api, &sdk.DescribeImagesInput{Owners: []string{"amazon"}, Filters: []types.Filter{filterOf("architecture", arch), filterOf("name", "al2023-ami-2023*")}})[0].ImageId
	}
	for _, c := range []struct {
		arch, kind string
		ok         bool
	}{
		{"arm64", "t4g.micro", true},
		{"arm64", "c6gn.large", true},
		{"arm64", "a1.medium", true},
		{"x86_64", "t3.micro", true},
		{"x86_64", "g5.xlarge", true},
		{"x86_64", "g4dn.xlarge", true},
		{"arm64", "t3.micro", false},
		{"x86_64", "m6gd.large", false},
	} {
		in := w.input(func(in *sdk.RunInstancesInput) {
			in.ImageId, in.InstanceType = newest(c.arch), types.InstanceType(c.kind)
		})
		out, err := api.RunInstances(t.Context(), in)
		if !c.ok {
			other := map[string]string{"arm64": "x86_64", "x86_64": "arm64"}[c.arch]
			wantCode(t, c.arch+" on "+c.kind, err, "InvalidParameterValue", "The architecture '"+other+"' of the specified instance type does not match the architecture '"+c.arch+"' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the architecture of the instance type or AMI.")
			continue
		}
		if i := ok[*sdk.RunInstancesOutput](t)(out, err).Instances[0]; string(i.Architecture) != c.arch || i.RootDeviceType != "ebs" || *i.RootDeviceName != "/dev/xvda" {
			t.Errorf("%s on %s shows %s and root %s, want the image's", c.arch, c.kind, i.Architecture, *i.RootDeviceName)
		}
	}
}
