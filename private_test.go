package caddysse

import (
	"fmt"
	"net/http"
	"path/filepath"
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
