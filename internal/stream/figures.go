package stream

import (
	"strconv"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// figures are what a stream has done, for operators only; see inspect.go. The
// stream's lock guards them.
type figures struct {
	given       tally     // to subscribers
	received    int64     // bytes of blocks from the upstream
	reconnects  int       // how often a lost connection was opened again
	endedAt     time.Time // when the newest connection that had a head did
	lastError   string    // what the newest connection that failed did of
	lastErrorAt time.Time
}

// tally counts what was given to the subscribers of a stream.
type tally struct{ events, bytes uint64 }

// gave notes that subscribers were given something.
func (f *figures) gave(events, bytes uint64) {
	f.given.events += events
	f.given.bytes += bytes
}

// took notes that a block has come.
func (f *figures) took(bytes int64) { f.received += bytes }

// mended notes that a lost connection was opened again.
func (f *figures) mended() { f.reconnects++ }

// ended notes that a connection of the stream has ended.
func (f *figures) ended(end upstreams.Ending, now time.Time) {
	if end.Events {
		f.endedAt = now
	}
	if text := failureOf(end); text != "" {
		f.lastError, f.lastErrorAt = text, now
	}
}

// failureOf says what an upstream connection failed of; empty: it did not.
func failureOf(e upstreams.Ending) string {
	switch {
	case e.Clean && e.Events:
		return ""
	case e.Err != nil:
		return Clip(e.Err.Error())
	case e.Status != 0:
		return "status " + strconv.Itoa(e.Status)
	}
	return "no answer"
}
