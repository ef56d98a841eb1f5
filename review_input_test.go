package caddysse

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// An empty field is sent upstream and not in the key.
func TestEmptyHeaderFieldIsInKey(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	sharing{path: "/", a: []string{"X-Debug: "}}.check(t, g, u)
}

// A last event ID that no header field can carry ends in 502.
func TestControlCharacterInLastEventID(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for i, id := range []string{"\x01", "a\x7f", "a\x1bb"} {
		c := g.subscribeTo(t, fmt.Sprintf("/%d?lastEventId=%s", i, url.QueryEscape(id)))
		up := u.accept()
		up.end()
		c.expectEnd()
	}
}

// Who has the head of an event stream and is sent upstream on its own is
// given the body of an answer that is no event stream.
func TestOtherAnswerAfterHead(t *testing.T) {
	kinds := make(chan string, 3)
	kinds <- "text/event-stream"
	kinds <- "text/html"
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", <-kinds) })
	g := startGateway(t, proxied("", u))
	a, b := g.subscribe("/"), g.subscribe("/")
	up := u.accept()
	up.write("event: endpoint\ndata: a\n\n")
	a.expect("a")
	upB := u.accept()
	upB.write("data: this is HTML\n\n")
	upB.end()
	if m, ok := <-b.messages; ok {
		t.Errorf("event %+v of an answer that is HTML", m)
	}
	up.end()
	a.expectEnd()
}

// After lag skip, an error in the next option names the wrong line.
func TestErrorNamesItsLine(t *testing.T) {
	_, err := adaptOptions(t, "lag skip\nids none\ngap_event missed")
	if err == nil || !strings.Contains(err.Error(), "Caddyfile:4") {
		t.Errorf("error %v, expected it to be at Caddyfile:4", err)
	}
}

// An id that no header field can carry makes every reconnect fail.
func TestUpstreamIDThatCannotBeSent(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for i, id := range []string{"a\x01b", "\x7f"} {
		c := g.subscribe(fmt.Sprint("/", i))
		up := u.accept()
		up.write("retry: 1\nid: " + id + "\ndata: 1\n\n")
		c.expect("1")
		up.breakOff()
		up = u.accept()
		up.event("2")
		c.expect("2")
		c.close()
	}
}
