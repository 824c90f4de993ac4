package query

import (
	"iter"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

type tag struct {
	Key   string `wire:"key"`
	Value string `wire:"value"`
}

// tags are those of a resource, by key, as every answer shows them.
func (c *call) tags(id string) []tag {
	var list []tag
	for t := range c.view.Tags(id) {
		list = append(list, tag{t.Key, t.Value})
	}
	return list
}

// A tagSpecification tags what the request makes.
type tagSpecification struct {
	ResourceType string     `wire:"ResourceType"`
	Tags         []tagParam `wire:"Tag"`
}

type tagParam struct {
	Key   string `wire:"Key"`
	Value string `wire:"Value"`
}

// tagsFor returns the tags that a request gives to what it makes of one type. The other
// types are those that the request makes besides; any further one is an error, for
// nothing would have its tags.
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
		tags := make(map[string]string)
		for _, t := range s.Tags {
			if _, twice := tags[t.Key]; twice {
				return nil, ec2.Errorf("InvalidParameterValue", "Duplicate tag key '%s' specified.", wire.Quote(t.Key))
			}
			tags[t.Key] = t.Value
		}
		seen[s.ResourceType] = tags
	}
	if len(seen[resourceType]) == 0 {
		return nil, nil
	}
	return seen[resourceType], nil
}

// A tagged finds the tags of an item, for its filters; nil says that items of the kind
// have none.
type tagged[T any] func(T) iter.Seq[*ec2.Tag]

// taggedBy finds the tags of items by the id that they have as resources. They are looked
// up when a filter asks for them, one item at a time: what costs is what is looked at.
func taggedBy[T any](c *call, id func(T) string) tagged[T] {
	view := c.view
	return func(item T) iter.Seq[*ec2.Tag] { return view.Tags(id(item)) }
}

// match reports whether some tag of an item passes the filter x, one of tag:KEY, tag-key
// and tag-value.
func (f tagged[T]) match(item T, x filter) bool {
	if f == nil {
		return false
	}
	key, byKey := strings.CutPrefix(x.Name, "tag:")
	for t := range f(item) {
		switch {
		case byKey && t.Key == key && anyMatch([]string{t.Value}, x.Values),
			x.Name == "tag-key" && anyMatch([]string{t.Key}, x.Values),
			x.Name == "tag-value" && anyMatch([]string{t.Value}, x.Values):
			return true
		}
	}
	return false
}

// isTagFilter reports whether a filter looks at tags. They are known to every Describe.
func isTagFilter(name string) bool {
	key, byKey := strings.CutPrefix(name, "tag:")
	return byKey && key != "" || name == "tag-key" || name == "tag-value"
}
