package query_test

import (
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

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
