package caddysse

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// A handler that no request comes to, while clients of its server ask for event
// streams: the path of a matcher is not the one that they ask for, say. Nobody
// tells a handler what passes beside it, and to look at each request would cost
// each. So nothing is looked at as long as requests come. When a handler has seen
// none for a while a few connections of its server are looked at: whether
// reverse_proxy asks an application for an event stream on their behalf, and what
// it is answered with lasts.

// Times and bounds of that. Tests have others.
var (
	// unseenTime is how long a handler may see no request until its server's
	// connections are looked at, and between one look and the next.
	unseenTime = time.Minute

	// whenLasted does something when an answer to a request for an event stream,
	// on a connection to the application, has lasted for lastingTime.
	whenLasted = func(_ net.Conn, do func()) stopper { return time.AfterFunc(lastingTime, do) }
)

// lastingTime is how long an answer to a request for an event stream lasts that
// is taken for one. An error, or what forward_auth asks, does not.
const lastingTime = 10 * time.Second

// maxLooked bounds the connections that are looked at after each unseenTime.
const maxLooked = 64

// lookOut begins to look for requests. close of what it returns ends it.
func (h *Handler) lookOut(server *caddyhttp.Server, place string) *lookout {
	l := &lookout{handler: h, place: place, every: unseenTime, lasted: whenLasted}
	l.timer = time.AfterFunc(time.Hour, l.look)
	l.timer.Reset(l.every) // not before look can see the timer
	server.RegisterConnContext(l.connContext)
	return l
}

func (l *lookout) close() {
	if l != nil {
		l.timer.Stop()
	}
}

// found takes the hint back: a request has come.
func (l *lookout) found() {
	if l != nil {
		l.handler.hints.Settled(hints.Unseen, l.place, 0)
	}
}

// seen reports whether there is nothing to look for: requests come, or the
// configuration has gone.
func (l *lookout) seen() bool {
	return l.handler.instance.Requests.Load() > 0 || l.handler.instance.Retired.Load()
}

// look lets connections be looked at that come from now on.
func (l *lookout) look() {
	if l.seen() {
		l.left.Store(0)
		return
	}
	l.left.Store(maxLooked)
	l.timer.Reset(l.every)
}

// connContext is called with each connection of the server.
func (l *lookout) connContext(ctx context.Context, _ net.Conn) context.Context {
	if l.left.Load() <= 0 || l.left.Add(-1) < 0 || l.seen() {
		return ctx
	}
	if looked, ok := ctx.Value(lookedCtxKey{}).(*lookedAt); ok {
		looked.lookouts = append(looked.lookouts, l)
		return ctx
	}
	looked := &lookedAt{lookouts: []*lookout{l}}
	ctx = context.WithValue(ctx, lookedCtxKey{}, looked)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:          looked.gotConn,
		WroteHeaderField: looked.wroteField,
		PutIdleConn:      func(error) { looked.answered() },
	})
}

type lookedCtxKey struct{}

// lookedAt is a client's connection that is looked at. Its methods are called
// by the transport of reverse_proxy. Over HTTP/2 a client has several requests at
// once: then less is seen.
type lookedAt struct {
	lookouts []*lookout // fixed when the connection is served

	mu       sync.Mutex
	taken    bool     // a request of the connection came to an sse handler
	upstream net.Conn // that the newest request went to
	asked    stopper  // until the answer to a request for an event stream has lasted
}

// takenOf tells that a request has come to an sse handler: what is asked of the
// application from then on may be for that.
func takenOf(ctx context.Context) {
	if looked, ok := ctx.Value(lookedCtxKey{}).(*lookedAt); ok {
		looked.mu.Lock()
		looked.taken = true
		looked.mu.Unlock()
	}
}

func (c *lookedAt) gotConn(info httptrace.GotConnInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upstream = info.Conn
}

// wroteField is called with the fields of requests. Those of HTTP/2 are in lower
// case: of its connections it is not known when an answer ends.
func (c *lookedAt) wroteField(name string, values []string) {
	if name != "Accept" || len(values) != 1 || strings.TrimSpace(values[0]) != eventStreamType {
		return // EventSource asks for nothing else
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked != nil {
		c.asked.Stop()
	}
	upstream := c.upstream
	c.asked = c.lookouts[0].lasted(upstream, func() { c.lasted(upstream) })
}

// answered is called when an answer has ended.
func (c *lookedAt) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked != nil {
		c.asked.Stop()
	}
}

// lasted is called when an answer to a request for an event stream has not ended
// for lastingTime, or has ended with the connection.
func (c *lookedAt) lasted(upstream net.Conn) {
	c.mu.Lock()
	past := !c.taken && isOpen(upstream)
	c.mu.Unlock()
	if !past {
		return
	}
	for _, l := range c.lookouts {
		if !l.seen() {
			l.handler.hints.Notice(hints.Unseen, l.place, func() (text, remedy string) {
				return "no request has come to this sse, while clients of its server are given event streams past it",
					"see that the matcher of sse, or of the block that it is in, has the host and the path that clients ask for"
			})
		}
	}
}

// isOpen reports whether a connection was not closed at this end.
func isOpen(conn net.Conn) bool {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false // not known
	}
	raw, err := socket.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}
