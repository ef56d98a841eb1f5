package caddysse

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Clients that are turned away.
//
// A client that finds no room is asked to come later. EventSource does not: at any
// status but 200 it gives up for good. So who can be one is sent an event stream that
// ends at once, with the time after which it comes back: see docs/adr/0009-refusals.md.
// That the application does not answer is told with a status to all, as reverse_proxy does.

// How long a client that was turned away is asked to stay away: at random, so that those
// who were turned away together do not come back together. It keeps the time that it is
// told: that has to be well below linger.
const (
	minRetryAfter = 3 * time.Second
	maxRetryAfter = 10 * time.Second
)

// errNoFiles: the process has no files left.
var errNoFiles = errors.New("the process has as many files open as it may (ulimit -n)")

// errTooManyOfClient: max_per_client is reached.
var errTooManyOfClient = errors.New("max_per_client of the client reached")

// refusalOf is the label of a reason, and the status.
func refusalOf(why error) (reason string, status int) {
	switch {
	case errors.Is(why, errTooManyOfClient):
		return refusedPerClient, http.StatusTooManyRequests // it is its own doing: RFC 6585, 4
	case errors.Is(why, stream.ErrTooManySubscribers):
		return refusedSubscribers, http.StatusServiceUnavailable
	case errors.Is(why, stream.ErrNoSecond):
		return refusedNoSecond, http.StatusServiceUnavailable
	case errors.Is(why, errNoFiles):
		return refusedFiles, http.StatusServiceUnavailable
	case errors.Is(why, stream.ErrNoMemory):
		return refusedMemory, http.StatusServiceUnavailable
	}
	return refusedStreams, http.StatusServiceUnavailable
}

// turnAway asks a client to come later.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, key stream.Key, why error) error {
	if errors.Is(why, stream.ErrStopping) {
		return http.ErrAbortHandler // EventSource comes back after that, and not after any status
	}
	reason, status := refusalOf(why)
	theRefusals.With(reason).Inc()
	h.lines.TurnedAway.Log(func(suppressed int) {
		h.logger.Warn("client turned away",
			zap.NamedError("reason", why), zap.Stringer("stream", key), zap.Int("suppressed", suppressed))
	})
	outcome := stream.ResumeRefused + "; reason=" + reason
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.sse.resume", outcome)
	}
	after := minRetryAfter + randomUpTo(maxRetryAfter-minRetryAfter)
	w.Header().Set("SSE-Resume", outcome)
	if reason != refusedNoSecond && mayBeEventSource(r) {
		return h.endAtOnce(w, after)
	}
	w.Header().Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	return caddyhttp.Error(status, why)
}

// endAtOnce sends an event stream that ends at once.
func (h *Handler) endAtOnce(w http.ResponseWriter, after time.Duration) error {
	header := w.Header()
	header.Set("Content-Type", eventStreamType)
	header.Set("Cache-Control", "no-store")
	setStreamHeaders(header)
	body := eventstream.AppendRetry(nil, after.Truncate(time.Millisecond))
	if h.sendsEmptyBlocks() {
		body = append(body, '\n')
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(body)
	return err
}
