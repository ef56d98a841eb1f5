package caddysse

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// insideVar tells, in Caddy's variables, whether a request is inside an sse
// handler (*atomic.Bool): a nested one steps aside.
const insideVar = "http.handlers.sse.inside"

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	inside, known := caddyhttp.GetVar(r.Context(), insideVar).(*atomic.Bool)
	if neverStream(r) || (known && inside.Load()) {
		return next.ServeHTTP(w, r)
	}
	if !known {
		inside = new(atomic.Bool)
		caddyhttp.SetVar(r.Context(), insideVar, inside)
	}
	if q, ok := r.Context().Value(renewalCtxKey{}).(*renewal); ok && q.source == nil {
		h.takeRenewal(w, r, next, q)
		return nil
	}
	inside.Store(true)
	defer inside.Store(false) // not SetVar: a dial that goes on in the background may read the variables

	err := h.serve(w, r, next)
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // the response is not complete: the client has to see it
	}
	return err
}

// serve serves a request from a stream, or passes it on.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if kind := h.probes.asked(r); kind != "" {
		return h.serveProbe(w, r, kind)
	}
	mayDetach := h.mayDetach(r)
	if mayDetach {
		if served, err := h.resumeDetached(w, r, next); served {
			return err
		}
	}
	switch {
	case h.mayJoin(r):
		return h.serveShared(w, r, next)
	case mayDetach:
		return h.serveDetached(w, r, next)
	}
	return h.servePrivate(newPassThrough(h, w, r, false), next)
}

// neverStream reports whether the answer to a request is not a stream whatever
// it says.
func neverStream(r *http.Request) bool {
	switch r.Method {
	case http.MethodHead, http.MethodOptions, http.MethodConnect:
		return true
	}
	return r.Header.Get("Upgrade") != ""
}

// mayJoin reports whether a request may share a stream with others.
func (h *Handler) mayJoin(r *http.Request) bool {
	return h.Share != shareOff && r.Method == http.MethodGet &&
		r.Header.Get("Mcp-Session-Id") == "" && acceptsEventStream(r.Header) && bodyless(r)
}

// bodyless reports whether a request has no body. That of a GET over HTTP/3
// without Content-Length is known only when its end is read.
func bodyless(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return true
	}
	if r.ProtoMajor < 3 || r.ContentLength > 0 {
		return false
	}
	var one [1]byte
	n, err := io.ReadFull(r.Body, one[:])
	if n == 0 && err == io.EOF {
		return true
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(one[:n]), r.Body), r.Body}
	return false
}

// serveShared serves a request from the stream that its key leads to.
func (h *Handler) serveShared(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	parts := h.policy.parts(r, h.instance.place)
	var wait *opener
	req := &joinRequest{
		key:      theHub.keyHash(parts),
		parts:    parts,
		instance: h.instance,
		options:  h.options,
		varies:   func(names []string) string { return h.policy.varies(r.Header, names) },
		logger:   h.logger,
		source: func(waits bool) source {
			u := h.newUpstreamRequest(w, r, next)
			if waits {
				wait = newOpener(h, w, r)
				u.opener.Store(wait)
			}
			return u
		},
	}
	req.lastEventID, req.idParam = h.policy.lastEventID(r)

	for {
		sub, err := theHub.join(req)
		if err != nil {
			return h.serveUnjoined(w, r, next, req, err)
		}
		again, err := h.serveSubscriber(w, r, next, req, sub, wait)
		if !again {
			return err
		}
	}
}

// serveUnjoined serves a request that cannot join a stream.
func (h *Handler) serveUnjoined(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, req *joinRequest, why error) error {
	if errors.Is(why, errUnshareable) {
		return h.serveAlone(newPassThrough(h, w, r, false), next, req)
	}
	return h.turnAway(w, req.key, why)
}

// turnAway asks a client to come later.
func (h *Handler) turnAway(w http.ResponseWriter, key streamKey, why error) error {
	if errors.Is(why, errStopping) {
		return http.ErrAbortHandler // EventSource comes back after that, and not after any status
	}
	// With jitter, so that who was turned away together does not come back
	// together.
	w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(maxRetryAfter)))
	h.lines.turnedAway.log(func(suppressed int) {
		h.logger.Warn("client turned away",
			zap.NamedError("reason", why), zap.Stringer("stream", key), zap.Int("suppressed", suppressed))
	})
	return caddyhttp.Error(http.StatusServiceUnavailable, why)
}

// maxRetryAfter is the most seconds after which a client that was turned away
// is asked to come back.
const maxRetryAfter = 10

// serveAlone gives a client that asked for an event stream an upstream
// connection of its own, because the answers are not shared.
func (h *Handler) serveAlone(p *passThrough, next caddyhttp.Handler, req *joinRequest) error {
	p.onShareable = func() { theHub.shareable(req.key) }
	if _, _, ok := parseGatewayID(req.lastEventID); ok && h.options.ids != idsUpstream {
		h.dropID(p.request)
	}
	return h.servePrivate(p, next)
}

// serveSubscriber waits for the stream's head and delivers the stream. again
// tells that the request has to look for a stream again. wait is not nil if
// the request opened the stream.
func (h *Handler) serveSubscriber(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, req *joinRequest, sub *subscriber, wait *opener) (again bool, err error) {
	s := sub.origin
	attached := true
	detach := func() {
		if attached {
			attached = false
			sub.detach()
		}
	}
	defer detach()

	select {
	case <-s.ready:
	case <-r.Context().Done():
		if wait == nil || wait.leave() {
			return false, nil
		}
	}
	for held := sub.held(); held != nil; held = sub.held() {
		select {
		case <-held:
		case <-r.Context().Done():
			return false, nil
		}
	}
	head, err := s.verdict()
	if err != nil {
		detach()
		if wait != nil && (errors.Is(err, errUnshareable) || !wait.leave()) {
			<-wait.done
			return false, wait.err
		}
		return false, h.serveUnjoined(w, r, next, req, err)
	}
	if wait == nil && !s.detached && s.varies(head.vary) != req.varies(head.vary) {
		return true, nil
	}

	if sub.turnedAway() {
		// By the upstream, which is to tell why.
		detach()
		return false, h.serveAlone(newPassThrough(h, w, r, false), next, req)
	}
	if s.detached && wait == nil {
		head = head.withoutCookies()
	}
	by := h.mayTakeOver(w, r)
	if s.detached {
		by = nil // the request is needed: its end is not always the stream's
	}
	if by != nil {
		w.Header().Set("Connection", "close") // RFC 9112, 9.6: there will be no other request on it
	}
	writeHead(w, head, sub.outcome)
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.sse.stream", s.key.String())
	repl.Set("http.sse.resume", sub.outcome)
	outcome, _, _ := strings.Cut(sub.outcome, ";")
	theMetrics.resumes.WithLabelValues(outcome).Inc()
	subscribers := theMetrics.subscribers.WithLabelValues(protocolOf(r), deliveryHandler)
	subscribers.Inc()
	end := h.deliver(w, r, sub, by)
	subscribers.Dec()
	if end == "" { // it is no longer this request's
		attached = false
		return false, nil
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(sub.accessFields(end))
	}
	theMetrics.ended.WithLabelValues(string(end)).Inc()
	repl.Set("http.sse.end_reason", string(end))
	repl.Set("http.sse.events", sub.sent)
	detach()

	switch {
	case end == endWrite, end == endBroken:
		return false, http.ErrAbortHandler
	case s.detached && end != endUpstream && end != endClient:
		return false, http.ErrAbortHandler // it is not whole
	case end == endPerClient:
		return false, h.serveAlone(newPassThrough(h, w, r, true), next, req)
	}
	return false, nil
}

// writeHead sends the head of a stream to a client.
func writeHead(w http.ResponseWriter, head *head, outcome string) {
	header := w.Header()
	for name, values := range head.header {
		if !head.added[name] {
			header.Del(name)
		}
		header[name] = append(header[name], values...)
	}
	header.Set("SSE-Resume", outcome)
	w.WriteHeader(http.StatusOK)
}
