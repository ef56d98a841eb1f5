package caddysse

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// offer is what Java's HttpClient says with each request over plain HTTP.
var offer = []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"}

// TestOffersAreIgnored: a client that offers another protocol than websocket has
// its stream shared, kept alive and ended at the stop like any other.
func TestOffersAreIgnored(t *testing.T) {
	overHTTP1(t) // HTTP/2 has no such offers
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("heartbeat 10ms\ndrain 10ms", u))
	a := g.subscribe("/", offer...)
	up := u.accept()
	b := g.subscribe("/", "Connection: Upgrade", "Upgrade: foo/1")
	c := g.subscribe("/")
	if open, all := u.counts(); open != 1 || all != 1 {
		t.Errorf("%d upstream connections, expected that all share one", all)
	}
	up.event("1")
	a.expect("1")
	b.expect("1")
	c.expect("1")
	if got := sent(up, "Upgrade", "HTTP2-Settings", "Connection"); got != "" {
		t.Errorf("sent upstream:\n%s", got)
	}

	req := g.request(http.MethodPost, "/private", offer...)
	resp, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	private := u.accept()
	if got := sent(private, "Upgrade", "HTTP2-Settings", "Connection"); got != "" {
		t.Errorf("sent upstream:\n%s", got)
	}
	beat := make([]byte, len(delivery.EmptyComment))
	if _, err := resp.Body.Read(beat); err != nil || string(beat) != delivery.EmptyComment {
		t.Errorf("%q, %v, expected a heartbeat", beat, err)
	}
	stream.Process.Stop()
	private.expectGone()
	up.expectGone()
	_ = resp.Body.Close()
}

func TestDeclineHTTP2(t *testing.T) {
	for before, after := range map[string]string{
		"Upgrade: h2c|Connection: Upgrade, HTTP2-Settings|HTTP2-Settings: a": "",
		"Upgrade: H2C|Connection: upgrade,keep-alive, http2-settings":        "Connection: keep-alive",
		"Upgrade: tcp|Connection: Upgrade":                                   "Connection: Upgrade|Upgrade: tcp",
		"Upgrade: h2c, tcp|Connection: Upgrade, HTTP2-Settings":              "Connection: Upgrade|Upgrade: tcp",
		"X-A: 1": "X-A: 1",
	} {
		header := make(http.Header)
		for field := range strings.SplitSeq(before, "|") {
			name, value, _ := strings.Cut(field, ": ")
			header.Add(name, value)
		}
		declineHTTP2(&http.Request{Header: header})
		var b strings.Builder
		_ = header.Write(&b)
		if got := strings.ReplaceAll(strings.TrimSpace(b.String()), "\r\n", "|"); got != after {
			t.Errorf("%s: left is %q, expected %q", before, got, after)
		}
	}
}

// TestDetachLeavesUpgradesAlone: what goes over to another protocol is no answer
// that could outlive its client.
func TestDetachLeavesUpgradesAlone(t *testing.T) {
	h := &Handler{detached: new(detachSettings)}
	for _, field := range []string{"", "tcp", "SPDY/3.1"} {
		r := &http.Request{Method: http.MethodPost, Header: http.Header{}}
		if field != "" {
			r.Header.Set("Upgrade", field)
		}
		if got := h.mayDetach(r); got != (field == "") {
			t.Errorf("Upgrade: %s may be detached: %v", field, got)
		}
	}
	if !neverStream(&http.Request{Method: http.MethodGet, Header: http.Header{"Upgrade": {"h2c, WebSocket"}}}) {
		t.Error("an offer of websocket is not left alone")
	}
}
