package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// placementActions manage placement groups.
var placementActions = map[string]handler{
	"CreatePlacementGroup":    action(createPlacementGroup),
	"DeletePlacementGroup":    action(deletePlacementGroup),
	"DescribePlacementGroups": action(describePlacementGroups),
}

type createPlacementRequest struct {
	Name       string             `wire:"GroupName"`
	Strategy   string             `wire:"Strategy"`
	Partitions int                `wire:"PartitionCount"`
	Level      string             `wire:"SpreadLevel"`
	Tags       []tagSpecification `wire:"TagSpecification"`
}

type createPlacementAnswer struct {
	Return bool               `wire:"return"`
	Group  placementGroupItem `wire:"placementGroup"`
}

type placementGroupItem struct {
	ID         ec2.PlacementGroupID `wire:"groupId"`
	Name       string               `wire:"groupName"`
	ARN        string               `wire:"groupArn"`
	State      string               `wire:"state"`
	Strategy   string               `wire:"strategy"`
	Partitions *int                 `wire:"partitionCount"`
	Level      string               `wire:"spreadLevel"`
	Tags       []tag                `wire:"tagSet"`
}

func (c *call) newPlacementGroupItem(g *ec2.PlacementGroup) placementGroupItem {
	item := placementGroupItem{
		ID: g.ID, Name: g.Name, ARN: arn(g.Region, g.Account, "placement-group", g.Name), State: "available", Strategy: g.Strategy, Level: g.Level,
		Tags: c.tags(string(g.ID)),
	}
	if g.Partitions > 0 {
		item.Partitions = &g.Partitions
	}
	return item
}

func createPlacementGroup(c *call, r *createPlacementRequest) (*createPlacementAnswer, error) {
	tags, err := tagsFor(r.Tags, "placement-group")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreatePlacementGroup{
		Account: c.account, Region: c.region, Name: r.Name, Strategy: r.Strategy, Partitions: r.Partitions, Level: r.Level, Tags: tags,
	})
	if err != nil {
		return nil, err
	}
	return &createPlacementAnswer{true, c.newPlacementGroupItem(result.Placement)}, nil
}

type deletePlacementRequest struct {
	Name string `wire:"GroupName"`
}

func deletePlacementGroup(c *call, r *deletePlacementRequest) (*returned, error) {
	if _, err := c.apply(&state.DeletePlacementGroup{Account: c.account, Region: c.region, Name: r.Name}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describePlacementRequest struct {
	Names   []string `wire:"GroupName"`
	IDs     []string `wire:"GroupId"`
	Filters []filter `wire:"Filter"`
}

type describePlacementAnswer struct {
	Groups []placementGroupItem `wire:"placementGroupSet"`
}

var placementListing = listing[placementGroupItem]{
	kind: "pg",
	id:   func(g placementGroupItem) string { return string(g.ID) },
	filters: filterable[placementGroupItem]{
		"group-arn":    func(g placementGroupItem) []string { return nonEmpty(g.ARN) },
		"group-name":   func(g placementGroupItem) []string { return nonEmpty(g.Name) },
		"spread-level": func(g placementGroupItem) []string { return nonEmpty(g.Level) },
		"state":        func(g placementGroupItem) []string { return nonEmpty(g.State) },
		"strategy":     func(g placementGroupItem) []string { return nonEmpty(g.Strategy) },
	},
}

func describePlacementGroups(c *call, r *describePlacementRequest) (*describePlacementAnswer, error) {
	ids := r.IDs
	for _, name := range r.Names {
		g := c.view.FindPlacementGroup(c.account, c.region, name)
		if g == nil {
			return nil, ec2.NoSuch("pg", name)
		}
		ids = append(ids, string(g.ID))
	}
	items, _, err := describe(c, placementListing, c.view.PlacementGroupsOf(c.account, c.region), c.newPlacementGroupItem, ids, listed{Filters: r.Filters})
	if err != nil {
		return nil, err
	}
	return &describePlacementAnswer{items}, nil
}
