// Package admin is what operators see and do: the API below /sse/ of Caddy's admin endpoint, described in
// docs/reference/admin-api.md, and the live page. Whoever may use that endpoint may replace the whole configuration, so
// Caddy guards it: which hosts it answers to, and which origins' pages.
//
// It looks at the process's streams by snapshots (stream.Process) and is no reader that a stream waits for: a tail reads
// what is there, or is told what it missed.
package admin

import (
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// route is a path of the admin API.
type route struct {
	pattern string
	methods map[string]action
}

// action is what a method does at a path.
type action struct {
	handle  func(w http.ResponseWriter, r *http.Request, query params) error
	query   []string // parameters that it knows
	changes bool     // asks for the JSON content type; see unforged
}

// routes are all of the admin API, as docs/reference/openapi.json describes it.
var routes = []route{
	{"/sse/{$}", map[string]action{
		http.MethodGet: {handle: servePage},
	}},
	{"/sse/feed", map[string]action{
		http.MethodGet: {handle: serveFeed, query: slices.Concat([]string{"sort", "order", "limit", "stream", "by"}, filtering)},
	}},
	{"/sse/hints", map[string]action{
		http.MethodGet: {handle: listHints},
	}},
	{"/sse/revoke", map[string]action{
		http.MethodPost: {handle: revoke, changes: true},
	}},
	{"/sse/streams", map[string]action{
		http.MethodGet: {handle: listStreams, query: slices.Concat([]string{"sort", "order", "limit", "offset"}, filtering)},
	}},
	{"/sse/streams/{id}", map[string]action{
		http.MethodGet:    {handle: showStream, query: []string{"sort", "order", "limit", "offset"}},
		http.MethodDelete: {handle: endStream, changes: true},
	}},
	{"/sse/streams/{id}/drain", map[string]action{
		http.MethodPost: {handle: drainStream, changes: true},
	}},
	{"/sse/streams/{id}/tail", map[string]action{
		http.MethodGet: {handle: serveTail, query: []string{"last"}},
	}},
}

// Routes returns what Caddy's admin endpoint is to serve.
func Routes() []caddy.AdminRoute {
	theHistory.begin()
	all := []caddy.AdminRoute{{Pattern: "/sse/", Handler: caddy.AdminHandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		return apiError(http.StatusNotFound, "there is nothing at %s", stream.Clip(r.URL.Path))
	})}}
	for _, at := range routes {
		all = append(all, caddy.AdminRoute{Pattern: at.pattern, Handler: caddy.AdminHandlerFunc(at.serve)})
	}
	return all
}

// Exit ends the responses that do not end by themselves: the process ends.
func Exit() { theViewers.exit() }

// serve answers a request.
func (at route) serve(w http.ResponseWriter, r *http.Request) error {
	does, ok := at.methods[r.Method]
	if !ok && r.Method == http.MethodHead {
		does, ok = at.methods[http.MethodGet] // the server sends no body
	}
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(at.methods)), ", ")
		w.Header().Set("Allow", allowed)
		return apiError(http.StatusMethodNotAllowed, "expected method %s", allowed)
	}
	if err := fromHost(r); err != nil {
		return err
	}
	query, err := parseQuery(r.URL.RawQuery, does.query)
	if err != nil {
		return err
	}
	if does.changes {
		if err := unforged(r); err != nil {
			return err
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	return does.handle(w, r, query)
}

// unforged turns requests away that a page of another site can make a browser
// send without asking first: those of forms and links. With this content type
// browsers ask, and Caddy tells them that it takes no such requests but from the
// pages of its own origins. Behind a proxy, where Caddy knows no origin, nobody
// tells them that they may.
func unforged(r *http.Request) error {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
		return apiError(http.StatusUnsupportedMediaType, "expected the header field Content-Type: application/json")
	}
	return nil
}

// fromHost turns requests away of pages whose origin has no host: of a local file
// in a web view, or of an application's own scheme. Caddy takes them for requests
// that come from no page if an empty origin is configured.
func fromHost(r *http.Request) error {
	for _, origin := range r.Header["Origin"] {
		if u, err := url.Parse(origin); err != nil || u.Host == "" {
			return apiError(http.StatusForbidden, "expected an origin with a host, not %q", stream.Clip(origin))
		}
	}
	return nil
}
