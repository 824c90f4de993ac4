package query

import (
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// tagActions manage tags.
var tagActions = map[string]handler{
	"CreateTags":   action(createTags),
	"DeleteTags":   action(deleteTags),
	"DescribeTags": action(describeTags),
}

type createTagsRequest struct {
	Resources []string   `wire:"ResourceId"`
	Tags      []tagParam `wire:"Tag"`
}

func createTags(c *call, r *createTagsRequest) (*returned, error) {
	tags, err := tagMap(r.Tags)
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.CreateTags{Account: c.account, Region: c.region, Resources: r.Resources, Tags: tags}); err != nil {
		return nil, err
	}
	return &done, nil
}

type deleteTagsRequest struct {
	Resources []string           `wire:"ResourceId"`
	Tags      []tagSelectorParam `wire:"Tag"`
}

// A tagSelectorParam selects tags by key. A nil Value selects any value, an empty Value
// only the empty one.
type tagSelectorParam struct {
	Key   string  `wire:"Key"`
	Value *string `wire:"Value"`
}

func deleteTags(c *call, r *deleteTagsRequest) (*returned, error) {
	var tags []state.TagSelector
	for _, t := range r.Tags {
		tags = append(tags, state.TagSelector{Key: t.Key, Value: t.Value})
	}
	if _, err := c.apply(&state.DeleteTags{Account: c.account, Region: c.region, Resources: r.Resources, Tags: tags}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeTagsAnswer struct {
	Tags      []resourceTagItem `wire:"tagSet"`
	NextToken string            `wire:"nextToken"`
}

type resourceTagItem struct {
	Resource string `wire:"resourceId"`
	Type     string `wire:"resourceType"`
	Key      string `wire:"key"`
	Value    string `wire:"value"`
}

// resourceTypes maps the prefix of ids to the name of the resource type in tags.
var resourceTypes = map[string]string{
	"acl":      "network-acl",
	"dopt":     "dhcp-options",
	"eipalloc": "elastic-ip",
	"eni":      "network-interface",
	"i":        "instance",
	"igw":      "internet-gateway",
	"key":      "key-pair",
	"lt":       "launch-template",
	"pcx":      "vpc-peering-connection",
	"nat":      "natgateway",
	"pg":       "placement-group",
	"pl":       "prefix-list",
	"rtb":      "route-table",
	"sg":       "security-group",
	"sgr":      "security-group-rule",
	"subnet":   "subnet",
	"vol":      "volume",
	"vpc":      "vpc",
}

// tagListing has no kind, because tags have no ids. The method passes checks the filters
// tag:KEY, tag-key and tag-value.
var tagListing = listing[resourceTagItem]{
	id: func(t resourceTagItem) string { return t.Resource + "/" + t.Key },
	filters: filterable[resourceTagItem]{
		"key":           func(t resourceTagItem) []string { return []string{t.Key} },
		"resource-id":   func(t resourceTagItem) []string { return nonEmpty(t.Resource) },
		"resource-type": func(t resourceTagItem) []string { return nonEmpty(t.Type) },
		"value":         func(t resourceTagItem) []string { return []string{t.Value} },
	},
}

func describeTags(c *call, r *listed) (*describeTagsAnswer, error) {
	if err := tagListing.filters.check(r.Filters); err != nil {
		return nil, err
	}
	var items []resourceTagItem
	for t := range c.view.TagsOf(c.account, c.region) {
		kind, _, _ := strings.Cut(t.Resource, "-")
		item := resourceTagItem{t.Resource, resourceTypes[kind], t.Key, t.Value}
		if item.passes(r.Filters) {
			items = append(items, item)
		}
	}
	plain := *r
	plain.Filters = nil
	for _, f := range r.Filters {
		if !isTagFilter(f.Name) {
			plain.Filters = append(plain.Filters, f)
		}
	}
	items, next, err := tagListing.pick(c, items, nil, plain)
	if err != nil {
		return nil, err
	}
	return &describeTagsAnswer{items, next}, nil
}

// passes reports whether a tag passes the filters tag:KEY, tag-key and tag-value.
func (t resourceTagItem) passes(filters []filter) bool {
	for _, f := range filters {
		key, byKey := strings.CutPrefix(f.Name, "tag:")
		switch {
		case byKey && (t.Key != key || !anyMatch([]string{t.Value}, f.Values)),
			f.Name == "tag-key" && !anyMatch([]string{t.Key}, f.Values),
			f.Name == "tag-value" && !anyMatch([]string{t.Value}, f.Values):
			return false
		}
	}
	return true
}

type tag struct {
	Key   string `wire:"key"`
	Value string `wire:"value"`
}

// tags returns the tags of a resource, sorted by key, as every answer shows them.
func (c *call) tags(id string) []tag {
	var list []tag
	for t := range c.view.TagsBy(c.account, c.region, id) {
		list = append(list, tag{t.Key, t.Value})
	}
	return list
}

// A tagSpecification has tags for the resources of one type that a request creates.
type tagSpecification struct {
	ResourceType string     `wire:"ResourceType"`
	Tags         []tagParam `wire:"Tag"`
}

type tagParam struct {
	Key   string `wire:"Key"`
	Value string `wire:"Value"`
}

// tagsFor returns the tags for the created resources of a type. others are the types of
// the other resources that the request creates. Tags for a type that is neither
// resourceType nor in others are an error, because no resource would get them.
func tagsFor(specifications []tagSpecification, resourceType string, others ...string) (map[string]string, error) {
	seen := make(map[string]map[string]string)
	for _, s := range specifications {
		if s.ResourceType == "" {
			return nil, ec2.Errorf("MissingParameter", "Tag specification resource type must have a value")
		}
		if s.ResourceType != resourceType && !slices.Contains(others, s.ResourceType) {
			return nil, ec2.Errorf("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", wire.Quote(s.ResourceType))
		}
		if seen[s.ResourceType] != nil {
			return nil, ec2.Errorf("InvalidParameterValue", "The same resource type may not be specified more than once in tag specifications")
		}
		tags, err := tagMap(s.Tags)
		if err != nil {
			return nil, err
		}
		seen[s.ResourceType] = tags
	}
	if len(seen[resourceType]) == 0 {
		return nil, nil
	}
	return seen[resourceType], nil
}

// tagMap returns tags by key. A key that is given twice is an error.
func tagMap(list []tagParam) (map[string]string, error) {
	tags := make(map[string]string)
	for _, t := range list {
		if _, twice := tags[t.Key]; twice {
			return nil, ec2.Errorf("InvalidParameterValue", "Duplicate tag key '%s' specified.", wire.Quote(t.Key))
		}
		tags[t.Key] = t.Value
	}
	return tags, nil
}
