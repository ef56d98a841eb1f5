package caddysse

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// When the process stops, private streams end after the time of drain, as HTTP
// says and after a whole event, and the upstream is let go.
func TestStopEndsPrivateStreams(t *testing.T) {
	for name, request := range map[string]func(g *gateway) *http.Response{
		"POST": func(g *gateway) *http.Response {
			resp, err := g.client.Do(g.request(http.MethodPost, "/"))
			if err != nil {
				t.Fatal(err)
			}
			return resp
		},
		"the opener of a stream that is not shared": func(g *gateway) *http.Response {
			return g.get("/private", "Accept: text/event-stream")
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if r.URL.Path == "/private" {
					w.Header().Set("Vary", "*")
				}
			})
			g := startGateway(t, proxied("drain 10ms\nretry 7s", u))
			resp := request(g)
			defer resp.Body.Close()
			up := u.accept()
			up.event("1")
			c := newTestClient(t, resp)
			c.expect("1")
			stream.Process.Stop()
			up.expectGone()
			c.expectEnd()
			if retry, _ := c.reader.Retry(); retry != 7*time.Second {
				t.Errorf("reconnection time %v", retry)
			}
		})
	}
}

// A client that has part of an event is cut at the stop: what it has must not
// look complete.
func TestStopWithinAnEvent(t *testing.T) {
	for name, part := range map[string]string{"a line": "data: not whole", "lines": "data: not whole\n", "tokens": "not whole "} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("drain 10ms\nretry 7s", u))
			result := make(chan answer, 1)
			go func() { result <- g.read(http.MethodPost, "/", "{}") }()
			up := u.accept()
			up.event("1")
			up.write(part)
			eventually(t, "it passes", func() bool { return privateBytes() == len("data: 1\n\n"+part) })
			stream.Process.Stop()
			if got := <-result; got.body != "data: 1\n\n"+part || got.err == "" {
				t.Errorf("the client was given %s", got.short())
			}
			up.expectGone()
		})
	}
}

// privateBytes is how many bytes the client of the one private stream was given.
func privateBytes() (bytes int) {
	for _, s := range stream.Process.Samples(time.Now()) {
		if s.Private {
			bytes += int(s.Bytes)
		}
	}
	return bytes
}

// Who comes when the process stops is cut: EventSource gives up on any status.
func TestStopCutsNewcomers(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	stream.Process.Stop()
	resp, err := g.client.Do(g.request(http.MethodGet, "/", "Accept: text/event-stream"))
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("status %s", resp.Status)
	}
}
