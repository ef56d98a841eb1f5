package upstreams

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// How an upstream connection ends.

// Ending is how an upstream connection ended.
type Ending struct {
	Events     bool          // its head was that of an event stream
	Clean      bool          // its body ended as HTTP says
	Status     int           // of the answer, or what is said in place of one; 0: nothing is
	Answered   bool          // the upstream has
	RetryAfter time.Duration // what the answer asked for
	Tail       []byte        // with a clean end: what came after the last blank line
	Err        error         // what went wrong, if known; less where in the host it was noticed
}

// Retriable reports whether another attempt may succeed: there was no answer,
// or one that says so (RFC 9110, 15.5.9, 15.6; RFC 6585, 4; RFC 8470, 5.2).
func (e Ending) Retriable() bool {
	switch {
	case e.Events:
		return true
	case e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooEarly, e.Status == http.StatusTooManyRequests:
		return true
	case e.Status == StatusCancelled:
		return true
	}
	return e.Status == 0 || e.Status >= http.StatusInternalServerError
}

// ErrStalled ends an upstream connection on which nothing came for
// upstream_timeout.
var ErrStalled = errors.New("nothing came for upstream_timeout")

// ErrNoAnswer is why an attempt to reach an upstream again is given up whose head does not come.
var ErrNoAnswer = errors.New("no answer came in time")

// StatusCancelled is what reverse_proxy says for the upstream when a connection
// to it is given up on this side: also when a reload has closed its transport.
const StatusCancelled = 499

// ResultOf tells how an upstream connection ended, as a label. ctx is that of
// the interest in it.
func ResultOf(ctx context.Context, end Ending) string {
	switch {
	case end.Events && end.Clean:
		return ResultClean
	case ctx.Err() != nil:
		return ResultCancelled
	case errors.Is(end.Err, ErrStalled), errors.Is(end.Err, ErrNoAnswer):
		return ResultStalled
	case errors.Is(end.Err, eventstream.ErrBlockTooLarge):
		return ResultOversized
	case end.Events:
		return ResultBroken
	case end.Answered:
		return ResultRefused
	}
	return ResultFailed
}
