package caddysse

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"unique"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// A response that lasts has a guest, its client as far as access goes; one that is its
// client's alone is written by a passThrough. They know each other: what they do is in
// guest.go, and in private.go, private_stream.go and reasons.go.

// passThrough is the ResponseWriter of a response that is its client's alone.
// An event stream (a private stream) goes out byte for byte as it comes, with
// heartbeats between its blocks. Everything else passes as it is.
type passThrough struct {
	*caddyhttp.ResponseWriterWrapper
	handler    *Handler
	request    *http.Request
	host, path string         // of the request as received, which handlers behind sse may change
	why        stream.Private // it is not shared
	headSent   bool           // the client has the head of an event stream already
	unsent     http.Header    // with headSent: that of the answer, which the client does not see

	missed  bool   // it may miss what came since it was sent its head
	lostID  string // the gateway's ID that the client came with, and cannot be resumed from
	askedID string // one that is sent upstream: another gateway may know it, and says so

	// Called when the answer is an event stream that could have been shared.
	onShareable func()

	wroteHeader bool
	discard     bool               // the client cannot be given this answer
	body        bodyWriter         // nil: not an event stream
	seen        *privateView       // by operators; the same
	cancel      context.CancelFunc // of the upstream connection
	release     context.CancelFunc // the same, where nothing has gone wrong; see capture.release
	who         *guest

	mu      sync.Mutex // guards what follows, and writing to an event stream's client
	out     *delivery.Response
	decoder eventstream.Decoder // sees what passes
	mark    markCutter
	last    [2]byte          // the newest bytes of the stream
	err     error            // sticky
	end     stream.EndReason // as soon as it is decided
	told    bool             // what became of the stream
	clock   *stream.AnswerClock
}

// guest is a client's response that lasts.
type guest struct {
	access.Guest

	handler atomic.Pointer[Handler] // whose configuration has let it in last
	request keptRequest             // zero: it is not run again
	tooLong bool                    // because there is too much of it
	host    unique.Handle[string]   // zero: without revoke_by

	// Of a stream of the hub: the subscriber, and how whoever serves it is woken.
	sub    *stream.Subscriber
	notice delivery.Notice

	place *clientPlace // that its response takes

	private *passThrough // of a private stream
}

// askedHost is the host that the guest's request was for; "": it is not known.
func (g *guest) askedHost() string {
	if g.host == (unique.Handle[string]{}) {
		return ""
	}
	return g.host.Value()
}
