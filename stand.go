package caddysse

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// stand is where a handler stands in the configuration: what requests come to
// it, and what they come to after it. It is read while it is provisioned.
type stand struct {
	known   bool // it was found; not in a named route, say
	hosts   []string
	paths   []string
	matched bool // not all requests to the hosts come to it
	answers bool // a handler behind it may answer
	blocks  bool // handle, route or invoke before it, and beside it, answers some requests
	taken   bool // what is before it answers all that would come to it
}

// standOf reads the lists of routes around the handler that is being
// provisioned, the innermost last: its own route of each is the first whose
// handlers are not there yet.
func standOf(ctx caddy.Context, server *caddyhttp.Server) (s stand) {
	lists := []caddyhttp.RouteList{server.Routes}
	for _, module := range ctx.Modules() {
		if subroute, ok := module.(*caddyhttp.Subroute); ok {
			lists = append(lists, subroute.Routes)
		}
	}
	ends := false
	for _, list := range slices.Backward(lists) {
		own := slices.IndexFunc(list, func(r caddyhttp.Route) bool { return len(r.HandlersRaw) > 0 && len(r.Handlers) == 0 })
		if own < 0 || !slices.ContainsFunc(list[own].HandlersRaw, hasSSE) {
			return stand{}
		}
		s.narrow(&list[own])
		s.before(list[:own], list[own].Group)
		s.beforeInRoute(list[own].HandlersRaw)
		if !ends {
			s.behind(list[own:], server)
		}
		ends = ends || list[own].Terminal
	}
	s.known = true
	return s
}

func hasSSE(raw json.RawMessage) bool { return strings.Contains(string(raw), `"sse"`) }

// narrow takes note of the matchers of a route around the handler.
func (s *stand) narrow(r *caddyhttp.Route) {
	hosts, paths, other := matchedBy(r)
	s.matched = s.matched || other || len(paths) > 0
	if len(hosts) > 0 {
		s.hosts = hosts
	}
	if len(paths) > 0 && len(s.paths) == 0 {
		s.paths = paths // the innermost
	}
}

// matchedBy reads the matchers of a route. other tells that there are more than
// hosts and paths, or several sets of which one is enough.
func matchedBy(r *caddyhttp.Route) (hosts, paths []string, other bool) {
	other = len(r.MatcherSets) > 1
	for _, set := range r.MatcherSets {
		for _, m := range set {
			module, ok := m.(caddy.Module)
			if !ok {
				other = true
				continue
			}
			raw, _ := json.Marshal(m) // without what cannot be told
			var list []string
			switch name := module.CaddyModule().ID.Name(); {
			case json.Unmarshal(raw, &list) != nil:
				other = true
			case name == "host":
				hosts = append(hosts, list...)
			case name == "path":
				paths = append(paths, list...)
			default:
				other = true
			}
		}
	}
	return hosts, paths, other
}

// before looks at the routes before the handler's, in the same list: whether
// they take its requests.
func (s *stand) before(routes caddyhttp.RouteList, group string) {
	for i := range routes {
		r := &routes[i]
		if !slices.ContainsFunc(r.Handlers, answering) {
			continue
		}
		s.blocks = s.blocks || slices.ContainsFunc(r.Handlers, isBlock)
		hosts, paths, other := matchedBy(r)
		covers := !other && len(hosts) == 0 && (len(paths) == 0 || coversAll(paths, s.paths))
		inGroup := r.Group != "" && r.Group == group // who comes into it does not come here
		s.taken = s.taken || (covers && (inGroup || slices.ContainsFunc(r.Handlers, answersAll)))
	}
}

// beforeInRoute looks at the handlers before it in its own route, which are not
// provisioned yet.
func (s *stand) beforeInRoute(handlers []json.RawMessage) {
	for _, raw := range handlers[:slices.IndexFunc(handlers, hasSSE)] {
		config, _ := decoded(raw).(map[string]any)
		kind, _ := config["handler"].(string)
		s.blocks = s.blocks || kind == "invoke"
		s.taken = s.taken || (slices.Contains(alwaysAnswer, kind) && config[handlesResponse] == nil)
	}
}

// coversAll reports whether each of some path patterns is covered by others; not
// if there are none.
func coversAll(by, patterns []string) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(pattern string) bool {
		return !slices.ContainsFunc(by, func(b string) bool {
			prefix, open := strings.CutSuffix(b, "*")
			return strings.EqualFold(b, pattern) || (open && !strings.Contains(prefix, "*") && len(pattern) >= len(prefix) && strings.EqualFold(pattern[:len(prefix)], prefix))
		})
	})
}

// behind looks for a handler that may answer: in the handler's own route, after
// it, and in the routes that follow.
func (s *stand) behind(routes caddyhttp.RouteList, server *caddyhttp.Server) {
	passed := false
	for _, raw := range routes[0].HandlersRaw {
		s.answers = s.answers || (passed && mayAnswer(decoded(raw), server, nil))
		passed = passed || hasSSE(raw)
	}
	for _, r := range routes[1:] {
		if r.Group != "" && r.Group == routes[0].Group {
			continue
		}
		for _, raw := range r.HandlersRaw {
			s.answers = s.answers || mayAnswer(decoded(raw), server, nil)
		}
	}
}

func decoded(raw json.RawMessage) (value any) {
	_ = json.Unmarshal(raw, &value) // Caddy says what is wrong with it
	return value
}

// neverAnswer are handlers of Caddy that pass all requests on, or turn them away.
var neverAnswer = []string{
	"authentication", "encode", "headers", "intercept", "log_append", "map", "push", "request_body", "rewrite", "sse", "templates",
	"tracing", "vars", "copy_response_headers",
}

// handlesResponse is the option of reverse_proxy with which it may pass a request
// on, as that of forward_auth does.
const handlesResponse = "handle_response"

// alwaysAnswer are those that pass none on, but for handlesResponse.
var alwaysAnswer = []string{"reverse_proxy", "static_response", "error"}

// mayAnswer reports whether a handler that is not provisioned yet may answer, by
// its configuration. One that is not known may.
func mayAnswer(config any, server *caddyhttp.Server, named []string) bool {
	fields, _ := config.(map[string]any)
	kind, _ := fields["handler"].(string)
	switch {
	case slices.Contains(neverAnswer, kind):
		return false
	case kind == "invoke":
		name, _ := fields["name"].(string)
		route := server.NamedRoutes[name]
		if route == nil || slices.Contains(named, name) {
			return false
		}
		named = append(named, name)
		return slices.ContainsFunc(route.HandlersRaw, func(raw json.RawMessage) bool { return mayAnswer(decoded(raw), server, named) })
	case kind != "subroute":
		return true
	}
	routes, _ := fields["routes"].([]any)
	for _, route := range routes {
		route, _ := route.(map[string]any)
		handlers, _ := route["handle"].([]any)
		if slices.ContainsFunc(handlers, func(h any) bool { return mayAnswer(h, server, named) }) {
			return true
		}
	}
	return false
}

// handlerName is the name of a handler's module.
func handlerName(h caddyhttp.MiddlewareHandler) string {
	module, ok := h.(caddy.Module)
	if !ok {
		return ""
	}
	return module.CaddyModule().ID.Name()
}

// isBlock reports whether a handler is that of handle, route or invoke.
func isBlock(h caddyhttp.MiddlewareHandler) bool {
	name := handlerName(h)
	return name == "subroute" || name == "invoke"
}

// answering reports whether a handler answers some requests.
func answering(h caddyhttp.MiddlewareHandler) bool {
	subroute, ok := h.(*caddyhttp.Subroute)
	if !ok {
		return slices.Contains(alwaysAnswer, handlerName(h)) || handlerName(h) == "file_server" || handlerName(h) == "invoke"
	}
	return slices.ContainsFunc(subroute.Routes, func(r caddyhttp.Route) bool { return slices.ContainsFunc(r.Handlers, answering) })
}

// answersAll reports whether a handler answers all requests.
func answersAll(h caddyhttp.MiddlewareHandler) bool {
	subroute, ok := h.(*caddyhttp.Subroute)
	if !ok {
		raw, _ := json.Marshal(h)
		return slices.Contains(alwaysAnswer, handlerName(h)) && !strings.Contains(string(raw), `"`+handlesResponse+`"`)
	}
	return slices.ContainsFunc(subroute.Routes, func(r caddyhttp.Route) bool {
		return len(r.MatcherSets) == 0 && slices.ContainsFunc(r.Handlers, answersAll)
	})
}

// place names it for operators.
func (s *stand) place(listen string) string {
	where := strings.Join(s.hosts, ", ")
	if where == "" {
		where = listen
	}
	if len(s.paths) > 0 {
		where += " " + strings.Join(s.paths, ", ")
	}
	return where
}
