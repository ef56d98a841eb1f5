package caddysse

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What a stream that has ended is answered with when it is asked for again.
var laterAnswers = map[string]func(w http.ResponseWriter){
	"/401": func(w http.ResponseWriter) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "expired")
	},
	"/204": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
	"/302": func(w http.ResponseWriter) {
		w.Header().Set("Location", "/login")
		w.WriteHeader(http.StatusFound)
	},
	"/json": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"done":true}`)
	},
	"/503": func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "later")
	},
	"/429": func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, "slow down")
	},
	"/stream": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", eventStreamType)
		w.Header().Set("X-Answer", "2")
		_, _ = io.WriteString(w, "id: 2\ndata: second\n\n")
	},
}

// shown is what a client sees of an answer.
func shown(status int, header http.Header, body string) string {
	return fmt.Sprintln(status, header.Get("WWW-Authenticate"), header.Get("Location"), header.Get("Retry-After"), header.Get("X-Answer"),
		strings.Contains(body, "data: second"), header.Get("Content-Type") != eventStreamType && body != "", body == "")
}

// Who asks anew for a stream that has ended is given the application's answer,
// as without the gateway. So is who comes back with an ID, but for a failure that
// may pass: EventSource would never ask again.
func TestAnswerAfterTheEnd(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[string]int) // how often, by path and query
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.String()]++
		n := asked[r.URL.String()]
		mu.Unlock()
		switch {
		case n == 1:
			w.Header().Set("Content-Type", eventStreamType)
			_, _ = io.WriteString(w, "id: 1\ndata: first\n\n")
		case n == 2 || r.URL.Path != "/503" && r.URL.Path != "/429":
			laterAnswers[r.URL.Path](w)
		default:
			laterAnswers["/stream"](w)
		}
	}))
	defer app.Close()
	g := startGateway(t, site("sse {\njoin live\n}\nreverse_proxy "+app.Listener.Addr().String()))
	for path, answer := range laterAnswers {
		for _, id := range []string{"", "1"} {
			if id != "" && (path == "/503" || path == "/429") {
				continue // it takes time: see TestAfterCleanEnd
			}
			target := path + "?id=" + id
			a := g.subscribe(target)
			a.expect("first")
			a.expectEnd()

			expected := httptest.NewRecorder()
			answer(expected)
			r := g.request(http.MethodGet, target, "Accept: "+eventStreamType)
			if id != "" {
				r.Header.Set("Last-Event-ID", id)
			}
			resp, err := g.client.Transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			got := shown(resp.StatusCode, resp.Header, body(t, resp))
			if want := shown(expected.Code, expected.Header(), expected.Body.String()); got != want {
				t.Errorf("%s with ID %q: %s\nexpected %s", path, id, got, want)
			}
		}
	}
}

// An application that lets a client wait does not hold up who comes back: the
// head is known.
func TestComeBackToAnApplicationThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heartbeat, prime := caddy.Duration(0), false
		h := &Handler{Join: "live", Prime: &prime, Heartbeat: &Heartbeat{Interval: &heartbeat}}
		n := 0
		s := serveInBubble(t, h, func(w http.ResponseWriter, r *http.Request) error {
			n++
			w.Header().Set("Content-Type", eventStreamType)
			switch n {
			case 1:
				_, _ = io.WriteString(w, "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n")
			case 2:
				<-r.Context().Done()
				return r.Context().Err()
			default:
				_, _ = io.WriteString(w, "id: 3\ndata: 3\n\n")
			}
			return nil
		})
		s.listen(eventStreamType, time.Hour)
		got := s.listen(eventStreamType+"\r\nLast-Event-ID: 1", time.Hour)
		if len(got) != 2 || got[0].text != "id: 2\ndata: 2\n\n" || got[0].at != stream.OpeningPatience || got[1].text != "id: 3\ndata: 3\n\n" {
			t.Errorf("given %v", got)
		}
		if last := got[len(got)-1].at; last < stream.AttemptTime || last > stream.AttemptTime+2*time.Second {
			t.Errorf("another attempt was made after %v", last)
		}
	})
}
