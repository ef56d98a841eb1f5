package caddysse

import (
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Private streams that outlive their client.
//
// The answer to a request to a language model is long, dear, and one client's.
// With the option detach it is a stream of the hub like others, with a replay
// buffer and ids of the gateway, except that its upstream connection is never
// opened again, and that nobody joins it who does not bring an ID of it. The
// epoch in the ID finds the stream; then the rest of the request has to fit,
// so that the ID alone is worth nothing.
//
// What a request is answered with is known only when its answer comes. Until
// then the stream is nobody's but its client's: if that leaves, or the answer
// is no event stream, it is as without detach.

// mayDetach reports whether the answer to a request may outlive its client. To
// close one of the MCP's is to cancel it; one that goes over to another protocol
// is no answer.
func (h *Handler) mayDetach(r *http.Request) bool {
	return h.detached != nil && !isMCP(r) && len(offers(r.Header)) == 0
}

// resumeDetached serves a request that brings an ID of a detached stream of
// its own. It returns false if there is none, or it is another's: nothing tells
// these apart.
func (h *Handler) resumeDetached(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (d *served, done bool, err error) {
	id, _ := h.policy.LastEventID(r)
	epoch, _, own := replay.ParseID(id)
	var parts []stream.Part
	if own {
		parts = h.detachedParts(r)
	} else if id, parts = h.restOfResponse(r); id != "" {
		epoch, _, _ = replay.ParseID(id)
	} else {
		return nil, false, nil
	}
	req := &stream.Request{
		Key:         stream.Process.Key(parts),
		Instance:    h.instance,
		LastEventID: id,
		Options:     h.detached.options,
		Client:      clientOf(r),
		Holder:      h.holderOf(r),
		Logger:      h.logger,
	}
	if r.Method == http.MethodDelete {
		head, ok := stream.Process.CancelDetached(epoch, req)
		if ok {
			tellCancelled(w, head)
		}
		return nil, ok, nil
	}
	sub, err := stream.Process.ResumeDetached(epoch, req)
	switch {
	case err != nil:
		return nil, true, h.turnAway(w, r, req.Key, err)
	case sub == nil:
		return nil, false, nil
	}
	if r.Body != nil {
		// The server notices a client that leaves only when the body was read.
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, h.detached.maxBody))
	}
	d, _, err = h.serveSubscriber(w, r, next, req, sub, nil)
	return d, true, err
}

// cancelsWhatIsGone reports whether a request is to cancel an answer that the
// gateway does not know (any more), or that is another's. The ID never came from
// the application: its DELETE means something else.
func (h *Handler) cancelsWhatIsGone(r *http.Request) bool {
	if r.Method != http.MethodDelete || isMCP(r) || h.options.IDs == stream.IDsUpstream {
		return false
	}
	id, _ := h.policy.LastEventID(r)
	_, _, own := replay.ParseID(id)
	return own
}

// errNothingToCancel answers a request that cancelsWhatIsGone.
var errNothingToCancel = errors.New("there is no answer with that last event ID to cancel")

// serveDetached opens an upstream connection for a request. If the answer is an
// event stream it goes on without its client.
func (h *Handler) serveDetached(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (*served, error) {
	id, _ := h.policy.LastEventID(r)
	_, _, own := replay.ParseID(id)
	if own {
		h.dropID(r)
	} else {
		id = "" // the upstream's affair
	}
	if !copyBody(r, h.detached.maxBody) {
		length := r.ContentLength
		h.lines.NotDetached.Log(func(suppressed int) {
			h.logger.Info("request body over max_request_body, or incomplete: served without detach",
				zap.Int64("max_request_body", h.detached.maxBody), zap.Int64("content_length", length), zap.Int("suppressed", suppressed))
		})
		p := newPassThrough(h, w, r, false)
		p.why.Reason = h.whyAlone(r)
		p.cameWith(id, own)
		return nil, h.servePrivate(p, next)
	}
	parts := h.detachedParts(r)
	key := stream.Process.Key(parts)
	wait := newOpener(h, w, r, key, id, own)
	req := &stream.Request{
		Key:         key,
		Parts:       parts,
		Instance:    h.instance,
		LastEventID: id,
		Options:     h.detached.options,
		Client:      clientOf(r),
		Holder:      h.holderOf(r),
		Private:     stream.Private{Reason: h.whyAlone(r)},
		Logger:      h.logger,
		Source: func(bool) stream.Source {
			u := h.wholeRequest(w, r, h.resuming(r, next))
			if own {
				u.sent.CleanOriginal()
			}
			u.detached = true
			u.opener.Store(wait)
			return u
		},
	}
	sub, err := stream.Process.OpenDetached(req)
	if err != nil {
		return nil, h.turnAway(w, r, req.Key, err)
	}
	d, _, err := h.serveSubscriber(w, r, next, req, sub, wait)
	return d, err
}

// tellCancelled answers the client that has cancelled a stream.
func tellCancelled(w http.ResponseWriter, head *upstreams.Head) {
	for _, name := range corsHeaders {
		if values := head.Header[name]; len(values) > 0 {
			w.Header()[name] = slices.Clone(values)
		}
	}
	w.WriteHeader(http.StatusAccepted)
}

// corsHeaders are those of a stream's head that let a script of another origin
// see the answer to its DELETE as well.
var corsHeaders = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"}
