package caddysse

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// application is an upstream with answers of all kinds; the path says which.
func application(t *testing.T) *httptest.Server {
	t.Helper()
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush := func() { _ = http.NewResponseController(w).Flush() }
		h := w.Header()
		switch r.URL.Path {
		case "/big":
			http.ServeContent(w, r, "big.bin", time.Unix(1, 0), bytes.NewReader(bigFile()))
		case "/redirect":
			http.Redirect(w, r, "/elsewhere?a=1", http.StatusFound)
		case "/empty":
			h.Set("X-Empty", "yes")
			w.WriteHeader(http.StatusNoContent)
		case "/unauthorized":
			h.Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
		case "/json":
			h.Set("Content-Type", "application/json")
			h.Add("Set-Cookie", "a=1")
			h.Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":"not found"}`)
		case "/html":
			h.Set("Content-Type", "text/html")
			fmt.Fprint(w, "<p>log in</p>")
		case "/hints":
			h.Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			h.Set("Content-Type", "text/html")
			fmt.Fprint(w, "<p>hinted</p>")
		case "/trailers":
			h.Set("Trailer", "X-Announced")
			h.Set("Content-Type", "text/plain")
			fmt.Fprint(w, "body")
			flush()
			h.Set("X-Announced", "yes")
			h.Set(http.TrailerPrefix+"X-Unannounced", "yes")
		case "/echo":
			h.Set("X-Method", r.Method)
			h.Set("X-Length", fmt.Sprint(r.ContentLength))
			_, _ = io.Copy(w, r.Body)
		case "/break":
			h.Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			flush()
			panic(http.ErrAbortHandler)
		case "/breakchunked":
			h.Set("Content-Type", "text/html")
			fmt.Fprint(w, "half")
			flush()
			panic(http.ErrAbortHandler)
		case "/own":
			h.Set("Content-Type", "text/html")
			h.Set("Vary", "User-Agent")
			fmt.Fprintf(w, "answer %d to %s", served.Add(1), r.Header.Get("User-Agent"))
		case "/notmodified":
			h.Set("Etag", `"a"`)
			if r.Header.Get("If-None-Match") == `"a"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, "fresh")
		case "/upgrade":
			upgradeEcho(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// upgradeEcho switches protocols, and sends back what comes until the client
// closes.
func upgradeEcho(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Up: yes\r\n\r\nhello ", r.Header.Get("Upgrade"))
	_, _ = io.Copy(conn, buffered)
}

// bigFile is 10 MB that differ everywhere.
var bigFile = sync.OnceValue(func() []byte {
	b := make([]byte, 0, 10<<20)
	for i := 0; len(b) < 10_000_000; i++ {
		b = fmt.Appendf(b, "line %d\n", i)
	}
	return b
})

// testPanic is an HTTP handler that panics: before its answer, or in its body.
type testPanic struct {
	Within bool `json:"within,omitempty"`
}

func init() {
	caddy.RegisterModule(testPanic{})
	httpcaddyfile.RegisterHandlerDirective("test_panic", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return testPanic{Within: h.NextArg()}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_panic", httpcaddyfile.Before, "reverse_proxy")
}

func (testPanic) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_panic", New: func() caddy.Module { return new(testPanic) }}
}

func (p testPanic) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	if p.Within {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, "retry: 1\nid: 1\ndata: 1\n\ndata: half")
		_ = http.NewResponseController(w).Flush()
	}
	panic("a bug in a handler")
}

// answer is all that a client can see of one.
type answer struct {
	hints, status, head, trailer string
	body                         string
	err                          string // how reading the body ended
}

// streamID is that of HTTP/2, in errors.
var streamID = regexp.MustCompile(`stream ID \d+`)

// read makes a request and reads its answer.
func (g *gateway) read(method, target, content string, fields ...string) answer {
	g.t.Helper()
	var a answer
	var mu sync.Mutex // 1xx are told by another goroutine
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			a.hints += fmt.Sprintln(code, header)
			return nil
		},
	})
	req := g.request(method, target, fields...).WithContext(ctx)
	if content != "" {
		req.Body = io.NopCloser(strings.NewReader(content))
		req.ContentLength = int64(len(content))
	}
	resp, err := g.client.Transport.RoundTrip(req)
	if err != nil {
		a.err = "no answer"
		if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "stream error: ") {
			g.t.Errorf("%s %s: %v", method, target, err)
		}
		return a
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.err = streamID.ReplaceAllString(err.Error(), "") // each has another
	}
	mu.Lock()
	defer mu.Unlock()
	resp.Header.Del("Date")
	a.status, a.body = resp.Proto+" "+resp.Status, string(text)
	if _, boundary, ok := strings.Cut(resp.Header.Get("Content-Type"), "boundary="); ok { // random
		a.body = strings.ReplaceAll(a.body, boundary, "boundary")
		resp.Header.Set("Content-Type", "multipart/byteranges")
	}
	a.head = fmt.Sprint(resp.Header, resp.ContentLength, resp.TransferEncoding)
	a.trailer = fmt.Sprint(resp.Trailer)
	return a
}

func (a answer) short() string {
	if len(a.body) > 100 {
		a.body = fmt.Sprintf("%q… (%d bytes)", a.body[:100], len(a.body))
	}
	return fmt.Sprintf("%+v", a)
}

// plainAndSSE starts the same site twice, on the sockets of two gateways: once
// without and once with sse. {sse} stands for the directive.
func plainAndSSE(t *testing.T, directives string) (plain, with *gateway) {
	t.Helper()
	return plainAnd(t, "sse", directives)
}

// plainAnd is plainAndSSE with options.
func plainAnd(t *testing.T, sse, directives string) (plain, with *gateway) {
	t.Helper()
	with = startGateway(t, "http:// {\nbind {socket}\n"+strings.ReplaceAll(directives, "{sse}", sse)+"\n}\n"+
		"http:// {\nbind {socket}2\n"+strings.ReplaceAll(directives, "{sse}", "")+"\n}\n")
	other := *with
	other.client = gatewayClient(with.socket + "2")
	t.Cleanup(other.client.CloseIdleConnections)
	return &other, with
}

// varied is a site that gives answers of all kinds.
func varied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.bin"), bigFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	return `
		handle /files/* {
			{sse}
			uri strip_prefix /files
			file_server {
				root ` + dir + `
			}
		}
		handle /down {
			{sse}
			reverse_proxy unix//nonexistent/socket
		}
		handle /error {
			{sse}
			error "teapot" 418
		}
		handle /lateerror {
			route {
				{sse}
				error "teapot" 418
			}
		}
		handle /panic {
			{sse}
			test_panic
		}
		handle /handled/* {
			{sse}
			reverse_proxy unix//nonexistent/socket
		}
		handle /template {
			header X-Before 1
			header -X-Empty
			{sse}
			rewrite /empty
			reverse_proxy ` + application(t).Listener.Addr().String() + `
		}
		handle {
			{sse}
			reverse_proxy ` + application(t).Listener.Addr().String() + `
		}
		handle_errors {
			@handled path /handled/* /lateerror
			header @handled X-Handled yes
			respond @handled "sorry: {err.status_code} {err.status_text}" {err.status_code}
		}`
}

// TestOtherRequestsPass: requests that do not name text/event-stream come back
// byte for byte.
func TestOtherRequestsPass(t *testing.T) {
	testOtherRequestsPass(t, "sse")
}

func testOtherRequestsPass(t *testing.T, sse string) {
	t.Helper()
	plain, with := plainAnd(t, sse, varied(t))
	for _, test := range []struct {
		method, target, content string
		fields                  []string
	}{
		{"GET", "/files/big.bin", "", nil},
		{"GET", "/files/big.bin", "", []string{"Range: bytes=5-104"}},
		{"GET", "/files/big.bin", "", []string{"Range: bytes=0-1,5-6"}},
		{"HEAD", "/files/big.bin", "", nil},
		{"GET", "/files/none", "", nil},
		{"GET", "/big", "", nil},
		{"GET", "/big", "", []string{"Range: bytes=9999990-"}},
		{"GET", "/big", "", []string{"Range: bytes=99999990-"}},
		{"HEAD", "/big", "", nil},
		{"GET", "/none", "", nil},
		{"GET", "/redirect", "", nil},
		{"GET", "/empty", "", nil},
		{"GET", "/template", "", nil},
		{"GET", "/json", "", nil},
		{"GET", "/html", "", []string{"Accept: text/html, text/event-stream;q=0"}},
		{"GET", "/notmodified", "", []string{`If-None-Match: "a"`}},
		{"GET", "/hints", "", nil},
		{"GET", "/trailers", "", []string{"TE: trailers"}},
		{"GET", "/unauthorized", "", nil},
		{"GET", "/down", "", nil},
		{"GET", "/handled/down", "", nil},
		{"GET", "/error", "", nil},
		{"GET", "/lateerror", "", nil},
		{"GET", "/panic", "", nil},
		{"GET", "/break", "", nil},
		{"GET", "/breakchunked", "", nil},
		{"POST", "/echo", "a body", nil},
		{"POST", "/echo", string(bigFile()[:200_000]), []string{"Accept: text/event-stream"}},
		{"PUT", "/echo", "a body", []string{"Content-Type: text/plain"}},
		{"DELETE", "/echo", "", []string{"Accept: text/event-stream"}},
		{"OPTIONS", "/echo", "", []string{"Accept: text/event-stream"}},
		{"HEAD", "/html", "", []string{"Accept: text/event-stream"}},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			want := plain.read(test.method, test.target, test.content, test.fields...)
			got := with.read(test.method, test.target, test.content, test.fields...)
			if got != want {
				t.Errorf("with sse: %s\nwithout:  %s", got.short(), want.short())
			}
		})
	}
	if n := len(stream.Process.Every()); n > 0 {
		t.Errorf("%d streams", n)
	}
}

// TestUpgrade: an upgraded connection carries bytes both ways.
func TestUpgrade(t *testing.T) {
	overHTTP1(t) // of which HTTP/2 has none
	for _, fields := range []string{
		"Upgrade: websocket\r\nAccept: text/event-stream\r\n", "Upgrade: h2c, WebSocket\r\n", "Upgrade: echo\r\n",
	} {
		t.Run(fields, func(t *testing.T) { testUpgrade(t, fields) })
	}
}

func testUpgrade(t *testing.T, fields string) {
	t.Helper()
	plain, with := plainAndSSE(t, varied(t))
	var answers []string
	for _, g := range []*gateway{plain, with} {
		socket := g.socket
		if g == plain {
			socket += "2"
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /upgrade HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade\r\n"+fields+"\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, text := range []string{"", "ping", "pong"} {
			fmt.Fprint(conn, text)
			echo := make([]byte, len("hello ")-2*min(1, len(text)))
			if _, err := io.ReadFull(r, echo); err != nil {
				t.Fatal(err)
			}
			got.WriteString(string(echo))
		}
		if got.String() != "hello pingpong" {
			t.Errorf("%q came back", got.String())
		}
		resp.Header.Del("Date")
		answers = append(answers, fmt.Sprint(resp.Status, resp.Header))
	}
	if answers[0] != answers[1] || !strings.Contains(answers[0], "101") {
		t.Errorf("with sse: %s\nwithout:  %s", answers[1], answers[0])
	}
}

// otherAnswers are paths whose answer is not an event stream.
var otherAnswers = []string{
	"/files/big.bin", "/files/none", "/none", "/redirect", "/empty", "/template", "/unauthorized", "/json", "/html",
	"/trailers", "/down", "/handled/down", "/error", "/lateerror", "/break", "/breakchunked", "/big",
}

// TestOtherAnswersToEventSource: requests that name text/event-stream and get
// another answer get what they get without sse, also when many ask at once.
func TestOtherAnswersToEventSource(t *testing.T) {
	plain, with := plainAndSSE(t, varied(t))
	for _, target := range otherAnswers {
		t.Run(target, func(t *testing.T) {
			want := plain.read(http.MethodGet, target, "", "Accept: text/event-stream")
			askers := 20
			if len(want.body) > 1<<20 {
				askers = 3 // of 10 MB
			}
			answers := make([]answer, askers)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() { answers[i] = with.read(http.MethodGet, target, "", "Accept: text/event-stream") })
			}
			all.Wait()
			for _, got := range answers {
				if got != want {
					t.Errorf("with sse: %s\nwithout:  %s", got.short(), want.short())
				}
			}
		})
	}
}

// TestOwnAnswerForEachAsker: no asker is given what was meant for another.
func TestOwnAnswerForEachAsker(t *testing.T) {
	_, with := plainAndSSE(t, varied(t))
	const askers = 20
	bodies := make([]string, askers)
	var all sync.WaitGroup
	for i := range bodies {
		all.Go(func() {
			bodies[i] = with.read(http.MethodGet, "/own", "", "Accept: text/event-stream", fmt.Sprintf("User-Agent: client %d.", i)).body
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for i, text := range bodies {
		number, _, _ := strings.Cut(text, " to ")
		if !strings.HasSuffix(text, fmt.Sprintf(" to client %d.", i)) || seen[number] {
			t.Errorf("client %d was given %q", i, text)
		}
		seen[number] = true
	}
}

// testLateReader is a handler of which a goroutine reads Caddy's variables
// after it has returned, as a dial of reverse_proxy does.
type testLateReader struct{}

func init() {
	caddy.RegisterModule(testLateReader{})
	httpcaddyfile.RegisterHandlerDirective("test_late_reader", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return testLateReader{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_late_reader", httpcaddyfile.Before, "reverse_proxy")
}

func (testLateReader) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_late_reader", New: func() caddy.Module { return new(testLateReader) }}
}

var lateReaders sync.WaitGroup

func (testLateReader) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	ctx := r.Context()
	lateReaders.Go(func() { caddyhttp.GetVar(ctx, "reverse_proxy.scheme") })
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// TestVariablesAreNotWrittenLate: Caddy's variables are in a map that a dial of
// reverse_proxy reads, also after the handlers have returned. The race detector
// tells.
func TestVariablesAreNotWrittenLate(t *testing.T) {
	g := startGateway(t, site("sse\ntest_late_reader"))
	for range 20 {
		g.read(http.MethodGet, "/", "")
	}
	lateReaders.Wait()
}

// gated is an upstream whose answers the test lets go.
type gated struct {
	address string
	asked   chan string   // the askers, in order
	release chan struct{} // one answer
}

func startGated(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *gated {
	t.Helper()
	u := &gated{asked: make(chan string, 100), release: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.asked <- r.UserAgent()
		select {
		case <-u.release:
			answer(w, r)
		case <-r.Context().Done():
		}
	}))
	u.address = server.Listener.Addr().String()
	t.Cleanup(server.Close)
	return u
}

func (u *gated) accept(t *testing.T) string {
	t.Helper()
	select {
	case who := <-u.asked:
		return who
	case <-time.After(testTimeout):
		t.Fatal("the upstream was not asked")
	}
	panic("unreachable")
}

func refuse(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprint(w, r.UserAgent())
}

// TestAskersGoUpstreamInParallel: when the first answer is known to be a refusal
// of a request that says nothing of the client, all who waited ask at once, each
// for itself, the first one too.
func TestAskersGoUpstreamInParallel(t *testing.T) {
	u := startGated(t, refuse)
	g := startGateway(t, site("sse\nreverse_proxy "+u.address))
	const askers = 10
	answers := make(chan answer, askers)
	for i := range askers {
		go func() {
			answers <- g.read(http.MethodGet, "/", "", "Accept: text/event-stream", fmt.Sprint("User-Agent: ", i))
		}()
	}
	first := u.accept(t)
	eventually(t, "all wait for the first answer", func() bool { return subscribers() == askers })
	if first != key.UserAgent {
		t.Errorf("the first request was made as %s", first)
	}
	u.release <- struct{}{}
	all := map[string]bool{}
	for range askers { // none of them is answered yet
		all[u.accept(t)] = true
	}
	if len(all) != askers || all[first] {
		t.Errorf("asked upstream: %v after %s", all, first)
	}
	for range askers {
		u.release <- struct{}{}
	}
	for range askers {
		if got := <-answers; !strings.HasSuffix(got.status, " 403 Forbidden") || !all[got.body] {
			t.Errorf("an asker was given %s", got.short())
		}
	}
	// The key is remembered: the next two do not wait for each other.
	for range 2 {
		go func() { answers <- g.read(http.MethodGet, "/", "", "Accept: text/event-stream") }()
	}
	u.accept(t)
	u.accept(t)
	u.release <- struct{}{}
	u.release <- struct{}{}
	<-answers
	<-answers
}

// TestAskerLeavesBeforeAnswer: those who wait with it are served all the same,
// whatever the answer is.
func TestAskerLeavesBeforeAnswer(t *testing.T) {
	for _, name := range []string{"event stream", "other answer"} {
		t.Run(name, func(t *testing.T) {
			u := startGated(t, func(w http.ResponseWriter, r *http.Request) {
				if name == "other answer" {
					refuse(w, r)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprint(w, "data: 1\n\n")
			})
			g := startGateway(t, site("sse\nreverse_proxy "+u.address))
			ctx, leave := context.WithCancel(context.Background())
			left := make(chan error, 1)
			go func() {
				resp, err := g.client.Do(g.request(http.MethodGet, "/", "Accept: text/event-stream", "User-Agent: first").WithContext(ctx))
				if err == nil {
					resp.Body.Close()
				}
				left <- err
			}()
			u.accept(t)
			answers := make(chan answer, 1)
			go func() {
				answers <- g.read(http.MethodGet, "/", "", "Accept: text/event-stream", "User-Agent: second")
			}()
			eventually(t, "both wait", func() bool { return subscribers() == 2 })
			leave()
			if err := <-left; err == nil {
				t.Error("who left was given an answer")
			}
			eventually(t, "one waits", func() bool { return subscribers() == 1 })
			u.release <- struct{}{}
			// Nor is a stream its own before it is known to be everybody's.
			if who := u.accept(t); who != "second" && name == "other answer" {
				t.Errorf("%s asked", who)
			}
			u.release <- struct{}{}
			want := map[string]string{"other answer": "second", "event stream": "data: 1\n"}[name]
			if got := <-answers; !strings.Contains(got.body, want) {
				t.Errorf("the one who stayed was given %s", got.short())
			}
		})
	}
}

// TestAskerLeavesDuringOtherAnswer: the upstream connection of an answer that
// is one client's ends with it.
func TestAskerLeavesDuringOtherAnswer(t *testing.T) {
	address, _, expectGone := startHanging(t, func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprint(w, "{}\n")
		_ = http.NewResponseController(w).Flush()
	})
	g := startGateway(t, site("sse\nreverse_proxy "+address+" {\nflush_interval -1\n}"))
	resp := g.get("/")
	line := make([]byte, 3)
	if _, err := io.ReadFull(resp.Body, line); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	expectGone()
}

// startHanging starts an upstream with one answer that begins and does not end.
// asked is closed when it is asked for; expectGone waits for the gateway to close
// the connection.
func startHanging(t *testing.T, begin func(w http.ResponseWriter)) (address string, asked <-chan struct{}, expectGone func()) {
	t.Helper()
	came, gone := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(came)
		begin(w)
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), came, func() {
		t.Helper()
		select {
		case <-gone:
		case <-time.After(testTimeout):
			t.Error("the upstream connection was not closed")
		}
	}
}

// TestPrivateStreamOfPost: an event stream that answers a POST is its
// client's: its bytes as they come, heartbeats between its blocks, cancelled
// when it leaves.
func TestPrivateStreamOfPost(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "Text/Event-Stream;")
		w.Header().Set("X-Own", "yes")
		w.Header().Set("Set-Cookie", "a=1")
	})
	g := startGateway(t, proxied("heartbeat 5ms event ping 1", u))
	post := func() *http.Response {
		resp, err := g.client.Do(g.request(http.MethodPost, "/", "Accept: application/json, text/event-stream"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	resp := post()
	for name, want := range map[string]string{
		"X-Own": "yes", "Set-Cookie": "a=1", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "SSE-Resume": "private; reason=method",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	up := u.accept()
	c := newTestClient(t, resp)
	for range 3 {
		if m := c.next(); m.Type != "ping" || m.Data != "1" {
			t.Errorf("%+v before the first event", m)
		}
	}
	up.write("data: one\nda")
	up.write("ta: two\n\n")
	for m := c.next(); ; m = c.next() {
		if m.Type == "ping" {
			continue
		}
		if m.Data != "one\ntwo" || m.LastEventID != "" {
			t.Errorf("event %+v", m)
		}
		break
	}
	second := newTestClient(t, post())
	upSecond := u.accept() // never shared
	c.close()
	up.expectGone()
	upSecond.write("data: tail")
	upSecond.end()
	raw := slices.Collect(func(yield func(string) bool) {
		for m := range second.messages {
			if m.Type != "ping" && !yield(m.Data) {
				return
			}
		}
	})
	if len(raw) > 0 || second.err != nil {
		t.Errorf("events %q, error %v", raw, second.err)
	}
}

// TestPrivateStreamEnds: what follows the last blank line is passed on whatever
// comes then; an end that is none is passed on as such.
func TestPrivateStreamEnds(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for _, clean := range []bool{true, false} {
		result := make(chan answer, 1)
		go func() { result <- g.read(http.MethodPost, "/", "{}", "Content-Type: application/json") }()
		up := u.accept()
		up.write(": hi\r\n\r\ndata: 1\r\rdata: tail")
		want := ": hi\r\n\r\ndata: 1\r\rdata: tail"
		if clean {
			up.end()
		} else {
			up.breakOff()
		}
		got := <-result
		if got.body != want || (got.err == "") != clean {
			t.Errorf("clean %v: %s", clean, got.short())
		}
	}
}

// TestPrivateBytesPassAsTheyCome: an application may say that its answer is an
// event stream and frame it in its own way, or not at all. Each byte is there
// before the next one is sent.
func TestPrivateBytesPassAsTheyCome(t *testing.T) {
	coded := func(text string) (whole []byte, ends []int) {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		for _, piece := range strings.SplitAfter(text, " ") {
			_, _ = io.WriteString(z, piece)
			_ = z.Flush()
			ends = append(ends, out.Len())
		}
		return out.Bytes(), ends
	}
	for name, text := range map[string]string{
		"tokens":                  "Hello, this is an answer. It has no lines.",
		"lines":                   "data: token 1\ndata: token 2\ndata: token 3\n",
		"CR":                      "data: 1\r\rdata: 2\r\r",
		"CRLF":                    "\r\ndata: 1\r\n\r\n\r\n:\r\n",
		"several blank lines":     "\n\n\ndata: 1\n\n\n\ndata: 2\n\n",
		"byte order mark":         "\uFEFFdata: 1\n\n\uFEFFdata: 2\n\n",
		"no byte order mark":      "\xEF\xBBdata: 1\n\n",
		"comments of one line":    ":thump\n:thump\n:thump\n",
		"a comment in an event":   "data: 1\n: hi\ndata: 2\n\n",
		"ids, types and the rest": "retry: 1\nid: 1\nevent:a\nfoo\ndata:\x00\xFF\n\nid\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, coding := range []string{"", "gzip"} {
				u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					w.Header().Set("Content-Encoding", coding)
				})
				g := startGateway(t, proxied("heartbeat off", u))
				ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
				defer cancel()
				resp, err := g.client.Do(g.request(http.MethodPost, "/", "Accept-Encoding: gzip").WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				up := u.accept()
				expect := func(want string) {
					t.Helper()
					got := make([]byte, len(want))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
						t.Fatalf("%q came (%v), expected %q", got, err, want)
					}
				}
				if coding != "" {
					whole, ends := coded(text)
					from := 0
					for i, piece := range strings.SplitAfter(text, " ") {
						up.write(string(whole[from:ends[i]]))
						expect(piece)
						from = ends[i]
					}
				} else {
					for i := range len(text) {
						up.write(text[i : i+1])
						expect(text[i : i+1])
					}
					up.end()
				}
				_ = resp.Body.Close()
			}
		})
	}
}
