package caddysse

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// What reverse_proxy warns of says that an answer has broken off. Where the gateway
// itself ends a connection that it needs no more, nothing has gone wrong, and nothing is
// said. A break is.
func TestOnlyBreaksAreWarnedOf(t *testing.T) {
	for name, test := range map[string]struct {
		options string
		run     func(g *gateway, u *upstream)
		warned  bool
	}{
		"nobody came back": {"linger 0s", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			up.event("1")
			a.expect("1")
			a.close()
			up.expectGone()
		}, false},
		"nobody came back to a coded stream": {"linger 0s", func(g *gateway, u *upstream) {
			a := g.subscribe("/coded")
			up := u.accept()
			a.close()
			up.expectGone()
		}, false},
		"a splice is merged": {"share public\nlinger 0s", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			up.numbered("1")
			a.expect("1")
			b := g.subscribe("/")
			splice := u.accept()
			up.numbered("2")
			splice.numbered("2")
			splice.expectGone()
			b.expect("2")
			a.close()
			b.close()
			up.expectGone()
		}, false},
		"a private stream is ended by an operator": {"share off", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			up.event("1")
			a.expect("1")
			for _, o := range stream.Process.Observed() {
				o.(stream.PrivateStream).LeaveAfter(0, stream.EndMaxAge)
			}
			up.expectGone()
			eventually(u.t, "the response ends", func() bool { return len(stream.Process.Observed()) == 0 })
		}, false},
		"the application breaks off": {"reconnect never", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			up.event("1")
			a.expect("1")
			up.breakOff()
			eventually(u.t, "the response ends", func() bool { return stream.Process.Subscribers() == 0 })
		}, true},
		"an event is too large": {"max_event_size 100B\nreconnect never", func(g *gateway, u *upstream) {
			g.subscribe("/")
			u.accept().write("data: " + strings.Repeat("x", 200))
			eventually(u.t, "the response ends", func() bool { return stream.Process.Subscribers() == 0 })
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if r.URL.Path == "/coded" {
					w.Header().Set("Content-Encoding", "gzip")
				}
			})
			dir := t.TempDir()
			g := startGatewayWith(t, "log proxy {\noutput file "+dir+"/log\ninclude http.handlers.reverse_proxy\n}",
				site("sse {\n"+test.options+"\n}\nreverse_proxy "+u.address))
			test.run(g, u)
			warned := func() bool {
				text, _ := fs.ReadFile(os.DirFS(dir), "log") // it may not be there
				return strings.Contains(string(text), "aborting with incomplete response")
			}
			if test.warned {
				eventually(t, "the warning", warned)
				return
			}
			stream.Process.Wait()
			if warned() {
				t.Error("reverse_proxy warns of an answer that has broken off")
			}
		})
	}
}

// What had come of a body when its connection was given up is dropped; handlers that go on writing are told.
func TestSoMuchIsDroppedOfABody(t *testing.T) {
	c := &capture{conn: new(upstreams.Conn), err: stream.ErrStreamOver}
	if n, err := c.spill(make([]byte, maxSpilt)); n != maxSpilt || err != nil {
		t.Errorf("%d, %v for what had come", n, err)
	}
	if n, err := c.spill(make([]byte, 1)); n != 0 || !errors.Is(err, stream.ErrStreamOver) {
		t.Errorf("%d, %v for more", n, err)
	}
}
