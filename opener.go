package caddysse

import (
	"errors"
	"net/http"
	"sync"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// errNobodyWaits ends an upstream connection whose answer is not a stream to
// share, when the client that caused it has left.
var errNobodyWaits = errors.New("the client that asked has left")

// opener is the client whose request opened a stream. If the first answer is
// not an event stream to share, it gets that answer, written by the goroutine
// that runs the upstream connection, while its own waits.
type opener struct {
	handler *Handler
	w       http.ResponseWriter
	r       *http.Request
	key     stream.Key    // of the stream
	done    chan struct{} // closed when the answer was written

	// The last event ID that the client came with, and whether that does not go
	// upstream.
	lastEventID string
	withheld    bool

	mu      sync.Mutex
	claimed bool           // the answer is being written
	left    bool           // the client does not wait any more
	err     error          // what the handlers behind sse returned; set before done
	again   bool           // the client has to ask by itself; set before done
	why     stream.Private // with again: why its stream is private then
}

func newOpener(h *Handler, w http.ResponseWriter, r *http.Request, key stream.Key, lastEventID string, withheld bool) *opener {
	return &opener{handler: h, w: w, r: r, key: key, done: make(chan struct{}), lastEventID: lastEventID, withheld: withheld}
}

// claim reserves the client's response for the goroutine that has its answer.
// It returns false if the client has left.
func (o *opener) claim() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claimed = !o.left
	return o.claimed
}

// leave tells that the client does not wait any more, and returns false if its
// answer is being written already.
func (o *opener) leave() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.left = !o.claimed
	return o.left
}

// finishBy is finish with what ending the response returns. Its client waits, whatever
// the writers of handlers before sse do.
func (o *opener) finishBy(end func() error) {
	err := delivery.Contained(end)
	if _, panicked := delivery.PanicOf(err); panicked {
		sayPanic(o.handler.logger, err)
		err = http.ErrAbortHandler
	}
	o.finish(err)
}

// finish lets the client's own goroutine go on, after claim.
func (o *opener) finish(err error) {
	o.err = err
	close(o.done)
}
