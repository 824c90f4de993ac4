package query

import (
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// tagActions are of tags.
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
	tags := make(map[string]string)
	for _, t := range r.Tags {
		if _, twice := tags[t.Key]; twice {
			return nil, ec2.Errorf("InvalidParameterValue", "Duplicate tag key '%s' specified.", wire.Quote(t.Key))
		}
		tags[t.Key] = t.Value
	}
	if _, err := c.apply(&ec2.CreateTags{Account: c.account, Region: c.region, Resources: r.Resources, Tags: tags}); err != nil {
		return nil, err
	}
	return &done, nil
}

type deleteTagsRequest struct {
	Resources []string           `wire:"ResourceId"`
	Tags      []tagSelectorParam `wire:"Tag"`
}

// tagSelectorParam tells a tag with an empty value from one with any.
type tagSelectorParam struct {
	Key   string  `wire:"Key"`
	Value *string `wire:"Value"`
}

func deleteTags(c *call, r *deleteTagsRequest) (*returned, error) {
	var tags []ec2.TagSelector
	for _, t := range r.Tags {
		tags = append(tags, ec2.TagSelector{Key: t.Key, Value: t.Value})
	}
	if _, err := c.apply(&ec2.DeleteTags{Account: c.account, Region: c.region, Resources: r.Resources, Tags: tags}); err != nil {
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

// resourceTypes are what EC2 calls resources in tags, by the prefix of their ids.
var resourceTypes = map[string]string{
	"acl":      "network-acl",
	"eipalloc": "elastic-ip",
	"eni":      "network-interface",
	"i":        "instance",
	"igw":      "internet-gateway",
	"key":      "key-pair",
	"rtb":      "route-table",
	"sg":       "security-group",
	"sgr":      "security-group-rule",
	"subnet":   "subnet",
	"vol":      "volume",
	"vpc":      "vpc",
}

// tagListing has no kind: tags are not asked for by id. The filter tag:KEY is about one
// tag here, and there is no tag-key.
var tagListing = listing[resourceTagItem]{
	id: func(t resourceTagItem) string { return t.Resource + "/" + t.Key },
	filters: filterable[resourceTagItem]{
		"key":           func(t resourceTagItem) []string { return []string{t.Key} },
		"resource-id":   func(t resourceTagItem) []string { return one(t.Resource) },
		"resource-type": func(t resourceTagItem) []string { return one(t.Type) },
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

// passes looks at the filters that are about a tag's own key and value.
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
