package caddysse

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// provider is a model's server that keeps its answer, and gives the rest of it. It cuts
// its connections somewhere.
type provider struct {
	*httptest.Server
	t      *testing.T
	wire   []string                          // the answer, an event each
	begins func(r *http.Request) (int, bool) // with which of them an answer to a GET begins

	mu    sync.Mutex
	cuts  []int // how many bytes the next connections bring
	posts int
	gets  []string // their URIs and last event IDs
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.Header.Get("Authorization") != "Bearer secret" {
		p.t.Errorf("%s without the client's credentials", r.Method)
	}
	p.mu.Lock()
	from, ok := 0, true
	if r.Method == http.MethodPost {
		p.posts++
	} else {
		if r.ContentLength != 0 || r.Header.Get("Content-Type") != "" {
			p.t.Errorf("a GET with a body of %d, %v", r.ContentLength, r.Header)
		}
		p.gets = append(p.gets, r.RequestURI+" "+r.Header.Get("Last-Event-ID"))
		from, ok = p.begins(r)
	}
	cut := -1
	if ok && len(p.cuts) > 0 {
		cut, p.cuts = p.cuts[0], p.cuts[1:]
	}
	p.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	text := strings.Join(p.wire[from:], "")
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	if cut < 0 || cut >= len(text) {
		_, _ = io.WriteString(w, text)
		return
	}
	_, _ = io.WriteString(w, text[:cut])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// startProvider starts one whose connections are cut so many times at random.
func startProvider(t *testing.T, wire []string, cuts int, begins func(r *http.Request) (int, bool)) *provider {
	t.Helper()
	p := &provider{t: t, wire: wire, begins: begins}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	most := len(strings.Join(wire, "")) / (cuts + 1)
	for range cuts {
		// Each connection brings an event at least: one that brings none is a try.
		p.cuts = append(p.cuts, 2*len(wire[len(wire)-1])+random.IntN(most))
	}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

// responsesAnswer is an answer as the Responses API documents it.
func responsesAnswer(n int, background bool) (wire []string) {
	event := func(typ, rest string) {
		wire = append(wire, fmt.Sprintf("event: %s\ndata: {\"type\":%q,\"sequence_number\":%d%s}\n\n", typ, typ, len(wire), rest))
	}
	response := fmt.Sprintf(`,"response":{"id":"resp_68a1","object":"response","status":"in_progress","background":%v}`, background)
	event("response.created", response)
	event("response.in_progress", response)
	for i := range n {
		event("response.output_text.delta", fmt.Sprintf(`,"item_id":"msg_1","output_index":0,"content_index":0,"delta":" token %d"`, i))
	}
	event("response.completed", response)
	return wire
}

// startingAfter reads what the API is asked with.
func startingAfter(r *http.Request) (int, bool) {
	n, err := strconv.Atoi(r.URL.Query().Get("starting_after"))
	return n + 1, err == nil && r.URL.Path == "/v1/responses/resp_68a1" && r.URL.Query().Get("stream") == "true"
}

func numberedAnswer(n int) (wire []string) {
	for i := range n {
		wire = append(wire, fmt.Sprintf("id: e%d\ndata: token %d\n\n", i, i))
	}
	return wire
}

func afterLastEventID(r *http.Request) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Last-Event-ID"), "e"))
	return n + 1, err == nil
}

// datas are the data lines of an event stream.
func datas(text string) (all []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "data:") {
			all = append(all, line)
		}
	}
	return all
}

// A provider that breaks 50 times, and gives the rest of its answer, is asked once, and
// its client sees one answer, each event once.
func TestResumeUpstream(t *testing.T) {
	const cuts = 50
	for name, test := range map[string]struct {
		dialect, path string
		wire          []string
		begins        func(r *http.Request) (int, bool)
		get           string // what every GET begins with
	}{
		"last_event_id":    {"last_event_id", "/chat?a=b", numberedAnswer(3000), afterLastEventID, "/chat?a=b e"},
		"openai_responses": {"openai_responses", "/v1/responses", responsesAnswer(3000, true), startingAfter, "/v1/responses/resp_68a1?starting_after="},
		"repeats the newest": {"last_event_id", "/chat", numberedAnswer(3000), func(r *http.Request) (int, bool) {
			n, ok := afterLastEventID(r)
			return n - 1, ok
		}, "/chat e"},
	} {
		for _, detach := range []string{"", "\ndetach 1m\nbuffer 5000 4MiB 5m"} {
			t.Run(name+detach, func(t *testing.T) {
				p := startProvider(t, test.wire, cuts, test.begins)
				g := startGateway(t, site("sse {\nshare off\nresume_upstream "+test.dialect+detach+"\n}\nreverse_proxy "+p.Listener.Addr().String()))
				resp := g.ask(http.MethodPost, test.path, asks, "Authorization: Bearer secret", "Content-Type: application/json")
				text, err := io.ReadAll(resp.Body)
				want := strings.Join(test.wire, "")
				if got := string(text); err != nil || strings.Join(datas(got), "") != strings.Join(datas(want), "") || (detach == "" && got != want) {
					t.Errorf("%d bytes, %d events, %v; expected %d, %d", len(got), len(datas(got)), err, len(want), len(test.wire))
				}
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.posts != 1 || len(p.gets) < cuts {
					t.Errorf("%d POSTs, %d GETs", p.posts, len(p.gets))
				}
				for _, get := range p.gets {
					if !strings.HasPrefix(get, test.get) {
						t.Errorf("GET %s", get)
						break
					}
				}
			})
		}
	}
}

// restInBubble serves an answer whose connection breaks, and what later connections
// bring, each with another handler; the last one serves all others.
func restInBubble(t *testing.T, dialect string, parts []caddyhttp.HandlerFunc, test func(s *bubbleServer, asked func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []string
		began := time.Now()
		next := func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.Copy(io.Discard, r.Body)
			mu.Lock()
			n := len(all)
			all = append(all, fmt.Sprintf("%v %s %s %s", time.Since(began).Truncate(time.Second), r.Method, r.RequestURI, r.Header.Get("Last-Event-ID")))
			mu.Unlock()
			return parts[min(n, len(parts)-1)](w, r)
		}
		h := &Handler{ResumeUpstream: dialect, Heartbeat: &Heartbeat{Interval: new(caddy.Duration(time.Hour))}}
		s := serveInBubble(t, h, next)
		test(s, func() []string {
			mu.Lock()
			defer mu.Unlock()
			return all
		})
	})
}

// brings is a connection that brings something and breaks.
func brings(text string, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		_ = saying(http.StatusOK, "text/event-stream", text, fields...)(w, r)
		panic(http.ErrAbortHandler)
	}
}

// whole is a connection that brings something and ends.
func whole(text string) caddyhttp.HandlerFunc {
	return saying(http.StatusOK, "text/event-stream", text)
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Flush()
	return b.String()
}

// What a provider answers decides whether the answer goes on, breaks off at once, or is
// asked for again, for a while.
func TestResumeUpstreamAnswers(t *testing.T) {
	const one, two = "id: 1\ndata: 1\n\n", "id: 2\ndata: 2\n\n"
	const response = `data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","background":true}}` + "\n\n"
	const delta = `data: {"type":"delta","sequence_number":1}` + "\n\n"
	refused := func(http.ResponseWriter, *http.Request) error {
		return caddyhttp.Error(http.StatusBadGateway, errors.New("no"))
	}
	silent := func(_ http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		return caddyhttp.Error(upstreams.StatusCancelled, r.Context().Err())
	}
	for name, test := range map[string]struct {
		dialect string
		parts   []caddyhttp.HandlerFunc
		want    string
		whole   bool
		asked   int
		within  time.Duration
	}{
		"goes on":          {"last_event_id", []caddyhttp.HandlerFunc{brings(one + "id: 2\nda"), whole(two)}, one + two, true, 2, 0},
		"a clean end":      {"last_event_id", []caddyhttp.HandlerFunc{whole(one + "data: tail")}, one + "data: tail", true, 1, 0},
		"404":              {"last_event_id", []caddyhttp.HandlerFunc{brings(one), saying(404, "text/plain", "?")}, one, false, 2, 0},
		"204":              {"last_event_id", []caddyhttp.HandlerFunc{brings(one), saying(204, "", "")}, one, false, 2, 0},
		"JSON":             {"last_event_id", []caddyhttp.HandlerFunc{brings(one), saying(200, "application/json", "{}")}, one, false, 2, 0},
		"nothing":          {"last_event_id", []caddyhttp.HandlerFunc{brings(one), whole("")}, one, false, 2, 0},
		"502 and then":     {"last_event_id", []caddyhttp.HandlerFunc{brings(one), refused, refused, whole(two)}, one + two, true, 4, time.Second},
		"503 for a while":  {"last_event_id", []caddyhttp.HandlerFunc{brings(one), saying(503, "", "", "Retry-After: 7"), whole(two)}, one + two, true, 3, seconds(8)},
		"429 for too long": {"last_event_id", []caddyhttp.HandlerFunc{brings(one), saying(429, "", "", "Retry-After: 60")}, one, false, 2, 0},
		"502 for ever":     {"last_event_id", []caddyhttp.HandlerFunc{brings(one), refused}, one, false, 6, seconds(5)},
		"never an answer":  {"last_event_id", []caddyhttp.HandlerFunc{brings(one), silent}, one, false, 2, seconds(31)},
		"breaks again":     {"last_event_id", []caddyhttp.HandlerFunc{brings(one), brings(""), brings(": a\n\n"), brings(two), whole("id: 3\ndata: 3\n\n")}, one + ": a\n\n" + two + "id: 3\ndata: 3\n\n", true, 5, seconds(2)},
		"begins anew":      {"last_event_id", []caddyhttp.HandlerFunc{brings("id: a\ndata: a\n\nid: b\ndata: b\n\n"), whole("id: a\ndata: a\n\nid: b\ndata: b\n\n")}, "id: a\ndata: a\n\nid: b\ndata: b\n\n", false, 2, 0},
		"counts anew":      {"last_event_id", []caddyhttp.HandlerFunc{brings(one + two), whole("id: 1\ndata: other\n\n")}, one + two, false, 2, 0},
		"no ids":           {"last_event_id", []caddyhttp.HandlerFunc{brings("data: 1\n\n"), whole(two)}, "data: 1\n\n", false, 1, 0},
		"not all have ids": {"last_event_id", []caddyhttp.HandlerFunc{brings(one + "data: a\n\n"), whole(two)}, one + "data: a\n\n", false, 1, 0},
		"no event stream": {"last_event_id", []caddyhttp.HandlerFunc{func(w http.ResponseWriter, r *http.Request) error {
			_ = saying(200, "text/plain", "half")(w, r)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}}, "half", false, 1, 0},
		"a coding":                {"last_event_id", []caddyhttp.HandlerFunc{brings(zipped(one), "Content-Encoding: gzip"), brings(zipped(two), "Content-Encoding: gzip"), saying(404, "", "")}, one + two, false, 3, 0},
		"Responses":               {"openai_responses", []caddyhttp.HandlerFunc{brings(response), whole(delta + "data: [DONE]\n\n")}, response + delta + "data: [DONE]\n\n", true, 2, 0},
		"Responses repeats":       {"openai_responses", []caddyhttp.HandlerFunc{brings(response), whole(response + delta)}, response + delta, true, 2, 0},
		"Responses with a gap":    {"openai_responses", []caddyhttp.HandlerFunc{brings(response), whole(strings.ReplaceAll(delta, ":1", ":2"))}, response, false, 2, 0},
		"not in the background":   {"openai_responses", []caddyhttp.HandlerFunc{brings(strings.ReplaceAll(response, "true", "false")), whole(delta)}, strings.ReplaceAll(response, "true", "false"), false, 1, 0},
		"an ID that leads astray": {"openai_responses", []caddyhttp.HandlerFunc{brings(strings.ReplaceAll(response, "resp_1", "../../admin?x=")), whole(delta)}, strings.ReplaceAll(response, "resp_1", "../../admin?x="), false, 1, 0},
		"another API":             {"openai_responses", []caddyhttp.HandlerFunc{brings(one + "data: [DONE]\n\n"), whole(two)}, one + "data: [DONE]\n\n", false, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			restInBubble(t, test.dialect, test.parts, func(s *bubbleServer, asked func() []string) {
				began := time.Now()
				got := s.post("/v1/responses HTTP/1.1", time.Hour, asks)
				if got.text() != test.want || (got.err == nil) != test.whole {
					t.Errorf("%q, %v\nexpected %q, whole: %v", got.text(), got.err, test.want, test.whole)
				}
				if all := asked(); len(all) != test.asked {
					t.Errorf("asked %q, expected %d times", all, test.asked)
				}
				if took := time.Since(began); took > test.within {
					t.Errorf("took %v", took)
				}
				for i, one := range asked() {
					if strings.Contains(one, " POST ") != (i == 0) {
						t.Errorf("asked %s", one)
					}
				}
			})
		})
	}
}

// A client that leaves ends it, also while the rest is being asked for.
func TestResumeUpstreamClientLeaves(t *testing.T) {
	var stopped atomic.Bool
	restInBubble(t, "last_event_id", []caddyhttp.HandlerFunc{brings("id: 1\ndata: 1\n\n"), func(_ http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		stopped.Store(true)
		panic(http.ErrAbortHandler)
	}}, func(s *bubbleServer, asked func() []string) {
		s.post("/ HTTP/1.1", 3*time.Second, asks)
		synctest.Wait()
		if !stopped.Load() || len(asked()) != 2 {
			t.Errorf("stopped: %v, asked %q", stopped.Load(), asked())
		}
	})
}

// What a provider that goes on is asked for.
func TestResponsesDialectAsks(t *testing.T) {
	for target, want := range map[string]string{
		"/v1/responses":                                       "/v1/responses/resp_1?starting_after=7&stream=true",
		"/openai/v1/responses/?api-version=2":                 "/openai/v1/responses/resp_1?api-version=2&starting_after=7&stream=true",
		"/v1/responses/resp_1?stream=true&starting_after=3":   "/v1/responses/resp_1?starting_after=7&stream=true",
		"/v1/responses/resp_1/?starting_after=3&stream=false": "/v1/responses/resp_1?starting_after=7&stream=true",
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		d := &responsesDialect{id: "resp_1", background: true, last: 7}
		r := &http.Request{URL: u}
		if !d.ask(r) || r.URL.RequestURI() != want {
			t.Errorf("%s: %s, expected %s", target, r.URL.RequestURI(), want)
		}
	}
}
