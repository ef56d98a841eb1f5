package delivery

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Response writes an event stream to one client: what is written goes
// out at once, as long as there is progress. It is not safe for concurrent use.
type Response struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	conn     net.Conn // nil: not known
	settings *Settings
	piece    int         // bytes of one Write at most
	restore  func()      // undoes what was changed of Caddy's idle timeout
	stuck    *writeWatch // nil: writes may take as long as they like
	vanished lookout
	MidBlock bool // what was written ends within a block: no heartbeat
	began    bool // something was written
	last     time.Time
	beat     *time.Timer // of startHeartbeats
	closed   bool
	sent     int // bytes of the body
}

// Early is a ResponseWriter that may have sent something to the client before it
// was given a head.
type Early interface {
	http.ResponseWriter
	HasBegun() (last time.Time, begun bool) // whether it has, and when the newest of it was
	Unwrap() http.ResponseWriter            // what it writes to
}

// multiplexedPiece is how many bytes are written at once over HTTP/2 and HTTP/3,
// where the client's progress is that a write is done: what it lets through in
// write_timeout at least. A frame of HTTP/2 has as many.
const multiplexedPiece = 16 << 10

// NewResponse takes over the writing to a client whose response head was
// or is about to be written. Close must be called in the end.
//
// Writes have no deadlines: over HTTP/2 one costs more than a write. Caddy's are
// turned off as well: those of write_idle, and that of timeouts write, which
// would end every stream. If a write makes no progress one in the past ends the
// response.
func NewResponse(w http.ResponseWriter, r *http.Request, settings *Settings, began bool) *Response {
	o := &Response{
		w:        w,
		rc:       http.NewResponseController(w),
		settings: settings,
		piece:    stream.MaxWrite,
		began:    began,
		last:     time.Now(),
	}
	if e, ok := w.(Early); ok {
		if last, begun := e.HasBegun(); begun {
			o.began, o.last = true, last
		}
	}
	if r.ProtoMajor > 1 {
		o.piece = multiplexedPiece
	}
	o.conn, _ = r.Context().Value(connCtxKey).(net.Conn)
	rc, limited := o.rc, r.ProtoMajor == 1
	if _, idle := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil {
		rc = idle.Ctrl
		limited = limited || !idle.Deadline.HardDeadline.IsZero()
		idle.Deadline.HardDeadline = time.Time{} // would be over when the end is to be sent
		idle.Ctrl = ignoresDeadlines
		o.restore = func() { idle.Ctrl = rc }
	}
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); limited || (ok && server.WriteTimeout > 0) {
		_ = rc.SetWriteDeadline(time.Time{})
	}
	if timeout := settings.WriteTimeout; timeout > 0 {
		o.stuck = newWriteWatch(rc, o.conn, timeout)
		switch {
		case o.stuck.acks != nil:
			o.vanished = lookout{acks: o.stuck.acks, timeout: timeout}
		case r.ProtoMajor == 1:
			o.stuck.acks = readsOf(o.conn)
		}
	}
	return o
}

// ignoresDeadlines is for Caddy's idle timeout when it is not to set any.
var ignoresDeadlines = http.NewResponseController(noDeadline{})

type noDeadline struct{ http.ResponseWriter }

// SetWriteDeadline does nothing.
func (noDeadline) SetWriteDeadline(time.Time) error { return nil }

// Began reports whether something was sent.
func (o *Response) Began() bool { return o.began }

// Last is when the newest of it was sent, or else when the response began.
func (o *Response) Last() time.Time { return o.last }

// Sent is how many bytes of the body were sent.
func (o *Response) Sent() int { return o.sent }

// EndBy tells when the response is to end. From then on write_timeout is for all
// that is still to be written, and not for each write. It is safe for concurrent
// use.
func (o *Response) EndBy(at func() time.Time) { o.stuck.endBy(at) }

// Close gives the client's connection back.
func (o *Response) Close() {
	if o.closed {
		return
	}
	o.closed = true
	if o.beat != nil {
		o.beat.Stop()
	}
	o.stuck.close()
	if o.restore != nil {
		o.restore()
	}
}

// Send sends whole blocks.
func (o *Response) Send(p []byte) error { return o.SendBytes(o.guarded(p)) }

// guarded is what goes out for p: a byte order mark that it begins with is part of the first
// line. The client would drop it and take the rest of the line for a field.
func (o *Response) guarded(p []byte) []byte {
	if o.began || !bytes.HasPrefix(p, ByteOrderMark) {
		return p
	}
	return append([]byte(EmptyComment), p...)
}

// SendBytes sends bytes as they are.
func (o *Response) SendBytes(p []byte) error {
	o.began = true
	for rest := p; len(rest) > 0; {
		if len(rest) < len(p) && o.stuck.isOverdue() {
			return os.ErrDeadlineExceeded
		}
		n := min(len(rest), o.piece)
		if err := o.writePiece(rest[:n], n == len(rest)); err != nil {
			return err
		}
		rest = rest[n:]
	}
	o.last = time.Now()
	o.vanished.wrote(o.last)
	o.sent += len(p)
	Counts.Bytes.Add(len(p))
	return nil
}

// batches lends buffers in which blocks that go out together are joined.
var batches = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writeAll sends blocks in one write.
func (o *Response) writeAll(blocks []*replay.Block) error {
	if len(blocks) == 1 {
		return o.Send(blocks[0].Wire)
	}
	return o.writeJoined(blocks)
}

// writeJoined is writeAll for several.
func (o *Response) writeJoined(blocks []*replay.Block) error {
	buf := batches.Get().(*bytes.Buffer)
	buf.Reset()
	for _, b := range blocks {
		buf.Write(b.Wire)
	}
	err := o.Send(buf.Bytes())
	if buf.Cap() <= 2*stream.MaxWrite {
		batches.Put(buf)
	}
	return err
}

// writePiece writes what is small enough that it is progress to have written it.
func (o *Response) writePiece(p []byte, flush bool) error {
	o.stuck.begin()
	var err error
	if len(p) > 0 {
		_, err = o.w.Write(p)
	}
	if err == nil && flush {
		err = o.rc.Flush()
	}
	o.stuck.done()
	if err != nil && o.stuck.hasEnded() {
		err = os.ErrDeadlineExceeded // which HTTP/2 says in other words
	}
	return err
}

// Flush sends the response head.
func (o *Response) Flush() error { return o.writePiece(nil, true) }

// tend sends a heartbeat if it is due, and looks whether the client is still
// there. It returns how long it is until it has to be called again.
func (o *Response) tend(now time.Time) (wait time.Duration, err error) {
	wait, there := o.vanished.look(now)
	if !there {
		setUserTimeout(o.conn, o.settings.WriteTimeout) // nobody is going to read the rest
		return 0, os.ErrDeadlineExceeded
	}
	if o.settings.Heartbeat == 0 {
		return wait, nil
	}
	beat, err := o.heartbeat(now)
	return min(wait, beat), err
}

// heartbeat sends a heartbeat if nothing was sent for the configured time and it
// does not come into a block, and returns how long it is until the next may be
// due.
func (o *Response) heartbeat(now time.Time) (time.Duration, error) {
	if idle := now.Sub(o.last); idle < o.settings.Heartbeat {
		return o.settings.Heartbeat - idle, nil
	}
	if o.MidBlock {
		return o.settings.Heartbeat, nil // sooner than that after the next bytes it is not due
	}
	Counts.Heartbeats.Inc()
	return o.settings.Heartbeat, o.Send(o.settings.Beat)
}

// StartHeartbeats sends heartbeats while mu is free, until Close, or until one
// cannot be sent or the client has vanished: then failed is called, under mu. All
// other use of o must be under mu as well.
func (o *Response) StartHeartbeats(mu *sync.Mutex, failed func(err error)) {
	first := noTimeout
	for _, d := range []time.Duration{o.settings.Heartbeat, o.vanished.timeout} {
		if d > 0 {
			first = min(first, d)
		}
	}
	if first == noTimeout {
		return
	}
	o.beat = time.AfterFunc(first-time.Since(o.last), func() {
		mu.Lock()
		defer mu.Unlock()
		if o.closed {
			return
		}
		var wait time.Duration
		err := Contained(func() (err error) {
			wait, err = o.tend(time.Now())
			return err
		})
		if err != nil {
			failed(err)
			return
		}
		o.beat.Reset(min(wait, first))
	})
}
