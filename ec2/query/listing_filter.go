package query

import (
	"encoding/base64"
	"iter"
	"math"
	"slices"
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

// paged are the parameters of an Action that answers in pages.
type paged struct {
	MaxResults *int   `wire:"MaxResults"`
	NextToken  string `wire:"NextToken"`
}

// page cuts items, sorted by id, to the page asked for. A token names the last id of
// the page before, so that what comes and goes in between moves nothing.
func page[T any](items []T, id func(T) string, p paged) (part []T, next string, err error) {
	after, err := p.after(func(string) bool { return true })
	if err != nil {
		return nil, "", err
	}
	for after != "" && len(items) > 0 && id(items[0]) <= after {
		items = items[1:]
	}
	limit, err := p.limit()
	if err != nil || len(items) <= limit {
		return items, "", err
	}
	items = items[:limit]
	return items, tokenAfter(id(items[limit-1])), nil
}

// pageOf collects one page of the items that are wanted. They come in the order of their
// places, from the one on that the request's token names: what is on another page is not
// looked at.
func pageOf[T any](items iter.Seq[T], place func(T) string, wanted func(T) bool, p paged) (part []T, next string, err error) {
	limit, err := p.limit()
	if err != nil {
		return nil, "", err
	}
	for item := range items {
		if !wanted(item) {
			continue
		}
		if len(part) == limit {
			return part, tokenAfter(place(part[limit-1])), nil
		}
		part = append(part, item)
	}
	return part, "", nil
}

// after is the place that the page begins behind, "" for the first one. A token that names
// no place of the kind is not one of this Action's.
func (p paged) after(isPlace func(string) bool) (string, error) {
	if p.NextToken == "" {
		return "", nil
	}
	place, err := base64.URLEncoding.DecodeString(p.NextToken)
	if err != nil || !isPlace(string(place)) {
		return "", ec2.Errorf("InvalidNextToken", "The token '%s' is invalid", wire.Quote(p.NextToken))
	}
	return string(place), nil
}

func tokenAfter(place string) string { return base64.URLEncoding.EncodeToString([]byte(place)) }

// limit is how many items a page has at most.
func (p paged) limit() (int, error) {
	if p.MaxResults == nil {
		return math.MaxInt, nil
	}
	if *p.MaxResults < 5 || *p.MaxResults > 1000 {
		return 0, ec2.Errorf("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.", *p.MaxResults)
	}
	return *p.MaxResults, nil
}
