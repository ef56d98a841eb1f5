package caddysse

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestManyClientsShareOneConnection(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	first := g.subscribe("/events")
	up := u.accept()
	clients := []*testClient{first}
	for range 20 {
		clients = append(clients, g.subscribe("/events"))
	}
	up.event("1", "2", "3")
	for _, c := range clients {
		c.expect("1", "2", "3")
	}
	first.close()
	up.event("4")
	for _, c := range clients[1:] {
		c.expect("4")
	}
	if open, all := u.counts(); open != 1 || all != 1 {
		t.Errorf("%d connections open, %d in all, expected 1 and 1", open, all)
	}
	for _, c := range clients {
		c.close()
	}
}

func TestResumeAfterCut(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	stay := g.subscribe("/events")
	up := u.accept()
	cut := g.subscribe("/events")
	up.event("1", "2")
	stay.expect("1", "2")
	last := cut.expect("1", "2")
	cut.close()
	up.event("3", "4")
	stay.expect("3", "4")
	back := g.subscribe("/events", "Last-Event-ID: "+last.LastEventID)
	if got := back.outcome(); got != "replayed; events=2" {
		t.Errorf("SSE-Resume: %s", got)
	}
	back.expect("3", "4")
	up.event("5")
	back.expect("5")
	stay.expect("5")
}

func TestOtherAnswersPass(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`sse
		respond /json `+"`{\"a\":1}`"+` 404
		reverse_proxy `+u.address))
	resp := g.get("/json")
	if text := body(t, resp); text != `{"a":1}` || resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s %q", resp.Status, text)
	}
}

// TestPanicInNext: it ends one upstream connection, with a log line.
func TestPanicInNext(t *testing.T) {
	u := startUpstream(t, nil)
	g := startLogged(t, site(`
		handle /within {
			sse
			test_panic within
		}
		handle /before {
			sse
			test_panic
		}
		handle {
			sse
			reverse_proxy `+u.address+`
		}`))
	other := g.subscribe("/")
	up := u.accept()

	stay := g.subscribe("/within")
	stay.expect("1") // and it goes on: the connection is opened again
	g.expectLine("panic in a handler behind sse", "a bug in a handler")
	g.expectLine("panic in a handler behind sse", "ServeHTTP") // the stack
	g.expectLine("upstream lost: trying again", "a bug in a handler")
	select {
	case m, ok := <-stay.messages:
		t.Errorf("after the panic: %+v, %v, %v", m, ok, stay.err)
	default:
	}
	before := len(g.lines())
	resp := g.read(http.MethodGet, "/before", "", "Accept: text/event-stream")
	if strings.Contains(resp.status, " 2") {
		t.Errorf("answered with %s", resp.short())
	}
	eventually(t, "a log line more about a panic", func() bool {
		for _, line := range g.lines()[before:] {
			if line["msg"] == "panic in a handler behind sse" {
				return true
			}
		}
		return false
	})

	up.event("untouched")
	other.expect("untouched")
	up.end()
	other.expectEnd()
	stay.close()
}

// TestUpstreamIsNoHTTP: an upstream that answers with something that is no
// HTTP is a bad gateway, for each asker.
func TestUpstreamIsNoHTTP(t *testing.T) {
	address := startRaw(t, func(c io.ReadWriteCloser) {
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n")
		c.Close()
	})
	g := startGateway(t, site("sse\nreverse_proxy "+address))
	for range 2 {
		if got := g.read(http.MethodGet, "/", "", "Accept: text/event-stream"); !strings.HasSuffix(got.status, " 502 Bad Gateway") {
			t.Errorf("answered with %s", got.short())
		}
	}
}
