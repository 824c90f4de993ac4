package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
	"palisade/ec2/state"
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
	Names   []string `wire:"RegionName"`
	All     bool     `wire:"AllRegions"`
	Filters []filter `wire:"Filter"`
}

type describeRegionsAnswer struct {
	Regions []regionItem `wire:"regionInfo"`
}

type regionItem struct {
	Name     ec2.Region `wire:"regionName"`
	Endpoint string     `wire:"regionEndpoint"`
	OptIn    string     `wire:"optInStatus"`
}

const notOptedIn = "not-opted-in"

var regionFilters = filterable[regionItem]{
	"endpoint":      func(r regionItem) []string { return nonEmpty(r.Endpoint) },
	"opt-in-status": func(r regionItem) []string { return nonEmpty(r.OptIn) },
	"region-name":   func(r regionItem) []string { return nonEmpty(r.Name) },
}

// describeRegions shows the regions that are served. With AllRegions it also shows those of AWS that
// are not, as regions without opt-in.
func describeRegions(c *call, r *describeRegionsRequest) (*describeRegionsAnswer, error) {
	if err := regionFilters.check(r.Filters); err != nil {
		return nil, err
	}
	served := c.view.Regions()
	names := slices.Clone(served)
	for _, k := range region.All() {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range r.Names {
		if !slices.Contains(names, ec2.Region(name)) {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid region name(s) provided: [%s]. The regions are: %s.", wire.Quote(name), region.List(served))
		}
	}
	answer := &describeRegionsAnswer{}
	for _, name := range names {
		item := regionItem{name, "ec2." + string(name) + ".amazonaws.com", "opt-in-not-required"}
		known, _ := region.Named(name)
		isServed := slices.Contains(served, name)
		switch {
		case !isServed:
			item.OptIn = notOptedIn
		case known.OptIn:
			item.OptIn = "opted-in"
		}
		asked := r.All || isServed
		if len(r.Names) > 0 {
			asked = slices.Contains(r.Names, string(name))
		}
		if asked && regionFilters.match(item, r.Filters, nil) {
			answer.Regions = append(answer.Regions, item)
		}
	}
	return answer, nil
}

type describeAvailabilityZonesRequest struct {
	Names   []string `wire:"ZoneName"`
	IDs     []string `wire:"ZoneId"`
	All     bool     `wire:"AllAvailabilityZones"` // there are no zones that need an opt-in
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

	"group-long-name":  never[zoneItem],
	"parent-zone-id":   never[zoneItem],
	"parent-zone-name": never[zoneItem],
}

// describeAvailabilityZones shows the zones of the region. A zone whose nodes are all fenced is
// unavailable.
func describeAvailabilityZones(c *call, r *describeAvailabilityZonesRequest) (*describeAvailabilityZonesAnswer, error) {
	if err := zoneFilters.check(r.Filters); err != nil {
		return nil, err
	}
	var zones []zoneItem
	var names []string
	for _, z := range c.view.Zones(c.region) {
		item := zoneItem{
			Name: z.Name, ID: region.ZoneID(z.Name), State: "available", Region: c.region,
			Type: "availability-zone", Group: c.region, BorderGroup: c.region, OptIn: "opt-in-not-required",
		}
		if len(z.Nodes) == 0 {
			item.State = "unavailable"
		}
		zones, names = append(zones, item), append(names, z.Name)
	}
	for _, name := range slices.Concat(r.Names, r.IDs) {
		if !slices.ContainsFunc(zones, func(z zoneItem) bool { return z.Name == name || z.ID == name }) {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]. Region %s has: %s.", wire.Quote(name), c.region, strings.Join(names, ", "))
		}
	}
	return &describeAvailabilityZonesAnswer{slices.DeleteFunc(zones, func(z zoneItem) bool {
		return len(r.Names) > 0 && !slices.Contains(r.Names, z.Name) ||
			len(r.IDs) > 0 && !slices.Contains(r.IDs, z.ID) || !zoneFilters.match(z, r.Filters, nil)
	})}, nil
}

// openRegion makes what the account has in a region from the start, if this is its first request for
// the region. A stale read makes nothing. A refused request is not proposed, so it fills no log.
func (c *call) openRegion() error {
	if c.view.RegionOpened(c.account, c.region) {
		return nil
	}
	open := &state.OpenRegion{Account: c.account, Region: c.region}
	if err := c.view.Try(open); err != nil {
		return err
	}
	if _, _, err := c.replicate(state.Command{Request: open}); err != nil {
		return fmt.Errorf("open region %s: %w", c.region, err)
	}
	c.view = c.server.cfg.Backend.View()
	return nil
}
