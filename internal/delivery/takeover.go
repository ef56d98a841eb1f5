package delivery

import (
	"context"
	"net"
	"net/http"
	"reflect"

	"runtime"

	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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

// take takes the client's connection, or stream, from the server; nil: that cannot
// be done.
func (t *TakeOver) take(ctx context.Context, to *Response) socket {
	if t.over != nil {
		return t.over.claim(ctx, to)
	}
	conn, _, err := t.server.Hijack() // what the client has sent beyond its request is not answered (RFC 9112, 9.3.2)
	if err != nil {
		return nil
	}
	return newSocket(conn, to.settings.WriteTimeout, theWriters().poller)
}

// connection is the connection that a socket is, for a writer.
func (t *TakeOver) connection(s socket, settings *Settings, sub *stream.Subscriber) *connection {
	c := &connection{settings: settings, sub: sub, socket: s, counted: &Counts.OnConnections}
	if t.over != nil {
		c.counted, c.bare = &Counts.OnStreams, true
	}
	return c
}

// home is where the connection's writer is told; nil: it has any.
func (t *TakeOver) home() *home {
	if t.over != nil {
		return &t.over.home
	}
	return nil
}

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
