package caddysse

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// deliverySettings are the settings for writing to clients.
type deliverySettings struct {
	heartbeat    time.Duration // 0: none
	beat         []byte        // what a heartbeat sends
	writeTimeout time.Duration // 0: none

	// record begins to record a response when its connection is taken over, after so
	// many bytes of the body. It may return nil, and be nil.
	record func(w http.ResponseWriter, r *http.Request, size int) record

	beatChunk []byte // beat in the chunked transfer coding
}

func newDeliverySettings(heartbeat time.Duration, beat []byte, writeTimeout time.Duration) *deliverySettings {
	return &deliverySettings{heartbeat: heartbeat, beat: beat, writeTimeout: writeTimeout, beatChunk: replay.AppendChunk(nil, beat)}
}

// responseStream writes an event stream to one client: what is written goes
// out at once, as long as there is progress. It is not safe for concurrent use.
type responseStream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	conn     net.Conn // nil: not known
	settings *deliverySettings
	piece    int         // bytes of one Write at most
	restore  func()      // undoes what was changed of Caddy's idle timeout
	stuck    *writeWatch // nil: writes may take as long as they like
	vanished lookout
	began    bool // something was written
	midBlock bool // and ends within a block: no heartbeat
	last     time.Time
	beat     *time.Timer // of startHeartbeats
	closed   bool
	sent     int // bytes of the body
}

// early is a ResponseWriter that may have sent something to the client before it
// was given a head.
type early interface {
	http.ResponseWriter
	hasBegun() (last time.Time, begun bool) // whether it has, and when the newest of it was
	Unwrap() http.ResponseWriter            // what it writes to
}

// multiplexedPiece is how many bytes are written at once over HTTP/2 and HTTP/3,
// where the client's progress is that a write is done: what it lets through in
// write_timeout at least. A frame of HTTP/2 has as many.
const multiplexedPiece = 16 << 10

// newResponseStream takes over the writing to a client whose response head was
// or is about to be written. close must be called in the end.
//
// Writes have no deadlines: over HTTP/2 one costs more than a write. Caddy's are
// turned off as well: those of write_idle, and that of timeouts write, which
// would end every stream. If a write makes no progress one in the past ends the
// response.
func newResponseStream(w http.ResponseWriter, r *http.Request, settings *deliverySettings, began bool) *responseStream {
	o := &responseStream{
		w:        w,
		rc:       http.NewResponseController(w),
		settings: settings,
		piece:    stream.MaxWrite,
		began:    began,
		last:     time.Now(),
	}
	if e, ok := w.(early); ok {
		if last, begun := e.hasBegun(); begun {
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
	if timeout := settings.writeTimeout; timeout > 0 {
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

// noTimeout stands for no time limit where one must be given.
const noTimeout = 100 * 365 * 24 * time.Hour

// endBy tells when the response is to end. From then on write_timeout is for all
// that is still to be written, and not for each write. It is safe for concurrent
// use.
func (o *responseStream) endBy(at func() time.Time) { o.stuck.endBy(at) }

// close gives the client's connection back.
func (o *responseStream) close() {
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

// emptyComment is the shortest heartbeat. Its blank line keeps comments from
// piling up in clients that look for blank lines only, and from hiding how the
// next event begins.
const emptyComment = ":\n\n"

// byteOrderMark is what a client drops at the very start of a stream.
var byteOrderMark = []byte("\xEF\xBB\xBF")

// write sends whole blocks.
func (o *responseStream) write(p []byte) error {
	if !o.began && bytes.HasPrefix(p, byteOrderMark) {
		// It is part of the first line. The client would drop it and take the
		// rest of the line for a field.
		p = append(append([]byte(nil), emptyComment...), p...)
	}
	return o.writeBytes(p)
}

// writeBytes sends bytes as they are.
func (o *responseStream) writeBytes(p []byte) error {
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
	theDelivered.bytes.Add(len(p))
	return nil
}

// writePiece writes what is small enough that it is progress to have written it.
func (o *responseStream) writePiece(p []byte, flush bool) error {
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

// flush sends the response head.
func (o *responseStream) flush() error { return o.writePiece(nil, true) }

// tend sends a heartbeat if it is due, and looks whether the client is still
// there. It returns how long it is until it has to be called again.
func (o *responseStream) tend(now time.Time) (wait time.Duration, err error) {
	wait, there := o.vanished.look(now)
	if !there {
		setUserTimeout(o.conn, o.settings.writeTimeout) // nobody is going to read the rest
		return 0, os.ErrDeadlineExceeded
	}
	if o.settings.heartbeat == 0 {
		return wait, nil
	}
	beat, err := o.heartbeat(now)
	return min(wait, beat), err
}

// heartbeat sends a heartbeat if nothing was sent for the configured time and it
// does not come into a block, and returns how long it is until the next may be
// due.
func (o *responseStream) heartbeat(now time.Time) (time.Duration, error) {
	if idle := now.Sub(o.last); idle < o.settings.heartbeat {
		return o.settings.heartbeat - idle, nil
	}
	if o.midBlock {
		return o.settings.heartbeat, nil // sooner than that after the next bytes it is not due
	}
	theDelivered.heartbeats.Inc()
	return o.settings.heartbeat, o.write(o.settings.beat)
}

// startHeartbeats sends heartbeats while mu is free, until close, or until one
// cannot be sent or the client has vanished: then failed is called, under mu. All
// other use of o must be under mu as well.
func (o *responseStream) startHeartbeats(mu *sync.Mutex, failed func(err error)) {
	first := noTimeout
	for _, d := range []time.Duration{o.settings.heartbeat, o.vanished.timeout} {
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
		wait, err := o.tend(time.Now())
		if err != nil {
			failed(err)
			return
		}
		o.beat.Reset(min(wait, first))
	})
}

// Ways to write to a client, as in the option delivery.
const (
	deliveryConnection = "connection"
	deliveryHandler    = "handler"
)

// delivery writes a stream to one client, in the goroutine of its request or
// after that.
type delivery struct {
	// For the host to fill in.
	w        http.ResponseWriter
	r        *http.Request
	sub      *stream.Subscriber
	settings *deliverySettings
	by       *takeOver // how the connection may be taken over; nil: it may not

	to       *responseStream
	now      time.Time
	blocks   []*replay.Block
	leaveAt  time.Time // to look again then at the latest; zero: never
	headSent bool
}

// deliver writes the stream until it is over, and tells why. If there is a way
// to take the connection over that is done as soon as it can be: then "" is
// returned, and the subscriber is a writer's.
func (d *delivery) deliver() stream.EndReason {
	d.to = newResponseStream(d.w, d.r, d.settings, false)
	d.to.endBy(d.sub.Leaves)
	d.sub.DeliveredBy(deliveryHandler)
	theStorm.add()
	defer d.to.close()
	timer := time.NewTimer(noTimeout)
	defer timer.Stop()
	for {
		d.now = time.Now()
		wake, end := d.look()
		if err := d.send(wake != nil); err != nil {
			return clientEnd(d.r, err)
		}
		if end != "" {
			return end
		}
		if wake == nil {
			continue
		}
		wait, err := d.beforeWait()
		switch {
		case errors.Is(err, errTaken):
			return ""
		case err != nil:
			return clientEnd(d.r, err)
		}
		d.sub.Writing.Store(0)
		timer.Reset(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-d.r.Context().Done():
			return stream.EndClient
		}
	}
}

// look finds what is to be sent now.
func (d *delivery) look() (wake <-chan struct{}, end stream.EndReason) {
	d.blocks, wake, d.leaveAt, end = d.sub.Next(d.blocks[:0], d.now)
	return wake, end
}

// send sends that, and the head, if nothing else is to come soon.
func (d *delivery) send(waits bool) error {
	if len(d.blocks) == 0 {
		if !waits || d.headSent {
			return nil
		}
		d.headSent = true
		return d.to.flush()
	}
	d.headSent = true
	if err := d.to.writeAll(d.blocks); err != nil {
		return err
	}
	d.count()
	return nil
}

// count tells the metrics what was sent.
func (d *delivery) count() {
	theDelivered.blocks.Add(d.sub.Taken)
	if !d.sub.TakenAt.IsZero() {
		theDelivered.lag.Observe(d.to.last.Sub(d.sub.TakenAt).Seconds())
	}
}

// errTaken is returned when the connection was taken over.
var errTaken = errors.New("the connection was taken over")

// beforeWait does what is to be done when there is nothing to send, and returns
// for how long that is so at most.
func (d *delivery) beforeWait() (wait time.Duration, err error) {
	if wait, err = d.to.tend(d.now); err != nil {
		return 0, err
	}
	if !d.leaveAt.IsZero() {
		wait = min(wait, d.leaveAt.Sub(d.now))
	}
	if d.by == nil {
		return wait, nil
	}
	settled, at := d.sub.Settled(d.now)
	switch {
	case settled && d.takeOver():
		return 0, errTaken
	case settled:
		d.by = nil // it cannot be done
	case !at.IsZero():
		wait = min(wait, at.Sub(d.now))
	}
	return wait, nil
}

// takeOver gives the connection to a writer. It returns false if that cannot be
// done.
func (d *delivery) takeOver() bool {
	header := d.w.Header()
	if header.Get("Content-Encoding") != "" || header.Get("Transfer-Encoding") != "" || header.Get("Content-Length") != "" || innermost(d.w) == nil {
		return false // a handler before this one has made something else of it, or records it, which it has decided with the head
	}
	c := d.take()
	if c == nil {
		return false
	}
	if d.by.over == nil && d.r.Context().Err() != nil {
		c.socket.close() // the client hung up before; from now on the context tells that the handlers have returned
		return false
	}
	d.to.close()
	c.began = d.to.began
	c.last = theWriters().moment(d.to.last)
	if d.settings.record != nil {
		c.log = d.settings.record(d.w, d.r, d.to.sent)
	}
	d.sub.Writing.Store(0)
	c.counted.Inc()
	d.sub.DeliveredBy(deliveryConnection)
	theWriters().take(c)
	return true
}

// take takes the client's connection, or stream, from the server; nil: that cannot
// be done.
func (d *delivery) take() *connection {
	if d.by.over != nil {
		return d.claim()
	}
	return d.hijack()
}

// clientEnd tells a client that left from one that was cut. The server cancels
// the request's context when a write fails, whatever it fails of.
func clientEnd(r *http.Request, err error) stream.EndReason {
	if r.Context().Err() != nil && !errors.Is(err, http.ErrAbortHandler) && !timedOut(err) {
		return stream.EndClient
	}
	return writeEnd(err)
}

// writeEnd tells from the error of a write whether the client has left.
func writeEnd(err error) stream.EndReason {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return stream.EndClient
	}
	return stream.EndWrite
}

// timedOut reports whether a write took too long: by its deadline, or by
// the system.
func timedOut(err error) bool {
	late, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && late.Timeout()
}

// batches lends buffers in which blocks that go out together are joined.
var batches = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writeAll sends blocks in one write.
func (o *responseStream) writeAll(blocks []*replay.Block) error {
	if len(blocks) == 1 {
		return o.write(blocks[0].Wire)
	}
	buf := batches.Get().(*bytes.Buffer)
	buf.Reset()
	for _, b := range blocks {
		buf.Write(b.Wire)
	}
	err := o.write(buf.Bytes())
	if buf.Cap() <= 2*stream.MaxWrite {
		batches.Put(buf)
	}
	return err
}
