package caddysse

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What operators see and do, on Caddy's admin endpoint: docs/reference/admin-api.md. Whoever
// may use that endpoint may replace the whole configuration, so Caddy guards
// it: which hosts it answers to, and which origins' pages.

func init() {
	caddy.RegisterModule(adminAPI{})
	caddy.OnExit(func(context.Context) { theViewers.exit() })
}

// adminAPI adds the routes below /sse/ to Caddy's admin endpoint. Each load of
// a configuration makes another one, and none is cleaned up.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sse",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// adminRoute is a path of the admin API.
type adminRoute struct {
	pattern string
	methods map[string]adminMethod
}

// adminMethod is what a method does at a path.
type adminMethod struct {
	handle  func(w http.ResponseWriter, r *http.Request, query adminQuery) error
	query   []string // parameters that it knows
	changes bool     // asks for the JSON content type; see unforged
}

// adminRoutes are all of the admin API, as docs/reference/openapi.json describes it.
var adminRoutes = []adminRoute{
	{"/sse/{$}", map[string]adminMethod{
		http.MethodGet: {handle: servePage},
	}},
	{"/sse/feed", map[string]adminMethod{
		http.MethodGet: {handle: serveFeed, query: []string{"sort", "order", "limit", "stream"}},
	}},
	{"/sse/streams", map[string]adminMethod{
		http.MethodGet: {handle: listStreams, query: []string{"sort", "order", "limit", "offset"}},
	}},
	{"/sse/streams/{id}", map[string]adminMethod{
		http.MethodGet:    {handle: showStream, query: []string{"sort", "order", "limit", "offset"}},
		http.MethodDelete: {handle: endStream, changes: true},
	}},
	{"/sse/streams/{id}/drain", map[string]adminMethod{
		http.MethodPost: {handle: drainStream, changes: true},
	}},
	{"/sse/streams/{id}/tail", map[string]adminMethod{
		http.MethodGet: {handle: serveTail, query: []string{"last"}},
	}},
}

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	routes := []caddy.AdminRoute{{Pattern: "/sse/", Handler: caddy.AdminHandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		return adminError(http.StatusNotFound, "there is nothing at %s", stream.Clip(r.URL.Path))
	})}}
	for _, route := range adminRoutes {
		routes = append(routes, caddy.AdminRoute{Pattern: route.pattern, Handler: caddy.AdminHandlerFunc(route.serve)})
	}
	return routes
}

// serve answers a request.
func (route adminRoute) serve(w http.ResponseWriter, r *http.Request) error {
	method, ok := route.methods[r.Method]
	if !ok && r.Method == http.MethodHead {
		method, ok = route.methods[http.MethodGet] // the server sends no body
	}
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(route.methods)), ", ")
		w.Header().Set("Allow", allowed)
		return adminError(http.StatusMethodNotAllowed, "expected method %s", allowed)
	}
	if err := fromHost(r); err != nil {
		return err
	}
	query, err := parseAdminQuery(r.URL.RawQuery, method.query)
	if err != nil {
		return err
	}
	if method.changes {
		if err := unforged(r); err != nil {
			return err
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	return method.handle(w, r, query)
}

// adminError is an answer in JSON that says what is wrong.
func adminError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Message: fmt.Sprintf(format, args...)}
}

// unforged turns requests away that a page of another site can make a browser
// send without asking first: those of forms and links. With this content type
// browsers ask, and Caddy tells them that it takes no such requests but from the
// pages of its own origins. Behind a proxy, where Caddy knows no origin, nobody
// tells them that they may.
func unforged(r *http.Request) error {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
		return adminError(http.StatusUnsupportedMediaType, "expected the header field Content-Type: application/json")
	}
	return nil
}

// fromHost turns requests away of pages whose origin has no host: of a local file
// in a web view, or of an application's own scheme. Caddy takes them for requests
// that come from no page if an empty origin is configured.
func fromHost(r *http.Request) error {
	for _, origin := range r.Header["Origin"] {
		if u, err := url.Parse(origin); err != nil || u.Host == "" {
			return adminError(http.StatusForbidden, "expected an origin with a host, not %q", stream.Clip(origin))
		}
	}
	return nil
}

// writeJSON answers with a value.
func writeJSON(w http.ResponseWriter, status int, value any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(value); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client may be gone
	return nil
}

// adminQuery is the query of a request to the admin API.
type adminQuery map[string]string

// parseAdminQuery parses a query that may have the parameters known.
func parseAdminQuery(raw string, known []string) (adminQuery, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, "parsing the query: %v", err)
	}
	query := make(adminQuery, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(known) == 0:
			return nil, adminError(http.StatusBadRequest, "%q: no parameter is expected here", stream.Clip(name))
		case !slices.Contains(known, name):
			return nil, adminError(http.StatusBadRequest, "%q: expected one of the parameters %s", stream.Clip(name), strings.Join(known, ", "))
		case len(values[name]) > 1:
			return nil, adminError(http.StatusBadRequest, "%s: given twice", name)
		}
		query[name] = values[name][0]
	}
	return query, nil
}

// number returns a parameter that is a number from low to high.
func (q adminQuery) number(name string, byDefault, low, high int) (int, error) {
	text, given := q[name]
	if !given {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, adminError(http.StatusBadRequest, "%s: expected a number from %d to %d, not %q", name, low, high, stream.Clip(text))
	}
	return n, nil
}

// oneOf returns a parameter that is one of some words.
func (q adminQuery) oneOf(name, byDefault string, words []string) (string, error) {
	text, given := q[name]
	switch {
	case !given:
		return byDefault, nil
	case !slices.Contains(words, text):
		return "", adminError(http.StatusBadRequest, "%s: expected one of %s, not %q", name, strings.Join(words, ", "), stream.Clip(text))
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
func pagingOf[T any](q adminQuery, orders map[string]func(a, b *T) int, byDefault string) (p paging[T], err error) {
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

// streamList answers GET /sse/streams.
type streamList struct {
	Total   int           `json:"total"`
	Offset  int           `json:"offset"`
	Limit   int           `json:"limit"`
	Private int           `json:"private"`
	Streams []stream.Info `json:"streams"`
}

// listStreams answers with all streams.
func listStreams(w http.ResponseWriter, _ *http.Request, query adminQuery) error {
	page, err := pagingOf(query, streamOrders, "began")
	if err != nil {
		return err
	}
	all := stream.Process.Samples(time.Now())
	list := streamList{
		Total: len(all), Offset: page.offset, Limit: page.limit, Private: countPrivate(all), Streams: []stream.Info{},
	}
	for _, sample := range page.of(all, streamOrders["began"]) {
		if info, ok := sample.Tell(); ok {
			list.Streams = append(list.Streams, info)
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

// streamOf returns the stream that a request names.
func streamOf(r *http.Request) (stream.Observed, error) {
	id := r.PathValue("id")
	if s := stream.Process.Find(id); s != nil {
		return s, nil
	}
	return nil, noSuchStream(id)
}

func noSuchStream(id string) error {
	return adminError(http.StatusNotFound, "there is no stream %q (any more)", stream.Clip(id))
}

// streamDetail answers GET /sse/streams/{id}.
type streamDetail struct {
	stream.Info

	Offset int              `json:"offset"`
	Limit  int              `json:"limit"`
	List   []subscriberInfo `json:"subscriber_list"`
}

// showStream answers with a stream and its subscribers.
func showStream(w http.ResponseWriter, r *http.Request, query adminQuery) error {
	page, err := pagingOf(query, subscriberOrders, "joined")
	if err != nil {
		return err
	}
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	now := time.Now()
	sample, ok := s.Sample(now)
	if !ok {
		return noSuchStream(r.PathValue("id"))
	}
	info, ok := sample.Tell()
	if !ok {
		return noSuchStream(r.PathValue("id"))
	}
	return writeJSON(w, http.StatusOK, streamDetail{
		Info: info, Offset: page.offset, Limit: page.limit, List: tellSubscribers(s, now, page),
	})
}

// drainRequest is the body of POST /sse/streams/{id}/drain.
type drainRequest struct {
	Window *caddy.Duration `json:"window"`
}

// drainAnswer answers POST /sse/streams/{id}/drain and DELETE /sse/streams/{id}.
type drainAnswer struct {
	ID          string  `json:"id"`
	Subscribers int     `json:"subscribers"`
	Window      float64 `json:"window_seconds"`
}

const (
	// maxDrainRequest bounds the body of a request to drain, in bytes.
	maxDrainRequest = 4 << 10

	// maxDrain bounds the time over which a stream is drained.
	maxDrain = time.Hour
)

// drainStream lets a stream's subscribers go, each at a random moment.
func drainStream(w http.ResponseWriter, r *http.Request, _ adminQuery) error {
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	window := s.DrainTime()
	var body drainRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDrainRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return adminError(http.StatusBadRequest, `expected no body or {"window": "<duration>"}: %v`, err)
	}
	if body.Window != nil {
		window = time.Duration(*body.Window)
	}
	if window < 0 || window > maxDrain {
		return adminError(http.StatusBadRequest, "window: expected a duration from 0s to %v, not %v", maxDrain, window)
	}
	return letGo(w, s, window)
}

// endStream lets a stream's subscribers go at once.
func endStream(w http.ResponseWriter, r *http.Request, _ adminQuery) error {
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	return letGo(w, s, 0)
}

// LetGo drains a stream and tells how many subscribers it has.
func letGo(w http.ResponseWriter, s stream.Observed, window time.Duration) error {
	return writeJSON(w, http.StatusAccepted, drainAnswer{ID: s.ID(), Subscribers: s.LetGo(window), Window: window.Seconds()})
}

// viewers counts the responses of the admin API that do not end by themselves,
// and ends them before their server waits for them: Caddy's admin endpoints wait
// for ten seconds at a reload, and when the process ends call that a failure.
type viewers struct {
	mu      sync.Mutex
	open    int
	over    chan struct{} // closed when the process ends
	servers map[*http.Server]chan struct{}
}

// theViewers are those of the process.
var theViewers = &viewers{over: make(chan struct{}), servers: make(map[*http.Server]chan struct{})}

// maxViewers bounds how many there may be: each costs a second's look at the
// streams, or at what passes.
const maxViewers = 32

// exit ends all responses: the process ends.
func (v *viewers) exit() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.over:
	default:
		close(v.over)
	}
}

// endOf returns what is closed when the server of a request shuts down.
func (v *viewers) endOf(r *http.Request) <-chan struct{} {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	end := v.servers[server]
	if end == nil {
		end = make(chan struct{})
		v.servers[server] = end
		server.RegisterOnShutdown(func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.servers[server] == end {
				close(end)
				delete(v.servers, server)
			}
		})
	}
	return end
}

// enter counts a viewer in, if there may be another.
func (v *viewers) enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open >= maxViewers {
		return adminError(http.StatusServiceUnavailable, "%d feeds and tails are open, and there may be no more: close one", maxViewers)
	}
	v.open++
	return nil
}

func (v *viewers) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open--
}

// Interface guards.
var (
	_ caddy.Module      = adminAPI{}
	_ caddy.AdminRouter = adminAPI{}
)
