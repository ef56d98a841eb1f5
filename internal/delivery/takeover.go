package delivery

import (
	"net"
	"net/http"
	"reflect"
	"strings"

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
