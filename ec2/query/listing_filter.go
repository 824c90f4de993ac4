package query

import (
	"iter"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// A filter keeps an item if one of the item's values for Name matches one of Values.
type filter struct {
	Name   string   `wire:"Name"`
	Values []string `wire:"Value"`
}

const (
	// maxFilterValues bounds the values of all filters of a request (EC2 User Guide, "List
	// and filter").
	maxFilterValues = 200
	// maxFilterValue bounds one value, in bytes, with escapes and wildcards, because it is
	// compared with every item. The longest text of an item, a description or a tag's
	// value, has 255 characters. The bound is our own.
	maxFilterValue = 2048
)

// filterable maps a filter's name to the function that returns an item's values for it.
type filterable[T any] map[string]func(T) []string

// check returns an error for a filter that the Action does not know and for values above
// the limits, even if there are no items.
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

// match reports whether an item passes all filters. Filters on tags are checked last,
// because the function tags has to look up the tags of the item.
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

// wildcard reports whether all of text matches a pattern: * is any sequence of bytes, ?
// one byte, and a backslash makes the next byte literal. It backtracks only to the last
// star, so its time is at most the product of the two lengths.
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

// boolean returns the value of a boolean property for a filter: "true" or "false".
func boolean(b bool) []string { return []string{strconv.FormatBool(b)} }

// nonEmpty returns a list of s, or an empty list if s is empty.
func nonEmpty[S ~string](s S) []string {
	if s == "" {
		return nil
	}
	return []string{string(s)}
}

// never is the function for a property that items can have at AWS and never have here. It
// returns no value.
func never[T any](T) []string { return nil }

// valuesOf returns what the function value returns for each item, without empty texts.
func valuesOf[T any](items []T, value func(T) string) (list []string) {
	for _, x := range items {
		list = append(list, nonEmpty(value(x))...)
	}
	return list
}

// eachOf returns the function for a filter on an item's parts, such as the routes of a
// table. The function returns the values of all parts.
func eachOf[T, Part any](parts func(T) []Part, values func(Part) []string) func(T) []string {
	return func(item T) (list []string) {
		for _, p := range parts(item) {
			list = append(list, values(p)...)
		}
		return list
	}
}

// deref returns what p points to, or the zero value if p is nil.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// A tagged is a function that returns the tags of an item, for filters. It is nil if items
// cannot have tags.
type tagged[T any] func(T) iter.Seq[*ec2.Tag]

// taggedBy returns a function that finds the tags of an item by its id. It is called only
// if a filter is on tags.
func taggedBy[T any](c *call, id func(T) string) tagged[T] {
	view, account, region := c.view, c.account, c.region
	return func(item T) iter.Seq[*ec2.Tag] { return view.TagsBy(account, region, id(item)) }
}

// match reports whether a tag of an item passes the filter x, which is tag:KEY, tag-key or
// tag-value.
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

// isTagFilter reports whether a filter is on tags. Every Describe has these filters.
func isTagFilter(name string) bool {
	key, byKey := strings.CutPrefix(name, "tag:")
	return byKey && key != "" || name == "tag-key" || name == "tag-value"
}
