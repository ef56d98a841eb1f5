package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

const (
	// viewRetry is after how long a page comes back that lost its view.
	viewRetry = time.Second

	// viewHeartbeat is how often at least a viewer is sent something.
	viewHeartbeat = 15 * time.Second

	// viewComment is the heartbeat. Its blank line keeps comments from piling up
	// in clients that split what they read at blank lines.
	viewComment = ":\n\n"

	// viewCheck is how often a view looks whether the process ends.
	viewCheck = time.Second

	// viewTimeout bounds a write to a viewer, of viewPiece bytes: what it is sent
	// in one go may be more, over a slow line.
	viewTimeout = 10 * time.Second
	viewPiece   = 16 << 10
)

// view is an event stream of the admin API, to one viewer.
type view struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	gone  <-chan struct{} // closed when the viewer has left
	end   <-chan struct{} // closed when the server shuts down
	exit  <-chan struct{} // closed when the process ends, at the latest
	check *time.Ticker
	last  time.Time // something was sent
	buf   []byte
	err   error // of a write: there is no other one after it
}

// openView begins the answer to a request for an event stream. close must be
// called in the end.
func openView(w http.ResponseWriter, r *http.Request) (*view, error) {
	if r.Method == http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		return nil, apiError(http.StatusMethodNotAllowed, "expected method GET")
	}
	end := theViewers.endOf(r)
	if err := theViewers.enter(); err != nil {
		w.Header().Set("Retry-After", "10")
		return nil, err
	}
	v := &view{
		w: w, rc: http.NewResponseController(w), gone: r.Context().Done(), end: end, exit: theViewers.over,
		check: time.NewTicker(viewCheck),
	}
	opened := false
	defer func() {
		if !opened { // a handler before has panicked: its place is not lost
			v.close()
		}
	}()
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no") // what sse sets for its own
	header.Set("Incremental", "?1")
	w.WriteHeader(http.StatusOK)
	_ = v.write(append(eventstream.AppendRetry(nil, viewRetry), '\n')) // flush and wait tell
	opened = true
	return v, nil
}

func (v *view) close() {
	v.check.Stop()
	theViewers.leave()
}

// write sends whole blocks.
func (v *view) write(p []byte) error {
	for piece := range slices.Chunk(p, viewPiece) {
		if v.err != nil {
			return v.err
		}
		_ = v.rc.SetWriteDeadline(time.Now().Add(viewTimeout))
		_, v.err = v.w.Write(piece)
	}
	if v.err == nil {
		v.last = time.Now()
		v.err = v.rc.Flush()
	}
	return v.err
}

// add appends an event with a value as data to what flush sends.
func (v *view) add(kind, id string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	v.buf, err = eventstream.AppendEvent(v.buf, eventstream.Event{Type: kind, ID: id, Data: string(data)})
	return err
}

// flush sends what was added.
func (v *view) flush() error {
	if len(v.buf) == 0 || v.err != nil {
		return v.err
	}
	err := v.write(v.buf)
	v.buf = v.buf[:0]
	return err
}

// wait waits for something new, with heartbeats. It returns false if the view
// is over.
func (v *view) wait(changed <-chan struct{}) bool {
	for v.err == nil {
		select {
		case <-changed:
			return true
		case now := <-v.check.C:
			// Behind a site of this Caddy, that has to end before the admin
			// endpoint does.
			if caddy.Exiting() {
				return false
			}
			if now.Sub(v.last) >= viewHeartbeat && v.write([]byte(viewComment)) != nil {
				return false
			}
		case <-v.gone:
			return false
		case <-v.end:
			return false
		case <-v.exit:
			return false
		}
	}
	return false
}

// stays reports whether the view is not over.
func (v *view) stays() bool {
	select {
	case <-v.gone:
	case <-v.end:
	case <-v.exit:
	default:
		return !caddy.Exiting()
	}
	return false
}
