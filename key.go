package caddysse

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What makes two requests the same stream, and the principle that goes with
// it: what is not in the key is not sent upstream. All that a response can
// depend on is then the same for everyone who is given it.

// insignificantHeaders are the request header fields that do not tell streams
// apart. They say how a message travels, or who is probably asking, but not
// what for. Every other field does: an unknown one fails safe.
var insignificantHeaders = headerSet(
	// Hop-by-hop (RFC 9110, 7.6.1).
	"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
	// Conditionals and ranges (RFC 9110, 13.1 and 14.2): not sent upstream.
	"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range",
	"Cache-Control", "Pragma", "Accept", "Accept-Encoding", "User-Agent", "Referer",
	"Sec-GPC", "DNT", "Priority", "Last-Event-ID",
	"Traceparent", "Tracestate", "X-Request-Id", "X-Amzn-Trace-Id", "CF-Ray", "CDN-Loop",
	"Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Port", "X-Real-IP",
	"CF-Connecting-IP", "True-Client-IP",
)

// insignificantPrefixes stand for families of such fields.
var insignificantPrefixes = []string{"Sec-Fetch-", "Sec-Ch-Ua"}

// notSentHeaders, in canonical form, are removed from the request that opens a
// shared stream: they are about one client's response, not about the stream.
var notSentHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range",
	"Accept-Encoding", "Last-Event-Id",
}

// publicHeaders tell streams apart under share public.
var publicHeaders = []string{"Origin", "X-Forwarded-Host", "X-Forwarded-Proto"}

// credentialHeaders identify a user. With one of them in the key,
// Cache-Control: private does not keep a stream from being shared: all who
// share it are that user.
var credentialHeaders = []string{"Authorization", "Cookie", "X-Api-Key", "Api-Key"}

func headerSet(names ...string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[http.CanonicalHeaderKey(name)] = struct{}{}
	}
	return set
}

// insignificant reports whether the header field name, in canonical form,
// does not tell streams apart.
func insignificant(name string) bool {
	if _, ok := insignificantHeaders[name]; ok {
		return true
	}
	return slices.ContainsFunc(insignificantPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// keyPolicy says which parts of a request are in the key. It is made once from
// the handler's configuration.
type keyPolicy struct {
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
	public         bool
}

// newKeyPolicy makes the policy of a validated configuration.
func newKeyPolicy(h *Handler) *keyPolicy {
	p := &keyPolicy{
		headers:        map[string]struct{}{},
		cookies:        map[string]struct{}{},
		query:          map[string]struct{}{},
		ignoredHeaders: map[string]struct{}{},
		ignoredQuery:   map[string]struct{}{},
		named:          map[string]struct{}{},
		idParameters:   h.LastEventIDQuery,
		user:           true,
		certificate:    true,
	}
	switch {
	case h.Key != "":
		p.only, p.dropQuery = true, true
		p.templates = append(p.templates, h.Key)
	case h.Share == sharePublic || h.Share == shareCookies:
		p.only = true
		p.public = h.Share == sharePublic
		p.headers = headerSet(publicHeaders...)
		for _, name := range h.ShareCookies {
			p.cookies[name] = struct{}{}
		}
	}
	if p.only {
		p.user, p.certificate = false, false
	}
	p.templates = append(p.templates, h.KeyAdd...)
	for _, template := range p.templates {
		for _, name := range placeholders(template) {
			p.include(name)
		}
	}
	if h.KeyIgnore != nil {
		p.ignoredHeaders = headerSet(h.KeyIgnore.Headers...)
		for _, name := range h.KeyIgnore.Query {
			p.ignoredQuery[name] = struct{}{}
		}
	}
	return p
}

// include keeps what a placeholder of the key stands for in the request that
// is sent upstream.
func (p *keyPolicy) include(placeholder string) {
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

// placeholders lists the names of the placeholders in a template.
func placeholders(template string) (names []string) {
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

// headerInKey reports whether a request header field, in canonical form, tells
// streams apart.
func (p *keyPolicy) headerInKey(name string) bool {
	if _, ok := p.ignoredHeaders[name]; ok {
		return false
	}
	if _, ok := p.headers[name]; ok {
		return true
	}
	if name == "Cookie" && len(p.cookies) > 0 {
		return true
	}
	return !p.only && !insignificant(name)
}

// sentUpstream reports whether a request header field goes upstream with the
// request that opens a stream.
func (p *keyPolicy) sentUpstream(name string) bool {
	if _, ok := p.ignoredHeaders[name]; ok {
		return false
	}
	return insignificant(name) || p.headerInKey(name)
}

// cookieLine returns what counts of a Cookie field.
func (p *keyPolicy) cookieLine(line string) string {
	if _, all := p.headers["Cookie"]; all || !p.only {
		return line
	}
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
func (p *keyPolicy) filterQuery(raw string) string {
	if raw == "" {
		return ""
	}
	var kept []string
	for pair := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if unescaped, err := url.QueryUnescape(name); err == nil {
			name = unescaped
		}
		_, ignored := p.ignoredQuery[name]
		_, wanted := p.query[name]
		if ignored || slices.Contains(p.idParameters, name) || (p.dropQuery && !wanted) {
			continue
		}
		kept = append(kept, pair)
	}
	return strings.Join(kept, "&")
}

// keyPart is one part of a key: what it is called, for the operator, and its
// value.
type keyPart struct{ name, value string }

// parts lists what makes a request the same as another.
func (p *keyPolicy) parts(r *http.Request, place string) []keyPart {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	parts := make([]keyPart, 0, 24)
	add := func(name, value string) { parts = append(parts, keyPart{name, value}) }

	add("place", place)
	add("method", r.Method)
	add("host", strings.ToLower(r.Host))
	add("path", r.URL.EscapedPath())
	add("query", p.filterQuery(r.URL.RawQuery))
	if orig.URL != nil {
		add("original path", orig.URL.EscapedPath())
		add("original query", p.filterQuery(orig.URL.RawQuery))
	}
	if r.TLS != nil {
		add("scheme", "https")
		add("server name", r.TLS.ServerName)
		if p.certificate {
			parts = appendCertificate(parts, r)
		}
	}
	if p.user {
		if user, ok := repl.GetString("http.auth.user.id"); ok {
			add("user", user)
		}
	}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		if p.headerInKey(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range r.Header[name] {
			if name == "Cookie" {
				if value = p.cookieLine(value); value == "" {
					continue // not sent upstream
				}
			}
			add("header "+name, value)
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

// appendCertificate appends the TLS client certificate of a request, if it has
// one.
func appendCertificate(parts []keyPart, r *http.Request) []keyPart {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return parts
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return append(parts, keyPart{"client certificate", string(sum[:])})
}

// hasCredential reports whether the key of a request has something that
// identifies a user.
func (p *keyPolicy) hasCredential(r *http.Request) bool {
	for _, name := range credentialHeaders {
		if !p.headerInKey(name) {
			continue
		}
		for _, value := range r.Header[name] {
			if name != "Cookie" || p.cookieLine(value) != "" {
				return true
			}
		}
	}
	if p.certificate && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	if !p.user {
		return false
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	user, ok := repl.GetString("http.auth.user.id")
	return ok && user != ""
}

// lastEventID returns the last event ID of a request: the header field, else a
// query parameter. param is the parameter's name, if that is where it is.
func (p *keyPolicy) lastEventID(r *http.Request) (id, param string) {
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
// that handlers before sse have set for the client.
func (p *keyPolicy) keepsPlaceholder(name string) bool {
	_, named := p.named[name]
	return !p.only || named || (p.user && strings.HasPrefix(name, "http.auth."))
}

// keepsVar is keepsPlaceholder for a variable. That of the directive root is the
// site's, not the client's.
func (p *keyPolicy) keepsVar(name string) bool {
	_, named := p.named["http.vars."+name]
	return !p.only || named || name == "root"
}

// withoutID removes the parameters of a raw query that may bring a last event
// ID.
func (p *keyPolicy) withoutID(raw string) string {
	return (&keyPolicy{idParameters: p.idParameters}).filterQuery(raw)
}

// varies returns what the named header fields of a request are when it is sent
// upstream, in one string.
func (p *keyPolicy) varies(header http.Header, names []string) string {
	var values strings.Builder
	for _, name := range names {
		if !p.sentUpstream(name) || slices.Contains(notSentHeaders, name) {
			continue
		}
		for _, value := range header[name] {
			if name == "Cookie" {
				value = p.cookieLine(value)
			}
			values.WriteString(strings.TrimSpace(value))
			values.WriteByte(0)
		}
		values.WriteByte('\n')
	}
	return values.String()
}
