package delivery

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
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
	inner := innermost(w, r)
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
func innermost(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	inner, _ := peel(w, r)
	return inner
}

// peel is innermost; if that is nil it returns the writer that is not known.
func peel(w http.ResponseWriter, r *http.Request) (inner, unknown http.ResponseWriter) {
	traced := caddyhttp.GetVar(r.Context(), "trace_id") != nil
	if e, ok := w.(Early); ok {
		if _, begun := e.HasBegun(); !begun {
			w = e.Unwrap()
		}
	}
	for {
		switch path := packageOf(w); path {
		case "net/http", "net/http/internal/http2", "golang.org/x/net/http2":
			return w, nil
		case pathSnoop: // of Caddy's tracing, once: it counts bytes
			if !traced {
				return nil, w
			}
			traced = false
		case pathCaddyHTTP, pathCaddyHTTP + "/headers", pathCaddyHTTP + "/encode", pathCaddyHTTP + "/timeouts":
		default:
			return nil, w
		}
		if rec, ok := w.(caddyhttp.ResponseRecorder); ok && rec.Status() != 0 && rec.Buffered() {
			return nil, w
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil, w
		}
		w = u.Unwrap()
	}
}

// pathSnoop is the package with which OpenTelemetry's handler counts what is
// written.
const pathSnoop = "github.com/felixge/httpsnoop"

// packageOf is the package of a writer's type, which need not be a pointer: that of
// HTTP/2 in Go 1.27 is none.
func packageOf(w http.ResponseWriter) string {
	t := reflect.TypeOf(w)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// WhyNot tells why MayTakeOver returned nil. detail names what it is.
func WhyNot(w http.ResponseWriter, r *http.Request, flushed bool) (why Cause, detail string) {
	_, unknown := peel(w, r)
	switch {
	case !r.ProtoAtLeast(1, 1):
		return CauseHTTP10, r.Proto
	case r.ProtoMajor > 2:
		return CauseHTTP3, ""
	case unknown != nil:
		t := reflect.TypeOf(unknown)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		return CauseWriter, t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:]
	case r.ProtoMajor == 2:
		return CauseHTTP2, ""
	case flushed:
		return CauseFlush, ""
	}
	return CauseConnection, ""
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
