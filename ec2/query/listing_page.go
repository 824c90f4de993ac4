package query

import (
	"encoding/base64"
	"iter"
	"math"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// paged has the parameters of an Action that answers in pages.
type paged struct {
	MaxResults *int   `wire:"MaxResults"`
	NextToken  string `wire:"NextToken"`
}

// page returns the page that a request asks for, of items sorted by id, and the token of
// the next page. A token holds the last id of the previous page, so items that are added or
// deleted meanwhile do not shift the others.
func page[T any](items []T, id func(T) string, p paged) (part []T, next string, err error) {
	return pageWithin(items, id, p, 5, 1000)
}

// pageWithin is page for an action whose MaxResults is between least and most.
func pageWithin[T any](items []T, id func(T) string, p paged, least, most int) (part []T, next string, err error) {
	after, err := p.after(func(string) bool { return true })
	if err != nil {
		return nil, "", err
	}
	for after != "" && len(items) > 0 && id(items[0]) <= after {
		items = items[1:]
	}
	limit, err := p.limitWithin(least, most)
	if err != nil || len(items) <= limit {
		return items, "", err
	}
	items = items[:limit]
	return items, tokenAfter(id(items[limit-1])), nil
}

// pageOf returns one page of the items for which wanted returns true, and the token of the
// next page. The items must come in the order of their keys and start after the key in the
// request's token, so pageOf does not visit other pages.
func pageOf[T any](items iter.Seq[T], key func(T) string, wanted func(T) bool, p paged) (part []T, next string, err error) {
	limit, err := p.limit()
	if err != nil {
		return nil, "", err
	}
	for item := range items {
		if !wanted(item) {
			continue
		}
		if len(part) == limit {
			return part, tokenAfter(key(part[limit-1])), nil
		}
		part = append(part, item)
	}
	return part, "", nil
}

// after returns the key after which the page begins, "" for the first page. It refuses a
// token whose text is not a key of this Action.
func (p paged) after(isKey func(string) bool) (string, error) {
	if p.NextToken == "" {
		return "", nil
	}
	key, err := base64.URLEncoding.DecodeString(p.NextToken)
	if err != nil || !isKey(string(key)) {
		return "", ec2.Errorf("InvalidNextToken", "The token '%s' is invalid", wire.Quote(p.NextToken))
	}
	return string(key), nil
}

func tokenAfter(key string) string { return base64.URLEncoding.EncodeToString([]byte(key)) }

// limit returns the greatest number of items of a page.
func (p paged) limit() (int, error) { return p.limitWithin(5, 1000) }

func (p paged) limitWithin(least, most int) (int, error) {
	if p.MaxResults == nil {
		return math.MaxInt, nil
	}
	if *p.MaxResults < least || *p.MaxResults > most {
		return 0, ec2.Errorf("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and %d.", *p.MaxResults, least, most)
	}
	return *p.MaxResults, nil
}

// checkNoIDs returns an error for a request that gives both ids and MaxResults. In the
// message, parameter is the name of the ids.
func (p paged) checkNoIDs(ids int, parameter string) error {
	if ids > 0 && p.MaxResults != nil {
		return ec2.Errorf("InvalidParameterCombination", "The parameter %s cannot be used with the parameter maxResults", parameter)
	}
	return nil
}
