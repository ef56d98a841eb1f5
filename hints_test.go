package caddysse

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/internal/admin"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// answers starts an application that answers by a function, and keeps event streams open with one event.
func answers(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) (status int)) (address string) {
	t.Helper()
	return answersWith(t, answer, func(w http.ResponseWriter, r *http.Request) {
		writeEvent(w, 1)
		<-r.Context().Done()
	})
}

// answersWith is answers for event streams with the events that a function writes.
func answersWith(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) (status int), events http.HandlerFunc) (address string) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := answer(w, r); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", eventStreamType)
		events(w, r)
	}))
	t.Cleanup(func() {
		app.CloseClientConnections()
		app.Close()
	})
	return app.Listener.Addr().String()
}

func writeEvent(w http.ResponseWriter, n int) {
	_, _ = fmt.Fprintf(w, "data: %d\n\n", n)
	_ = http.NewResponseController(w).Flush()
}

// setUp is an ordinary set-up that does not do what is meant.
type setUp struct {
	answer       func(http.ResponseWriter, *http.Request) int
	before       string // of sse
	options      string
	clients      int
	target       func(i int) string
	fields       func(i int) []string
	kind         hints.Kind
	text, remedy string
	after        string // options: the remedy, followed
	shared       bool   // all clients share then
}

// ask returns the target and the fields of a client's request.
func (s *setUp) ask(i int) (target string, fields []string) {
	target = "/events"
	if s.target != nil {
		target = s.target(i)
	}
	if s.fields != nil {
		fields = s.fields(i)
	}
	return target, fields
}

func fine(http.ResponseWriter, *http.Request) int { return http.StatusOK }

// setUps are those that are told while they run.
var setUps = map[string]*setUp{
	"Laravel: a cookie with each answer": {
		answer: func(w http.ResponseWriter, _ *http.Request) int {
			w.Header().Set("Set-Cookie", "laravel_session=secret")
			return http.StatusOK
		},
		options: "share cookies user", clients: 2, fields: func(int) []string { return []string{"Cookie: user=1"} },
		kind: hints.NotShared, text: "sets a cookie, which is one client's: laravel_session", remedy: "set_cookie strip",
		after: "share cookies user\nset_cookie strip", shared: true,
	},
	"forward_auth with share cookies": {
		answer: func(_ http.ResponseWriter, r *http.Request) int {
			if r.URL.Path != "/auth" && r.Header.Get("Remote-User") == "" {
				return http.StatusUnauthorized
			}
			return http.StatusOK
		},
		before: "request_header Remote-User ann", options: "share cookies session", clients: 2,
		fields: func(int) []string { return []string{"Cookie: session=1"} },
		kind:   hints.Withheld, text: "withheld was {http.request.header.Remote-User}", remedy: "key_add {http.request.header.Remote-User}",
		after: "share cookies session\nkey_add {http.request.header.Remote-User}", shared: true,
	},
	"a key without the query": {
		answer: fine, options: "key {header.Authorization}", clients: 2,
		target: func(i int) string { return fmt.Sprint("/events?room=", i) },
		fields: func(int) []string { return []string{"Authorization: a"} },
		kind:   hints.Query, text: "not sent to the application (room)", remedy: "key {http.request.header.Authorization}{query}",
		after: "key {http.request.header.Authorization}{query}",
	},
	"a key without a query that does not matter": {
		answer: fine, options: "key {header.Authorization}", clients: 2,
		target: func(i int) string { return fmt.Sprint("/events?_=", i) },
		fields: func(int) []string { return []string{"Authorization: a"} },
		kind:   hints.Query, text: "not sent to the application (_)", remedy: "key_ignore query _",
		after: "key {header.Authorization}\nkey_ignore query _", shared: true,
	},
	"40 visitors with analytics cookies": {
		answer: fine, clients: 40, fields: func(i int) []string { return []string{fmt.Sprint("Cookie: _ga=", i, "; theme=dark")} },
		kind: hints.FewShare, text: "kept apart by cookie _ga; another value in each", remedy: "share public, if",
		after: "share public", shared: true,
	},
	"share public with many queries": {
		answer: fine, options: "share public", clients: 40, target: func(i int) string { return fmt.Sprint("/events?_=", i) },
		kind: hints.FewShare, text: "kept apart by query _;", remedy: "key_ignore query _, if", after: "share public\nkey_ignore query _", shared: true,
	},
}

// Ordinary set-ups that do not do what is meant: each has a hint, on the page too, and a line in the log. What the hint says
// to write makes all go away, and the set-up right.
func TestSetUpsThatAreNotRight(t *testing.T) {
	for name, test := range setUps {
		t.Run(name, func(t *testing.T) {
			address := answers(t, test.answer)
			l := startUnloaded(t)
			ask := func() (clients []*testClient) {
				for i := range test.clients {
					target, fields := test.ask(i)
					c := l.subscribe(target, fields...)
					c.expect("1")
					clients = append(clients, c)
				}
				return clients
			}
			site := func(options string) string {
				return pageSite + site(test.before+"\nsse {\njoin replay\nlinger 10s\n"+options+"\n}\nreverse_proxy "+address)
			}
			l.reloadWith("", site(test.options))
			first := ask()
			found := hints.Process.List()
			if len(found) != 1 || found[0].Kind != test.kind {
				t.Fatalf("hints %+v, expected one: %s", found, test.kind)
			}
			if h := found[0]; !strings.HasSuffix(h.Place, "/events") || !strings.Contains(h.Text, test.text) || !strings.Contains(h.Remedy, test.remedy) {
				t.Errorf("hint %+v", h)
			}
			l.expectLine("hint", test.remedy)
			l.expectOnPage(found[0].Text)
			for _, c := range first {
				c.close()
			}
			l.reloadWith("", site(test.after))
			ask()
			if found := hints.Process.List(); len(found) != 0 {
				t.Errorf("%+v is left when the remedy was followed", found)
			}
			l.expectOnPage()
			eventually(t, "clients share, or do not, when those from before have left", func() bool {
				streams, clients := 0, 0
				for _, s := range stream.Process.Samples(time.Now()) {
					clients += s.Subscribers
					streams += min(s.Subscribers, 1)
				}
				return clients == test.clients && test.shared == (streams == 1)
			})
		})
	}
}

// Where the application is told to answer otherwise, nobody loads a configuration after the remedy: the hint goes when an
// answer of the path is shared, a minute after the last that could not be.
func TestHintGoesWhenTheApplicationIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mended := false
		h := &Handler{Delivery: delivery.ByHandler}
		s := serveInBubble(t, h, func(w http.ResponseWriter, r *http.Request) error {
			if !mended {
				w.Header().Set("Set-Cookie", "session=secret")
			}
			return script(step{0, "data: 1\n\n"})(w, r)
		})
		h.hints.Close()
		h.hints = hints.Process.Source("", "", zap.NewNop())
		for range 2 { // the second is not asked for as if it could be shared
			s.listen(eventStreamType, time.Second)
		}
		if found := h.hints.Kinds(); !slices.Equal(found, []hints.Kind{hints.NotShared}) {
			t.Fatalf("hints %v", found)
		}
		mended = true
		for began := time.Now(); len(h.hints.Kinds()) > 0 && time.Since(began) < 5*time.Minute; {
			s.listen(eventStreamType, 20*time.Second)
		}
		if found := h.hints.Kinds(); len(found) != 0 {
			t.Errorf("hints %v when the application is mended", found)
		}
	})
}

// pageSite serves the live page beside another site.
const pageSite = "http://page.test {\nbind {socket}\nsse_admin\n}\n"

// expectOnPage checks the texts of the hints that the live page of pageSite is given.
func (l logged) expectOnPage(texts ...string) {
	l.t.Helper()
	l.client.CloseIdleConnections() // those of a configuration that went may be closed while they are used
	feed := l.subscribe("/sse/feed", "Host: page.test")
	defer feed.close()
	var e admin.StreamsEvent
	nextOf(feed, "streams", &e)
	var shown []string
	for _, h := range e.Hints {
		shown = append(shown, h.Text)
	}
	if !slices.Equal(shown, texts) {
		l.t.Errorf("the page shows %q, expected %q", shown, texts)
	}
}

// What turns fast delivery off is told once, with what to do, and counted; tracing does not. When that was done the hint is
// gone, and connections are taken over.
func TestSlowDeliveryIsTold(t *testing.T) {
	overHTTP1(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	const fast, intercept = "sse {\nshare public\njoin replay\ndelivery connection\n}", "intercept {\n@never status 599\nhandle_response @never {\nrespond 204\n}\n}"
	for name, test := range map[string]struct {
		globals, before string
		proto           string
		cause           delivery.Cause // none: connections are taken over
		place, remedy   string
		after           string // what stands at the site when the remedy was followed; none: nothing is loaded
	}{
		"nothing":          {},
		"tracing":          {before: "tracing"},
		"intercept":        {before: intercept, cause: delivery.CauseWriter, place: "writer intercept", remedy: "behind sse", after: "route {\n" + fast + "\n" + intercept + "\n%s\n}"},
		"tracing and more": {before: "tracing\n" + intercept, cause: delivery.CauseWriter, place: "writer intercept", remedy: "give it a matcher", after: "tracing\n" + fast + "\n@other not path /events\n" + strings.Replace(intercept, "{", "@other {", 1) + "\n%s"},
		"a write timeout":  {globals: "servers {\ntimeouts {\nwrite 1m\n}\n}", before: "log", cause: delivery.CauseFlush, place: "flush", remedy: "leave timeouts write out", after: "log\n" + fast + "\n%s"},
		"nginx, defaults":  {proto: "HTTP/1.0", cause: delivery.CauseHTTP10, place: "http10 HTTP/1.0", remedy: "proxy_http_version 1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			address := answers(t, func(http.ResponseWriter, *http.Request) int { return http.StatusOK })
			l := startUnloaded(t)
			l.reloadWith(test.globals, pageSite+site(test.before+"\n"+fast+"\nreverse_proxy "+address))
			taken := delivery.Counts.OnConnections.Value()
			counted := func() float64 {
				if test.cause == "" {
					return 0
				}
				return delivery.Counts.ByHandler.With(string(test.cause)).Value()
			}
			before := counted()
			for range 2 {
				l.askWith(cmp.Or(test.proto, "HTTP/1.1"))
			}
			found := hints.Process.List()
			if test.cause == "" {
				eventually(t, "the connections are taken over", func() bool { return delivery.Counts.OnConnections.Value() == taken+2 })
				if len(found) != 0 {
					t.Errorf("hints %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Kind != hints.Delivery || found[0].Place != test.place || found[0].Count != 2 || !strings.Contains(found[0].Remedy, test.remedy) {
				t.Errorf("hints %+v", found)
			}
			l.expectLine("hint", test.remedy)
			l.expectOnPage(found[0].Text)
			if n := counted() - before; n != 2 {
				t.Errorf("counted %v times", n)
			}
			if test.after != "" {
				l.reloadWith("", pageSite+site(fmt.Sprintf(test.after, "reverse_proxy "+address)))
			}
			taken = delivery.Counts.OnConnections.Value()
			l.askWith("HTTP/1.1")
			eventually(t, "a connection is taken over when the remedy was followed", func() bool { return delivery.Counts.OnConnections.Value() > taken })
			l.expectOnPage()
			if found := hints.Process.List(); len(found) != 0 {
				t.Errorf("%+v is left when the remedy was followed", found)
			}
		})
	}
}

// askWith asks for /events in a version of HTTP, and reads to the first event.
func (l logged) askWith(proto string) {
	l.t.Helper()
	conn, err := new(net.Dialer).DialContext(l.t.Context(), "unix", l.socket)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	_, _ = fmt.Fprintf(conn, "GET /events %s\r\nHost: gateway.test\r\nAccept: text/event-stream\r\n\r\n", proto)
	for lines := bufio.NewReader(conn); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			l.t.Fatal(err)
		}
		if strings.HasPrefix(line, "data: 1") {
			return
		}
	}
}

// A healthy set-up with traffic has no hint.
func TestHealthySetUpsHaveNoHints(t *testing.T) {
	deliverytest.Once(t) // it is about hints; TestSetUpsThatAreNotRight runs healthy set-ups in each way
	for name, test := range map[string]struct {
		options, method string
		fields          func(i int) []string
	}{
		"a broadcast":             {options: "share public", fields: func(i int) []string { return []string{fmt.Sprint("Cookie: _ga=", i)} }},
		"notifications":           {options: "share cookies session\ngap_event gap", fields: func(i int) []string { return []string{fmt.Sprint("Cookie: session=", i, "; _ga=", i)} }},
		"users with tokens":       {fields: func(i int) []string { return []string{fmt.Sprint("Authorization: ", i)} }},
		"answers to POST":         {options: "detach 1m", method: http.MethodPost},
		"language models":         {options: "share off", method: http.MethodPost},
		"MCP":                     {fields: func(i int) []string { return []string{fmt.Sprint("Mcp-Session-Id: ", i)} }},
		"everybody asks the same": {},
	} {
		t.Run(name, func(t *testing.T) {
			address := answers(t, func(http.ResponseWriter, *http.Request) int { return http.StatusOK })
			l := startUnloaded(t)
			l.reloadWith("grace_period 10s", site("handle /events {\nsse {\nname events\n"+test.options+"\n}\nreverse_proxy "+address+"\n}"))
			for i := range 45 {
				fields := []string{"Accept: text/event-stream"}
				if test.fields != nil {
					fields = append(fields, test.fields(i)...)
				}
				resp, err := l.client.Do(l.request(cmp.Or(test.method, http.MethodGet), "/events", fields...))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = resp.Body.Close() })
				newTestClient(t, resp).expect("1") // all is counted then
			}
			if found := hints.Process.List(); len(found) != 0 {
				t.Errorf("hints %+v", found)
			}
			for _, line := range l.lines() {
				if line["msg"] == "hint" || line["msg"] == "doubtful configuration" {
					t.Errorf("log line %v", line)
				}
			}
		})
	}
}

// 1,000 visitors with cookies of their own, of which some come and go, for a minute of events: nothing is told.
func TestThousandClientsForAMinuteHaveNoHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, events = 1000, 60
		began := time.Now()
		broadcast := func(w http.ResponseWriter, r *http.Request) error { // each connection is told the same at the same time
			var steps []step
			for i := range events {
				if at := seconds(float64(i) + 0.5); at > time.Since(began) {
					steps = append(steps, step{at - time.Since(began), fmt.Sprintf("data: %d\n\n", i)})
				}
			}
			return script(steps...)(w, r)
		}
		h := &Handler{Share: "public", Delivery: delivery.ByHandler} // over pipes
		s := serveInBubble(t, h, broadcast)
		core, logs := observer.New(zap.DebugLevel)
		h.logger = zap.New(core)
		source := hints.Process.Source("", "", h.logger)
		t.Cleanup(source.Close)
		h.hints.Close()
		h.hints = source
		var all sync.WaitGroup
		var got atomic.Int64
		for i := range clients {
			stays := seconds(61)
			if i%10 == 9 {
				stays = seconds(20)
			}
			all.Go(func() {
				for range 61 / int(stays/time.Second) {
					for _, a := range s.listen(fmt.Sprintf("%s\r\nCookie: _ga=%d", eventStreamType, i), stays) {
						got.Add(int64(strings.Count(a.text, "data: ")))
					}
				}
			})
		}
		all.Wait()
		if n := got.Load(); n < clients*events*9/10 {
			t.Errorf("%d events came", n)
		}
		if found := hints.Process.List(); len(found) != 0 {
			t.Errorf("hints %+v", found)
		}
		for _, entry := range logs.All() {
			if entry.Level > zap.DebugLevel {
				t.Errorf("log line %s %q %v", entry.Level, entry.Message, entry.ContextMap())
			}
		}
	})
}

// 10,000 random paths at random hosts, of which each gives reason for two hints: there are no more than a few, and no more
// lines in the log.
func TestRandomPathsDoNotFloodWithHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, kinds, places = 10_000, 2, 8
		h := &Handler{Key: "{http.request.header.Authorization}{http.request.uri.path}"}
		next := func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", eventStreamType)
			w.Header().Set("Set-Cookie", "session=secret")
			_, err := io.WriteString(w, "data: 1\n\n")
			return err
		}
		serveInBubble(t, h, next)
		core, logs := observer.New(zap.InfoLevel)
		h.hints.Close()
		h.hints = hints.Process.Source("", "", zap.New(core))
		random := rand.New(rand.NewPCG(1, 2))
		for range requests {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://%x.test/%x?room=%x", random.Uint64(), random.Uint64(), random.Uint64()), http.NoBody)
			r.Header.Set("Accept", eventStreamType)
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
			if err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(next)); err != nil {
				t.Fatal(err)
			}
		}
		n := hints.Process.Counts()
		if n[hints.NotShared] != places || n[hints.Query] != places || len(hints.Process.List()) != kinds*places {
			t.Errorf("hints %v", n)
		}
		if logs.Len() > kinds*places {
			t.Errorf("%d log lines", logs.Len())
		}
	})
}
