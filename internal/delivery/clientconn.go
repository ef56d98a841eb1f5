package delivery

import (
	"context"
	"net"
	"runtime"

	"github.com/caddyserver/caddy/v2"
)

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
