package caddysse

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// streamEnding is how a stream that was taken over ends.
type streamEnding struct {
	name, options string
	window        int
	do            func(s *sharingGateway, c *rawHTTP2, up *upstreamClient)
	code          string // what the client is told; "": nothing
	reason        string
	all           bool // the streams beside it end as well
}

var streamEndings = []streamEnding{
	{name: "the upstream ends it", do: func(_ *sharingGateway, _ *rawHTTP2, up *upstreamClient) { up.end() }, code: "end", reason: "upstream"},
	{
		name: "the upstream breaks off", options: "reconnect never",
		do: func(_ *sharingGateway, _ *rawHTTP2, up *upstreamClient) { up.breakOff() }, code: "INTERNAL_ERROR", reason: "broken",
	},
	{name: "it is too old", options: "max_age 300ms", do: func(*sharingGateway, *rawHTTP2, *upstreamClient) {}, code: "end", reason: "max_age", all: true},
	{
		name: "an operator ends it", do: func(*sharingGateway, *rawHTTP2, *upstreamClient) {
			for _, s := range stream.Process.Observed() {
				s.LetGo(0)
			}
		}, code: "end", reason: "admin", all: true,
	},
	{
		name: "the process stops", options: "drain 50ms",
		do: func(*sharingGateway, *rawHTTP2, *upstreamClient) { stream.Process.Stop() }, code: "end", reason: "stopping", all: true,
	},
	{
		name: "another configuration has no such handler", options: "drain 50ms",
		do: func(s *sharingGateway, _ *rawHTTP2, _ *upstreamClient) { s.load("name other") }, code: "end", reason: "reload", all: true,
	},
	{
		name: "the client lags behind", options: "lag disconnect\nbuffer 16\nwrite_timeout 1m", window: 100,
		do: func(_ *sharingGateway, c *rawHTTP2, up *upstreamClient) {
			for i := range 100 {
				up.event(fmt.Sprint("lag ", i))
			}
			c.until("it is stuck", func() bool { return c.room[1] == 0 })
			eventually(c.t, "the newest one is there", func() bool { return received("/x") == 101 })
			c.give(1, 1000)
		}, code: "end", reason: "lag",
	},
	{
		name: "the client gives no room", options: "write_timeout 300ms", window: 100,
		do:   func(_ *sharingGateway, _ *rawHTTP2, up *upstreamClient) { up.event(strings.Repeat("x", 300)) },
		code: "INTERNAL_ERROR", reason: "write",
	},
	{
		name: "the client resets it", do: func(_ *sharingGateway, c *rawHTTP2, _ *upstreamClient) {
			c.do(c.framer.WriteRSTStream(1, http2.ErrCodeCancel))
		}, reason: "client",
	},
}

// received is how many events the stream of a path has got.
func received(path string) (n uint64) {
	for _, s := range stream.Process.Observed() {
		if seen, ok := s.Sample(time.Now()); ok && seen.Path == path {
			n = seen.Received
		}
	}
	return n
}

// Streams that were taken over end for the reasons for which others do: the client
// is told whether it has all, the metrics and the access log say why, and those
// beside it on the connection go on.
func TestTakenOverStreamsEndAsOthers(t *testing.T) {
	for _, test := range streamEndings {
		t.Run(test.name, func(t *testing.T) { testStreamEnding(t, test) })
	}
}

func testStreamEnding(t *testing.T, test streamEnding) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	u := startUpstream(t, nil)
	s := sharingSetup{
		site:    "log own {\noutput file " + log + "\n}",
		options: "ids upstream\nheartbeat off\nprime off\n" + test.options,
	}.start(t, u)
	before := gather(t)
	window := cmp.Or(test.window, 65535)
	c := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(window)})
	var ups []*upstreamClient
	for i, path := range []string{"/x", "/y"} {
		id := uint32(2*i + 1)
		c.request(id, path, window)
		up := u.accept()
		ups = append(ups, up)
		up.event("begin")
		c.until("it begins", func() bool { return c.got[id].Len() > 0 })
	}
	if test.code != "end" || test.reason != "max_age" { // else it may have ended already
		awaitMetric(t, takenOver, 2)
	}
	test.do(s, c, ups[0])
	c.until("it ends", func() bool { return test.code == "" || c.ended[1] != "" })
	if c.ended[1] != test.code {
		t.Errorf("it ends with %q, expected %q", c.ended[1], test.code)
	}
	if test.all {
		c.until("so does the other", func() bool { return c.ended[3] == test.code })
	} else {
		ups[1].event("beside it")
		c.until("the other goes on", func() bool { return strings.HasSuffix(c.got[3].String(), "data: beside it\n\n") })
		if c.ended[0] != "" {
			t.Errorf("the connection ends: %s", c.ended[0])
		}
	}
	eventually(t, "it is told why", func() bool {
		n := gather(t).since(before)["subscribers_ended_total reason="+test.reason]
		return n == 1 || (test.all && n == 2)
	})
	assertAccessEntry(t, log, c, test.reason)
	_ = c.conn.Close()
	awaitMetric(t, takenOver, 0)
}

// assertAccessEntry checks that there is one entry of stream 1, with what the client
// was sent.
func assertAccessEntry(t *testing.T, log string, c *rawHTTP2, reason string) {
	t.Helper()
	var found []map[string]any
	eventually(t, "there is an entry", func() bool {
		found = nil
		for _, entry := range accessEntries(t, log) {
			if request, _ := entry["request"].(map[string]any); request["uri"] == "/x" {
				found = append(found, entry)
			}
		}
		return len(found) > 0
	})
	entry := found[0]
	request, _ := entry["request"].(map[string]any)
	sse, _ := entry["sse"].(map[string]any)
	took, _ := entry["duration"].(float64)
	if len(found) != 1 || entry["status"] != 200.0 || entry["size"] != float64(c.got[1].Len()) || took <= 0 ||
		request["proto"] != "HTTP/2.0" || sse["end_reason"] != reason {
		t.Errorf("%d entries, the first is %v; the client got %d bytes", len(found), entry, c.got[1].Len())
	}
}
