package caddysse

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// A client over TLS says goodbye and waits for the answer, without closing its
// connection: it is let go at once. One that sends something else stays, and
// what it sends in pieces is understood.
func TestGoodbyeOverTLS(t *testing.T) {
	u := startUpstream(t, nil)
	all := startTransports(t, u, "heartbeat off\nwrite_timeout 1h")
	over := all[len(all)-1]
	sent := map[string][]int{"at once": nil, "after other data": {1, 5000, 1}, "after much data": {32 << 10, 16 << 10}}
	if deliverytest.Of(t) == delivery.ByHandler || over.http2 {
		sent = map[string][]int{"at once": nil} // net/http takes other data for the next request
	}
	for name, before := range sent {
		t.Run(name, func(t *testing.T) {
			c := subscribeRaw(t, over, "/"+strings.ReplaceAll(name, " ", "-"))
			defer c.close()
			up := u.accept()
			next, stop := c.events(t, 1)
			up.event(numberedEvent(1, 1))
			next(1)
			awaitTakenOver(t, 1)
			conn := c.conn.(interface {
				net.Conn
				CloseWrite() error
			})
			for _, n := range before {
				if _, err := conn.Write(make([]byte, n)); err != nil {
					t.Fatal(err)
				}
			}
			up.event(numberedEvent(2, 1))
			next(2)
			stop()
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if !over.http2 { // where the client reads by itself
				_ = conn.SetReadDeadline(time.Now().Add(testTimeout))
				if _, err := io.Copy(io.Discard, conn); err != nil {
					t.Fatalf("no answer: %v", err)
				}
			}
			eventually(t, "it has left", func() bool { return attached() == 0 })
			awaitTakenOver(t, 0)
		})
	}
}

// A client that sends without end is not read without end.
func TestTalkativeClientIsNotRead(t *testing.T) {
	overHTTP1(t) // where nobody reads any more
	u := startUpstream(t, nil)
	all := startTransports(t, u, "heartbeat off\nwrite_timeout 1h")
	c := subscribeRaw(t, all[len(all)-1], "/")
	defer c.close()
	up := u.accept()
	up.event("1")
	awaitTakenOver(t, 1)
	conn := c.conn.(*tls.Conn)
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	sent, err := io.Copy(conn, endless{})
	if err == nil || sent > 16<<20 { // what the system's buffers take
		t.Errorf("%d bytes were taken, %v", sent, err)
	}
}

type endless struct{}

// Read implements io.Reader.
func (endless) Read(p []byte) (int, error) { return len(p), nil }
