package caddysse

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
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

// defaultMaxRequestBody bounds the request bodies that are copied: a long
// conversation with a language model, without its pictures.
const defaultMaxRequestBody = 1 << 20

// detachSettings are the settings of the option detach, defaults filled in; nil
// without it.
func (h *Handler) detachSettings() *detachSettings {
	if h.Detach == 0 {
		return nil
	}
	s := &detachSettings{
		options: h.options.Detached(time.Duration(h.Detach)),
		headers: key.Credentials(h.DetachHeaders),
		maxBody: defaultMaxRequestBody,
	}
	if h.MaxRequestBody > 0 {
		s.maxBody = h.MaxRequestBody
	}
	return s
}

// mayDetach reports whether the answer to a request may outlive its client. To
// close one of the MCP's is to cancel it; one that goes over to another protocol
// is no answer.
func (h *Handler) mayDetach(r *http.Request) bool {
	return h.detached != nil && !isMCP(r) && len(offers(r.Header)) == 0
}

// detachedParts lists what a request has to have in common with the one that
// opened a detached stream.
func (h *Handler) detachedParts(r *http.Request) []stream.Part {
	return h.policy.DetachedParts(r, h.instance.Place, h.detached.headers)
}

// ResumeDetached serves a request that brings an ID of a detached stream of
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
	wait := newOpener(h, w, r, id, own)
	parts := h.detachedParts(r)
	req := &stream.Request{
		Key:         stream.Process.Key(parts),
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

// tellCancelled answers the client that has cancelled a stream.
func tellCancelled(w http.ResponseWriter, head *stream.Head) {
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

// copyBody makes a request own its body: the client's may be gone before the
// upstream has it. It returns false if there are more than limit bytes, or it
// cannot be read; then the request has the body that it had.
func copyBody(r *http.Request, limit int64) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.ContentLength > limit {
		return false
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(data)) <= limit {
		r.Body = newOwnBody(data)
		return true
	}
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failedReader{err}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), rest), r.Body}
	return false
}

// failedReader is the rest of a body that could not be read.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// ownBody is a request body in memory. It frees it when it was read or closed:
// the answer may take much longer.
type ownBody struct {
	mu   sync.Mutex // Close may come while Read runs
	rest []byte
}

func newOwnBody(data []byte) io.ReadCloser {
	if len(data) == 0 {
		return http.NoBody
	}
	return &ownBody{rest: data}
}

func (b *ownBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) > 0 {
		return n, nil
	}
	b.rest = nil
	return n, io.EOF
}

// Close implements io.Closer.
func (b *ownBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest = nil
	return nil
}
