package caddysse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// routeGroupCtxKey is Caddy's context key of the route groups that were
// entered, so that the rest of a group is not. Caddy does not export it.
const routeGroupCtxKey caddy.CtxKey = "route_group"

// upstreamRequest opens the upstream connections of a stream. It holds a copy
// of what one client's request brought, and the handlers behind sse in the
// configuration which that request came through. Nothing in it is shared with
// the client's request: that one may be over long before the stream is.
type upstreamRequest struct {
	handler  *Handler
	policy   *keyPolicy // says what is sent
	detached bool       // of a detached stream: it is one client's
	next     caddyhttp.Handler
	request  *http.Request // a template; its context is the client's, without its end
	idParam  string        // the query parameter in which the client brought its last event ID
	orig     http.Request
	// The client's request as Caddy's server has it, to be run again, as far as
	// that is still known: handlers before sse may have changed header fields.
	received *http.Request
	server   *caddyhttp.Server
	local    net.Addr // at which the server was reached; nil: the client's context knows it
	vars     map[string]any
	groups   map[string]struct{}
	before   http.Header // of the response, as the handlers before sse left it

	// The client whose request this is, if it waits for the stream's first
	// answer: it is given that answer if it is not a stream to share.
	// Its first connection takes it; those of splices have the same request.
	opener atomic.Pointer[opener]
}

// newUpstreamRequest copies what is needed of a client's request. Parts that
// are not in the key are left out.
func (h *Handler) newUpstreamRequest(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *upstreamRequest {
	u := h.copyRequest(w, r, next, h.policy)
	_, u.idParam = h.policy.lastEventID(r)
	u.received = u.again(r)
	policy := h.policy
	maps.DeleteFunc(u.vars, func(name string, value any) bool { return !policy.keepsVar(name, value) })
	u.vars[caddyhttp.TrustedProxyVarKey] = policy.believed(r)
	u.vars[caddyhttp.ClientIPVarKey] = policy.clientIP(r)
	if !policy.namesLocal() {
		u.local = localNobody
	}
	if u.orig.URL != nil {
		u.filterOriginal()
	}
	u.orig.RemoteAddr = policy.remote(r)
	u.clean(u.request)
	return u
}

// again copies a client's request for a renewal, with nothing in its context of
// the configuration that it came through; nil without Caddy's server.
func (u *upstreamRequest) again(r *http.Request) *http.Request {
	if u.orig.URL == nil {
		return nil
	}
	ctx := context.Background()
	if address := r.Context().Value(http.LocalAddrContextKey); address != nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, address)
	}
	// All of the query but the last event ID: handlers before sse may ask for
	// what is not in the key.
	whole := *u.orig.URL
	whole.RawQuery = u.handler.policy.withoutID(whole.RawQuery)
	again := (&http.Request{
		Method:     u.orig.Method,
		URL:        &whole,
		RequestURI: whole.RequestURI(),
		RemoteAddr: u.orig.RemoteAddr,
		Proto:      r.Proto,
		ProtoMajor: r.ProtoMajor,
		ProtoMinor: r.ProtoMinor,
		Header:     r.Header.Clone(),
		Body:       http.NoBody,
		Host:       r.Host,
		TLS:        r.TLS,
	}).WithContext(ctx)
	again.Header.Del("Last-Event-ID")
	return again
}

// copyRequest copies a client's request as it is.
func (h *Handler) copyRequest(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, policy *keyPolicy) *upstreamRequest {
	ctx := context.WithoutCancel(r.Context())
	u := &upstreamRequest{
		handler: h,
		policy:  policy,
		next:    next,
		request: r.Clone(ctx),
		vars:    maps.Clone(ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)),
		before:  w.Header().Clone(),
	}
	u.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if groups, ok := ctx.Value(routeGroupCtxKey).(map[string]struct{}); ok {
		u.groups = maps.Clone(groups)
	}
	u.orig, _ = ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return u
}

// filterOriginal removes what must not reach the upstream from the query of
// the request as it was received.
func (u *upstreamRequest) filterOriginal() {
	clean := u.policy.cleanURL(u.orig.URL)
	u.orig.URL = clean
	u.orig.RequestURI = clean.RequestURI()
}

// clean removes what must not reach the upstream from the template.
func (u *upstreamRequest) clean(r *http.Request) {
	policy := u.policy
	address := policy.address(r)
	r.Body = http.NoBody
	r.ContentLength = 0
	r.Host = strings.ToLower(r.Host)
	r.URL = policy.cleanURL(r.URL)
	r.RequestURI = r.URL.RequestURI()
	r.Trailer, r.TransferEncoding, r.Close = nil, nil, false
	r.Form, r.PostForm, r.MultipartForm = nil, nil, nil
	policy.connection(r)
	for name, values := range r.Header {
		if r.Header[name] = policy.lines(name, values, address); len(r.Header[name]) == 0 {
			delete(r.Header, name)
		}
	}
	for name, value := range map[string]string{
		"Accept": eventStreamType,
		// A decoded answer would be needed anyway, and each client would want
		// another coding.
		"Accept-Encoding": "identity",
		"User-Agent":      sharedUserAgent,
		// Where it is missing, applications take the address of the connection;
		// reverse_proxy adds X-Forwarded-For by itself.
		"X-Real-Ip": address,
	} {
		if _, ignored := policy.ignoredHeaders[name]; !policy.headerInKey(name) && (!ignored || fixed(name)) {
			r.Header.Set(name, value)
		}
	}
}

// cleanURL copies a URL, less what is not in the key. A server has use for path
// and query only.
func (p *keyPolicy) cleanURL(u *url.URL) *url.URL {
	return &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: p.filterQuery(u.RawQuery)}
}

// instantiate makes a request of its own for one upstream connection, as
// Caddy's server would. ctx has the values of the template's context.
func (u *upstreamRequest) instantiate(ctx context.Context, w http.ResponseWriter, lastEventID, idParam string) *http.Request {
	if u.local != nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, u.local)
	}
	r := u.request.Clone(caddyhttp.ContextWithIdleTimeouts(ctx, nil, nil))
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
		if idParam != "" {
			addQuery(r.URL, idParam, lastEventID)
			r.RequestURI = r.URL.RequestURI()
		}
	}

	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, u.server)
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	maps.Copy(vars, u.vars)
	vars[insideVar] = insideForGood
	if groups, ok := r.Context().Value(routeGroupCtxKey).(map[string]struct{}); ok {
		maps.Copy(groups, u.groups)
	}
	orig := u.orig
	if orig.URL != nil && lastEventID != "" && idParam != "" {
		withID := *orig.URL
		addQuery(&withID, idParam, lastEventID)
		orig.URL = &withID
		orig.RequestURI = withID.RequestURI()
	}
	// In place: the replacer holds the pointer.
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))

	repl.Map(u.earlier)
	return r
}

// earlier resolves placeholders that handlers before sse have set, such as
// those of map and of regular expressions, from the client's replacer. They may
// come from anything in the client's request, its address too: only those that
// the key has are known, others are empty.
func (u *upstreamRequest) earlier(key string) (any, bool) {
	for _, prefix := range []string{"http.request.", "http.response.", "http.reverse_proxy.", "http.vars.", "http.sse."} {
		if strings.HasPrefix(key, prefix) {
			return nil, false
		}
	}
	if !u.policy.keepsPlaceholder(key) {
		return "", isPlaceholder(key)
	}
	repl, ok := u.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil, false
	}
	return repl.Get(key)
}

// insideForGood marks a detached request for a nested sse.
var insideForGood = func() *atomic.Bool {
	inside := new(atomic.Bool)
	inside.Store(true)
	return inside
}()

// addQuery appends a parameter to a URL's query.
func addQuery(u *url.URL, name, value string) {
	pair := url.QueryEscape(name) + "=" + url.QueryEscape(value)
	if u.RawQuery != "" {
		pair = u.RawQuery + "&" + pair
	}
	u.RawQuery = pair
}

// Retired reports whether the configuration of the request was cleaned up.
func (u *upstreamRequest) Retired() bool { return u.handler.instance.Retired.Load() }

// Open runs one upstream connection to its end.
func (u *upstreamRequest) Open(ctx context.Context, lastEventID string, conn *stream.Conn) (end stream.Ending) {
	requestCtx, cancel := context.WithCancel(u.request.Context())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	c := newCapture(ctx, u, conn, func(cause error) {
		cancel()
		conn.Cancel(cause)
	})
	r := u.instantiate(requestCtx, c, lastEventID, cmp.Or(conn.Stream.IDParam, u.idParam))
	err := runNext(u.next, c, r)
	if p, ok := errors.AsType[panicError](err); ok {
		conn.Current().Log().Error("panic in a handler behind sse",
			zap.Any("panic", p.value), zap.ByteString("stack", p.stack))
	}
	return c.finish(err)
}

// runNext runs the handlers behind sse. A panic of theirs becomes an error;
// that of reverse_proxy when an answer breaks off is http.ErrAbortHandler.
func runNext(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = http.ErrAbortHandler
		default:
			err = panicError{value: p, stack: debug.Stack()}
		}
	}()
	return next.ServeHTTP(w, r)
}

// panicError is what a panicking handler ends its upstream connection with.
type panicError struct {
	value any
	stack []byte
}

func (e panicError) Error() string { return fmt.Sprintf("panic in a handler: %v", e.value) }
