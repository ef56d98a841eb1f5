package caddysse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Faults of what operators are told that reviews have found.

// logOf makes a gateway's log go to a file, and returns its path.
func (g *gateway) logOf(caddyfile string) string {
	g.t.Helper()
	path := filepath.Join(g.t.TempDir(), "caddy.log")
	old := testGlobals
	testGlobals = strings.Replace(old, "output discard", "output file "+path, 1)
	defer func() { testGlobals = old }()
	g.load(caddyfile)
	return path
}

// countLines counts the lines of a log with a text, when all are written.
func countLines(t *testing.T, path, text string) int {
	t.Helper()
	logs.Flush()
	all, err := os.ReadFile(path) //nolint:gosec // G304: the test's own
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(all, []byte(text))
}

// Clients choose which stream they come to: what they cause is throttled over all
// streams of a handler.
func TestLinesOfClientsDoNotFlood(t *testing.T) {
	const clients = 50
	began := time.Now()
	u := startUpstream(t, nil)
	g := startGateway(t, "")
	path := g.logOf(proxied("linger 0s", u))
	for i := range clients {
		c := g.subscribe(fmt.Sprintf("/?x=%d", i), "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.7")
		c.close()
	}
	for i := range clients {
		c := g.subscribe("/", fmt.Sprintf("Authorization: Bearer user%d", i))
		up := u.accept()
		for up.request.Header.Get("Authorization") == "" { // those of the others
			up = u.accept()
		}
		up.write("event: endpoint\ndata: /x\n\n")
		c.next()
		c.close()
	}
	most := 2 + int(time.Since(began)/logs.Interval)
	for _, line := range []string{"client missed events", "a session for each connection"} {
		if n := countLines(t, path, line); n == 0 || n > most {
			t.Errorf("%q: %d lines, at most %d were due", line, n, most)
		}
	}
}

// A gap is counted when it is told, not if the answer is something else.
func TestGapsAreCountedWhenTold(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") })
	g := startGateway(t, proxied("", u))
	before := gather(t)
	go func() { u.accept().end() }()
	resp := g.get("/", "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.7")
	if _, told := resp.Header["Sse-Resume"]; told || gather(t).since(before)["gaps_total reason=epoch"] != 0 {
		t.Errorf("told: %v; counted %v", told, gather(t).since(before))
	}
}

// It is logged that a private stream broke off, also behind reverse_proxy, which
// panics then.
func TestPrivateBreakIsLogged(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, "")
	path := g.logOf(proxied("", u))
	c := g.post("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	up.breakOff()
	for range c.messages {
	}
	eventually(t, "it is logged", func() bool { return countLines(t, path, "private stream broke off") == 1 })
	c = g.post("/")
	up = u.accept()
	c.close()
	up.expectGone()
	eventually(t, "it is gone", func() bool { return len(stream.Process.Observed()) == 0 })
	if n := countLines(t, path, "private stream broke off"); n != 1 {
		t.Errorf("%d lines, one of a client that left", n)
	}
}

// The access-log entry of a client that left before there was an answer says so.
func TestAccessLogOfWhoLeftEarly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	u := startUpstream(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	g := startGateway(t, site("log own {\noutput file "+path+"\n}\nsse {\nlinger 0s\n}\nreverse_proxy "+u.address))
	ctx, leave := context.WithCancel(t.Context())
	r := g.request(http.MethodGet, "/").WithContext(ctx)
	r.Header.Set("Accept", "text/event-stream")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := g.client.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(t, "the upstream is asked", func() bool { _, all := u.counts(); return all == 1 })
	leave()
	<-done
	eventually(t, "there is an entry", func() bool { return len(accessEntries(t, path)) == 1 })
	if sse, _ := accessEntries(t, path)[0]["sse"].(map[string]any); sse["end_reason"] != "client" || sse["events"] != 0.0 {
		t.Errorf("%v", sse)
	}
}

// What a client that does not read was not sent is not counted as sent.
func TestStuckClientsAreCountedRightly(t *testing.T) {
	const size, large = 64 << 10, 12 << 20
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 16\nwrite_timeout 1s\nlag disconnect\nprime off\nheartbeat off") {
		t.Run(tr.name, func(t *testing.T) {
			before := gather(t)
			stuck := subscribeRaw(t, tr, "/"+tr.name)
			up := u.accept()
			up.event(numberedEvent(1, size))
			readSome(t, stuck, size/2)
			awaitTakenOver(t, 1)
			up.event(numberedEvent(2, large)) // does not fit into the system's buffers
			var d gathered
			eventually(t, "the client is cut", func() bool {
				d = gather(t).since(before)
				return d["subscribers_ended_total reason=write"] == 1
			})
			if blocks, sent := d["blocks_total direction=out"], d["bytes_total direction=out"]; blocks != 1 || sent < size/2 || sent > large {
				t.Errorf("%v blocks and %v bytes counted", blocks, sent)
			}
		})
	}
}

// lagSum is the sum of the delivery lags of all blocks, in seconds.
func lagSum(t *testing.T) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(theMetrics.lag); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetHistogram().GetSampleSum()
}

// The delivery lag has the time that a block has waited for its client to read.
func TestLagOfSlowClient(t *testing.T) {
	const size, wait = 12 << 20, 300 * time.Millisecond
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "write_timeout 1m\nprime off\nheartbeat off\nlinger 0s") {
		t.Run(tr.name, func(t *testing.T) {
			slow := subscribeRaw(t, tr, "/"+tr.name)
			up := u.accept()
			up.event("first")
			readSome(t, slow, 1)
			awaitTakenOver(t, 1)
			before := lagSum(t)
			up.event(numberedEvent(1, size)) // does not fit into the system's buffers
			eventually(t, "the block is complete", func() bool {
				every := stream.Process.Observed()
				seen, _ := every[0].Sample(time.Now())
				return len(every) == 1 && seen.Received == 2
			})
			time.Sleep(wait) // is part of the lag
			_ = slow.conn.SetReadDeadline(time.Time{})
			go func() { _, _ = io.Copy(io.Discard, slow.resp.Body) }()
			eventually(t, "the lag is observed", func() bool { return lagSum(t)-before >= wait.Seconds() })
			slow.close()
			awaitTakenOver(t, 0)
		})
	}
}

// An application that was down is shared again as soon as it answers: a failure
// that comes at once keeps nobody from it.
func TestFailureKeepsNobodyFromSharing(t *testing.T) {
	u := startUpstream(t, nil)
	var down atomic.Bool
	down.Store(true)
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		u.server.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(failing.Close)
	g := startGateway(t, proxied("", &upstream{address: failing.Listener.Addr().String()}))
	for range 3 {
		if resp := g.get("/"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%s", resp.Status)
		}
	}
	down.Store(false)
	eventually(t, "a moment is over, not a minute", func() bool {
		_, inForce := stream.Process.Remembered()
		return inForce == 0
	})
	a, b := g.subscribe("/"), g.subscribe("/")
	conn := u.accept()
	conn.event("1")
	a.expect("1")
	b.expect("1")
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
}
