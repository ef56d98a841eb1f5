package caddysse

import (
	"cmp"
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
	const passed = "Last-Event-ID: " + own
	for name, test := range map[string]struct {
		options, id  string
		method       string // GET unless it is given
		answer       string // a header field of the application's answer
		resume       string
		sent, inBand string
		counted      float64
	}{
		"an ID of the gateway":          {"gap_event missed", own, "", "Vary: *", "gap", "", told, 2},
		"without gap_event":             {"", own, "", "Vary: *", "gap", "", "", 2},
		"another ID":                    {"gap_event missed", "7", "", "Vary: *", "private", "Last-Event-ID: 7", "", 0},
		"no ID":                         {"gap_event missed", "", "", "Vary: *", "private", "", "", 0},
		"in a coding that is not known": {"gap_event missed", own, "", "Content-Encoding: br", "gap", "", "", 2},
		"ids upstream":                  {"gap_event missed\nids upstream", own, "", "Vary: *", "gap", passed, told, 2},
		"share off":                     {"gap_event missed\nshare off", own, "", "", "gap", passed, told, 2},
		"share off, another ID":         {"gap_event missed\nshare off", "7", "", "", "private", "Last-Event-ID: 7", "", 0},
		"POST":                          {"gap_event missed", own, "POST", "", "gap", passed, told, 2},
		"POST with detach, coded":       {"gap_event missed\ndetach 1m", own, "POST", "Content-Encoding: br", "gap", "", "", 2},
		"a gateway behind this one":     {"gap_event missed\nshare off", own, "", "SSE-Resume: replayed; events=1", "replayed; events=1", passed, "", 0},
		"a gateway with another gap":    {"gap_event missed\nshare off", own, "", "SSE-Resume: gap", "gap", passed, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := gather(t)
			u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if name, value, ok := strings.Cut(test.answer, ": "); ok {
					w.Header().Set(name, value)
				}
			})
			g := startLogged(t, proxied(test.options+"\nheartbeat off", u))
			for range 2 { // who opens the stream, and who comes when it is known not to be shared
				fields := []string{"Accept: text/event-stream", "Accept-Encoding: identity"}
				if test.id != "" {
					fields = append(fields, "Last-Event-ID: "+test.id)
				}
				resp := g.ask(cmp.Or(test.method, http.MethodGet), "/", "", fields...)
				up := u.accept()
				if got := sent(up, "Last-Event-ID"); got != test.sent {
					t.Errorf("sent upstream: %q", got)
				}
				got, _, _ := strings.Cut(strings.Join(resp.Header.Values("SSE-Resume"), "\n"), "; reason=")
				if got != test.resume {
					t.Errorf("SSE-Resume: %q", got)
				}
				text := "data: 1\n\n"
				if test.inBand != "" {
					text = "\uFEFF" + text // of which a client does not know what it is, after the gap
				}
				up.write(text)
				up.end()
				body, err := io.ReadAll(resp.Body)
				if want := test.inBand + "data: 1\n\n"; string(body) != want || err != nil {
					t.Errorf("given %q, %v, expected %q", body, err, want)
				}
			}
			if test.counted > 0 {
				g.expectLine("client missed events", "epoch")
			}
			now := gather(t).since(before)
			if now["gaps_total reason=epoch"] != test.counted || now["resumes_total outcome=gap"] != test.counted {
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
