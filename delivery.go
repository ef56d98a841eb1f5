package caddysse

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"sync"
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
	http2    bool
	deadline bool   // we set the write deadlines: Caddy does not
	restore  func() // undoes what was changed of Caddy's idle timeout
	began    bool   // something was written
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
		http2:    r.ProtoMajor >= 2,
		began:    began,
		last:     time.Now(),
	}
	// Caddy bounds each write by its write_idle already; it is made to use
	// write_timeout instead. Its hard deadline (timeouts write) would end
	// every stream.
	if _, idle := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil {
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
	} else {
		o.deadline = true
		_ = o.rc.SetWriteDeadline(time.Time{})
	}
	if conn, ok := r.Context().Value(connCtxKey).(net.Conn); ok && settings.writeTimeout > 0 {
		setUserTimeout(conn, settings.writeTimeout)
	}
	return o
}

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
	if !o.began {
		o.began = true
		if bytes.HasPrefix(p, byteOrderMark) {
			// It is part of the first line. The client would drop it and take
			// the rest of the line for a field.
			p = append(append([]byte(nil), emptyComment...), p...)
		}
	}
	if o.deadline && o.settings.writeTimeout > 0 {
		_ = o.rc.SetWriteDeadline(time.Now().Add(o.settings.writeTimeout))
	}
	if _, err := o.w.Write(p); err != nil {
		return err
	}
	err := o.rc.Flush()
	o.last = time.Now()
	o.sent += len(p)
	theMetrics.bytes[out].Add(float64(len(p)))
	if o.deadline && o.http2 && err == nil {
		_ = o.rc.SetWriteDeadline(time.Time{})
	}
	return err
}

// flush sends the response head.
func (o *responseStream) flush() error { return o.rc.Flush() }

// heartbeat sends a heartbeat if nothing was sent for the configured time, and
// returns how long it is until the next may be due.
func (o *responseStream) heartbeat(now time.Time) (time.Duration, error) {
	if idle := now.Sub(o.last); idle < o.settings.heartbeat {
		return o.settings.heartbeat - idle, nil
	}
	theMetrics.heartbeats.Inc()
	return o.settings.heartbeat, o.write(o.settings.heartbeatBytes)
}

// startHeartbeats sends heartbeats while mu is free, until close. All other
// use of o must be under mu as well.
func (o *responseStream) startHeartbeats(mu *sync.Mutex) {
	if o.settings.heartbeat == 0 {
		return
	}
	o.beat = time.AfterFunc(o.settings.heartbeat, func() {
		mu.Lock()
		defer mu.Unlock()
		if o.closed {
			return
		}
		if wait, err := o.heartbeat(time.Now()); err == nil {
			o.beat.Reset(wait)
		}
	})
}

// Ways to write to a client, as in the option delivery.
const (
	deliveryConnection = "connection"
	deliveryHandler    = "handler"
)

// deliver writes a stream to a subscriber until it is over, and tells why. If
// there is a way to take the connection over that is done as soon as it can be:
// then "" is returned, and the subscriber is a writer's.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, sub *subscriber, by *takeOver) endReason {
	to := newResponseStream(w, r, h.settings, false)
	defer to.close()
	headSent := false
	timer := time.NewTimer(noTimeout)
	defer timer.Stop()
	var blocks []*block
	for {
		now := time.Now()
		var wake <-chan struct{}
		var leaveAt time.Time
		var end endReason
		blocks, wake, leaveAt, end = sub.next(blocks[:0], now)
		if len(blocks) > 0 {
			if err := to.writeAll(blocks); err != nil {
				return clientEnd(r, err)
			}
			headSent = true
			theMetrics.blocks[out].Add(float64(sub.taken))
			if !sub.takenAt.IsZero() {
				theMetrics.lag.Observe(to.last.Sub(sub.takenAt).Seconds())
			}
		}
		if end != "" {
			return end
		}
		if wake == nil {
			continue
		}
		if !headSent {
			headSent = true
			if err := to.flush(); err != nil {
				return endWrite
			}
		}
		wait := noTimeout
		if h.settings.heartbeat > 0 {
			due, err := to.heartbeat(now)
			if err != nil {
				return clientEnd(r, err)
			}
			wait = due
		}
		if !leaveAt.IsZero() {
			wait = min(wait, leaveAt.Sub(now))
		}
		if by != nil {
			settled, at := sub.settled(now)
			if settled && h.takeOver(w, r, sub, to, by) {
				return ""
			}
			if settled {
				by = nil // it cannot be done
			} else if !at.IsZero() {
				wait = min(wait, at.Sub(now))
			}
		}
		timer.Reset(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-r.Context().Done():
			return endClient
		}
	}
}

// takeOver gives a subscriber's connection to a writer. It returns false if
// that cannot be done.
func (h *Handler) takeOver(w http.ResponseWriter, r *http.Request, sub *subscriber, from *responseStream, by *takeOver) bool {
	if w.Header().Get("Content-Encoding") != "" {
		return false // encode does it after all
	}
	c := h.hijack(sub, by)
	if c == nil {
		return false
	}
	from.close()
	c.began = from.began
	c.log = h.newAccessRecord(w, r, sub.joined, from.sent)
	theMetrics.connectionSubscribers.Inc()
	theWriters().take(c)
	return true
}

// clientEnd tells a client that left from one that was cut.
func clientEnd(r *http.Request, err error) endReason {
	if r.Context().Err() != nil && !errors.Is(err, http.ErrAbortHandler) {
		return endClient
	}
	return endWrite
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
