package query_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	regions "palisade/ec2/region"
	"palisade/ec2/state"
)

func TestAccountAttributesZonesAndRegionsAreDescribed(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]int{"albert": 2, "dev": 1} {
		out := ok[*sdk.DescribeAccountAttributesOutput](t)(w.as(name).DescribeAccountAttributes(t.Context(), nil))
		if got := out.AccountAttributes[0].AttributeValues; len(got) != want {
			t.Errorf("%s has the platforms %+v, want %d", name, got, want)
		}
	}
	zones := ok[*sdk.DescribeAvailabilityZonesOutput](t)(w.as("albert").DescribeAvailabilityZones(t.Context(), nil)).AvailabilityZones
	if len(zones) != 1 || *zones[0].ZoneName != "us-east-1a" {
		t.Errorf("got zones %+v, want us-east-1a", zones)
	}
	regions := ok[*sdk.DescribeRegionsOutput](t)(w.as("albert").DescribeRegions(t.Context(), nil)).Regions
	if len(regions) != 1 || *regions[0].RegionName != region {
		t.Errorf("got regions %+v, want %s", regions, region)
	}
}

func TestRegionShowsZonesOfItsNodes(t *testing.T) {
	w := newWorld(t)
	w.join(t, "node2", "us-east-1b")
	w.join(t, "node3", "us-east-1c")
	w.join(t, "node4", "us-east-1a")
	w.join(t, "node5", "eu-west-1a")
	w.change(t, &state.FenceNode{Node: "node3"}, &state.FenceNode{Node: "node4"})
	zones := func(names ...string) string {
		t.Helper()
		out := ok[*sdk.DescribeAvailabilityZonesOutput](t)(w.as("albert").DescribeAvailabilityZones(t.Context(), &sdk.DescribeAvailabilityZonesInput{ZoneNames: names}))
		var list []string
		for _, z := range out.AvailabilityZones {
			list = append(list, *z.ZoneName+" "+string(z.State))
		}
		return strings.Join(list, ", ")
	}
	if got, want := zones(), "us-east-1a available, us-east-1b available, us-east-1c unavailable"; got != want {
		t.Errorf("zones are %s, want %s", got, want)
	}
	if got, want := zones("us-east-1b"), "us-east-1b available"; got != want {
		t.Errorf("zones are %s, want %s", got, want)
	}
	_, err := w.as("albert").DescribeAvailabilityZones(t.Context(), &sdk.DescribeAvailabilityZonesInput{ZoneNames: []string{"eu-west-1a"}})
	wantCode(t, "a zone of another region", err, "InvalidParameterValue", "Invalid availability zone: [eu-west-1a]. Region us-east-1 has: us-east-1a, us-east-1b, us-east-1c.")
}

func TestRegionsAreDescribed(t *testing.T) {
	w := newWorld(t)
	w.change(t, &state.SetRegions{Set: &regions.Region{Name: "me-south-1", Zones: []regions.Zone{{Name: "me-south-1a"}}}})
	describe := func(in *sdk.DescribeRegionsInput) string {
		t.Helper()
		var list []string
		for _, r := range ok[*sdk.DescribeRegionsOutput](t)(w.as("albert").DescribeRegions(t.Context(), in)).Regions {
			if *r.Endpoint != "ec2."+*r.RegionName+".amazonaws.com" {
				t.Errorf("region %s has the endpoint %s", *r.RegionName, *r.Endpoint)
			}
			list = append(list, *r.RegionName+" "+*r.OptInStatus)
		}
		return strings.Join(list, ", ")
	}
	filter := func(name string, values ...string) []types.Filter {
		return []types.Filter{{Name: &name, Values: values}}
	}
	const both = "me-south-1 opted-in, us-east-1 opt-in-not-required"
	for _, c := range []struct {
		in   *sdk.DescribeRegionsInput
		want string
	}{
		{&sdk.DescribeRegionsInput{}, both},
		{&sdk.DescribeRegionsInput{RegionNames: []string{"us-east-1"}}, "us-east-1 opt-in-not-required"},
		{&sdk.DescribeRegionsInput{RegionNames: []string{"eu-west-1"}}, "eu-west-1 not-opted-in"},
		{&sdk.DescribeRegionsInput{Filters: filter("opt-in-status", "opted-in")}, "me-south-1 opted-in"},
		{&sdk.DescribeRegionsInput{Filters: filter("opt-in-status", "opt-in-not-required", "opted-in")}, both},
		{&sdk.DescribeRegionsInput{Filters: filter("region-name", "us-*", "eu-*")}, "us-east-1 opt-in-not-required"},
		{&sdk.DescribeRegionsInput{Filters: filter("endpoint", "*us-east*")}, "us-east-1 opt-in-not-required"},
		{&sdk.DescribeRegionsInput{AllRegions: aws.Bool(true), Filters: filter("region-name", "us-*")}, "us-east-1 opt-in-not-required, us-east-2 not-opted-in, us-west-1 not-opted-in, us-west-2 not-opted-in"},
		{&sdk.DescribeRegionsInput{AllRegions: aws.Bool(false)}, both},
	} {
		if got := describe(c.in); got != c.want {
			t.Errorf("regions %v, all %v, filters %v: got %s, want %s", c.in.RegionNames, c.in.AllRegions != nil, len(c.in.Filters), got, c.want)
		}
	}
	_, err := w.as("albert").DescribeRegions(t.Context(), &sdk.DescribeRegionsInput{RegionNames: []string{"us-east-1", "moon-1"}})
	wantCode(t, "an unknown region", err, "InvalidParameterValue", "Invalid region name(s) provided: [moon-1]. The regions are: me-south-1, us-east-1.")
	w.change(t, &state.SetRegions{Every: new(true)})
	if got := strings.Split(describe(&sdk.DescribeRegionsInput{}), ", "); len(got) != 34 || strings.Contains(strings.Join(got, " "), "not-opted-in") {
		t.Errorf("with every region, DescribeRegions shows %d regions: %v", len(got), got)
	}
}

func TestZonesOfSetRegionAreDescribed(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t)
	api := w.in("dev", "us-west-1")
	describe := func(in *sdk.DescribeAvailabilityZonesInput) string {
		t.Helper()
		var list []string
		for _, z := range ok[*sdk.DescribeAvailabilityZonesOutput](t)(api.DescribeAvailabilityZones(t.Context(), in)).AvailabilityZones {
			list = append(list, *z.ZoneName+" "+*z.ZoneId+" "+string(z.State)+" "+string(z.OptInStatus))
		}
		return strings.Join(list, ", ")
	}
	const b, c = "us-west-1b usw1-az3 available opt-in-not-required", "us-west-1c usw1-az1 available opt-in-not-required"
	for _, x := range []struct {
		in   *sdk.DescribeAvailabilityZonesInput
		want string
	}{
		{nil, b + ", " + c},
		{&sdk.DescribeAvailabilityZonesInput{AllAvailabilityZones: aws.Bool(true)}, b + ", " + c},
		{&sdk.DescribeAvailabilityZonesInput{ZoneIds: []string{"usw1-az1"}}, c},
		{&sdk.DescribeAvailabilityZonesInput{ZoneNames: []string{"us-west-1b"}}, b},
		{&sdk.DescribeAvailabilityZonesInput{Filters: []types.Filter{{Name: aws.String("zone-id"), Values: []string{"usw1-az3"}}}}, b},
		{&sdk.DescribeAvailabilityZonesInput{Filters: []types.Filter{{Name: aws.String("region-name"), Values: []string{"us-east-1"}}}}, ""},
		{&sdk.DescribeAvailabilityZonesInput{Filters: []types.Filter{{Name: aws.String("opt-in-status"), Values: []string{"opt-in-not-required"}}}}, b + ", " + c},
	} {
		if got := describe(x.in); got != x.want {
			t.Errorf("zones for %+v are %s, want %s", x.in, got, x.want)
		}
	}
}
