package query

import (
	"iter"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// A filter keeps items of which some value matches some pattern.
type filter struct {
	Name   string   `wire:"Name"`
	Values []string `wire:"Value"`
}

const (
	// maxFilterValues is for one request (EC2 User Guide, "List and filter").
	maxFilterValues = 200
	// maxFilterValue is for one value, in bytes, with escapes and wildcards: each is
	// compared with every item. The longest text there is, a rule's or a tag's, has 255
	// characters. Our own bound.
	maxFilterValue = 2048
)

// filterable says, by filter name, which values an item has.
type filterable[T any] map[string]func(T) []string

// check refuses a filter that the Action does not know, whether there are items or not.
func (f filterable[T]) check(filters []filter) error {
	count := 0
	for _, x := range filters {
		if x.Name == "" {
			return ec2.Missing("Filter.Name")
		}
		if _, ok := f[x.Name]; !ok && !isTagFilter(x.Name) {
			return ec2.Errorf("InvalidParameterValue", "The filter '%s' is invalid", wire.Quote(x.Name))
		}
		if slices.ContainsFunc(x.Values, func(v string) bool { return len(v) > maxFilterValue }) {
			return ec2.Errorf("InvalidParameterValue", "A value of the filter '%s' is longer than %d bytes", wire.Quote(x.Name), maxFilterValue)
		}
		count += len(x.Values)
	}
	if count > maxFilterValues {
		return ec2.Errorf("FilterLimitExceeded", "The maximum number of filter values specified on a single call is %d", maxFilterValues)
	}
	return nil
}

// match reports whether an item passes all filters; tags says how to find its tags. They
// are looked up last.
func (f filterable[T]) match(item T, filters []filter, tags tagged[T]) bool {
	for _, x := range filters {
		if !isTagFilter(x.Name) && !anyMatch(f[x.Name](item), x.Values) {
			return false
		}
	}
	for _, x := range filters {
		if isTagFilter(x.Name) && !tags.match(item, x) {
			return false
		}
	}
	return true
}

func anyMatch(values, patterns []string) bool {
	for _, v := range values {
		for _, p := range patterns {
			if wildcard(p, v) {
				return true
			}
		}
	}
	return false
}

// wildcard matches text against a pattern: * is any run, ? any one character, and a
// backslash takes what follows literally. It goes back to the last star alone, so its
// cost is bounded by the product of the lengths.
func wildcard(pattern, text string) bool {
	p, t := 0, 0
	star, from := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			t++
		case p+1 < len(pattern) && pattern[p] == '\\' && pattern[p+1] == text[t]:
			p += 2
			t++
		case p < len(pattern) && pattern[p] != '\\' && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// boolean is the value of a filter on a boolean.
func boolean(b bool) []string { return []string{strconv.FormatBool(b)} }

// nonEmpty is the value of a filter on a text; an empty text has none.
func nonEmpty[S ~string](s S) []string {
	if s == "" {
		return nil
	}
	return []string{string(s)}
}

// never is a filter on a property that items can have at AWS and never have here.
func never[T any](T) []string { return nil }

// valuesOf returns the texts of items that are not empty.
func valuesOf[T any](items []T, value func(T) string) (list []string) {
	for _, x := range items {
		list = append(list, nonEmpty(value(x))...)
	}
	return list
}

// eachOf is a filter on a property of the parts of an item: it has the values of all.
func eachOf[T, Part any](parts func(T) []Part, values func(Part) []string) func(T) []string {
	return func(item T) (list []string) {
		for _, p := range parts(item) {
			list = append(list, values(p)...)
		}
		return list
	}
}

// deref is what p points to, or nothing of it.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
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
