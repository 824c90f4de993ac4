package query

import (
	"encoding/base64"
	"iter"
	"math"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

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

// checkNoIDs refuses a page of what is named by id. What EC2 calls the ids is parameter.
func (p paged) checkNoIDs(ids int, parameter string) error {
	if ids > 0 && p.MaxResults != nil {
		return ec2.Errorf("InvalidParameterCombination", "The parameter %s cannot be used with the parameter maxResults", parameter)
	}
	return nil
}
