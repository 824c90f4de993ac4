package query

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// regionActions show regions, zones and account attributes, which no request creates.
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

// describeAccountAttributes tells clients, among other attributes, whether an account has
// EC2-Classic.
func describeAccountAttributes(c *call, r *describeAccountAttributesRequest) (*describeAccountAttributesAnswer, error) {
	platforms := []attributeValue{{"VPC"}}
	if a, ok := c.view.Account(c.account); ok && a.Platform == ec2.Classic {
		platforms = []attributeValue{{"EC2"}, {"VPC"}}
	}
	defaultVPC := "none"
	if v, ok := c.view.DefaultVPC(c.account, c.region); ok {
		defaultVPC = string(v.ID)
	}
	limits := c.view.Settings()
	number := func(n int) []attributeValue { return []attributeValue{{strconv.Itoa(n)}} }
	all := []attributeItem{
		{"supported-platforms", platforms},
		{"default-vpc", []attributeValue{{defaultVPC}}},
		{"max-instances", number(limits.InstancesPerRegion)},
		{"vpc-max-security-groups-per-interface", number(limits.GroupsPerInterface)},
		{"max-elastic-ips", number(0)}, // of EC2-Classic
		{"vpc-max-elastic-ips", number(limits.AddressesPerRegion)},
	}
	for _, name := range r.Names {
		if !slices.ContainsFunc(all, func(item attributeItem) bool { return item.Name == name }) {
			return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter attributeName is invalid. Unknown attribute.", wire.Quote(name))
		}
	}
	answer := &describeAccountAttributesAnswer{}
	for _, item := range all {
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
	Names   []string `wire:"ZoneName"`
	IDs     []string `wire:"ZoneId"`
	Filters []filter `wire:"Filter"`
}

type describeAvailabilityZonesAnswer struct {
	Zones []zoneItem `wire:"availabilityZoneInfo"`
}

type zoneItem struct {
	Name        string     `wire:"zoneName"`
	ID          string     `wire:"zoneId"`
	State       string     `wire:"zoneState"`
	Region      ec2.Region `wire:"regionName"`
	Type        string     `wire:"zoneType"`
	Group       ec2.Region `wire:"groupName"`
	BorderGroup ec2.Region `wire:"networkBorderGroup"`
	OptIn       string     `wire:"optInStatus"`
	Messages    []tag      `wire:"messageSet"`
}

var zoneFilters = filterable[zoneItem]{
	"group-name":    func(z zoneItem) []string { return nonEmpty(z.Group) },
	"message":       never[zoneItem],
	"opt-in-status": func(z zoneItem) []string { return nonEmpty(z.OptIn) },
	"region-name":   func(z zoneItem) []string { return nonEmpty(z.Region) },
	"state":         func(z zoneItem) []string { return nonEmpty(z.State) },
	"zone-id":       func(z zoneItem) []string { return nonEmpty(z.ID) },
	"zone-name":     func(z zoneItem) []string { return nonEmpty(z.Name) },
	"zone-type":     func(z zoneItem) []string { return nonEmpty(z.Type) },

	"parent-zone-id":   never[zoneItem],
	"parent-zone-name": never[zoneItem],
}

// describeAvailabilityZones shows the zones of the region's nodes. A zone whose nodes are
// all fenced is unavailable.
func describeAvailabilityZones(c *call, r *describeAvailabilityZonesRequest) (*describeAvailabilityZonesAnswer, error) {
	if err := zoneFilters.check(r.Filters); err != nil {
		return nil, err
	}
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
	var zones []zoneItem
	for _, zone := range slices.Sorted(maps.Keys(states)) {
		zones = append(zones, zoneItem{
			Name: zone, ID: zoneID(zone), State: states[zone], Region: c.region,
			Type: "availability-zone", Group: c.region, BorderGroup: c.region, OptIn: "opt-in-not-required",
		})
	}
	for _, name := range slices.Concat(r.Names, r.IDs) {
		if !slices.ContainsFunc(zones, func(z zoneItem) bool { return z.Name == name || z.ID == name }) {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]", wire.Quote(name))
		}
	}
	return &describeAvailabilityZonesAnswer{slices.DeleteFunc(zones, func(z zoneItem) bool {
		return len(r.Names) > 0 && !slices.Contains(r.Names, z.Name) ||
			len(r.IDs) > 0 && !slices.Contains(r.IDs, z.ID) || !zoneFilters.match(z, r.Filters, nil)
	})}, nil
}

var zoneForm = regexp.MustCompile(`^([a-z]+)-((?:[a-z]+-)+)([0-9])([a-z])$`)

// zoneID returns the id of a zone, "use1-az1" for us-east-1a. A zone whose name is not of
// EC2's form has its name as id.
func zoneID(zone string) string {
	m := zoneForm.FindStringSubmatch(zone)
	if m == nil {
		return zone
	}
	short := strings.NewReplacer("north", "n", "south", "s", "east", "e", "west", "w", "central", "c", "gov", "g", "-", "").Replace(m[2])
	return fmt.Sprintf("%s%s%s-az%d", m[1], short, m[3], m[4][0]-'a'+1)
}
