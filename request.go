package caddysse

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// upstreamRequest opens the upstream connections of a stream, of what one
// client's request brought, through the handlers behind sse in the configuration
// that it came through.
type upstreamRequest struct {
	handler  *Handler
	policy   *key.Policy  // says what is sent
	sent     *key.Request // what is
	detached bool         // of a detached stream: it is one client's
	next     caddyhttp.Handler
	idParam  string // the query parameter in which the client brought its last event ID
	// The client's request as Caddy's server has it, to be run again, as far as
	// that is still known: handlers before sse may have changed header fields.
	received *http.Request
	before   http.Header // of the response, as the handlers before sse left it

	// The client whose request this is, if it waits for the stream's first
	// answer: it is given that answer if it is not a stream to share.
	// Its first connection takes it; those of splices have the same request.
	opener atomic.Pointer[opener]
}

// newUpstreamRequest makes upstream requests of a client's request, of which
// they have what is in the key.
func (h *Handler) newUpstreamRequest(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *upstreamRequest {
	u := &upstreamRequest{handler: h, policy: h.policy, sent: h.policy.Clean(r), next: next, before: w.Header().Clone()}
	_, u.idParam = h.policy.LastEventID(r)
	u.received = h.again(r)
	if parent := spanOf(r); parent != "" {
		u.sent.Template.Header.Set("Traceparent", parent)
	}
	return u
}

// spanOf returns what names the span of a request that Caddy's handler tracing has
// before this one, as the application is told it; "": there is none. It is made by
// Caddy, and says nothing of the client but a trace's number, that of the client
// if it brought one: so the application is told it, in place of what clients send
// themselves.
func spanOf(r *http.Request) string {
	trace, _ := caddyhttp.GetVar(r.Context(), "trace_id").(string)
	span, _ := caddyhttp.GetVar(r.Context(), "span_id").(string)
	parent := r.Header.Get("Traceparent")
	if trace == "" || span == "" || !strings.HasPrefix(parent, "00-"+trace+"-"+span+"-") {
		return ""
	}
	return parent
}

// wholeRequest makes upstream requests of a client's request as it is.
func (h *Handler) wholeRequest(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *upstreamRequest {
	policy := key.Whole(h.idParameters())
	return &upstreamRequest{handler: h, policy: policy, sent: policy.Copy(r), next: next, before: w.Header().Clone()}
}

// again copies a client's request for a renewal, with nothing in its context of
// the configuration that it came through; nil without Caddy's server.
func (h *Handler) again(r *http.Request) *http.Request {
	orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if orig.URL == nil {
		return nil
	}
	ctx := context.Background()
	if address := r.Context().Value(http.LocalAddrContextKey); address != nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, address)
	}
	// All of the query but the last event ID: handlers before sse may ask for
	// what is not in the key.
	whole := *orig.URL
	whole.RawQuery = h.policy.WithoutID(whole.RawQuery)
	again := (&http.Request{
		Method:     orig.Method,
		URL:        &whole,
		RequestURI: whole.RequestURI(),
		RemoteAddr: orig.RemoteAddr,
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

// instantiate makes a request for one upstream connection. ctx has the values of
// the client's context.
func (u *upstreamRequest) instantiate(ctx context.Context, w http.ResponseWriter, lastEventID, idParam string) *http.Request {
	r := u.sent.Instantiate(ctx, w, lastEventID, idParam)
	caddyhttp.SetVar(r.Context(), insideVar, insideForGood)
	return r
}

// Retired reports whether the configuration of the request was cleaned up.
func (u *upstreamRequest) Retired() bool { return u.handler.instance.Retired.Load() }

// withholds reports whether a client's last event ID does not go upstream where
// its answer could have been shared: a gateway gave it, and none is behind this
// one.
func (h *Handler) withholds(id string) bool {
	_, _, own := replay.ParseID(id)
	return own && h.options.IDs != stream.IDsUpstream
}

// dropID removes a last event ID of the gateway from a request that goes
// upstream: the upstream does not know it.
func (h *Handler) dropID(r *http.Request) {
	r.Header.Del("Last-Event-ID")
	r.URL.RawQuery = h.policy.WithoutID(r.URL.RawQuery)
}
