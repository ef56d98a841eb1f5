package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// All of these run in a synctest bubble: its clock is fake, and it fails when a goroutine outlives the test.

// newDemo returns a provisioned demo, and stops it when the test ends.
func newDemo(t *testing.T) *demo {
	t.Helper()
	d := new(demo)
	if err := d.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// client is a request that is being served, and what came of it so far.
type client struct {
	cancel context.CancelFunc
	done   chan struct{}
	header http.Header

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
func get(t *testing.T, d *demo, target, lastEventID string) *client {
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
		if err := d.ServeHTTP(c, r, nil); err != nil {
			t.Error(err)
		}
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

func connections(t *testing.T, d *demo) (open map[string]int, accepted int) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := d.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/connections", nil), nil); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Open     map[string]int
		Accepted int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return answer.Open, answer.Accepted
}

func TestTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDemo(t)
		stepBetween()
		pass(2)
		c := get(t, d, "/ticks", "")
		if ct := c.header.Get("Content-Type"); ct != "text/event-stream" || !c.begun() {
			t.Errorf("content type %q, head flushed before the first event: %t", ct, c.begun())
		}
		pass(3)
		if got := ids(c.body()); got != "3,4,5" {
			t.Errorf("ids %s, want 3,4,5", got)
		}
		if want := `id: 3` + "\n" + `data: {"n":3,"run":"` + d.app.run + `"}` + "\n\n"; !strings.HasPrefix(c.body(), want) {
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
			d := newDemo(t)
			stepBetween()
			pass(5)
			c := get(t, d, test.target, test.lastEventID)
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
		d := newDemo(t)
		stepBetween()
		pass(feedKept + 20)
		c := get(t, d, "/ticks", "5")
		got := strings.Split(ids(c.body()), ",")
		if len(got) != feedKept || got[0] != "21" || got[feedKept-1] != strconv.Itoa(feedKept+20) {
			t.Errorf("ids %s, want the last %d", got, feedKept)
		}
		c.leave()
	})
}

func TestPlainAndLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDemo(t)
		stepBetween()
		plain, log := get(t, d, "/plain", "7"), get(t, d, "/log", "")
		if got := log.body(); strings.Count(got, "data: ") != snapshotLines || !strings.HasPrefix(got, "data: 00001 ") {
			t.Errorf("snapshot %q, want the first %d lines", got, snapshotLines)
		}
		pass(60)
		if got := plain.body(); !strings.HasPrefix(got, "data: event 1\n\ndata: event 2\n\n") || strings.Count(got, "\n\n") != 60 {
			t.Errorf("plain: %q, want 60 events from the first on", got)
		}
		if got := log.body(); strings.Count(got, "\n\n") < snapshotLines+60/5 {
			t.Errorf("log: too few lines in a minute: %q", got)
		}
		if got := plain.body() + log.body(); strings.Contains(got, "id:") || strings.Contains(got, "\n:") {
			t.Errorf("an id or a comment: %q", got)
		}
		plain.leave()
		log.leave()
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDemo(t)
		first := get(t, d, "/progress", "")
		time.Sleep(progressEvery / 2)
		second := get(t, d, "/progress", "")
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

func TestChat(t *testing.T) {
	const form, jsonType = "application/x-www-form-urlencoded", "application/json"
	emoji := strings.Repeat("%F0%9F%98%80", maxChatText)
	for _, test := range []struct {
		name, contentType, body string
		status                  int
		sent                    string
	}{
		{"form", form, "from=Ann&text=hello+there", http.StatusNoContent, `data: {"from":"Ann","text":"hello there"}` + "\n\n"},
		{"json", jsonType, `{"from":"Ann","text":"hello"}`, http.StatusNoContent, `data: {"from":"Ann","text":"hello"}` + "\n\n"},
		{"json with charset", jsonType + "; charset=utf-8", `{"text":"hello"}`, http.StatusNoContent, `data: {"from":"somebody","text":"hello"}` + "\n\n"},
		{"line ends", form, "from=a%0D%0Ab&text=x%0A%0Adata:+y", http.StatusNoContent, `data: {"from":"a\r\nb","text":"x\n\ndata: y"}` + "\n\n"},
		{"longest", form, "text=" + emoji, http.StatusNoContent, `data: {"from":"somebody","text":"` + strings.Repeat("😀", maxChatText) + "\"}\n\n"},
		{"text too long", form, "text=" + emoji + "a", http.StatusRequestEntityTooLarge, ""},
		{"name too long", form, "text=a&from=" + strings.Repeat("a", maxChatFrom+1), http.StatusRequestEntityTooLarge, ""},
		{"form too large", form, "text=a&more=" + strings.Repeat("a", maxChatBody), http.StatusRequestEntityTooLarge, ""},
		{"json too large", jsonType, `{"text":"a","more":"` + strings.Repeat("a", maxChatBody) + `"}`, http.StatusRequestEntityTooLarge, ""},
		{"no text", form, "from=Ann&text=+", http.StatusBadRequest, ""},
		{"not json", jsonType, "hello", http.StatusBadRequest, ""},
		{"not a form", form, "text=%zz", http.StatusBadRequest, ""},
		{"plain text", "text/plain", "hello", http.StatusUnsupportedMediaType, ""},
		{"no type", "", "hello", http.StatusUnsupportedMediaType, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDemo(t)
				reader := get(t, d, "/chat", "")
				defer reader.leave()
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/chat", strings.NewReader(test.body))
				r.Header.Set("Content-Type", test.contentType)
				w := httptest.NewRecorder()
				if err := d.ServeHTTP(w, r, nil); err != nil {
					t.Fatal(err)
				}
				if w.Code != test.status {
					t.Errorf("status %d, want %d", w.Code, test.status)
				}
				if got := reader.body(); got != test.sent {
					t.Errorf("sent %q, want %q", got, test.sent)
				}
			})
		})
	}
}

func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDemo(t)
		a, b, c := get(t, d, "/ticks", ""), get(t, d, "/ticks", ""), get(t, d, "/log", "")
		open, accepted := connections(t, d)
		if open["/ticks"] != 2 || open["/log"] != 1 || open["/plain"] != 0 || accepted != 3 {
			t.Errorf("open %v, accepted %d; want 2 of /ticks, 1 of /log", open, accepted)
		}
		a.leave()
		c.leave()
		open, accepted = connections(t, d)
		if open["/ticks"] != 1 || open["/log"] != 0 || accepted != 3 {
			t.Errorf("open %v, accepted %d; want 1 of /ticks left", open, accepted)
		}
		b.leave()
	})
}

// TestReload provisions a second configuration before the first is cleaned up, as Caddy does.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newDemo(t)
		stepBetween()
		c := get(t, old, "/ticks", "")
		pass(2)
		renewed := newDemo(t)
		if err := old.Cleanup(); err != nil {
			t.Fatal(err)
		}
		pass(2)
		if got := ids(c.body()); got != "1,2,3,4" {
			t.Errorf("ids %s over a reload, want 1,2,3,4", got)
		}
		if open, _ := connections(t, renewed); open["/ticks"] != 1 {
			t.Errorf("open %v after a reload, want the one of before", open)
		}
		if err := renewed.Cleanup(); err != nil {
			t.Fatal(err)
		}
		if !c.ended() {
			t.Error("the response goes on without the application")
		}
	})
}

func TestOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDemo(t)
		for _, test := range []struct {
			method, target string
			status         int
			contentType    string
		}{
			{http.MethodGet, "/", http.StatusOK, "text/html; charset=utf-8"},
			{http.MethodHead, "/ticks", http.StatusOK, "text/event-stream"},
			{http.MethodPost, "/ticks", http.StatusMethodNotAllowed, "text/plain; charset=utf-8"},
			{http.MethodGet, "/other", http.StatusNotFound, "text/plain; charset=utf-8"},
		} {
			w := httptest.NewRecorder()
			if err := d.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), test.method, test.target, nil), nil); err != nil {
				t.Fatal(err)
			}
			if w.Code != test.status || w.Header().Get("Content-Type") != test.contentType {
				t.Errorf("%s %s: %d %q, want %d %q", test.method, test.target, w.Code, w.Header().Get("Content-Type"), test.status, test.contentType)
			}
		}
	})
}

// TestPageAsksNobodyElse keeps the page working on a machine without a network.
func TestPageAsksNobodyElse(t *testing.T) {
	for _, mark := range []string{"http:", "https:", "src=\"", "//cdn", "@import"} {
		if strings.Contains(string(page), mark) {
			t.Errorf("the page has %q in it", mark)
		}
	}
}

func TestDirective(t *testing.T) {
	for input, valid := range map[string]bool{"sse_demo": true, "sse_demo twice": false, "sse_demo {\n x\n}": false} {
		_, err := parseDemo(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser(input)})
		if (err == nil) != valid {
			t.Errorf("%q: %v", input, err)
		}
	}
}
