package admin

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// params is the query of a request to the admin API.
type params map[string]string

// parseQuery parses a query that may have the parameters known.
func parseQuery(raw string, known []string) (params, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "parsing the query: %v", err)
	}
	query := make(params, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(known) == 0:
			return nil, apiError(http.StatusBadRequest, "%q: no parameter is expected here", stream.Clip(name))
		case !slices.Contains(known, name):
			return nil, apiError(http.StatusBadRequest, "%q: expected one of the parameters %s", stream.Clip(name), strings.Join(known, ", "))
		case len(values[name]) > 1:
			return nil, apiError(http.StatusBadRequest, "%s: given twice", name)
		}
		query[name] = values[name][0]
	}
	return query, nil
}

// number returns a parameter that is a number from low to high.
func (q params) number(name string, byDefault, low, high int) (int, error) {
	text, given := q[name]
	if !given {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, apiError(http.StatusBadRequest, "%s: expected a number from %d to %d, not %q", name, low, high, stream.Clip(text))
	}
	return n, nil
}

// oneOf returns a parameter that is one of some words.
func (q params) oneOf(name, byDefault string, words []string) (string, error) {
	text, given := q[name]
	switch {
	case !given:
		return byDefault, nil
	case !slices.Contains(words, text):
		return "", apiError(http.StatusBadRequest, "%s: expected one of %s, not %q", name, strings.Join(words, ", "), stream.Clip(text))
	}
	return text, nil
}

// Bounds of paging.
const (
	defaultPage = 100
	maxPage     = 1000
	maxOffset   = 1 << 30
)

// paging is which part of a list is asked for, in which order.
type paging[T any] struct {
	compare       func(a, b *T) int
	descending    bool
	offset, limit int
}

// sortings are the words for what a list can be sorted by.
func sortings[T any](orders map[string]func(a, b *T) int) []string {
	return slices.Sorted(maps.Keys(orders))
}

// pagingOf reads the parameters sort, order, offset and limit.
func pagingOf[T any](q params, orders map[string]func(a, b *T) int, byDefault string) (p paging[T], err error) {
	sortBy, err := q.oneOf("sort", byDefault, sortings(orders))
	if err != nil {
		return p, err
	}
	p.compare = orders[sortBy]
	order, err := q.oneOf("order", "asc", []string{"asc", "desc"})
	if err != nil {
		return p, err
	}
	p.descending = order == "desc"
	if p.offset, err = q.number("offset", 0, 0, maxOffset); err != nil {
		return p, err
	}
	p.limit, err = q.number("limit", defaultPage, 1, maxPage)
	return p, err
}

// of returns the part of a list that is asked for. What is equal is in the order
// of tie.
func (p paging[T]) of(all []T, tie func(a, b *T) int) []T {
	sorted := make([]*T, 0, len(all))
	for i := range all {
		sorted = append(sorted, &all[i])
	}
	slices.SortFunc(sorted, func(a, b *T) int {
		order := p.compare(a, b)
		if p.descending {
			order = -order
		}
		return cmp.Or(order, tie(a, b))
	})
	sorted = sorted[min(p.offset, len(sorted)):]
	part := make([]T, 0, min(p.limit, len(sorted)))
	for _, one := range sorted[:cap(part)] {
		part = append(part, *one)
	}
	return part
}
