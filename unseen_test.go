package caddysse

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// looksSoon shortens the times after which is looked past handlers, and after which what is seen there counts.
func looksSoon(t *testing.T) {
	t.Helper()
	unseen, lasting := unseenTime, lastingTime
	unseenTime, lastingTime = time.Millisecond, 50*time.Millisecond
	t.Cleanup(func() { unseenTime, lastingTime = unseen, lasting })
}

// unseenHint is the hint that the handler of a path sees nothing; nil: there is none.
func unseenHint(path string) *hints.Hint {
	found := hints.Process.List()
	if i := slices.IndexFunc(found, func(h hints.Hint) bool { return h.Kind == hints.Unseen && strings.HasSuffix(h.Place, path) }); i >= 0 {
		return &found[i]
	}
	return nil
}

// A handler with another path than clients ask for: it is told that event streams pass it, until a request comes to it.
func TestHandlerThatSeesNothingIsTold(t *testing.T) {
	overHTTP1(t)
	looksSoon(t)
	address := answers(t, func(http.ResponseWriter, *http.Request) int { return http.StatusOK })
	l := startUnloaded(t)
	l.reloadWith("", site("sse /event\nreverse_proxy "+address))
	h := handlersOf(t)[0]
	eventually(t, "the handler looks past itself", func() bool { return h.lookout.left.Load() > 0 })
	l.subscribe("/events").expect("1")
	eventually(t, "it is told", func() bool { return unseenHint("/event") != nil })
	if hint := unseenHint("/event"); !strings.Contains(hint.Remedy, "the path that clients ask for") {
		t.Errorf("hint %+v", hint)
	}
	l.expectLine("hint", "past it")
	l.subscribe("/event").expect("1")
	if hint := unseenHint(""); hint != nil {
		t.Errorf("%+v is left when a request has come", hint)
	}
	// The remedy, followed.
	l.reloadWith("", site("sse /events\nreverse_proxy "+address))
	l.subscribe("/events").expect("1")
	if hint := unseenHint(""); hint != nil {
		t.Errorf("hint %+v", hint)
	}
}

// What passes a handler that sees nothing, and is no event stream that it was meant for, is not taken for one.
func TestOtherRequestsPastAHandlerAreNotTold(t *testing.T) {
	overHTTP1(t)
	looksSoon(t)
	closing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(closing.Close)
	address := answers(t, func(w http.ResponseWriter, r *http.Request) int {
		switch r.URL.Path {
		case "/auth":
			return http.StatusUnauthorized
		case "/missing":
			return http.StatusNotFound
		}
		return http.StatusOK
	})
	for name, do := range map[string]func(l logged){
		"another sse has them":             func(l logged) { l.subscribe("/other").expect("1") },
		"refused by forward_auth":          func(l logged) { l.refused("/private", http.StatusUnauthorized) },
		"refused, and the connection ends": func(l logged) { l.refused("/closing", http.StatusUnauthorized) },
		"an error":                         func(l logged) { l.refused("/missing", http.StatusNotFound) },
		"a client that leaves":             func(l logged) { c := l.subscribe("/past"); c.expect("1"); c.close() },
		"no event stream is asked for": func(l logged) {
			resp, err := l.client.Do(l.request(http.MethodGet, "/past"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := startUnloaded(t)
			l.reloadWith("", site("sse /unseen {\nname unseen\n}\nsse /other {\nname other\n}\n"+
				"forward_auth /private "+address+" {\nuri /auth\n}\nforward_auth /closing "+closing.Listener.Addr().String()+" {\nuri /auth\n}\n"+
				"reverse_proxy "+address))
			h := handlersOf(t)[0]
			eventually(t, "the handler looks past itself", func() bool { return h.lookout.left.Load() > 0 })
			l.client.CloseIdleConnections() // those are not looked at that were there before
			do(l)
			for range 2 { // the second ends long after what was done before
				l.client.CloseIdleConnections()
				asked := time.Now()
				l.subscribe("/past").expect("1")
				eventually(t, "an event stream past it is told", func() bool {
					hint := unseenHint("/unseen")
					return hint != nil && !hint.Last.Before(asked.Add(lastingTime))
				})
			}
			if hint := unseenHint("/unseen"); hint.Count != 2 {
				t.Errorf("told %d times: %+v", hint.Count, hint)
			}
		})
	}
}

// refused asks for an event stream and reads the answer, which is none.
func (l logged) refused(target string, status int) {
	l.t.Helper()
	resp := l.get(target, "Accept: text/event-stream")
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != status {
		l.t.Errorf("%s: %s", target, resp.Status)
	}
}

// As long as requests come to a handler, connections are not looked at.
func TestNothingIsLookedAtWhileRequestsCome(t *testing.T) {
	overHTTP1(t)
	looksSoon(t)
	address := answers(t, func(http.ResponseWriter, *http.Request) int { return http.StatusOK })
	l := startUnloaded(t)
	l.reloadWith("", site("sse /events\nreverse_proxy "+address))
	l.subscribe("/events").expect("1")
	h := handlersOf(t)[0]
	h.lookout.look()
	if left := h.lookout.left.Load(); left != 0 {
		t.Errorf("%d connections are to be looked at", left)
	}
	if ctx := t.Context(); h.lookout.connContext(ctx, nil) != ctx {
		t.Error("a connection is looked at")
	}
}
