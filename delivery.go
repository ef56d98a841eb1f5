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
)

// deliverySettings are the handler's settings for writing to a client.
type deliverySettings struct {
	heartbeat      time.Duration // 0: none
	heartbeatBytes []byte
	heartbeatChunk []byte        // heartbeatBytes in the chunked transfer coding
	writeTimeout   time.Duration // 0: none
}

// responseStream writes an event stream to one client: what is written goes
// out at once, under a deadline. It is not safe for concurrent use.
type responseStream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	settings *deliverySettings
	http3    bool
	deadline bool   // we set the write deadlines: Caddy does not
	restore  func() // undoes what was changed of Caddy's idle timeout
	stuck    *writeWatch
	began    bool // something was written
	midBlock bool // and ends within a block: no heartbeat
	last     time.Time
	beat     *time.Timer // of startHeartbeats
	closed   bool
	sent     int // bytes of the body
}

// newResponseStream takes over the writing to a client whose response head was
// or is about to be written. close must be called in the end.
func newResponseStream(w http.ResponseWriter, r *http.Request, settings *deliverySettings, began bool) *responseStream {
	o := &responseStream{
		w:        w,
		rc:       http.NewResponseController(w),
		settings: settings,
		http3:    r.ProtoMajor > 2,
		began:    began,
		last:     time.Now(),
	}
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	switch {
	case r.ProtoMajor == 2:
		o.watchWrites(r, idle)
	case idle != nil:
		// Caddy bounds each write by its write_idle already; it is made to use
		// write_timeout instead. Its hard deadline (timeouts write) would end
		// every stream.
		hard := idle.Deadline.HardDeadline
		idle.Deadline.HardDeadline = time.Time{}
		timeout := settings.writeTimeout
		if timeout == 0 {
			timeout = noTimeout
		}
		undo := idle.Override(timeout, 0, maxWriteChunk)
		o.restore = func() {
			idle.Deadline.HardDeadline = hard
			undo()
		}
		_ = o.rc.SetWriteDeadline(time.Time{}) // lets go of timeouts write
	default:
		o.deadline = true
		_ = o.rc.SetWriteDeadline(time.Time{})
	}
	if conn, ok := r.Context().Value(connCtxKey).(net.Conn); ok && settings.writeTimeout > 0 {
		setUserTimeout(conn, settings.writeTimeout)
	}
	return o
}

// watchWrites bounds writes over HTTP/2, where a deadline costs more than a
// write: it is told to the goroutine of the connection, and so are those that
// Caddy sets for its write_idle. Here none is set unless a write has waited too
// long; then one in the past ends the stream.
func (o *responseStream) watchWrites(r *http.Request, idle *caddyhttp.IdleTimeoutWriter) {
	rc := o.rc
	limited := false
	if idle != nil {
		rc = idle.Ctrl
		limited = !idle.Deadline.HardDeadline.IsZero()
		idle.Ctrl = ignoresDeadlines
		o.restore = func() { idle.Ctrl = rc }
	}
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); limited || (ok && server.WriteTimeout > 0) {
		_ = rc.SetWriteDeadline(time.Time{}) // of timeouts write, which would end every stream
	}
	if o.settings.writeTimeout > 0 {
		o.stuck = &writeWatch{rc: rc}
		o.stuck.timer = time.AfterFunc(noTimeout, o.stuck.end)
	}
}

// writeWatch ends the stream of a write that takes too long.
type writeWatch struct {
	timer *time.Timer
	rc    *http.ResponseController

	mu    sync.Mutex
	over  bool // rc must not be used any more
	ended bool
}

func (s *writeWatch) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.ended = true
		_ = s.rc.SetWriteDeadline(time.Unix(1, 0))
	}
}

// hasEnded reports whether end has ended the stream.
func (s *writeWatch) hasEnded() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *writeWatch) close() {
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// ignoresDeadlines is for Caddy's idle timeout when it is not to set any.
var ignoresDeadlines = http.NewResponseController(noDeadline{})

type noDeadline struct{ http.ResponseWriter }

// SetWriteDeadline does nothing.
func (noDeadline) SetWriteDeadline(time.Time) error { return nil }

const (
	// noTimeout stands for no time limit where one must be given.
	noTimeout = 100 * 365 * 24 * time.Hour

	// maxWriteChunk keeps Caddy from dividing a large event into several
	// timed writes: write_timeout is for the whole.
	maxWriteChunk = 1 << 30
)

// close gives the client's connection back.
func (o *responseStream) close() {
	if o.closed {
		return
	}
	o.closed = true
	if o.beat != nil {
		o.beat.Stop()
	}
	if o.stuck != nil {
		o.stuck.close()
	}
	if o.restore != nil {
		o.restore()
	}
	if o.deadline {
		_ = o.rc.SetWriteDeadline(time.Time{}) // the connection may be used again
	}
}

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
	if o.deadline && o.settings.writeTimeout > 0 {
		_ = o.rc.SetWriteDeadline(time.Now().Add(o.settings.writeTimeout))
	}
	if o.stuck != nil {
		o.stuck.timer.Reset(o.settings.writeTimeout)
	}
	_, err := o.w.Write(p)
	if err == nil {
		err = o.rc.Flush()
	}
	if o.stuck != nil {
		o.stuck.timer.Stop()
	}
	if err != nil {
		if o.stuck.hasEnded() {
			err = os.ErrDeadlineExceeded // which HTTP/2 says in other words
		}
		return err
	}
	o.last = time.Now()
	o.sent += len(p)
	theMetrics.bytes[out].Add(float64(len(p)))
	if o.deadline && o.http3 {
		_ = o.rc.SetWriteDeadline(time.Time{})
	}
	return nil
}

// flush sends the response head.
func (o *responseStream) flush() error { return o.rc.Flush() }

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
	theMetrics.heartbeats.Inc()
	return o.settings.heartbeat, o.write(o.settings.heartbeatBytes)
}

// startHeartbeats sends heartbeats while mu is free, until close, or until one
// cannot be sent: then failed is called, under mu. All other
// use of o must be under mu as well.
func (o *responseStream) startHeartbeats(mu *sync.Mutex, failed func(err error)) {
	if o.settings.heartbeat == 0 {
		return
	}
	o.beat = time.AfterFunc(o.settings.heartbeat, func() {
		mu.Lock()
		defer mu.Unlock()
		if o.closed {
			return
		}
		wait, err := o.heartbeat(time.Now())
		if err != nil {
			failed(err)
			return
		}
		o.beat.Reset(wait)
	})
}

// Ways to write to a client, as in the option delivery.
const (
	deliveryConnection = "connection"
	deliveryHandler    = "handler"
)

// deliver writes the stream until it is over, and tells why. If there is a way
// to take the connection over that is done as soon as it can be: then "" is
// returned, and the subscriber is a writer's.
func (d *delivery) deliver() endReason {
	d.to = newResponseStream(d.w, d.r, d.h.settings, false)
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
		d.sub.writing.Store(0)
		timer.Reset(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-d.r.Context().Done():
			return endClient
		}
	}
}

// look finds what is to be sent now.
func (d *delivery) look() (wake <-chan struct{}, end endReason) {
	d.blocks, wake, d.leaveAt, end = d.sub.next(d.blocks[:0], d.now)
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
	theMetrics.blocks[out].Add(float64(d.sub.taken))
	if !d.sub.takenAt.IsZero() {
		theMetrics.lag.Observe(d.to.last.Sub(d.sub.takenAt).Seconds())
	}
}

// errTaken is returned when the connection was taken over.
var errTaken = errors.New("the connection was taken over")

// beforeWait does what is to be done when there is nothing to send, and returns
// for how long that is so at most.
func (d *delivery) beforeWait() (wait time.Duration, err error) {
	wait = noTimeout
	if d.h.settings.heartbeat > 0 {
		if wait, err = d.to.heartbeat(d.now); err != nil {
			return 0, err
		}
	}
	if !d.leaveAt.IsZero() {
		wait = min(wait, d.leaveAt.Sub(d.now))
	}
	if d.by == nil {
		return wait, nil
	}
	settled, at := d.sub.settled(d.now)
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
	c := d.h.hijack(d.sub, d.by)
	if c == nil {
		return false
	}
	if d.r.Context().Err() != nil {
		c.socket.close() // the client hung up before; from now on the context tells that the handlers have returned
		return false
	}
	d.to.close()
	c.began = d.to.began
	c.last = theWriters().moment(d.to.last)
	c.log = d.h.newAccessRecord(d.w, d.r, d.to.sent)
	d.sub.writing.Store(0)
	theMetrics.connectionSubscribers.Inc()
	d.sub.deliveredBy(deliveryConnection)
	theWriters().take(c)
	return true
}

// clientEnd tells a client that left from one that was cut. The server cancels
// the request's context when a write fails, whatever it fails of.
func clientEnd(r *http.Request, err error) endReason {
	if r.Context().Err() != nil && !errors.Is(err, http.ErrAbortHandler) && !timedOut(err) {
		return endClient
	}
	return writeEnd(err)
}

// writeEnd tells from the error of a write whether the client has left.
func writeEnd(err error) endReason {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return endClient
	}
	return endWrite
}

// timedOut reports whether a write took too long: by its deadline, or by
// TCP_USER_TIMEOUT.
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
func (o *responseStream) writeAll(blocks []*block) error {
	if len(blocks) == 1 {
		return o.write(blocks[0].wire)
	}
	buf := batches.Get().(*bytes.Buffer)
	buf.Reset()
	for _, b := range blocks {
		buf.Write(b.wire)
	}
	err := o.write(buf.Bytes())
	if buf.Cap() <= 2*maxWrite {
		batches.Put(buf)
	}
	return err
}
