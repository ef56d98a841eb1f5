package caddysse

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// looksSoon shortens the time after which is looked past handlers. Of the answers that are looked at it is the test that
// says when they have lasted.
func looksSoon(t *testing.T) *looked {
	t.Helper()
	l := new(looked)
	unseen, lasted := unseenTime, whenLasted
	unseenTime, whenLasted = time.Millisecond, l.whenLasted
	t.Cleanup(func() { unseenTime, whenLasted = unseen, lasted })
	return l
}

// looked is the answers to requests for event streams that are looked at.
type looked struct {
	mu      sync.Mutex
	answers []*lookedAnswer
}

// lookedAnswer is one of them, and the timer of its time.
type lookedAnswer struct {
	upstream net.Conn
	do       func()
	stopped  atomic.Bool
}

func (a *lookedAnswer) Stop() bool { return !a.stopped.Swap(true) }

func (l *looked) whenLasted(upstream net.Conn, do func()) stopper {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &lookedAnswer{upstream: upstream, do: do}
	l.answers = append(l.answers, a)
	return a
}

// haveEnded reports whether the gateway has seen the end of all.
func (l *looked) haveEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(l.answers, func(a *lookedAnswer) bool { return !a.stopped.Load() && isOpen(a.upstream) })
}

// pass lets the time pass in which answers have to last, and returns how many there were.
func (l *looked) pass() int {
	l.mu.Lock()
	answers := l.answers
	l.answers = nil
	l.mu.Unlock()
	for _, a := range answers {
		if a.Stop() {
			a.do()
		}
	}
	return len(answers)
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
	looked := looksSoon(t)
	address := answers(t, func(http.ResponseWriter, *http.Request) int { return http.StatusOK })
	l := startUnloaded(t)
	l.reloadWith("", site("sse /event\nreverse_proxy "+address))
	h := handlersOf(t)[0]
	eventually(t, "the handler looks past itself", func() bool { return h.lookout.left.Load() > 0 })
	l.subscribe("/events").expect("1")
	if hint := unseenHint("/event"); hint != nil {
		t.Errorf("%+v, of an answer that has not lasted", hint)
	}
	looked.pass()
	if hint := unseenHint("/event"); hint == nil || !strings.Contains(hint.Remedy, "the path that clients ask for") {
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
	looked := looksSoon(t)
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
	for name, test := range map[string]struct {
		do    func(l logged)
		looks int  // answers that are looked at
		lasts bool // and do not end
	}{
		"another sse has them":             {do: func(l logged) { l.subscribe("/other").expect("1") }, looks: 1, lasts: true},
		"refused by forward_auth":          {do: func(l logged) { l.refused("/private", http.StatusUnauthorized) }, looks: 1},
		"refused, and the connection ends": {do: func(l logged) { l.refused("/closing", http.StatusUnauthorized) }, looks: 1},
		"an error":                         {do: func(l logged) { l.refused("/missing", http.StatusNotFound) }, looks: 1},
		"a client that leaves":             {do: func(l logged) { c := l.subscribe("/past"); c.expect("1"); c.close() }, looks: 1},
		"no event stream is asked for": {do: func(l logged) {
			resp, err := l.client.Do(l.request(http.MethodGet, "/past"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := startUnloaded(t)
			l.reloadWith("", site("sse /unseen {\nname unseen\n}\nsse /other {\nname other\n}\n"+
				"forward_auth /private "+address+" {\nuri /auth\n}\nforward_auth /closing "+closing.Listener.Addr().String()+" {\nuri /auth\n}\n"+
				"reverse_proxy "+address))
			h := handlersOf(t)[0]
			eventually(t, "the handler looks past itself", func() bool { return h.lookout.left.Load() > 0 })
			l.client.CloseIdleConnections() // those are not looked at that were there before
			test.do(l)
			if !test.lasts {
				eventually(t, "the gateway has seen the end of what it asked", looked.haveEnded)
			}
			if n := looked.pass(); n != test.looks {
				t.Errorf("%d answers were looked at, expected %d", n, test.looks)
			}
			if hint := unseenHint("/unseen"); hint != nil {
				t.Errorf("told: %+v", hint)
			}
			l.client.CloseIdleConnections()
			l.subscribe("/past").expect("1") // and what is an event stream past it, is told
			looked.pass()
			if hint := unseenHint("/unseen"); hint == nil || hint.Count != 1 {
				t.Errorf("hint %+v", hint)
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
