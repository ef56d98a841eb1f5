package caddysse

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// ownGoroutines returns the stacks of the goroutines that are, or were started,
// in the code of this module, its tests not counted, nor those that are there
// for the whole process once a connection was taken over, or while a server that
// shares its connections accepts or reads one.
func ownGoroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		known := func(function string) bool { return strings.Contains(stack, function+"(") }
		if slices.ContainsFunc([]string{".(*writer).run", ".(*poller).run", ".(*handshakes).Accept", ".(*handshakes).accept", "/h2.(*Side).Read", "/admin.(*history).run"}, known) {
			continue
		}
		lines := strings.Split(stack, "\n")
		for i := 0; i+1 < len(lines); i++ {
			function := strings.TrimPrefix(lines[i], "created by ")
			if strings.HasPrefix(function, modulePath) && !strings.Contains(lines[i+1], "_test.go:") {
				stacks = append(stacks, stack)
				break
			}
		}
	}
	return stacks
}

// assertNothingLeft waits for a gateway to have let go of everything.
func assertNothingLeft(t *testing.T, u *upstream) {
	t.Helper()
	left := ""
	defer func() {
		if t.Failed() {
			t.Log(left)
		}
	}()
	eventually(t, "nothing is left", func() bool {
		streams, stacks := stream.Process.Every(), ownGoroutines()
		open, _ := u.counts()
		left = fmt.Sprintf("%d streams, %d upstream connections, goroutines:\n%s", len(streams), open, strings.Join(stacks, "\n\n"))
		return len(streams) == 0 && len(stacks) == 0 && open == 0
	})
}

// TestOwnGoroutines holds the check to a goroutine that is there.
func TestOwnGoroutines(t *testing.T) {
	eventually(t, "nothing is left of the tests before", func() bool { return len(ownGoroutines()) == 0 })
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("linger 0s", u))
	c := g.subscribe("/")
	u.accept()
	if stacks := strings.Join(ownGoroutines(), "\n"); !strings.Contains(stacks, "/internal/upstreams.Run(") || !strings.Contains(stacks, "/internal/delivery.(*Delivery).") { // which the client's is until the first event
		t.Errorf("a stream and its subscriber are not seen in %s", stacks)
	}
	c.close()
	assertNothingLeft(t, u)
}

// After the last client and the linger time nothing is left of a stream,
// however it was used.
func TestNothingIsLeft(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(g *gateway, u *upstream)
	}{
		{"normal end", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			b := g.subscribe("/")
			up.event("1")
			a.expect("1")
			b.expect("1")
			up.end()
			a.expectEnd()
			b.expectEnd()
		}},
		{"clients are cut", func(g *gateway, u *upstream) {
			var clients []*testClient
			for range 20 {
				clients = append(clients, g.subscribe("/"))
			}
			up := u.accept()
			up.event("1")
			for _, c := range clients {
				c.expect("1")
				c.close()
			}
			up.expectGone()
		}},
		{"clients come back", func(g *gateway, u *upstream) {
			stay := g.subscribe("/")
			up := u.accept()
			up.event("1")
			last := stay.expect("1").LastEventID
			for range 20 {
				c := g.subscribe("/", "Last-Event-ID: "+last)
				up.event("2")
				last = c.expect("2").LastEventID
				stay.expect("2")
				c.close()
			}
			stay.close()
		}},
		{"upstream breaks", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			for range 3 {
				up := u.accept()
				up.event("1")
				a.expect("1")
				up.breakOff()
			}
			u.accept()
			a.close()
		}},
		{"clients leave a broken stream", func(g *gateway, u *upstream) {
			a := g.subscribe("/")
			up := u.accept()
			up.event("1")
			a.expect("1")
			up.breakOff()
			a.close()
		}},
		{"private streams", func(g *gateway, u *upstream) {
			t := g.t
			for range 3 {
				req := g.request(http.MethodPost, "/")
				resp, err := g.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				c := newTestClient(t, resp)
				up := u.accept()
				up.event("1")
				c.expect("1")
				c.close()
				up.expectGone()
			}
		}},
		{"a coded stream", func(g *gateway, u *upstream) {
			t := g.t
			for _, cut := range []bool{true, false} {
				c := g.subscribe("/gzip")
				up := u.accept()
				var coded bytes.Buffer
				w := gzip.NewWriter(&coded)
				if _, err := w.Write([]byte("data: 1\n\n")); err != nil || w.Flush() != nil {
					t.Fatal(err)
				}
				up.write(coded.String())
				c.expect("1")
				if cut {
					c.close()
					up.expectGone()
					continue
				}
				coded.Reset()
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				up.write(coded.String())
				up.end()
				c.expectEnd()
			}
		}},
		{"no event stream", func(g *gateway, _ *upstream) {
			t := g.t
			for range 3 {
				if text := body(t, g.get("/plain")); text != "plain" {
					t.Errorf("%q", text)
				}
				if resp := g.get("/refused"); resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s", resp.Status)
				}
			}
		}},
		{"upstream is not there", func(g *gateway, _ *upstream) {
			t := g.t
			for range 3 {
				if resp := g.get("/down"); resp.StatusCode != http.StatusBadGateway {
					t.Errorf("%s", resp.Status)
				}
			}
		}},
		{"opener leaves before the head", func(g *gateway, u *upstream) {
			t := g.t
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req := g.request(http.MethodGet, "/silent").WithContext(ctx)
			req.Header.Set("Accept", eventStreamType)
			done := make(chan error, 1)
			go func() {
				resp, err := g.client.Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				done <- err
			}()
			eventually(t, "the upstream is asked", func() bool { open, _ := u.counts(); return open == 1 })
			cancel()
			if err := <-done; err == nil {
				t.Error("there was an answer")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			released := make(chan struct{})
			u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/silent" {
					select {
					case <-r.Context().Done():
					case <-released:
					}
				}
				if r.URL.Path == "/gzip" {
					w.Header().Set("Content-Encoding", "gzip")
				}
				w.Header().Set("Content-Type", eventStreamType)
			})
			t.Cleanup(func() { close(released) })
			g := startGateway(t, site("sse {\nlinger 10ms\njoin live\n}\n"+
				"respond /plain plain\nrespond /refused 403\nreverse_proxy /down {socket}.none\nreverse_proxy "+u.address))
			test.use(g, u)
			assertNothingLeft(t, u)
		})
	}
}
