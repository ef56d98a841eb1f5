package caddysse

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"
)

// hang is a handler that returns when its client has long gone.
type hang struct{}

var hangs = make(chan struct{})

func init() {
	caddy.RegisterModule(hang{})
	httpcaddyfile.RegisterHandlerDirective("test_hang", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return hang{}, nil })
	httpcaddyfile.RegisterDirectiveOrder("test_hang", httpcaddyfile.Before, "header")
}

func (hang) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_hang", New: func() caddy.Module { return new(hang) }}
}

func (hang) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path == "/hang" {
		<-hangs
		return nil
	}
	return next.ServeHTTP(w, r)
}

// flood sends a frame n times, many in one record, or until the connection is closed.
// It does not read what is answered.
func (c *rawHTTP2) flood(n int, frame func(f *http2.Framer) error) {
	c.t.Helper()
	_ = c.conn.SetWriteDeadline(time.Now().Add(testTimeout))
	var batch bytes.Buffer
	framer := http2.NewFramer(&batch, nil)
	framer.AllowIllegalWrites = true
	for i := range n {
		c.do(frame(framer))
		if batch.Len() < 16<<10 && i < n-1 {
			continue
		}
		if _, err := c.conn.Write(batch.Bytes()); err != nil {
			if !isReset(err) {
				c.t.Fatalf("the connection is not closed: %v", err)
			}
			c.ended[0] = "closed"
			return
		}
		batch.Reset()
	}
}

const (
	manyFrames    = 20_000
	endlessFrames = 1 << 20
)

// sharedFlood is what a client sends without end.
type sharedFlood struct {
	name  string
	flood func(c *rawHTTP2)
	want  string // how the connection ends; "": it does not
}

var sharedFloods = []sharedFlood{
	{"SETTINGS", func(c *rawHTTP2) {
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WriteSettings() })
		c.untilClosed()
		c.ended[0] = "closed"
	}, "closed"},
	{"PING", func(c *rawHTTP2) {
		c.flood(endlessFrames, func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}, "closed"},
	{"CONTINUATION", func(c *rawHTTP2) {
		c.do(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}}))
		field := append([]byte{0x00, 0x01, 'x', 0x7f, 0xe1, 0x76}, make([]byte, 127+97+118<<7)...) // a name, x, and so long a value
		c.flood(endlessFrames, func(f *http2.Framer) error { return f.WriteContinuation(3, false, field) })
	}, "closed"},
	{"rapid reset", func(c *rawHTTP2) {
		for id := uint32(3); id < 10_000; id += 2 {
			c.request(id, "/hang", 0)
			if c.framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		c.until("the server answers", func() bool { return c.ended[0] != "" })
	}, "ENHANCE_YOUR_CALM"},
	{"room for a stream", func(c *rawHTTP2) {
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 1) })
	}, ""},
	{"room for all", func(c *rawHTTP2) {
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1) })
	}, ""},
	{"resets of what has ended", func(c *rawHTTP2) {
		c.request(3, "/plain", 100)
		c.until("it is answered", func() bool { return c.ended[3] != "" })
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WriteRSTStream(3, http2.ErrCodeCancel) })
	}, ""},
	{"unknown frames", func(c *rawHTTP2) {
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WriteRawFrame(99, 0xff, 1, []byte("unknown")) })
	}, ""},
	{"PRIORITY", func(c *rawHTTP2) {
		c.flood(manyFrames, func(f *http2.Framer) error { return f.WritePriority(1, http2.PriorityParam{Weight: 1}) })
	}, ""},
}

// A client that floods a connection of which streams were taken over is stopped by the
// limits of the server, as without the wrapper, and what needs no limit does no harm.
func TestFloodsOfSharedConnections(t *testing.T) {
	u := startUpstream(t, nil)
	s := sharingSetup{site: "test_hang", options: "ids upstream\nheartbeat off\nprime off\nlinger 0s", sends: 16 << 10}.start(t, u)
	t.Cleanup(func() { close(hangs) })
	for _, test := range sharedFloods {
		t.Run(test.name, func(t *testing.T) {
			s := *s
			s.t = t
			c := s.raw()
			c.request(1, "/"+strings.ReplaceAll(test.name, " ", "-"), 65535)
			up := u.accept()
			up.event("begin")
			c.until("it begins", func() bool { return c.got[1].Len() > 0 })
			awaitMetric(t, takenOver, 1)
			test.flood(c)
			if c.ended[0] != test.want {
				t.Fatalf("the connection: %q, expected %q", c.ended[0], test.want)
			}
			if test.want == "" {
				up.event("next")
				c.until("it goes on", func() bool { return strings.HasSuffix(c.got[1].String(), "data: next\n\n") })
				_ = c.conn.Close()
			}
			awaitMetric(t, takenOver, 0)
			up.expectGone()
		})
	}
}

// untilClosed reads until the server closes the connection.
func (c *rawHTTP2) untilClosed() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	if _, err := io.Copy(io.Discard, c.conn); err != nil && !isReset(err) {
		c.t.Errorf("not closed: %v", err)
	}
	_ = c.conn.Close()
}
