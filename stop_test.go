package caddysse

import (
	"net/http"
	"testing"
	"time"
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
			up.write("data: not whole\n")
			theHub.stop()
			up.expectGone()
			c.expectEnd()
			if retry, _ := c.reader.Retry(); retry != 7*time.Second {
				t.Errorf("reconnection time %v", retry)
			}
		})
	}
}

// Who comes when the process stops is cut: EventSource gives up on any status.
func TestStopCutsNewcomers(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	theHub.stop()
	resp, err := g.client.Do(g.request(http.MethodGet, "/", "Accept: text/event-stream"))
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("status %s", resp.Status)
	}
}
