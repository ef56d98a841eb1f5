package delivery

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// connection is a client's connection that was taken over from the server: its
// response head went through all handlers, what follows is written by a writer.
type connection struct {
	// Fixed after construction.
	settings *Settings
	writer   *writer
	socket   socket
	log      Record // nil: not logged
	counted  *meter.Gauge

	signals atomic.Uint32 // signal: what the writer has not seen yet

	entry stream.Slot // guarded by the lock of sub

	// For the writer only.
	sub     *stream.Subscriber
	rest    []byte           // did not fit into the socket
	partly  writtenBatch     // what that is the end of
	blocked bool             // something waits for room in the socket
	lookAt  moment           // to look whether the client takes what is sent; 0: it has taken all
	taken   int64            // what it had at the last look
	takenAt moment           // of the newest progress; 0: there was no look
	last    moment           // something was sent
	leaveAt moment           // to ask sub then at the latest; 0: never
	due     moment           // in the writer's heap
	index   int              // there; -1: it is not in it
	bytes   int              // of the body, without transfer coding
	end     stream.EndReason // as soon as it is decided
	began   bool             // something was sent
	ended   bool             // the last chunk was
	closed  bool
}

// Slot and waker implement waiter.
func (c *connection) Slot() *stream.Slot  { return &c.entry }
func (c *connection) Waker() stream.Waker { return c.writer }

// Record is what the host keeps of a response whose connection was taken over.
type Record interface {
	// Ended tells that the response has ended, after so many bytes of its body since
	// then. It does not wait. done is to be called when it was recorded: the process
	// may exit then.
	Ended(sub *stream.Subscriber, reason stream.EndReason, bytes int, done func())
}

// signal is news for a connection's writer.
type signal uint32

const (
	signalNew      signal = 1 << iota // it is the writer's from now on
	signalWritable                    // the socket takes more
	signalHungUp                      // the client has closed the connection
	signalReadable                    // it has sent something
)

// signal hands the connection to its writer to be looked at. It is safe for
// concurrent use.
func (c *connection) signal(s signal) {
	if c.signals.Or(uint32(s)) == 0 {
		c.writer.lookAtOne(c)
	}
}

// lookIn is when to look in a part of write_timeout; 0: never.
func (c *connection) lookIn(now moment, part int) moment {
	if c.settings.WriteTimeout == 0 {
		return 0
	}
	return now + moment(c.settings.WriteTimeout)/moment(part)
}

// leaves reports whether the subscriber has to be asked now.
func (c *connection) leaves(now moment) bool { return c.leaveAt != 0 && now >= c.leaveAt }

// nextDue is when something is to be done; 0: never.
func (c *connection) nextDue() (at moment) {
	at = c.lookAt
	if c.blocked {
		return at
	}
	if c.settings.Heartbeat > 0 {
		at = sooner(at, c.last+moment(c.settings.Heartbeat))
	}
	return sooner(at, c.leaveAt)
}

// sooner is the earlier of two moments, or the one that there is.
func sooner(a, b moment) moment {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// socket is a connection's transport, for its writer.
type socket interface {
	// watch begins to signal that the client hangs up, where that is known.
	watch(c *connection)

	// write writes what goes out without waiting. The bytes stay as they are.
	write(p []byte) (n int, err error)

	// await signals when more of rest, which write or resume left, can be
	// written: by resume.
	await(c *connection, rest []byte)
	resume(rest []byte) (n int, err error)

	// readable looks into what the client has sent, and signals if it is that it
	// hangs up.
	readable(c *connection)

	// acks tells what the client has taken; false: it is not known, and a write
	// that waits ends itself.
	acks() (acks, bool)

	// fault is why the system has ended the connection; nil: the client did, or
	// that is not known.
	fault() error

	// close closes the connection.
	close()
}

// asyncSocket writes in a goroutine that is there as long as something is to be
// written, unless that surely does not wait: over TLS, where a write cannot be
// done in part, and where there are no other means.
type asyncSocket struct {
	conn    net.Conn
	timeout time.Duration // of a write of one piece; 0: none
	taken   ackTeller     // nil: not known
	room    roomTeller    // nil: not known
	pending func() error  // the system's error; nil: not known
	poll    pollEntry
	err     error // of the goroutine that has signalled

	news atomic.Int32 // how often something came that was not looked into; 0: nobody looks
	read int          // bytes that the client has sent after its request; for who looks
}

// roomTeller tells how many bytes a connection takes without waiting.
type roomTeller func() int

func (s *asyncSocket) watch(c *connection) { s.poll = c.writer.set.poller.watch(s.conn, c) }

func (s *asyncSocket) write(p []byte) (n int, err error) {
	if s.room == nil || s.room() < len(p) {
		return 0, nil
	}
	s.setDeadline()
	return s.conn.Write(p)
}

func (s *asyncSocket) await(c *connection, rest []byte) {
	go func() {
		for piece := range slices.Chunk(rest, asyncPiece) {
			s.setDeadline()
			if _, s.err = s.conn.Write(piece); s.err != nil {
				break
			}
		}
		c.signal(signalWritable)
	}()
}

// asyncPiece is how many bytes are written under one deadline, where nobody
// tells what the client has taken: to have written them is its progress.
const asyncPiece = 16 << 10

func (s *asyncSocket) resume(rest []byte) (n int, err error) { return len(rest), s.err }

// setDeadline bounds a write, unless its writer looks for progress. Caddy may have
// set another deadline when the request's handlers returned.
func (s *asyncSocket) setDeadline() {
	var deadline time.Time
	if s.timeout > 0 && s.taken == nil {
		deadline = time.Now().Add(s.timeout)
	}
	_ = s.conn.SetWriteDeadline(deadline)
}

const (
	// maxRead is how many bytes of a client are looked into that sends something
	// after its request, where nothing is due. Of one that sends more it is not
	// noticed any more that it says goodbye.
	maxRead = 64 << 10

	// readTime is how long the rest of a record is waited for. When that comes
	// later it is looked again.
	readTime = 50 * time.Millisecond
)

// readable reads what the client has sent, in a goroutine that is there as long
// as something comes: over TLS it may be an alert, with which the client says
// goodbye and waits for the answer (RFC 8446, 6.1).
func (s *asyncSocket) readable(c *connection) {
	if s.news.Add(1) > 1 {
		return
	}
	go func() {
		for {
			seen := s.news.Load()
			if s.hasHungUp() {
				c.signal(signalHungUp)
				return
			}
			if s.read > maxRead || s.news.CompareAndSwap(seen, 0) {
				return
			}
		}
	}()
}

// hasHungUp reads what there is, and reports whether nothing is to follow.
func (s *asyncSocket) hasHungUp() bool {
	_ = s.conn.SetReadDeadline(time.Now().Add(readTime))
	var scratch [1024]byte
	for s.read <= maxRead {
		n, err := s.conn.Read(scratch[:])
		s.read += n
		if err != nil {
			return !timedOut(err)
		}
	}
	return false
}

func (s *asyncSocket) acks() (acks, bool) {
	if s.taken == nil {
		return acks{}, false
	}
	return s.taken()
}

func (s *asyncSocket) fault() error {
	if s.pending == nil {
		return nil
	}
	return s.pending()
}

// close closes the connection. Over TLS an alert is sent before, which waits for
// seconds if the client is stuck.
func (s *asyncSocket) close() {
	s.poll.remove()
	go func() { _ = s.conn.Close() }()
}

// connCtxKey is the context key of a client's connection.
const connCtxKey caddy.CtxKey = "sse_conn"

// ConnContext makes a client's connection known to its requests: it is for the server
// to be called with each connection.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	// The server accepts the next connection when this returns. Accepting is
	// quicker than serving: in a storm thousands of goroutines would be ready
	// to run, each in turn, and those that deliver events among them. So the
	// others go first; what is not accepted yet waits in the listener's queue.
	runtime.Gosched()

	if ctx.Value(connCtxKey) != nil {
		return ctx // another sse handler of the server has
	}
	if side := sideOf(conn); side != nil {
		conn = &sharedConn{Side: side}
	}
	return context.WithValue(ctx, connCtxKey, conn)
}

// TakeOver is a way to take over a request's connection.
type TakeOver struct {
	server http.Hijacker // net/http's ResponseWriter; nil: over HTTP/2
	over   *sharedConn   // over HTTP/2
}

// Closes reports whether the connection is the response's alone.
func (t *TakeOver) Closes() bool { return t != nil && t.over == nil }

// MayTakeOver returns how to take over the connection of a request without a body,
// nil if its response has to be written by the handlers before this one: because
// of what the client is, or because one of them may change the body. flushed tells
// that the response may be flushed when they have returned.
func MayTakeOver(w http.ResponseWriter, r *http.Request, flushed bool) *TakeOver {
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 2 {
		return nil
	}
	inner := innermost(w)
	if inner == nil {
		return nil
	}
	conn, _ := r.Context().Value(connCtxKey).(net.Conn)
	if over, ok := conn.(*sharedConn); ok && r.ProtoMajor == 2 {
		return &TakeOver{over: over}
	}
	server, ok := inner.(http.Hijacker)
	if !ok || r.ProtoMajor > 1 || flushed || !isSocket(conn) {
		return nil
	}
	return &TakeOver{server: server}
}

// innermost returns the server's ResponseWriter behind those of Caddy that are
// known to leave the body as it is, once the head is sent; nil if there is
// another one.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	if e, ok := w.(Early); ok {
		if _, begun := e.HasBegun(); !begun {
			w = e.Unwrap()
		}
	}
	for {
		t := reflect.TypeOf(w)
		if t.Kind() != reflect.Pointer {
			return nil
		}
		switch path := t.Elem().PkgPath(); path {
		case "net/http", "net/http/internal/http2", "golang.org/x/net/http2":
			return w
		case pathCaddyHTTP, pathCaddyHTTP + "/headers", pathCaddyHTTP + "/encode", pathCaddyHTTP + "/timeouts":
		default:
			return nil
		}
		if rec, ok := w.(caddyhttp.ResponseRecorder); ok && rec.Status() != 0 && rec.Buffered() {
			return nil
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = u.Unwrap()
	}
}

// pathCaddyHTTP is the package path of Caddy's HTTP app.
const pathCaddyHTTP = "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// isSocket reports whether a connection is one of the system's, or TLS over
// one, so that nothing else between has a part in what is written.
func isSocket(conn net.Conn) bool {
	switch conn := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	case interface{ NetConn() net.Conn }: // tls.Conn
		return strings.HasPrefix(reflect.TypeOf(conn).String(), "*tls.") && isSocket(conn.NetConn())
	}
	return false
}

// hijack takes the client's connection from the server. It returns nil if
// that cannot be done.
func (d *Delivery) hijack() *connection {
	conn, _, err := d.By.server.Hijack() // what the client has sent beyond its request is not answered (RFC 9112, 9.3.2)
	if err != nil {
		return nil
	}
	return &connection{
		settings: d.Settings,
		sub:      d.Subscriber,
		counted:  &Counts.OnConnections,
		socket:   newSocket(conn, d.Settings.WriteTimeout, theWriters().poller),
	}
}

// over tells that the response has ended. The connection counts as gone when
// its access-log entry was written: the process may exit then.
func (c *connection) over(reason stream.EndReason) {
	c.counted.Dec()
	Counts.Ended.With(string(reason)).Inc()
	if c.log == nil {
		c.writer.set.gone()
		return
	}
	c.log.Ended(c.sub, reason, c.bytes, c.writer.set.gone)
}
