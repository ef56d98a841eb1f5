package delivery

import (
	"net"

	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// connCtxKey is the context key of a client's connection.
const connCtxKey caddy.CtxKey = "sse_conn"

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
