package query

import (
	"cmp"
	"iter"
	"slices"

	"palisade/ec2"
)

// A listing describes the items of a Describe action: their ids and filters. An item is
// the struct that the answer shows, so that filters match what the caller sees.
type listing[T any] struct {
	kind    string // the prefix of the ids: "vpc"
	id      func(T) string
	filters filterable[T]
}

// listed has the parameters of a Describe action except the ids.
type listed struct {
	Filters []filter `wire:"Filter"`
	paged
}

// describe makes an item of each resource. It returns the page of items that a request asks
// for, and the token of the next page.
func describe[R, T any](c *call, l listing[T], resources iter.Seq[R], item func(R) T, ids []string, r listed) (part []T, next string, err error) {
	var items []T
	for x := range resources {
		items = append(items, item(x))
	}
	return l.pick(c, items, ids, r)
}

// pick returns the page of items that a request asks for, sorted by id, and the token of
// the next page. An id that no item has is an error; a filter that no item passes is not.
func (l listing[T]) pick(c *call, items []T, ids []string, r listed) (part []T, next string, err error) {
	if err := l.filters.check(r.Filters); err != nil {
		return nil, "", err
	}
	if items, err = l.named(items, ids); err != nil {
		return nil, "", err
	}
	tags := taggedBy(c, l.id)
	items = slices.DeleteFunc(items, func(item T) bool { return !l.filters.match(item, r.Filters, tags) })
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(l.id(a), l.id(b)) })
	return page(items, l.id, r.paged)
}

func (l listing[T]) named(items []T, ids []string) ([]T, error) {
	if len(ids) == 0 {
		return items, nil
	}
	wanted := make(map[string]bool)
	for _, id := range ids {
		wanted[id] = true
	}
	items = slices.DeleteFunc(items, func(item T) bool { return !wanted[l.id(item)] })
	for _, item := range items {
		delete(wanted, l.id(item))
	}
	for _, id := range ids {
		if wanted[id] {
			return nil, ec2.NoSuch(l.kind, id)
		}
	}
	return items, nil
}
