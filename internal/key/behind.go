package key

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What stands behind sse runs once for each upstream connection, for all who
// share it. If it asks for something that is not in the key, a matcher by
// address, say, it would be answered for the first client only. So the
// configuration behind the handler is read when it is provisioned: what it asks
// for is added to the key, or told to the operator. What is not seen this way,
// or not added, is not known behind sse: see address.go and Clean.

// behind is what the configuration behind an sse handler asks for.
type behind struct {
	matched map[string]struct{} // placeholders that stand for what matchers ask for
	used    map[string]struct{} // placeholders that handlers use
	groups  map[string]struct{} // of routes
	proxies int                 // how many reverse_proxy there are
	trusted [][]string          // whom they trust
	seen    map[string]struct{} // named routes
	server  *caddyhttp.Server
}

// findBehind reads the configuration behind the handler that is being
// provisioned. Of each list of routes around it, those after the one that
// contains it may run: its own is the first whose handlers are not there yet.
func findBehind(ctx caddy.Context, server *caddyhttp.Server) *behind {
	b := &behind{
		matched: map[string]struct{}{}, used: map[string]struct{}{}, groups: map[string]struct{}{},
		seen: map[string]struct{}{}, server: server,
	}
	lists := []caddyhttp.RouteList{server.Routes}
	for _, module := range ctx.Modules() {
		if subroute, ok := module.(*caddyhttp.Subroute); ok {
			lists = append(lists, subroute.Routes)
		}
	}
	for _, list := range slices.Backward(lists) {
		if b.rest(list) {
			break // nothing of the lists around it is reached
		}
	}
	return b
}

// rest reads what of a list of routes may run after the handler. It returns
// whether nothing runs after the list.
func (b *behind) rest(list caddyhttp.RouteList) (last bool) {
	own := slices.IndexFunc(list, func(r caddyhttp.Route) bool { return len(r.HandlersRaw) > 0 && len(r.Handlers) == 0 })
	if own < 0 {
		return false
	}
	passed := false
	for _, raw := range list[own].HandlersRaw {
		if passed {
			b.readRaw(raw)
		}
		passed = passed || strings.Contains(string(raw), `"sse"`)
	}
	if list[own].Terminal {
		return true
	}
	for _, route := range list[own+1:] {
		if group := route.Group; group == "" || group != list[own].Group {
			b.route(&route)
		}
	}
	return false
}

// route reads a route. Its matchers may have been provisioned; then they say
// what they are as JSON, in which matchers within them are missing.
func (b *behind) route(r *caddyhttp.Route) {
	if r.Group != "" {
		b.groups[r.Group] = struct{}{}
	}
	for _, set := range r.MatcherSetsRaw {
		for name, raw := range set {
			b.matcher(name, jsonValue(raw))
		}
	}
	for _, set := range r.MatcherSets {
		b.provisioned(set)
	}
	for _, raw := range r.HandlersRaw {
		b.readRaw(raw)
	}
}

func (b *behind) provisioned(set caddyhttp.MatcherSet) {
	for _, m := range set {
		if not, ok := m.(*caddyhttp.MatchNot); ok {
			for _, inner := range not.MatcherSets {
				b.provisioned(inner)
			}
			continue
		}
		module, ok := m.(caddy.Module)
		if !ok {
			continue
		}
		raw, err := json.Marshal(m)
		if err != nil {
			continue
		}
		b.matcher(module.CaddyModule().ID.Name(), jsonValue(raw))
	}
}

func jsonValue(raw json.RawMessage) (value any) {
	_ = json.Unmarshal(raw, &value) // Caddy says what is wrong with it
	return value
}

func (b *behind) readRaw(raw json.RawMessage) { b.read(jsonValue(raw)) }

// read reads any part of a handler's configuration: placeholders in its texts,
// and routes in it.
func (b *behind) read(value any) {
	switch value := value.(type) {
	case string:
		b.text(value, b.used)
	case []any:
		for _, element := range value {
			b.read(element)
		}
	case map[string]any:
		b.handler(value)
		for name, field := range value {
			b.text(name, b.used)
			switch {
			case name == "match" && b.sets(field):
			case name == "group":
				if group, ok := field.(string); ok {
					b.groups[group] = struct{}{}
				}
			default:
				b.read(field)
			}
		}
	}
}

// handler takes note of what is special in a handler's configuration.
func (b *behind) handler(config map[string]any) {
	switch config["handler"] {
	case "reverse_proxy":
		b.proxies++
		var ranges []string
		list, _ := config["trusted_proxies"].([]any)
		for _, element := range list {
			if text, ok := element.(string); ok {
				ranges = append(ranges, text)
			}
		}
		slices.Sort(ranges)
		b.trusted = append(b.trusted, ranges)
	case "invoke":
		name, _ := config["name"].(string)
		if _, seen := b.seen[name]; seen {
			return
		}
		b.seen[name] = struct{}{}
		if route := b.server.NamedRoutes[name]; route != nil {
			b.route(route)
		}
	}
}

// sets reads the matcher sets of a route, and returns false if value is
// something else, such as the response matcher of a handler.
func (b *behind) sets(value any) bool {
	list, ok := value.([]any)
	if !ok {
		return false
	}
	for _, set := range list {
		matchers, _ := set.(map[string]any)
		for name, config := range matchers {
			b.matcher(name, config)
		}
	}
	return true
}

// matcher takes note of what a matcher asks for, by the placeholders that stand
// for it.
func (b *behind) matcher(name string, config any) {
	fields, _ := config.(map[string]any)
	ask := func(placeholder string) { b.matched[placeholder] = struct{}{} }
	switch name {
	case "not":
		b.sets(config)
		return
	case "remote_ip":
		ask(remoteHostPlaceholder)
	case "client_ip":
		ask(clientIPPlaceholder)
	case "header", "header_regexp":
		for field := range fields {
			ask(headerPrefix + field)
		}
	case "query":
		for parameter := range fields {
			ask(queryPrefix + parameter)
		}
	case "vars", "vars_regexp":
		for variable := range fields {
			if !strings.Contains(variable, "{") {
				ask("http.vars." + variable)
			}
		}
	case "protocol":
		if config != "http" && config != "https" && config != "grpc" {
			ask("http.request.proto")
		}
	case "expression":
		b.expression(config)
	}
	b.texts(config)
}

// texts takes note of the placeholders in a matcher's configuration.
func (b *behind) texts(value any) {
	switch value := value.(type) {
	case string:
		b.text(value, b.matched)
	case []any:
		for _, element := range value {
			b.texts(element)
		}
	case map[string]any:
		for name, field := range value {
			b.text(name, b.matched)
			b.texts(field)
		}
	}
}

func (b *behind) text(text string, names map[string]struct{}) {
	for _, name := range Placeholders(text) {
		if isPlaceholder(name) {
			names[name] = struct{}{}
		}
	}
}

// expression takes note of the matchers that an expression calls (CEL), and of
// the header fields that it names.
func (b *behind) expression(config any) {
	text, _ := config.(string)
	if fields, ok := config.(map[string]any); ok {
		text, _ = fields["expr"].(string)
	}
	for function, placeholder := range map[string]string{
		"remote_ip": remoteHostPlaceholder, "client_ip": clientIPPlaceholder, "protocol": "http.request.proto",
	} {
		if strings.Contains(text, function+"(") {
			b.matched[placeholder] = struct{}{}
		}
	}
	lower := strings.ToLower(text)
	for field := range insignificantHeaders {
		if strings.Contains(lower, strings.ToLower(field)) && !fixed(field) {
			b.matched[headerPrefix+field] = struct{}{}
		}
	}
}

const (
	headerPrefix = "http.request.header."
	queryPrefix  = "http.request.uri.query."
	cookiePrefix = "http.request.cookie."
)

// Heed adds to the key what the configuration behind the handler that is being
// provisioned asks for and the key does not have. It returns what was added for
// matchers, and what is withheld, because a handler that uses an address mostly
// passes it on to be logged, or because the operator has said what counts.
func (p *Policy) Heed(ctx caddy.Context, server *caddyhttp.Server) (added, withheld []string) {
	return p.heed(findBehind(ctx, server))
}

func (p *Policy) heed(b *behind) (added, withheld []string) {
	p.groups = b.groups
	p.trust(b)
	for _, name := range slices.Sorted(maps.Keys(b.matched)) {
		switch {
		case p.decides(name):
		case p.only:
			withheld = append(withheld, name)
		default:
			p.add(name)
			added = append(added, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.used)) {
		switch {
		case p.decides(name):
		case ofRequest(name):
			withheld = append(withheld, name)
		case !p.only: // a handler before sse may have set it
			p.add(name)
		case !strings.HasPrefix(name, "http.matchers.") && !strings.HasPrefix(name, "http.regexp."):
			withheld = append(withheld, name) // those, matchers behind sse mostly set
		}
	}
	slices.Sort(withheld)
	return added, slices.Compact(withheld)
}

// add adds a placeholder to the key.
func (p *Policy) add(name string) {
	p.templates = append(p.templates, "{"+name+"}")
	p.include(name)
}

// trust lets the request be believed that comes from whom all the reverse_proxy
// behind sse trust: they see another address, and ask the server's verdict.
func (p *Policy) trust(b *behind) {
	for i, ranges := range b.trusted {
		if i > 0 && !slices.Equal(ranges, b.trusted[0]) {
			return
		}
	}
	if len(b.trusted) == 0 {
		return
	}
	for _, text := range b.trusted[0] {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			p.trusted = append(p.trusted, prefix)
		} else if ip, err := netip.ParseAddr(text); err == nil {
			p.trusted = append(p.trusted, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
}

// ofRequest reports whether a placeholder stands for something of the client's
// request or connection.
func ofRequest(name string) bool {
	return strings.HasPrefix(name, "http.request.") || name == clientIPPlaceholder
}

// decides reports whether what a placeholder stands for is the same for all
// requests with the same key, or no client's affair.
func (p *Policy) decides(name string) bool {
	if p.names(name) {
		return true
	}
	if field, ok := strings.CutPrefix(name, headerPrefix); ok {
		return p.decidesHeader(field)
	}
	if parameter, ok := strings.CutPrefix(name, queryPrefix); ok {
		_, ignored := p.ignoredQuery[parameter]
		return !p.dropQuery && !ignored || slices.Contains(p.idParameters, parameter)
	}
	if cookie, ok := strings.CutPrefix(name, cookiePrefix); ok {
		_, counts := p.cookies[cookie]
		return counts || p.decidesHeader("Cookie")
	}
	if variable, ok := strings.CutPrefix(name, "http.vars."); ok {
		return !p.only && !slices.Contains(perRequestVars, variable) || slices.Contains(siteVars, variable)
	}
	switch {
	case strings.HasPrefix(name, "http.request.tls.client."):
		return p.certificate
	case name == "http.request.tls.server_name":
		return true
	case strings.HasPrefix(name, "http.request.tls."), strings.HasPrefix(name, "http.request.proto"),
		strings.HasPrefix(name, remotePlaceholder), strings.HasPrefix(name, localPlaceholder):
		return false
	case strings.HasPrefix(name, "http.request."):
		return true // the method, the host, the path
	case name == "http.auth.user.id":
		return p.user
	}
	return slices.ContainsFunc(othersPlaceholders, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// othersPlaceholders begin the names of placeholders that are no client's, or of
// what comes behind sse.
var othersPlaceholders = []string{
	"env.", "file.", "system.", "time.",
	"http.response.", "http.reverse_proxy.", "http.error.", "http.intercept.", "http.sse.", "http.shutting_down", "http.time_until_shutdown",
}

// decidesHeader is decides for a request header field.
func (p *Policy) decidesHeader(field string) bool {
	field = http.CanonicalHeaderKey(field)
	return field == "Host" || fixed(field) || p.headerInKey(field)
}
