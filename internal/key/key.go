package key

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Policy says which parts of a request are in the key, and so what a shared
// upstream request has of it. It does not change once New and Heed have made it.
type Policy struct {
	only           bool                // no header field but those in headers is in the key
	headers        map[string]struct{} // canonical names
	cookies        map[string]struct{} // with only: these of the Cookie field
	dropQuery      bool                // no parameter but those in query is in the key
	query          map[string]struct{}
	ignoredHeaders map[string]struct{}
	ignoredQuery   map[string]struct{}
	idParameters   []string // may bring the last event ID; not in the key
	user           bool     // the authenticated user is in the key
	certificate    bool     // the TLS client certificate is in the key
	templates      []string
	named          map[string]struct{} // the placeholders in them
	dropsCookies   bool                // that an answer sets: they are not for clients
	credentials    []string            // header fields that identify a user, where they count
	whole          bool                // of a detached stream, which is one client's: nothing is withheld

	// What handlers behind sse decide by besides (behind.go).
	groups  map[string]struct{} // of routes
	trusted []netip.Prefix      // the front proxies that reverse_proxy believes
}

// Config is what the operator says about keys: the options of a handler, valid.
type Config struct {
	Template      string   // in place of query and header fields; "": they count
	Public        bool     // no user, certificate or header field counts but publicHeaders
	Cookies       []string // as Public, but these cookies count
	Headers       []string // as Public, but these header fields count
	StripCookies  bool     // what an answer sets is not for clients
	Add           []string // templates that count besides
	IgnoreHeaders []string
	IgnoreQuery   []string
	IDParameters  []string // query parameters that may bring the last event ID
}

// String is all of it, for nodes to compare.
func (c Config) String() string {
	return fmt.Sprintf("%q %t %q %q %t %q %q %q %q", c.Template, c.Public, c.Cookies, c.Headers, c.StripCookies,
		c.Add, c.IgnoreHeaders, c.IgnoreQuery, c.IDParameters)
}

// New makes the policy of a configuration.
func New(c Config) *Policy {
	p := &Policy{
		headers:        map[string]struct{}{},
		cookies:        map[string]struct{}{},
		query:          map[string]struct{}{},
		ignoredHeaders: headerSet(c.IgnoreHeaders...),
		ignoredQuery:   map[string]struct{}{},
		named:          map[string]struct{}{},
		idParameters:   c.IDParameters,
		dropsCookies:   c.Public || c.StripCookies,
		credentials:    credentialHeaders,
	}
	switch {
	case c.Template != "":
		p.only, p.dropQuery = true, true
		p.templates = append(p.templates, c.Template)
	case c.Public || len(c.Cookies) > 0 || len(c.Headers) > 0:
		p.only = true
		p.headers = headerSet(slices.Concat(publicHeaders, c.Headers)...)
		for _, name := range c.Headers {
			p.credentials = append(slices.Clip(p.credentials), http.CanonicalHeaderKey(name))
		}
		for _, name := range c.Cookies {
			p.cookies[name] = struct{}{}
		}
	}
	p.user, p.certificate = !p.only, !p.only
	p.templates = append(p.templates, c.Add...)
	for _, template := range p.templates {
		for _, name := range Placeholders(template) {
			p.include(name)
		}
	}
	for _, name := range c.IgnoreQuery {
		p.ignoredQuery[name] = struct{}{}
	}
	return p
}

// Whole returns the policy of requests that are one client's: nothing of them is
// withheld.
func Whole(idParameters []string) *Policy {
	return &Policy{user: true, certificate: true, whole: true, idParameters: idParameters}
}

// include keeps what a placeholder of the key stands for in the request that
// is sent upstream.
func (p *Policy) include(placeholder string) {
	p.named[placeholder] = struct{}{}
	if name, ok := strings.CutPrefix(placeholder, "http.request.header."); ok {
		p.headers[http.CanonicalHeaderKey(name)] = struct{}{}
	}
	if name, ok := strings.CutPrefix(placeholder, "http.request.cookie."); ok {
		p.cookies[name] = struct{}{}
	}
	if name, ok := strings.CutPrefix(placeholder, "http.request.uri.query."); ok {
		p.query[name] = struct{}{}
	}
	switch placeholder {
	case "http.request.uri", "http.request.uri_escaped",
		"http.request.uri.query", "http.request.uri.query_escaped", "http.request.uri.prefixed_query",
		"http.request.orig_uri", "http.request.orig_uri.query", "http.request.orig_uri.prefixed_query":
		p.dropQuery = false
	}
	if strings.HasPrefix(placeholder, "http.auth.") {
		p.user = true
	}
	if strings.HasPrefix(placeholder, "http.request.tls.client.") {
		p.certificate = true
	}
}

// Placeholders lists the names of the placeholders in a template.
func Placeholders(template string) (names []string) {
	for {
		_, rest, ok := strings.Cut(template, "{")
		if !ok {
			return names
		}
		name, rest, ok := strings.Cut(rest, "}")
		if !ok {
			return names
		}
		name, _, _ = strings.Cut(name, ":") // a default value may follow
		names = append(names, name)
		template = rest
	}
}

// isPlaceholder reports whether what stands in braces may be a placeholder's
// name, and not JSON, say.
func isPlaceholder(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("{}\"'`,;=()<>\\", r)
	})
}

// headerInKey reports whether a request header field, in canonical form, tells
// streams apart.
func (p *Policy) headerInKey(name string) bool {
	if _, ok := p.ignoredHeaders[name]; ok {
		return false
	}
	if _, ok := p.headers[name]; ok {
		return true
	}
	if name == "Cookie" && len(p.cookies) > 0 {
		return true
	}
	return !p.only && !Insignificant(name)
}

// lines returns what counts of the lines of a request header field, in
// canonical form. It is what the upstream is sent of them.
func (p *Policy) lines(name string, values []string, address string) (kept []string) {
	if name == "Forwarded" && !p.headerInKey(name) {
		return p.forwardedLines(values, address)
	}
	if !p.headerInKey(name) {
		return nil
	}
	if name != "Cookie" || p.allCookies() {
		return values
	}
	for _, value := range values {
		if value = p.cookieLine(value); value != "" {
			kept = append(kept, value)
		}
	}
	return kept
}

// forwardedLines is lines for Forwarded, of which host and proto count where
// X-Forwarded-Host and X-Forwarded-Proto do.
func (p *Policy) forwardedLines(values []string, address string) []string {
	_, ignored := p.ignoredHeaders["Forwarded"]
	_, counts := p.headers["X-Forwarded-Host"]
	if ignored || (p.only && !counts) {
		return nil
	}
	place, readable := forwardedPlace(values)
	switch {
	case !readable:
		return values
	case place == "":
		return nil
	}
	return []string{"for=" + forwardedNode(address) + ";" + place}
}

// allCookies reports whether every cookie counts.
func (p *Policy) allCookies() bool {
	_, all := p.headers["Cookie"]
	return all || !p.only
}

// cookieLine returns what counts of a Cookie field, if not all of it does.
func (p *Policy) cookieLine(line string) string {
	var kept []string
	for pair := range strings.SplitSeq(line, ";") {
		pair = strings.TrimSpace(pair)
		name, _, _ := strings.Cut(pair, "=")
		if _, ok := p.cookies[strings.TrimSpace(name)]; ok {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "; ")
}

// filterQuery returns the part of a raw query that counts, its order kept.
func (p *Policy) filterQuery(raw string) string { return filterQuery(raw, p.parameterCounts) }

// parameterCounts reports whether a parameter of the query counts.
func (p *Policy) parameterCounts(name string) bool {
	_, ignored := p.ignoredQuery[name]
	_, wanted := p.query[name]
	return !ignored && !p.bringsID(name) && (!p.dropQuery || wanted)
}

// bringsID reports whether a parameter of the query may bring a last event ID.
func (p *Policy) bringsID(name string) bool { return slices.Contains(p.idParameters, name) }

// filterQuery returns the parameters of a raw query that count, their order kept.
func filterQuery(raw string, counts func(name string) bool) string {
	all := true
	for pair := range strings.SplitSeq(raw, "&") {
		all = all && counts(parameterName(pair))
	}
	if all {
		return raw // a query of 16 KB has thousands of pairs: nothing is made of them
	}
	return joinCounting(raw, counts)
}

func joinCounting(raw string, counts func(name string) bool) string {
	kept := make([]string, 0, 8) // on the stack
	for pair := range strings.SplitSeq(raw, "&") {
		if counts(parameterName(pair)) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// parameterName is the name of a parameter of a raw query.
func parameterName(pair string) string {
	name, _, _ := strings.Cut(pair, "=")
	if strings.ContainsAny(name, "%+") {
		if unescaped, err := url.QueryUnescape(name); err == nil {
			return unescaped
		}
	}
	return name
}

// Parts lists what makes a request that comes to a handler the same as another.
// place is where the handler is.
func (p *Policy) Parts(r *http.Request, place string) []stream.Part {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	parts := p.appendSent(make([]stream.Part, 0, 24), r, place)
	parts = p.appendCaller(parts, r, repl)
	return p.appendConfigured(parts, r, repl)
}

// appendSent appends what is asked for, and where: as it is now, and as it was before
// other handlers.
func (p *Policy) appendSent(parts []stream.Part, r *http.Request, place string) []stream.Part {
	orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	add := func(name, value string) { parts = append(parts, stream.Part{Name: name, Value: value}) }

	add("place", place)
	add("method", r.Method)
	add("host", strings.ToLower(r.Host))
	add("path", r.URL.EscapedPath())
	add("query", p.filterQuery(r.URL.RawQuery))
	if orig.URL != nil {
		if orig.Method != r.Method {
			add("original method", orig.Method)
		}
		add("original path", orig.URL.EscapedPath())
		add("original query", p.filterQuery(orig.URL.RawQuery))
	}
	return parts
}

// appendCaller appends who asks, and how: the connection, the user, and the header fields.
func (p *Policy) appendCaller(parts []stream.Part, r *http.Request, repl *caddy.Replacer) []stream.Part {
	add := func(name, value string) { parts = append(parts, stream.Part{Name: name, Value: value}) }
	if p.believed(r) {
		// It decides what handlers behind make of X-Forwarded-Proto.
		add("trusted proxy", "yes")
	}
	if r.TLS != nil {
		add("scheme", "https")
		add("server name", r.TLS.ServerName)
		if !r.TLS.HandshakeComplete {
			add("early data", "yes")
		}
		if p.certificate {
			parts = appendCertificate(parts, r)
		}
	}
	if p.user {
		if user, ok := repl.GetString("http.auth.user.id"); ok {
			add("user", user)
		}
	}
	address := p.address(r)
	for _, name := range sortedNames(r.Header) {
		for _, value := range p.lines(name, r.Header[name], address) {
			add(headerPart(name), value)
		}
	}
	return parts
}

// appendConfigured appends what the configuration makes a part of the key: variables
// that count, groups of routes that were entered, and templates of the operator's.
func (p *Policy) appendConfigured(parts []stream.Part, r *http.Request, repl *caddy.Replacer) []stream.Part {
	add := func(name, value string) { parts = append(parts, stream.Part{Name: name, Value: value}) }
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for _, name := range sortedNames(vars) {
		if p.countsVar(name, vars[name]) {
			add("var "+name, caddy.ToString(vars[name]))
		}
	}
	entered, _ := r.Context().Value(RouteGroupCtxKey).(map[string]struct{})
	for _, name := range sortedNames(p.groups) {
		if _, ok := entered[name]; ok {
			add("route group", name)
		}
	}
	for _, template := range p.templates {
		add("template", template)
		// Each value is a part of its own, so that no value can pass for the
		// end of another and the beginning of the next.
		_, _ = repl.ReplaceFunc(template, func(name string, value any) (any, error) {
			add("placeholder "+name, caddy.ToString(value))
			return value, nil
		})
	}
	return parts
}

// sortedNames are the keys of a map, in order: in one piece of memory, for every
// request has three of them.
func sortedNames[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	names := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(names)
	return names
}

// headerPart is what a part of the key is called that is a request header field.
func headerPart(name string) string {
	if part, ok := headerParts[name]; ok {
		return part
	}
	return "header " + name
}

// headerParts has what headerPart returns for the fields that most requests have.
var headerParts = map[string]string{
	"Accept-Language":   "header Accept-Language",
	"Authorization":     "header Authorization",
	"Cookie":            "header Cookie",
	"Origin":            "header Origin",
	"X-Forwarded-Host":  "header X-Forwarded-Host",
	"X-Forwarded-Proto": "header X-Forwarded-Proto",
}

// appendCertificate appends the TLS client certificate of a request, if it has
// one, and those that came with it.
func appendCertificate(parts []stream.Part, r *http.Request) []stream.Part {
	if r.TLS == nil {
		return parts
	}
	for _, certificate := range r.TLS.PeerCertificates {
		sum := sha256.Sum256(certificate.Raw)
		parts = append(parts, stream.Part{Name: "client certificate", Value: string(sum[:])})
	}
	return parts
}

// LastEventID returns the last event ID of a request: the header field, else a
// query parameter. param is the parameter's name, if that is where it is.
func (p *Policy) LastEventID(r *http.Request) (id, param string) {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id, ""
	}
	if r.URL.RawQuery == "" || len(p.idParameters) == 0 {
		return "", ""
	}
	query := r.URL.Query()
	for _, name := range p.idParameters {
		if id := query.Get(name); id != "" {
			return id, name
		}
	}
	return "", ""
}

// keepsPlaceholder reports whether the upstream request may use a placeholder
// that handlers before sse have set for the client: what it stands for is in the
// key then.
func (p *Policy) keepsPlaceholder(name string) bool {
	_, named := p.named[name]
	return named || p.whole || (p.user && name == "http.auth.user.id")
}

// perRequestVars are variables of Caddy that no two requests have in common, and
// those that are the business of address.go.
var perRequestVars = []string{
	"start_time", "uuid", "trace_id", "span_id", caddyhttp.LogSkipVar,
	caddyhttp.ClientIPVarKey, caddyhttp.TrustedProxyVarKey,
}

// keepsVar reports whether the upstream request has a variable that handlers
// before sse have set for the client.
func (p *Policy) keepsVar(name string, value any) bool {
	return p.whole || p.countsVar(name, value) || (p.only && slices.Contains(siteVars, name) && isPlain(value))
}

// siteVars are variables that are the site's, not the client's: those of the
// directives root and fs, which php_fastcgi and file_server always ask for.
var siteVars = []string{"root", "fs"}

// countsVar reports whether a variable is in the key. Where the whole request
// counts, variables do, as far as they can be compared.
func (p *Policy) countsVar(name string, value any) bool {
	if _, named := p.named["http.vars."+name]; named {
		return isPlain(value)
	}
	return !p.only && isPlain(value) && !slices.Contains(perRequestVars, name)
}

// isPlain reports whether a value is equal to another if their texts are.
func isPlain(value any) bool {
	switch value.(type) {
	case string, bool, time.Duration,
		int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
		return true
	}
	return false
}

// WithoutID removes the parameters of a raw query that may bring a last event
// ID.
func (p *Policy) WithoutID(raw string) string {
	return filterQuery(raw, func(name string) bool { return !p.bringsID(name) })
}
