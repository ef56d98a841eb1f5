package caddysse

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// failing is a handler before sse. To one client, which calls itself a victim, a write fails, while its connection and its
// request live: so it is nobody but the gateway who can notice.
type failing struct{}

func init() {
	caddy.RegisterModule(failing{})
	httpcaddyfile.RegisterHandlerDirective("test_failing", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return failing{}, nil })
	httpcaddyfile.RegisterDirectiveOrder("test_failing", httpcaddyfile.Before, "header")
}

func (failing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_failing", New: func() caddy.Module { return new(failing) }}
}

// asVictim is the field by which a client is one. It is not in the key.
const asVictim = "User-Agent: victim"

// nextFailure is that of the next victim.
var nextFailure atomic.Pointer[failure]

func (failing) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	f := nextFailure.Load()
	if r.UserAgent() != "victim" || f == nil || !nextFailure.CompareAndSwap(f, nil) {
		return next.ServeHTTP(w, r)
	}
	defer close(f.returned)
	return next.ServeHTTP(&failingWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, failure: f}, r)
}

// failure is of one write, whole or in part, or of a flush. What comes after it would go out.
type failure struct {
	how      string // one of waysToFail
	err      error  // nil: it panics
	returned chan struct{}

	mu    sync.Mutex
	armed bool
	done  bool
	after int // how often something was written or flushed after it
}

// waysToFail are how much of a write goes out, or that it is the flush after it that fails.
var waysToFail = []string{"nothing", "half", "all but a byte", "flush"}

// beforeThem is a way to panic.
const beforeThem = "head"

// arm lets the next one fail.
func (f *failure) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = true
}

// due reports whether what is done now is to fail: a head, a write, or a flush.
func (f *failure) due(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		f.after++
		return false
	}
	fails := "write"
	if f.how == "head" || f.how == "flush" {
		fails = f.how
	}
	f.done = f.armed && what == fails
	return f.done
}

func (f *failure) hasHappened() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// fail is how it fails.
func (f *failure) fail() error {
	if f.err == nil {
		panic("a bug in a writer")
	}
	return f.err
}

type failingWriter struct {
	*caddyhttp.ResponseWriterWrapper
	failure *failure
}

// WriteHeader writes the head, or panics.
func (w *failingWriter) WriteHeader(status int) {
	if w.failure.due("head") {
		panic(w.failure.fail())
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if !w.failure.due("write") {
		return w.ResponseWriterWrapper.Write(p)
	}
	part := p[:map[string]int{"nothing": 0, "half": len(p) / 2, "all but a byte": max(0, len(p)-1)}[w.failure.how]]
	_, _ = w.ResponseWriterWrapper.Write(part)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	return len(part), w.failure.fail()
}

// ReadFrom implements io.ReaderFrom.
func (w *failingWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(onlyWriter{w}, r) }

// FlushError flushes, or fails.
func (w *failingWriter) FlushError() error {
	if w.failure.due("flush") {
		return w.failure.fail()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// failureErrors are what writes fail with, and how the response ends then: the last one is a handler's own.
var failureErrors = []struct {
	err error
	end string
}{
	{faultyErrors[0], "client"}, {faultyErrors[1], "client"}, {faultyErrors[2], "write"}, {errors.New("a handler's own"), "write"},
}

// writeKind is a kind of write to a client.
type writeKind struct {
	name    string
	options string
	method  string   // of the victim's request; "": GET
	fields  []string // of it
	path    string   // of it, before what makes it another for each
	only    []string // of waysToFail; nil: each is possible
	first   bool     // it is the first of its response
	end     string   // of the response, in the access log, whatever the write fails with; "-": it is not told there
	outlive bool     // its upstream connection does not end with it
	unasked bool     // it has none
	unseen  bool     // it is not done in the goroutine of the request

	before func(k *failingRun)                     // what happens before the victim comes
	cause  func(k *failingRun, up *upstreamClient) // lets the gateway write; nil: it does by itself
}

// writeKinds are all kinds of writes to clients that there are, but for those to connections that were taken over.
var writeKinds = []writeKind{
	{name: "head", first: true, only: []string{"flush"}},
	{name: "prime", first: true, before: (*failingRun).begun},
	{name: "replay", options: "ids upstream", first: true, fields: []string{"Last-Event-ID: 1"}, before: (*failingRun).begun},
	{name: "gap", options: "gap_event lost", first: true, fields: []string{"Last-Event-ID: sse1.00000000000000000000000000000000.7"}, before: (*failingRun).begun},
	{name: "event", cause: func(_ *failingRun, up *upstreamClient) { up.event("1") }},
	{name: "large event", cause: func(_ *failingRun, up *upstreamClient) { up.event(strings.Repeat("x", 200_000)) }},
	{name: "block without an event", cause: func(_ *failingRun, up *upstreamClient) { up.write("retry: 5\n\n") }},
	{name: "heartbeat", options: "heartbeat 20ms"},
	{name: "tail", cause: func(_ *failingRun, up *upstreamClient) { up.write("data: tail"); up.end() }},
	{name: "last retry", options: "retry 1s", cause: func(k *failingRun, _ *upstreamClient) { k.drain() }},
	{name: "detached: event", options: "detach 1m", method: http.MethodPost, cause: func(_ *failingRun, up *upstreamClient) { up.event("1") }, outlive: true},
	{name: "private: head", options: "share off", first: true, only: []string{"flush"}},
	{name: "private: gap", options: "share off\ngap_event lost", first: true, fields: []string{"Last-Event-ID: sse1.00000000000000000000000000000000.7"}},
	{name: "private: event", options: "share off", cause: func(_ *failingRun, up *upstreamClient) { up.event("1") }},
	{name: "private: part of one", options: "share off", cause: func(_ *failingRun, up *upstreamClient) { up.write("data: 1") }},
	{name: "private: heartbeat", unseen: true, options: "share off\nheartbeat 20ms"},
	{name: "private: last retry", unseen: true, options: "share off\nretry 1s", cause: func(k *failingRun, _ *upstreamClient) { k.drain() }},
	{name: "early: head", unseen: true, options: "early 10ms", path: "/silent", first: true},
	{name: "early: heartbeat", unseen: true, options: "early 10ms\nheartbeat 20ms", path: "/silent"},
	{name: "early: error", options: "early 10ms", path: "/silent", cause: func(k *failingRun, _ *upstreamClient) { k.refuse() }},
	{name: "turned away", options: "max_per_client 1", unasked: true, first: true, only: waysToFail[:3], end: "-", before: (*failingRun).begun},
	{name: "what is no stream", path: "/plain", only: waysToFail[:3], end: "-", cause: func(_ *failingRun, up *upstreamClient) { up.write("text") }},
	{name: "what is no stream, to a POST", method: http.MethodPost, path: "/plain", only: waysToFail[:3], end: "-", cause: func(_ *failingRun, up *upstreamClient) { up.write("text") }},
	{name: "feed", path: "/sse/feed", unasked: true, first: true, end: "-"},
	{name: "feed: event", path: "/sse/feed", unasked: true, end: "-", only: []string{"half"}}, // one a second
	{name: "tail of the API", path: "/sse/tail", unasked: true, end: "-", before: (*failingRun).tailed, cause: func(k *failingRun, up *upstreamClient) {
		up.numbered("3")
		k.client.expect("3")
	}},
}

// codedKinds are writes of what was in a content coding, which another goroutine removes.
var codedKinds = []writeKind{
	{name: "private: coded event", unseen: true, options: "share off", path: "/gzip", fields: []string{"Accept-Encoding: gzip"}, cause: func(k *failingRun, up *upstreamClient) { k.coded(up) }},
}

// failingRun is one write that fails.
type failingRun struct {
	t       *testing.T
	kind    *writeKind
	g       *gateway
	u       *upstream
	target  string
	refused chan struct{} // lets the application refuse
	log     string
	failure *failure
	end     string
	up      *upstreamClient // of who came before
	client  *testClient     // which that is
}

// with is what the run's write fails with: one error of two for each way to fail.
func (k *failingRun) with(i, j int) {
	with, kind := failureErrors[(i+2*j)%len(failureErrors)], k.kind
	k.failure = &failure{how: waysToFail[i], err: with.err, armed: kind.first, returned: make(chan struct{})}
	k.end, k.target = cmp.Or(kind.end, with.end), kind.path
	if !strings.HasPrefix(kind.path, "/sse/") {
		k.target += fmt.Sprintf("/%d/%d", i, j)
	}
}

// failingWays are those in which the gateway writes in the goroutine of a request.
var failingWays = []faultyWay{{name: "HTTP/1.1", delivery: "handler"}, {name: "HTTP/2", delivery: "handler", tls: true}}

// start starts a gateway to whose clients a kind of write fails.
func (kind *writeKind) start(t *testing.T, way faultyWay) *failingRun {
	t.Helper()
	k := &failingRun{t: t, kind: kind, log: filepath.Join(t.TempDir(), "access.log"), refused: make(chan struct{})}
	k.u = startUpstream(t, k.answer)
	k.g, _ = way.startSite(t, "log own {\noutput file "+k.log+"\n}\ntest_failing\nsse_admin\nsse {\njoin live\nlinger 0s\ndelivery handler\n"+kind.options+"\n}\nreverse_proxy "+k.u.address)
	return k
}

// A write to a client fails, while nobody else ends its request: the gateway notices at once. It writes nothing more, lets
// the client go, whose response is seen not to be complete, and asks the application for no more.
func TestFailedWritesAreNoticedAtOnce(t *testing.T) {
	overHTTP1(t) // it chooses by itself
	for _, way := range failingWays {
		for _, kind := range writeKinds {
			t.Run(way.name+"/"+kind.name, func(t *testing.T) {
				k := kind.start(t, way)
				for i, how := range waysToFail {
					if kind.only != nil && !slices.Contains(kind.only, how) {
						continue
					}
					for j := range 2 {
						k.with(i, j)
						k.run()
					}
				}
				if !kind.outlive {
					assertNothingLeft(t, k.u)
				}
			})
		}
	}
}

// The writer of a handler before sse panics, at the head, in a write or a flush, whoever writes there: the request's
// goroutine, in which net/http recovers, a timer, or the goroutine of the upstream connection. It is as with net/http: the
// client's response breaks off, nothing of it is left, and others notice nothing. Where net/http does not see it, the log
// says so.
func TestPanicsInWritersAreContained(t *testing.T) {
	overHTTP1(t) // it chooses by itself
	globals := testGlobals
	t.Cleanup(func() { testGlobals = globals })
	for _, way := range failingWays {
		for _, kind := range append(writeKinds, codedKinds...) {
			t.Run(way.name+"/"+kind.name, func(t *testing.T) {
				log := filepath.Join(t.TempDir(), "log")
				testGlobals = strings.Replace(globals, "output discard", "output file "+log, 1)
				k := kind.start(t, way)
				hows := []string{"nothing", "flush"}
				if kind.first {
					hows = append(hows, beforeThem)
				}
				for i, how := range hows {
					if how != beforeThem && kind.only != nil && !slices.Contains(kind.only, how) {
						continue
					}
					k.with(i, 0)
					k.end, k.failure.how, k.failure.err = "-", how, nil
					k.run()
				}
				if !kind.outlive {
					assertNothingLeft(t, k.u)
				}
				said := func() bool {
					text, _ := os.ReadFile(log) //nolint:gosec // G304: the test's own
					return strings.Contains(string(text), "a bug in a writer") && strings.Contains(string(text), "failing_writer_test.go")
				}
				if kind.unseen {
					eventually(t, "the log says so, with the stack", said)
				}
			})
		}
	}
}

// The client whose answer another goroutine writes is let go, whatever becomes of that.
func TestWhoWaitsForItsAnswerIsLetGoByAPanic(t *testing.T) {
	core, seen := observer.New(zap.ErrorLevel)
	o := newOpener(&Handler{logger: zap.New(core)}, nil, nil, stream.Key{}, "", false)
	o.finishBy(func() error { panic("a bug in a writer") })
	if open(o.done) || !errors.Is(o.err, http.ErrAbortHandler) {
		t.Errorf("waits: %v, told %v", open(o.done), o.err)
	}
	if n := seen.FilterMessage("panic in a handler").Len(); n != 1 {
		t.Errorf("%d lines about it", n)
	}
}

// answer is the application's head.
func (k *failingRun) answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", eventStreamType)
	switch {
	case strings.HasPrefix(r.URL.Path, "/plain"):
		w.Header().Set("Content-Type", "text/plain")
	case strings.HasPrefix(r.URL.Path, "/gzip"):
		w.Header().Set("Content-Encoding", "gzip")
	case strings.HasPrefix(r.URL.Path, "/silent"):
		select {
		case <-k.refused:
			w.Header().Set("Content-Type", "text/plain")
		case <-r.Context().Done():
		}
	}
}

// begun lets another client come first, which is given two events.
func (k *failingRun) begun() {
	k.client = k.g.subscribe(k.target)
	k.up = k.u.accept()
	k.up.numbered("1", "2")
	k.client.expect("1", "2")
}

// tailed is begun, for a victim that tails the stream.
func (k *failingRun) tailed() {
	k.target = "/"
	k.begun()
	k.target = "/sse/streams/" + stream.Process.Observed()[0].ID() + "/tail"
}

// drain lets all clients go.
func (k *failingRun) drain() {
	for _, s := range stream.Process.Observed() {
		s.LetGo(0)
	}
}

// coded sends an event in a content coding.
func (k *failingRun) coded(up *upstreamClient) {
	var coded bytes.Buffer
	w := gzip.NewWriter(&coded)
	if _, err := w.Write([]byte("data: 1\n\n")); err != nil || w.Flush() != nil {
		k.t.Fatal(err)
	}
	up.write(coded.String())
}

// refuse lets the application answer with what is no event stream.
func (k *failingRun) refuse() {
	k.refused <- struct{}{}
	k.u.accept().end()
}

// run lets the write fail.
func (k *failingRun) run() {
	t, f := k.t, k.failure
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() && k.failure == f {
			t.Logf("failed at %s, with %q of %v", k.target, f.how, f.err)
		}
	})
	others, up := 0, (*upstreamClient)(nil)
	if k.kind.before != nil {
		k.kind.before(k)
		others, up = 1, k.up
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	headed, body := k.ask(ctx)
	if !k.kind.unasked && up == nil && k.kind.path != "/silent" {
		up = k.u.accept()
	}
	if !k.kind.first {
		eventually(t, "the client has its head", func() bool { return !open(headed) })
		f.arm()
		if k.kind.cause != nil {
			k.kind.cause(k, up)
		}
	}
	eventually(t, "a write fails", f.hasHappened)
	eventually(t, "the gateway notices", func() bool { return !open(f.returned) })
	eventually(t, "the client is gone", func() bool { return attached() == others })
	if f.after != 0 && k.kind.path != "/plain" { // there it is reverse_proxy that flushes
		t.Errorf("it writes or flushes %d times after that", f.after)
	}
	if err := <-body; err == nil && !strings.HasPrefix(k.kind.path, "/sse/") { // the page comes back anyway
		t.Error("the response looks complete")
	}
	if k.end != "-" {
		k.expectEntry()
	}
	if others > 0 {
		k.client.close()
	}
	eventually(t, "nobody is counted", func() bool {
		theClients.mu.Lock()
		defer theClients.mu.Unlock()
		return len(theClients.counts) == 0
	})
	if !k.kind.outlive {
		eventually(t, "the application is asked for no more", func() bool {
			open, _ := k.u.counts()
			return open == 0 && len(stream.Process.Observed()) == 0
		})
	}
}

// ask lets the victim come. headed is closed when it has its head, or never will; from body comes how that ends.
func (k *failingRun) ask(ctx context.Context) (headed <-chan struct{}, body <-chan error) {
	k.t.Helper()
	nextFailure.Store(k.failure)
	req := k.g.request(cmp.Or(k.kind.method, http.MethodGet), k.target, append([]string{asVictim, "Accept: text/event-stream"}, k.kind.fields...)...).WithContext(ctx)
	head, end := make(chan struct{}), make(chan error, 1)
	go func() {
		resp, err := k.g.client.Do(req)
		close(head)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		end <- err
	}()
	return head, end
}

// expectEntry waits for the victim's entry in the access log.
func (k *failingRun) expectEntry() {
	k.t.Helper()
	end := ""
	eventually(k.t, "there is an entry in the access log", func() bool {
		for _, entry := range accessEntries(k.t, k.log) {
			request, _ := entry["request"].(map[string]any)
			if request["uri"] != k.target || !strings.Contains(fmt.Sprint(request["headers"]), "victim") {
				continue
			}
			sse, _ := entry["sse"].(map[string]any)
			end, _ = sse["end_reason"].(string)
			return true
		}
		return false
	})
	if end != k.end {
		k.t.Errorf("the access log says %q, expected %q", end, k.end)
	}
}
