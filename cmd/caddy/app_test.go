package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// All of these run in a synctest bubble: its clock is fake, and it fails when a goroutine outlives the test.

// startApp returns the application, and stops it when the test ends.
func startApp(t *testing.T, countFile string) *app {
	t.Helper()
	a := newApp(countFile)
	t.Cleanup(func() {
		if !a.stopping {
			a.stop()
		}
	})
	return a
}

// client is a request that is being served, and what came of it so far.
type client struct {
	cancel context.CancelFunc
	done   chan struct{}
	header http.Header
	cut    bool // not ended as a response that is complete; set before done

	mu      sync.Mutex
	sent    strings.Builder
	flushed int // length of sent at the last flush, -1 before
}

func (c *client) Header() http.Header { return c.header }
func (c *client) WriteHeader(int)     {}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.Write(p)
}

func (c *client) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushed = c.sent.Len()
}

// get starts a request, with a Last-Event-ID header unless it is empty, and returns when it waits for something.
func get(t *testing.T, a *app, target, lastEventID string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &client{cancel: cancel, done: make(chan struct{}), header: make(http.Header), flushed: -1}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	r.Header.Set("Accept", "text/event-stream")
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	go func() {
		defer close(c.done)
		defer func() {
			if cause := recover(); cause != nil {
				err, ok := cause.(error)
				c.cut = ok && errors.Is(err, http.ErrAbortHandler)
			}
		}()
		a.mux.ServeHTTP(c, r)
	}()
	synctest.Wait()
	return c
}

// leave ends the request as a client does that goes away.
func (c *client) leave() {
	c.cancel()
	synctest.Wait()
}

// begun reports whether anything was flushed, be it the head alone.
func (c *client) begun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushed >= 0
}

// body returns what was sent and flushed so far.
func (c *client) body() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.String()[:max(c.flushed, 0)]
}

// ended reports whether the response is complete.
func (c *client) ended() bool {
	synctest.Wait()
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// ids returns the ids of an event stream, joined with commas.
func ids(body string) string {
	var found []string
	for line := range strings.Lines(body) {
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			found = append(found, strings.TrimSpace(id))
		}
	}
	return strings.Join(found, ",")
}

// stepBetween moves the clock between two ticks, so that what a test does next does not coincide with one.
func stepBetween() { time.Sleep(tickEvery / 2) }

// pass lets so many ticks go by.
func pass(ticks int) { time.Sleep(time.Duration(ticks) * tickEvery) }

func connections(t *testing.T, a *app) (open map[string]int, accepted int) {
	t.Helper()
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/connections", nil))
	var answer status
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return answer.Open, answer.Accepted
}

func TestTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		stepBetween()
		pass(2)
		c := get(t, a, "/ticks", "")
		if ct := c.header.Get("Content-Type"); ct != "text/event-stream" || !c.begun() {
			t.Errorf("content type %q, head flushed before the first event: %t", ct, c.begun())
		}
		pass(3)
		if got := ids(c.body()); got != "3,4,5" {
			t.Errorf("ids %s, want 3,4,5", got)
		}
		if want := `id: 3` + "\n" + `data: {"n":3,"run":"` + a.run + `"}` + "\n\n"; !strings.HasPrefix(c.body(), want) {
			t.Errorf("body %q, want prefix %q", c.body(), want)
		}
		c.leave()
		if !c.ended() {
			t.Error("the response goes on without its client")
		}
	})
}

func TestTicksResume(t *testing.T) {
	for _, test := range []struct{ target, lastEventID, want string }{
		{"/ticks", "", "6"},
		{"/ticks", "3", "4,5,6"},
		{"/ticks", "0", "1,2,3,4,5,6"},
		{"/ticks", "5", "6"},
		{"/ticks?lastEventId=3", "", "4,5,6"},
		{"/ticks?lastEventId=1", "4", "5,6"}, // the header is the newer one
		{"/ticks", "6", "6"},                 // of an earlier run
		{"/ticks", "-1", "6"},
		{"/ticks", "sse1.abc.3", "6"},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := startApp(t, "")
			stepBetween()
			pass(5)
			c := get(t, a, test.target, test.lastEventID)
			pass(1)
			if got := ids(c.body()); got != test.want {
				t.Errorf("GET %s after %q: ids %s, want %s", test.target, test.lastEventID, got, test.want)
			}
			c.leave()
		})
	}
}

// TestTicksForgets asks for more than what is kept: the oldest are gone, and the application does not say so.
func TestTicksForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		stepBetween()
		pass(feedKept + 20)
		c := get(t, a, "/ticks", "5")
		got := strings.Split(ids(c.body()), ",")
		if len(got) != feedKept || got[0] != "21" || got[feedKept-1] != strconv.Itoa(feedKept+20) {
			t.Errorf("ids %s, want the last %d", got, feedKept)
		}
		c.leave()
	})
}

func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		stepBetween()
		log := get(t, a, "/log", "")
		if got := log.body(); strings.Count(got, "data: ") != snapshotLines || !strings.HasPrefix(got, "data: 00001 ") {
			t.Errorf("snapshot %q, want the first %d lines", got, snapshotLines)
		}
		pass(60)
		if got := log.body(); strings.Count(got, "\n\n") < snapshotLines+60/5 {
			t.Errorf("too few lines in a minute: %q", got)
		}
		if got := log.body(); strings.Contains(got, "id:") || strings.Contains(got, "\n:") {
			t.Errorf("an id or a comment: %q", got)
		}
		log.leave()
	})
}

// numbers returns the numbers of the events of /events, joined with commas.
func numbers(body string) string {
	var found []string
	for _, match := range regexp.MustCompile(`data: {"n":(\d+),"at":\d+}\n\n`).FindAllStringSubmatch(body, -1) {
		found = append(found, match[1])
	}
	return strings.Join(found, ",")
}

func TestEventsBeginWithTheFirstListenerAndAreNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		time.Sleep(time.Minute)
		first := get(t, a, "/events", "")
		time.Sleep(3*eventEvery + eventEvery/2)
		second := get(t, a, "/events", "1")
		time.Sleep(2 * eventEvery)
		if got := numbers(first.body()) + " " + numbers(second.body()); got != "1,2,3,4,5 4,5" {
			t.Errorf("numbers %s, want 1 to 5 for the first listener, and only new ones for the second", got)
		}
		if strings.Contains(first.body(), "id:") {
			t.Errorf("an id in %q", first.body())
		}
		first.leave()
		second.leave()
	})
}

// TestStopSendsWhatWasPublished: the numbers go on in the next process, and the old one has sent all of its own. No response
// looks complete.
func TestStopSendsWhatWasPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "count")
		a := startApp(t, file)
		c, progress := get(t, a, "/events", ""), get(t, a, "/progress", "")
		time.Sleep(3 * eventEvery) // the third is due now, and may be under way
		a.stop()
		if got := numbers(c.body()); !c.ended() || !c.cut || got != "1,2,3" && got != "1,2" {
			t.Errorf("numbers %s, ended %t, cut %t; want the first ones, and a cut", got, c.ended(), c.cut)
		}
		if !progress.ended() || !progress.cut {
			t.Error("the progress is not cut")
		}
		next := startApp(t, file)
		n := get(t, next, "/events", "")
		time.Sleep(2*eventEvery + eventEvery/2)
		if got := numbers(c.body() + n.body()); got != "1,2,3,4,5"[:len(got)] || len(got) < len("1,2,3,4") {
			t.Errorf("numbers %s over a restart, want each once", got)
		}
		n.leave()
	})
}

func TestExitIsForTheDemoOnly(t *testing.T) {
	for _, test := range []struct {
		name   string
		fields map[string]string
		status int
	}{
		{"the demo", map[string]string{"Content-Type": "application/json"}, http.StatusNoContent},
		{"a form", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, http.StatusForbidden},
		{"a browser", map[string]string{"Content-Type": "application/json", "Origin": "http://localhost:8081"}, http.StatusForbidden},
		{"through a proxy", map[string]string{"Content-Type": "application/json", "X-Forwarded-For": "127.0.0.1"}, http.StatusForbidden},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := startApp(t, "")
				exits := 0
				a.exit = func() { exits++ }
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/exit", strings.NewReader("{}"))
				for name, value := range test.fields {
					r.Header.Set(name, value)
				}
				w := httptest.NewRecorder()
				a.mux.ServeHTTP(w, r)
				if w.Code != test.status || exits == 1 != (test.status == http.StatusNoContent) {
					t.Errorf("status %d and %d exits, want %d", w.Code, exits, test.status)
				}
			})
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		first := get(t, a, "/progress", "")
		time.Sleep(progressEvery / 2)
		second := get(t, a, "/progress", "")
		if got := first.body() + second.body(); got != "data: 0\n\ndata: 0\n\n" {
			t.Errorf("%q, want each its own beginning", got)
		}
		for !second.ended() {
			time.Sleep(progressEvery)
		}
		if got := second.body(); !strings.HasSuffix(got, "data: 99\n\ndata: 100\n\n") || strings.Count(got, "data: ") != 101 {
			t.Errorf("%q, want 0 to 100", got)
		}
	})
}

func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		one, two, log := get(t, a, "/ticks", ""), get(t, a, "/ticks", ""), get(t, a, "/log", "")
		open, accepted := connections(t, a)
		if open["/ticks"] != 2 || open["/log"] != 1 || open["/plain"] != 0 || accepted != 3 {
			t.Errorf("open %v, accepted %d; want 2 of /ticks, 1 of /log", open, accepted)
		}
		one.leave()
		log.leave()
		open, accepted = connections(t, a)
		if open["/ticks"] != 1 || open["/log"] != 0 || accepted != 3 {
			t.Errorf("open %v, accepted %d; want 1 of /ticks left", open, accepted)
		}
		two.leave()
	})
}

func TestOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startApp(t, "")
		for _, test := range []struct {
			method, target string
			status         int
			contentType    string
		}{
			{http.MethodHead, "/ticks", http.StatusOK, "text/event-stream"},
			{http.MethodPost, "/ticks", http.StatusMethodNotAllowed, "text/plain; charset=utf-8"},
			{http.MethodGet, "/other", http.StatusNotFound, "text/plain; charset=utf-8"},
		} {
			w := httptest.NewRecorder()
			a.mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), test.method, test.target, nil))
			if w.Code != test.status || w.Header().Get("Content-Type") != test.contentType {
				t.Errorf("%s %s: %d %q, want %d %q", test.method, test.target, w.Code, w.Header().Get("Content-Type"), test.status, test.contentType)
			}
		}
	})
}
