package caddysse

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// post asks for a private stream.
func (g *gateway) post(target string, fields ...string) *testClient {
	g.t.Helper()
	resp, err := g.client.Do(g.request(http.MethodPost, target, fields...))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = resp.Body.Close() })
	return newTestClient(g.t, resp)
}

// A private stream is as old as max_age allows, and does not look complete then.
func TestMaxAgeOfPrivateStreams(t *testing.T) {
	before := gather(t)
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("max_age 50ms", u))
	c := g.post("/")
	up := u.accept()
	for range c.messages {
	}
	if c.err == nil {
		t.Error("it ended as if it were complete")
	}
	up.expectGone()
	eventually(t, "it is told why", func() bool {
		return gather(t).since(before)["subscribers_ended_total reason=max_age"] == 1
	})
}

// The placeholders of private streams.
func TestPlaceholdersOfPrivateStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	u := startUpstream(t, nil)
	g := startGateway(t, site("log own {\noutput file "+path+"\n}\n"+
		"log_append a {http.sse.stream}\nlog_append b {http.sse.resume}\nlog_append c {http.sse.events}\nlog_append d {http.sse.end_reason}\n"+
		"sse\nreverse_proxy "+u.address))
	c := g.post("/")
	up := u.accept()
	up.numbered("1", "2")
	c.expect("1", "2")
	id := stream.Process.Observed()[0].ID()
	up.end()
	c.expectEnd()
	eventually(t, "there is an entry", func() bool { return len(accessEntries(t, path)) == 1 })
	e := accessEntries(t, path)[0]
	if got, want := fmt.Sprint(e["a"], e["b"], e["c"], e["d"]), fmt.Sprint(id, "private", 2, "upstream"); got != want {
		t.Errorf("%q, expected %q", got, want)
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

// TestEndlessBlockOnPrivateStream: the response breaks off, and the log names
// the limit.
func TestEndlessBlockOnPrivateStream(t *testing.T) {
	u := startUpstream(t, nil)
	g := startLogged(t, proxied("max_event_size 64KiB", u))
	result := make(chan answer, 1)
	go func() { result <- g.read(http.MethodPost, "/", "{}") }()
	up := u.accept()
	up.event("before")
	pour(t, up, "data: a\n")
	if got := <-result; !strings.HasPrefix(got.body, "data: before\n\ndata: a\n") || len(got.body) > 128<<10 || got.err == "" {
		t.Errorf("the client was given %s", got.short())
	}
	g.expectLine("upstream event over max_event_size", "limit of 65536 bytes")
}
