package key

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// RouteGroupCtxKey is Caddy's context key of the route groups that were
// entered, so that the rest of a group is not. Caddy does not export it.
const RouteGroupCtxKey caddy.CtxKey = "route_group"

// Request is what a client's request brought, to make upstream requests of, one
// after the other. Nothing in it is shared with the client's request: that one
// may be over long before they are.
type Request struct {
	Template *http.Request // its context is the client's, without its end
	Original http.Request  // as Caddy's server had it; without a URL if it is not known

	policy *Policy
	server *caddyhttp.Server // may be nil
	local  net.Addr          // at which the server was reached; nil: the client's context knows it
	vars   map[string]any
	groups map[string]struct{}
}

// Copy copies a client's request as it is.
func (p *Policy) Copy(r *http.Request) *Request {
	ctx := context.WithoutCancel(r.Context())
	c := &Request{
		Template: r.Clone(ctx),
		policy:   p,
		vars:     maps.Clone(ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)),
	}
	c.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if groups, ok := ctx.Value(RouteGroupCtxKey).(map[string]struct{}); ok {
		c.groups = maps.Clone(groups)
	}
	c.Original, _ = ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return c
}

// Clean copies a client's request, less what is not in the key.
func (p *Policy) Clean(r *http.Request) *Request {
	c := p.Copy(r)
	maps.DeleteFunc(c.vars, func(name string, value any) bool { return !p.keepsVar(name, value) })
	c.vars[caddyhttp.TrustedProxyVarKey] = p.believed(r)
	c.vars[caddyhttp.ClientIPVarKey] = p.clientIP(r)
	if !p.namesLocal() {
		c.local = localNobody
	}
	c.CleanOriginal()
	c.Original.RemoteAddr = p.remote(r)
	p.clean(c.Template)
	return c
}

// CleanOriginal removes what must not reach the upstream from the URL of the
// request as it was received.
func (c *Request) CleanOriginal() {
	if c.Original.URL == nil {
		return
	}
	clean := c.policy.cleanURL(c.Original.URL)
	c.Original.URL = clean
	c.Original.RequestURI = clean.RequestURI()
}

// clean removes what must not reach the upstream from a request.
func (p *Policy) clean(r *http.Request) {
	address := p.address(r)
	r.Body = http.NoBody
	r.ContentLength = 0
	r.Host = strings.ToLower(r.Host)
	r.URL = p.cleanURL(r.URL)
	r.RequestURI = r.URL.RequestURI()
	r.Trailer, r.TransferEncoding, r.Close = nil, nil, false
	r.Form, r.PostForm, r.MultipartForm = nil, nil, nil
	p.connection(r)
	for name, values := range r.Header {
		if r.Header[name] = p.lines(name, values, address); len(r.Header[name]) == 0 {
			delete(r.Header, name)
		}
	}
	for name, value := range map[string]string{
		"Accept": "text/event-stream",
		// A decoded answer would be needed anyway, and each client would want
		// another coding.
		"Accept-Encoding": "identity",
		"User-Agent":      UserAgent,
		// Where it is missing, applications take the address of the connection;
		// reverse_proxy adds X-Forwarded-For by itself.
		"X-Real-Ip": address,
	} {
		if _, ignored := p.ignoredHeaders[name]; !p.headerInKey(name) && (!ignored || fixed(name)) {
			r.Header.Set(name, value)
		}
	}
}

// cleanURL copies a URL, less what is not in the key. A server has use for path
// and query only.
func (p *Policy) cleanURL(u *url.URL) *url.URL {
	return &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: p.filterQuery(u.RawQuery)}
}

// Instantiate makes a request for one upstream connection, as Caddy's server
// would. ctx has the values of the template's context.
func (c *Request) Instantiate(ctx context.Context, w http.ResponseWriter, lastEventID, idParam string) *http.Request {
	if c.local != nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, c.local)
	}
	r := c.Template.Clone(caddyhttp.ContextWithIdleTimeouts(ctx, nil, nil))
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
		if idParam != "" {
			addQuery(r.URL, idParam, lastEventID)
			r.RequestURI = r.URL.RequestURI()
		}
	}

	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, c.server)
	maps.Copy(r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any), c.vars)
	if groups, ok := r.Context().Value(RouteGroupCtxKey).(map[string]struct{}); ok {
		maps.Copy(groups, c.groups)
	}
	orig := c.Original
	if orig.URL != nil && lastEventID != "" && idParam != "" {
		withID := *orig.URL
		addQuery(&withID, idParam, lastEventID)
		orig.URL = &withID
		orig.RequestURI = withID.RequestURI()
	}
	// In place: the replacer holds the pointer.
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))

	repl.Map(c.earlier)
	return r
}

// addQuery appends a parameter to a URL's query.
func addQuery(u *url.URL, name, value string) {
	pair := url.QueryEscape(name) + "=" + url.QueryEscape(value)
	if u.RawQuery != "" {
		pair = u.RawQuery + "&" + pair
	}
	u.RawQuery = pair
}

// earlier resolves placeholders that handlers before sse have set, such as
// those of map and of regular expressions, from the client's replacer. They may
// come from anything in the client's request, its address too: only those that
// the key has are known, others are empty.
func (c *Request) earlier(key string) (any, bool) {
	for _, prefix := range []string{"http.request.", "http.response.", "http.reverse_proxy.", "http.vars.", "http.sse."} {
		if strings.HasPrefix(key, prefix) {
			return nil, false
		}
	}
	if !c.policy.keepsPlaceholder(key) {
		return "", isPlaceholder(key)
	}
	repl, ok := c.Template.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil, false
	}
	return repl.Get(key)
}
