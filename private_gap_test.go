package caddysse

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// A client that comes with an ID of the gateway, and whose answer turns out to be
// its alone, cannot be given what it missed: it is told.
func TestGapOfPrivateStreams(t *testing.T) {
	const own = "sse1.0123456789abcdef0123456789abcdef.5"
	const told = "event: missed\ndata: {\"reason\":\"epoch\",\"last_event_id\":\"" + own + "\",\"missed\":null}\n\n"
	for name, test := range map[string]struct {
		options, id, resume, sent, gap string
	}{
		"an ID of the gateway": {"gap_event missed", own, "gap", "", told},
		"without gap_event":    {"", own, "gap", "", ""},
		"another ID":           {"gap_event missed", "7", "", "Last-Event-ID: 7", ""},
		"no ID":                {"gap_event missed", "", "", "", ""},
		"ids upstream":         {"gap_event missed\nids upstream", own, "", "Last-Event-ID: " + own, ""},
		"share off":            {"gap_event missed\nshare off", own, "", "Last-Event-ID: " + own, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := gather(t)
			u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Vary", "*")
			})
			g := startLogged(t, proxied(test.options+"\nheartbeat off", u))
			for range 2 { // who opens the stream, and who comes when it is known not to be shared
				fields := []string{"Accept: text/event-stream"}
				if test.id != "" {
					fields = append(fields, "Last-Event-ID: "+test.id)
				}
				resp := g.get("/", fields...)
				up := u.accept()
				if got := sent(up, "Last-Event-ID"); got != test.sent {
					t.Errorf("sent upstream: %q", got)
				}
				if got := resp.Header.Get("SSE-Resume"); got != test.resume {
					t.Errorf("SSE-Resume: %q", got)
				}
				text := "data: 1\n\n"
				if test.gap != "" {
					text = "\uFEFF" + text // of which a client does not know what it is, after the gap
				}
				up.write(text)
				up.end()
				body, err := io.ReadAll(resp.Body)
				if want := test.gap + "data: 1\n\n"; string(body) != want || err != nil {
					t.Errorf("given %q, %v, expected %q", body, err, want)
				}
			}
			count := 0.0
			if test.resume != "" {
				count = 2
				g.expectLine("gap told", "epoch")
			}
			now := gather(t).since(before)
			if now["gaps_total reason=epoch"] != count || now["resumes_total outcome=gap"] != count {
				t.Errorf("counted %v", now)
			}
		})
	}
}

// What is not an event stream has no gap.
func TestNoGapOfOtherAnswers(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
	})
	g := startGateway(t, proxied("gap_event missed", u))
	go func() { u.accept().end() }()
	resp := g.get("/", "Last-Event-ID: sse1."+strings.Repeat("0", 32)+".5")
	if got := resp.Header.Values("SSE-Resume"); got != nil {
		t.Errorf("SSE-Resume: %q", got)
	}
}
