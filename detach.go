package caddysse

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
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

// detachSettings are the handler's settings for detached streams.
type detachSettings struct {
	options *streamOptions
	policy  *keyPolicy // of the upstream request: everything is sent
	headers []string   // request header fields that identify the client; canonical and sorted
	maxBody int64
}

// detachSettings are the settings of the option detach, defaults filled in; nil
// without it.
func (h *Handler) detachSettings() *detachSettings {
	if h.Detach == 0 {
		return nil
	}
	s := &detachSettings{
		options: h.options.detached(time.Duration(h.Detach)),
		policy:  &keyPolicy{user: true, certificate: true, whole: true, idParameters: h.LastEventIDQuery},
		maxBody: defaultMaxRequestBody,
	}
	if h.MaxRequestBody > 0 {
		s.maxBody = h.MaxRequestBody
	}
	for _, name := range slices.Concat(credentialHeaders, h.DetachHeaders) {
		s.headers = append(s.headers, http.CanonicalHeaderKey(name))
	}
	slices.Sort(s.headers)
	s.headers = slices.Compact(s.headers)
	return s
}

// detached are the settings of streams that go on without a client for d. Who
// has missed something of such a stream gets all that is kept.
func (o *streamOptions) detached(d time.Duration) *streamOptions {
	options := *o
	options.ids = idsGateway
	options.linger = d
	options.join, options.joinReplay = joinReplay, -1
	options.reconnect = reconnectBroken // an answer is never asked for again
	options.primeAfter = 0              // its client may be cut before the first event
	return &options
}

// mayDetach reports whether the answer to a request may outlive its client. To
// close one of the MCP's is to cancel it; one that goes over to another protocol
// is no answer.
func (h *Handler) mayDetach(r *http.Request) bool {
	return h.detached != nil && !isMCP(r) && len(offers(r.Header)) == 0
}

// detachedParts lists what a request has to have in common with the one that
// opened a detached stream.
func (h *Handler) detachedParts(r *http.Request) []keyPart {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	parts := []keyPart{
		{"detached", h.instance.place},
		{"host", strings.ToLower(r.Host)},
		{"path", r.URL.EscapedPath()},
		{"query", h.policy.withoutID(r.URL.RawQuery)},
	}
	if orig.URL != nil {
		parts = append(parts,
			keyPart{"original path", orig.URL.EscapedPath()},
			keyPart{"original query", h.policy.withoutID(orig.URL.RawQuery)})
	}
	parts = appendCertificate(parts, r)
	if user, ok := repl.GetString("http.auth.user.id"); ok {
		parts = append(parts, keyPart{"user", user})
	}
	for _, name := range h.detached.headers {
		for _, value := range r.Header[name] {
			parts = append(parts, keyPart{"header " + name, value})
		}
	}
	return parts
}

// resumeDetached serves a request that brings an ID of a detached stream of
// its own. It returns false if there is none, or it is another's: nothing tells
// these apart.
func (h *Handler) resumeDetached(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (d *delivery, served bool, err error) {
	id, _ := h.policy.lastEventID(r)
	epoch, _, own := replay.ParseID(id)
	var parts []keyPart
	if own {
		parts = h.detachedParts(r)
	} else if id, parts = h.restOfResponse(r); id != "" {
		epoch, _, _ = replay.ParseID(id)
	} else {
		return nil, false, nil
	}
	req := &joinRequest{
		key:         theHub.keyHash(parts),
		instance:    h.instance,
		lastEventID: id,
		options:     h.detached.options,
		client:      clientOf(r),
		logger:      h.logger,
	}
	if r.Method == http.MethodDelete {
		return nil, theHub.cancelDetached(w, epoch, req), nil
	}
	sub, err := theHub.resumeDetached(epoch, req)
	switch {
	case err != nil:
		return nil, true, h.turnAway(w, req.key, err)
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
	if r.Method != http.MethodDelete || isMCP(r) || h.options.ids == idsUpstream {
		return false
	}
	id, _ := h.policy.lastEventID(r)
	_, _, own := replay.ParseID(id)
	return own
}

// errNothingToCancel answers a request that cancelsWhatIsGone.
var errNothingToCancel = errors.New("there is no answer with that last event ID to cancel")

// serveDetached opens an upstream connection for a request. If the answer is an
// event stream it goes on without its client.
func (h *Handler) serveDetached(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (*delivery, error) {
	id, _ := h.policy.lastEventID(r)
	_, _, own := replay.ParseID(id)
	if own {
		h.dropID(r)
	} else {
		id = "" // the upstream's affair
	}
	if !copyBody(r, h.detached.maxBody) {
		length := r.ContentLength
		h.lines.notDetached.Log(func(suppressed int) {
			h.logger.Info("request body over max_request_body, or incomplete: served without detach",
				zap.Int64("max_request_body", h.detached.maxBody), zap.Int64("content_length", length), zap.Int("suppressed", suppressed))
		})
		p := newPassThrough(h, w, r, false)
		p.cameWith(id, own)
		return nil, h.servePrivate(p, next)
	}
	wait := newOpener(h, w, r, id, own)
	parts := h.detachedParts(r)
	req := &joinRequest{
		key:         theHub.keyHash(parts),
		parts:       parts,
		instance:    h.instance,
		lastEventID: id,
		options:     h.detached.options,
		client:      clientOf(r),
		logger:      h.logger,
		source: func(bool) source {
			u := h.copyRequest(w, r, h.resuming(r, next), h.detached.policy)
			if u.orig.URL != nil && own {
				u.filterOriginal()
			}
			u.detached = true
			u.opener.Store(wait)
			return u
		},
	}
	sub, err := theHub.openDetached(req)
	if err != nil {
		return nil, h.turnAway(w, req.key, err)
	}
	d, _, err := h.serveSubscriber(w, r, next, req, sub, wait)
	return d, err
}

// withholds reports whether a client's last event ID does not go upstream where
// its answer could have been shared: a gateway gave it, and none is behind this
// one.
func (h *Handler) withholds(id string) bool {
	_, _, own := replay.ParseID(id)
	return own && h.options.ids != idsUpstream
}

// dropID removes a last event ID of the gateway from a request that goes
// upstream: the upstream does not know it.
func (h *Handler) dropID(r *http.Request) {
	r.Header.Del("Last-Event-ID")
	r.URL.RawQuery = h.policy.withoutID(r.URL.RawQuery)
}

// openDetached makes a stream for one request. It is not known to the hub until
// keepDetached.
func (h *hub) openDetached(req *joinRequest) (*subscriber, error) {
	s := newStream(h, req, nil)
	s.detached = true
	s.answer = newAnswerClock()
	s.responses = newResponsesLog(req.parts)
	s.greeting.ended = true // nobody is greeted with it
	return s.attach(req)
}

// keepDetached makes a stream known that has just got its head, or tells why
// it cannot be.
func (h *hub) keepDetached(s *stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return errStopping
	}
	if limit := s.options.maxStreams; limit > 0 && h.count[s.place] >= limit && !h.makePlaceLocked(s.place) {
		return errTooManyStreams
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseGone {
		return errStreamOver // its client has left
	}
	s.adoptable = h.aloneLocked(s.owner)
	h.detached[s.epoch] = s
	h.count[s.place]++
	h.track(s)
	return nil
}

// findDetachedLocked returns the detached stream of an epoch if the request is
// entitled to it, else nil.
func (h *hub) findDetachedLocked(epoch string, req *joinRequest) *stream {
	s := h.detached[epoch]
	if s == nil || s.key != req.key || !h.entitledLocked(s, req.instance) {
		return nil
	}
	return s
}

// resumeDetached attaches a subscriber to the detached stream of an epoch; nil
// if there is none for the request.
func (h *hub) resumeDetached(epoch string, req *joinRequest) (*subscriber, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.findDetachedLocked(epoch, req)
	if s == nil {
		return nil, nil //nolint:nilnil // neither is an error
	}
	return s.attach(req)
}

// cancelDetached ends the detached stream of an epoch, and answers the client
// that asks for it. It returns false if there is none for the request.
func (h *hub) cancelDetached(w http.ResponseWriter, epoch string, req *joinRequest) bool {
	h.mu.Lock()
	s := h.findDetachedLocked(epoch, req)
	h.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	s.leave(endBroken)
	for _, name := range corsHeaders {
		if values := head.header[name]; len(values) > 0 {
			w.Header()[name] = slices.Clone(values)
		}
	}
	w.WriteHeader(http.StatusAccepted)
	return true
}

// corsHeaders are those of a stream's head that let a script of another origin
// see the answer to its DELETE as well.
var corsHeaders = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"}

// removeDetachedLocked is removeLocked for a detached stream.
func (h *hub) removeDetachedLocked(s *stream) {
	if h.detached[s.epoch] != s {
		return
	}
	delete(h.detached, s.epoch)
	h.uncountLocked(s.place)
}

// lingerTime is how long the stream stays when its last subscriber leaves now.
// Lingering is earned, by an event, by a second client, or by the time that its
// client was there: else who asks and leaves, again and again, would have the
// gateway keep many connections for the work of one.
func (s *stream) lingerTime() time.Duration {
	if !s.detached {
		if s.arrivals > 1 || s.buffer.Events > 0 {
			return s.options.linger
		}
		return min(s.options.linger, max(leastLinger, time.Since(s.born)))
	}
	if s.phase != phaseEnded {
		return s.options.linger
	}
	newest := s.headAt
	if s.newestAt.After(newest) {
		newest = s.newestAt
	}
	return max(0, time.Until(newest.Add(s.buffer.Limits.Age)))
}

// withoutCookies returns a head for those who come back: the cookies were for
// the first time, and may be older by now than what the client has.
func (h *head) withoutCookies() *head {
	if len(h.header["Set-Cookie"]) == 0 {
		return h
	}
	again := *h
	again.header = h.header.Clone()
	again.header.Del("Set-Cookie")
	return &again
}

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
