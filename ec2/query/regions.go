package query

import (
	"maps"
	"slices"

	"palisade/ec2"
)

// regionActions are of what there is without anybody making it.
var regionActions = map[string]handler{
	"DescribeAccountAttributes": action(describeAccountAttributes),
	"DescribeAvailabilityZones": action(describeAvailabilityZones),
	"DescribeRegions":           action(describeRegions),
}

type describeAccountAttributesRequest struct {
	Names []string `wire:"AttributeName"`
}

type describeAccountAttributesAnswer struct {
	Attributes []attributeItem `wire:"accountAttributeSet"`
}

type attributeItem struct {
	Name   string           `wire:"attributeName"`
	Values []attributeValue `wire:"attributeValueSet"`
}

type attributeValue struct {
	Value string `wire:"attributeValue"`
}

// describeAccountAttributes is how clients find out whether an account has EC2-Classic.
func describeAccountAttributes(c *call, r *describeAccountAttributesRequest) (*describeAccountAttributesAnswer, error) {
	platforms := []attributeValue{{"VPC"}}
	if a, ok := c.view.Account(c.account); ok && a.Platform == ec2.Classic {
		platforms = []attributeValue{{"EC2"}, {"VPC"}}
	}
	answer := &describeAccountAttributesAnswer{}
	for _, item := range []attributeItem{
		{"supported-platforms", platforms},
		{"default-vpc", []attributeValue{{"none"}}},
		{"vpc-max-security-groups-per-interface", []attributeValue{{"5"}}},
	} {
		if len(r.Names) == 0 || slices.Contains(r.Names, item.Name) {
			answer.Attributes = append(answer.Attributes, item)
		}
	}
	return answer, nil
}

type describeRegionsRequest struct {
	Names []string `wire:"RegionName"`
}

type describeRegionsAnswer struct {
	Regions []regionItem `wire:"regionInfo"`
}

type regionItem struct {
	Name     ec2.Region `wire:"regionName"`
	Endpoint string     `wire:"regionEndpoint"`
	OptIn    string     `wire:"optInStatus"`
}

func describeRegions(c *call, r *describeRegionsRequest) (*describeRegionsAnswer, error) {
	answer := &describeRegionsAnswer{}
	for n := range c.view.Networks() {
		if n.VPC == "" && (len(r.Names) == 0 || slices.Contains(r.Names, string(n.Region))) {
			answer.Regions = append(answer.Regions, regionItem{n.Region, "ec2." + string(n.Region) + ".amazonaws.com", "opt-in-not-required"})
		}
	}
	return answer, nil
}

type describeAvailabilityZonesRequest struct {
	Names []string `wire:"ZoneName"`
}

type describeAvailabilityZonesAnswer struct {
	Zones []zoneItem `wire:"availabilityZoneInfo"`
}

type zoneItem struct {
	Name     string     `wire:"zoneName"`
	State    string     `wire:"zoneState"`
	Region   ec2.Region `wire:"regionName"`
	Messages []tag      `wire:"messageSet"`
}

// describeAvailabilityZones shows where the nodes are, those of the region: a zone's name
// is its region's and a letter. One whose nodes are all fenced takes no instance.
func describeAvailabilityZones(c *call, r *describeAvailabilityZonesRequest) (*describeAvailabilityZonesAnswer, error) {
	states := make(map[string]string)
	for n := range c.view.Nodes() {
		switch {
		case !n.Serves(c.region):
		case n.Member():
			states[n.Zone] = "available"
		case states[n.Zone] == "":
			states[n.Zone] = "unavailable"
		}
	}
	for _, zone := range r.Names {
		if states[zone] == "" {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]", quote(zone))
		}
	}
	answer := &describeAvailabilityZonesAnswer{}
	for _, zone := range slices.Sorted(maps.Keys(states)) {
		if len(r.Names) == 0 || slices.Contains(r.Names, zone) {
			answer.Zones = append(answer.Zones, zoneItem{Name: zone, State: states[zone], Region: c.region})
		}
	}
	return answer, nil
}
