package caddysse

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	inside, known := caddyhttp.GetVar(r.Context(), insideVar).(*passage)
	if neverStream(r) || (known && inside.Load()) {
		return next.ServeHTTP(w, r)
	}
	if !known {
		inside = new(passage)
		if h.RevokeBy != "" {
			inside.came = access.Process.Now()
		}
		caddyhttp.SetVar(r.Context(), insideVar, inside)
	}
	if q, ok := r.Context().Value(renewalCtxKey{}).(*renewedRequest); ok && q.Source == nil {
		h.takeRenewal(w, r, next, q)
		return nil
	}
	if q, ok := r.Context().Value(recheckCtxKey{}).(*recheck); ok && q.handler == nil {
		h.takeRecheck(r, next, q)
		return nil
	}
	declineHTTP2(r)
	if h.instance.Requests.Add(1) == 1 {
		h.lookout.found()
	}
	takenOf(r.Context())
	inside.Store(true)
	defer func() { inside.place.release() }()
	defer inside.Store(false) // not SetVar: a dial that goes on in the background may read the variables

	var err error
	if e := h.newEarlyWriter(w, r); e != nil {
		err = e.serve(next)
	} else {
		var d *served
		if d, err = h.serve(w, r, next); d != nil {
			err = d.run()
		}
	}
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // the response is not complete: the client has to see it
	}
	return err
}

// serve serves the request of a client that may be sent a head early.
func (e *earlyWriter) serve(next caddyhttp.Handler) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if !e.stop() || !isAbort(v) {
			panic(v)
		}
		err = e.finish(http.ErrAbortHandler)
	}()
	d, err := e.handler.serve(e, e.original, next)
	if d != nil {
		err = d.run()
	}
	e.stop()
	return e.finish(err)
}

// serve serves a request from a stream, or passes it on. What is left to do, if
// it returns that, is to deliver a stream.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (*served, error) {
	if kind := h.probes.asked(r); kind != "" {
		return nil, h.serveProbe(w, r, kind)
	}
	if err := h.admit(r); err != nil {
		return nil, h.turnAway(w, r, stream.Key{}, err)
	}
	mayDetach := h.mayDetach(r)
	if mayDetach {
		if d, served, err := h.resumeDetached(w, r, next); served {
			return d, err
		}
	}
	switch {
	case h.cancelsWhatIsGone(r):
		return nil, caddyhttp.Error(http.StatusNotFound, errNothingToCancel)
	case h.mayJoin(r):
		return h.serveShared(w, r, next)
	case mayDetach:
		return h.serveDetached(w, r, next)
	}
	return nil, h.passOn(w, r, next)
}

// passOn serves a request that no stream is for.
func (h *Handler) passOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	p := newPassThrough(h, w, r, false)
	p.why.Reason = h.whyAlone(r)
	id, _ := h.policy.LastEventID(r)
	p.cameWith(id, false)
	return h.servePrivate(p, next)
}

// serveShared serves a request from the stream that its key leads to.
func (h *Handler) serveShared(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (*served, error) {
	if r.URL.RawQuery != "" {
		h.hintQuery(r)
	}
	up := new(asking)
	req := h.joining(w, r, next, up)
	for {
		sub, err := stream.Process.Join(req)
		up.request = nil // if it is used, by its stream
		if err != nil {
			return nil, h.serveUnjoined(w, r, next, req, err)
		}
		d, again, err := h.serveSubscriber(w, r, next, req, sub, up.wait)
		if !again {
			return d, err
		}
	}
}

// asking is what a request that joins a stream asks the application with, if it does.
type asking struct {
	request *upstreamRequest
	wait    *opener // nil: the request is not given the first answer
}

// joining is what a request brings to join a stream.
func (h *Handler) joining(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, up *asking) *stream.Request {
	parts := h.policy.Parts(r, h.instance.Place)
	key := stream.Process.Key(parts)
	id, param := h.policy.LastEventID(r)
	return &stream.Request{
		Key:         key,
		Parts:       parts,
		Instance:    h.instance,
		Options:     h.options,
		Client:      clientOf(r),
		Holder:      h.holderOf(r),
		Logger:      h.logger,
		LastEventID: id,
		IDParam:     param,
		Prepare:     func() { up.request = h.newUpstreamRequest(w, r, next) },
		Source: func(waits bool) stream.Source {
			if waits {
				up.wait = newOpener(h, w, r, key, id, h.withholds(id))
				up.request.opener.Store(up.wait)
			}
			return up.request
		},
	}
}
