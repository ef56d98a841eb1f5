package caddysse

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// ask makes a request with a body and returns the answer.
func (g *gateway) ask(method, target, content string, fields ...string) *http.Response {
	g.t.Helper()
	req := g.request(method, target, fields...)
	if content != "" {
		req.Body = io.NopCloser(strings.NewReader(content))
		req.ContentLength = int64(len(content))
	}
	return g.do(req)
}

func (g *gateway) do(req *http.Request) *http.Response {
	g.t.Helper()
	resp, err := g.client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// prompt asks as for an answer of a language model.
func (g *gateway) prompt(method, target string, fields ...string) *testClient {
	g.t.Helper()
	return newTestClient(g.t, g.ask(method, target, `{"stream":true}`, fields...))
}

// expectBroken waits for the stream to break off, with nothing before it.
func (c *testClient) expectBroken() {
	c.t.Helper()
	select {
	case m, ok := <-c.messages:
		if ok {
			c.t.Fatalf("event %q, expected the end", m.Data)
		}
		if c.err == nil {
			c.t.Fatal("the stream ended, expected it to break off")
		}
	case <-time.After(testTimeout):
		c.t.Fatal("the stream did not end")
	}
}

// expectOne checks that the upstream was asked once.
func (u *upstream) expectOne() {
	u.t.Helper()
	if _, all := u.counts(); all != 1 {
		u.t.Fatalf("the upstream was asked %d times", all)
	}
}

// A client that is cut five times in an answer gets each token once, however it
// comes back, and the upstream one request.
func TestDetachedCuts(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m\nbuffer 5000", u))
	c := g.prompt(http.MethodPost, "/chat?model=a", "Authorization: Bearer me", "Content-Type: application/json")
	up := u.accept()
	tokens := numbers(1, 2000)
	sent, got := 0, 0
	send := func(n int) {
		up.event(tokens[sent : sent+n]...)
		sent += n
	}
	receive := func(n int) (last eventstream.Message) {
		last = c.expect(tokens[got : got+n]...)
		got += n
		return last
	}
	for _, back := range []func(id string) *testClient{
		func(id string) *testClient {
			return g.prompt(http.MethodPost, "/chat?model=a", "Authorization: Bearer me", "Content-Type: application/json", "Last-Event-ID: "+id)
		},
		func(id string) *testClient {
			return g.prompt(http.MethodGet, "/chat?model=a", "Authorization: Bearer me", "Last-Event-ID: "+id)
		},
		func(id string) *testClient {
			return g.subscribe("/chat?model=a", "Authorization: Bearer me", "Last-Event-ID: "+id, "Origin: https://elsewhere.test")
		},
		func(id string) *testClient {
			return g.subscribe("/chat?lastEventId="+id+"&model=a", "Authorization: Bearer me")
		},
		func(id string) *testClient {
			return g.prompt(http.MethodPut, "/chat?model=a&last-event-id="+id, "Authorization: Bearer me", "Content-Type: text/plain", "User-Agent: other")
		},
	} {
		send(200)
		id := receive(150).LastEventID
		c.close()
		send(100)
		c = back(id)
		if outcome := c.outcome(); !strings.HasPrefix(outcome, "replayed; events=") {
			t.Errorf("SSE-Resume %q", outcome)
		}
		u.expectOne()
	}
	send(len(tokens) - sent)
	up.end()
	receive(len(tokens) - got)
	c.expectEnd()
	u.expectOne()
}

// startPrompt starts a gateway with a client whose answer has begun: the upstream
// has sent the events, and the client has read the first of them, which is 1 and
// has the id.
func startPrompt(t *testing.T, options string, events ...string) (g *gateway, u *upstream, c *testClient, up *upstreamClient, id string) {
	t.Helper()
	u = startUpstream(t, nil)
	g = startGateway(t, proxied(options, u))
	c = g.prompt(http.MethodPost, "/")
	up = u.accept()
	up.event(events...)
	return g, u, c, up, c.expect("1").LastEventID
}

// A client that is cut before its first event resumes from the prime block.
func TestDetachedPrime(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m", u))
	resp := g.ask(http.MethodPost, "/", "{}")
	up := u.accept()
	up.event("1")
	line := make([]byte, len("id: sse1.0123456789abcdef0123456789abcdef.0\n\n"))
	if _, err := io.ReadFull(resp.Body, line); err != nil {
		t.Fatal(err)
	}
	id, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n\n"), "id: ")
	if _, position, own := replay.ParseID(id); !ok || !own || position != 0 {
		t.Fatalf("the first block is %q", line)
	}
	resp.Body.Close()
	up.end()
	c := g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id)
	c.expect("1")
	c.expectEnd()
	u.expectOne()
}

// An answer comes to its end while nobody is there, and is had afterwards, by
// two at once.
func TestDetachedEndsAlone(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Set-Cookie", "a=1")
		w.Header().Set("X-Own", "yes")
	})
	g := startGateway(t, proxied("detach 1m", u))
	c := g.prompt(http.MethodPost, "/")
	if c.resp.Header.Get("Set-Cookie") != "a=1" {
		t.Error("no cookie for the client that asked")
	}
	up := u.accept()
	up.write("id: 7\nevent: token\ndata: 1\n\n")
	first := c.next()
	if _, _, own := replay.ParseID(first.LastEventID); !own || first.Type != "token" {
		t.Fatalf("event %+v", first)
	}
	c.close()
	up.event(numbers(2, 100)...)
	up.write("data: tail")
	up.end()
	eventually(t, "the answer ended", func() bool { open, _ := u.counts(); return open == 0 })
	var readers []*testClient
	for range 2 {
		readers = append(readers, g.prompt(http.MethodPost, "/", "Last-Event-ID: "+first.LastEventID))
	}
	for _, r := range readers {
		r.expect(numbers(2, 100)...)
		r.expectEnd()
		if r.resp.Header.Get("Set-Cookie") != "" || r.resp.Header.Get("X-Own") != "yes" {
			t.Errorf("head of who came back: %v", r.resp.Header)
		}
	}
	raw := g.read(http.MethodGet, "/", "", "Last-Event-ID: "+first.LastEventID)
	if !strings.HasSuffix(raw.body, "\n\ndata: tail") || raw.err != "" {
		t.Errorf("%s", raw.short())
	}
	u.expectOne()
}

// Several clients read one answer while it goes on.
func TestDetachedReaders(t *testing.T) {
	g, u, a, up, id := startPrompt(t, "detach 1m", "1")
	b := g.prompt(http.MethodGet, "/", "Last-Event-ID: "+id)
	up.event("2")
	a.expect("2")
	b.expect("2")
	a.close()
	up.event("3")
	up.end()
	b.expect("3")
	b.expectEnd()
	u.expectOne()
}

// Without a client the upstream is cancelled, and nothing is left.
func TestDetachedAbandoned(t *testing.T) {
	_, u, c, up, _ := startPrompt(t, "detach 100ms", "1")
	c.close()
	up.expectGone()
	assertNothingLeft(t, u)
}

// A break of the upstream is one for all, also for who comes back later.
func TestDetachedBreakOff(t *testing.T) {
	g, u, c, up, id := startPrompt(t, "detach 1m", "1", "2")
	up.breakOff()
	c.expect("2")
	c.expectBroken()
	for range 2 {
		again := g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id)
		again.expect("2")
		again.expectBroken()
	}
	u.expectOne()
}

// DELETE cancels an answer of the client's own.
func TestDetachedDelete(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.Header().Set("X-Next", "yes")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Access-Control-Allow-Origin", "https://a.test")
	})
	g := startGateway(t, proxied("detach 1m", u))
	c := g.prompt(http.MethodPost, "/", "Cookie: a=1")
	up := u.accept()
	up.event("1")
	id := c.expect("1").LastEventID
	other := func(fields ...string) answer {
		result := make(chan answer, 1)
		go func() { result <- g.read(http.MethodDelete, "/", "", fields...) }()
		up := u.accept()
		up.end()
		if id != "" && up.request.Header.Get("Last-Event-ID") == id {
			t.Error("the upstream was told an ID of the gateway")
		}
		return <-result
	}
	// The application takes a DELETE for one of its own resource.
	unknown := func(fields ...string) {
		t.Helper()
		if got := g.read(http.MethodDelete, "/", "", fields...); !strings.Contains(got.status, "404") {
			t.Errorf("DELETE with %q: %s", fields, got.short())
		}
	}
	unknown("Last-Event-ID: "+id, "Cookie: a=2")
	unknown("Last-Event-ID: sse1.00000000000000000000000000000000.1", "Cookie: a=1")
	if got := other("Cookie: a=1"); !strings.Contains(got.head, "X-Next") {
		t.Errorf("DELETE without an ID: %s", got.short())
	}
	if got := other("Cookie: a=1", "Last-Event-ID: 5"); !strings.Contains(got.head, "X-Next") {
		t.Errorf("DELETE with an ID of the upstream: %s", got.short())
	}
	got := g.read(http.MethodDelete, "/", "", "Last-Event-ID: "+id, "Cookie: a=1")
	if !strings.Contains(got.status, "202") || got.body != "" || !strings.Contains(got.head, "https://a.test") {
		t.Errorf("DELETE: %s", got.short())
	}
	up.expectGone()
	c.expectBroken()
	unknown("Last-Event-ID: "+id, "Cookie: a=1") // it was cancelled
	if _, all := u.counts(); all != 1+2 {
		t.Errorf("%d requests reached the application", all)
	}

	g = startGateway(t, proxied("", u)) // the ID outlives the option
	unknown("Last-Event-ID: "+id, "Cookie: a=1")
	g = startGateway(t, proxied("ids upstream", u)) // of another gateway
	id = ""                                         // which the application may be told
	if got := other("Last-Event-ID: sse1.00000000000000000000000000000000.1"); !strings.Contains(got.head, "X-Next") {
		t.Errorf("DELETE with an ID of the upstream: %s", got.short())
	}
}

// A stranger with the right ID gets, to the byte, what anybody gets with an ID
// that never was; the upstream sees neither.
func TestDetachedStranger(t *testing.T) {
	requests := make(chan *http.Request, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.Clone(context.Background())
		if r.URL.Path == "/json" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{}")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\ndata: 2\n\n")
		if r.Header.Get("X-Stay") != "" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	g := startGateway(t, site(`
		sse {
			detach 1m
			detach_headers X-Device
			gap_event gap
		}
		reverse_proxy `+server.Listener.Addr().String()+` {
			header_up X-Original {http.request.orig_uri}
		}`))
	mine := []string{"Authorization: Bearer me", "Cookie: a=1", "X-Api-Key: k", "X-Device: d"}
	c := g.prompt(http.MethodPost, "/a?q=1", append(slices.Clone(mine), "X-Stay: 1")...)
	<-requests
	id := c.expect("1").LastEventID
	unknown := string(replay.AppendID(nil, replay.NewEpoch(), 1))

	masked := func(a answer) answer { // the epochs of new streams
		for part := range strings.FieldsSeq(a.body) {
			if epoch, _, ok := replay.ParseID(part); ok && !strings.Contains(id, epoch) && !strings.Contains(unknown, epoch) {
				a.body = strings.ReplaceAll(a.body, epoch, "E")
			}
		}
		a.body = strings.ReplaceAll(a.body, id, "ID")
		a.body = strings.ReplaceAll(a.body, unknown, "ID")
		return a
	}
	for name, test := range map[string]struct {
		target string
		fields []string
	}{
		"other user":       {"/a?q=1", []string{"Authorization: Bearer you", "Cookie: a=1", "X-Api-Key: k", "X-Device: d"}},
		"no credentials":   {"/a?q=1", nil},
		"other cookie":     {"/a?q=1", []string{"Authorization: Bearer me", "Cookie: a=2", "X-Api-Key: k", "X-Device: d"}},
		"no cookie":        {"/a?q=1", []string{"Authorization: Bearer me", "X-Api-Key: k", "X-Device: d"}},
		"other key":        {"/a?q=1", []string{"Authorization: Bearer me", "Cookie: a=1", "X-Api-Key: l", "X-Device: d"}},
		"added key":        {"/a?q=1", append(slices.Clone(mine), "Api-Key: k")},
		"other device":     {"/a?q=1", []string{"Authorization: Bearer me", "Cookie: a=1", "X-Api-Key: k", "X-Device: e"}},
		"credential moved": {"/a?q=1", []string{"Authorization: Bearer me", "Cookie: a=1", "Api-Key: k", "X-Device: d"}},
		"other path":       {"/b?q=1", mine},
		"other query":      {"/a?q=2", mine},
		"no query":         {"/a", mine},
		"other host":       {"/a?q=1", append(slices.Clone(mine), "Host: other.test")},
		"twice":            {"/a?q=1", append(slices.Clone(mine), "Cookie: a=1")},
		"not a stream":     {"/json", mine},
		"MCP":              {"/a?q=1", append(slices.Clone(mine), "Mcp-Session-Id: s")},
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			for _, query := range []bool{false, true} {
				ask := func(id string) answer {
					target, fields := test.target, test.fields
					if query {
						target += "&lastEventId=" + id
						if !strings.Contains(test.target, "?") {
							target = test.target + "?lastEventId=" + id
						}
					} else {
						fields = append(slices.Clone(fields), "Last-Event-ID: "+id)
					}
					a := g.read(method, target, "{}", fields...)
					select {
					case r := <-requests:
						if name != "MCP" && (strings.Contains(r.URL.RawQuery, "sse1.") || strings.Contains(fmt.Sprint(r.Header), "sse1.")) {
							t.Errorf("%s: the upstream was told an ID of the gateway: %s %v", name, r.URL, r.Header)
						}
						if method == http.MethodDelete && name != "MCP" {
							t.Errorf("%s %s: the upstream was asked", method, name)
						}
					default:
						if method != http.MethodDelete || name == "MCP" {
							t.Errorf("%s %s: the upstream was not asked", method, name)
						}
					}
					return masked(a)
				}
				stranger, nobody := ask(id), ask(unknown)
				if stranger != nobody {
					t.Errorf("%s %s: with the right ID %s\nwith one that never was %s", method, name, stranger.short(), nobody.short())
				}
				if name == "no credentials" && method != http.MethodDelete && (!strings.Contains(nobody.head, "Sse-Resume:[gap]") ||
					!strings.Contains(nobody.body, `{"reason":"epoch","last_event_id":"ID","missed":null}`)) {
					t.Errorf("an unknown ID is not told: %s", nobody.short())
				}
			}
		}
	}
	c.close()
	for _, fields := range [][]string{
		{"Content-Type: text/plain"}, {"Origin: https://a.test", "User-Agent: x", "Accept-Language: de"}, {"X-Stay: 2"}, {"Host: GATEWAY.test"},
	} {
		again := g.prompt(http.MethodPost, "/a?q=1", append(append(slices.Clone(mine), fields...), "Last-Event-ID: "+id)...)
		if m := again.next(); m.Data != "2" {
			t.Errorf("%v: event %+v", fields, m)
		}
		again.close()
	}
	if len(requests) > 0 {
		t.Errorf("the upstream was asked: %v", (<-requests).Header)
	}
}

// An ID of an answer that is over and gone is one that nobody knows.
func TestDetachedEvicted(t *testing.T) {
	g, u, c, up, id := startPrompt(t, "detach 1m\nbuffer 100 1MiB 100ms", "1", "2")
	up.end()
	c.expect("2")
	c.expectEnd()
	assertNothingLeft(t, u)
	result := make(chan *testClient, 1)
	go func() { result <- g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id) }()
	up = u.accept()
	if got := up.request.Header.Get("Last-Event-ID"); got != "" {
		t.Errorf("the upstream was told %q", got)
	}
	up.event("anew")
	again := <-result
	again.expect("anew")
	if again.outcome() != stream.ResumeGap {
		t.Errorf("SSE-Resume %q", again.outcome())
	}
}

// What the upstream gets is what it gets without sse, with bodies of all kinds.
func TestDetachedRequestIsUnchanged(t *testing.T) {
	deliverytest.Once(t) // it is about what the upstream is asked
	type seen struct{ request, body string }
	requests := make(chan seen, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		names := slices.Sorted(maps.Keys(r.Header))
		var text strings.Builder
		fmt.Fprintln(&text, r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, err)
		for _, name := range names {
			fmt.Fprintln(&text, name, r.Header[name])
		}
		requests <- seen{text.String(), string(data)}
		w.Header().Set("Set-Cookie", "a=1")
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
	}))
	t.Cleanup(server.Close)
	plain, with := plainAnd(t, "sse {\ndetach 1m\nshare public\nmax_request_body 1000\n}",
		"route {\nvars tenant {header.X-Tenant}\nmap {header.X-Tenant} {mapped} {\na b\n}\n{sse}\nreverse_proxy "+
			server.Listener.Addr().String()+" {\nheader_up X-Vars \"{vars.tenant} {mapped}\"\n}\n}")
	for _, length := range []int{0, 1, 999, 1000, 1001, 100_000} {
		for _, known := range []bool{true, false} {
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				var both []seen
				for _, g := range []*gateway{plain, with} {
					req := g.request(method, "/a%20b?lastEventId=5&x=%41&x=2", "X-Tenant: a", "Cookie: s=1; t=2", "Authorization: Bearer me",
						"Last-Event-ID: 7", "Accept-Encoding: gzip, br", "If-None-Match: x", "Range: bytes=1-", "Content-Type: text/plain", "X-A: 1", "X-A: 2")
					if length > 0 {
						req.Body = io.NopCloser(bytes.NewReader(bigFile()[:length]))
						req.ContentLength = -1
						if known {
							req.ContentLength = int64(length)
						}
					}
					resp := g.do(req)
					if text := body(t, resp); !strings.Contains(text, "data: 1\n") {
						t.Errorf("%q", text)
					}
					if detached := strings.Contains(resp.Header.Get("SSE-Resume"), "live"); detached != (g == with && length <= 1000) {
						t.Errorf("%d bytes, known %v: detached %v", length, known, detached)
					}
					if resp.Header.Get("Set-Cookie") != "a=1" {
						t.Error("no cookie") // share public is not for private streams
					}
					both = append(both, <-requests)
				}
				if both[0] != both[1] {
					t.Errorf("%s, %d bytes, known %v: with sse %s\nwithout %s", method, length, known, both[1].request, both[0].request)
				}
			}
		}
	}
}

// A large body is streamed, with detach after max_request_body, without it from
// the first byte.
func TestDetachedLargeBody(t *testing.T) {
	for _, test := range []struct {
		options string
		before  int // how much may have to be sent until something comes
	}{
		{"", 1},
		{"detach 1m", defaultMaxRequestBody + 1},
		{"detach 1m\nmax_request_body 10", 11},
	} {
		t.Run(test.options, func(t *testing.T) {
			const size = 5 << 20
			read := make(chan int64, 1)
			gone := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.CopyN(io.Discard, r.Body, int64(test.before))
				read <- n
				rest, _ := io.Copy(io.Discard, r.Body)
				read <- n + rest
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprint(w, "data: 1\n\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				close(gone)
			}))
			t.Cleanup(server.Close)
			g := startGateway(t, site("sse {\n"+test.options+"\n}\nreverse_proxy "+server.Listener.Addr().String()))
			pr, pw := io.Pipe()
			req := g.request(http.MethodPost, "/")
			req.Body = pr
			result := make(chan *http.Response, 1)
			go func() {
				resp, err := g.client.Do(req)
				if err != nil {
					t.Error(err)
				}
				result <- resp
			}()
			if _, err := pw.Write(make([]byte, test.before)); err != nil {
				t.Fatal(err)
			}
			expectRead := func(want int64) {
				t.Helper()
				select {
				case n := <-read:
					if n != want {
						t.Errorf("the upstream got %d bytes", n)
					}
				case <-time.After(testTimeout):
					t.Fatal("the body was held back")
				}
			}
			expectRead(int64(test.before))
			if _, err := pw.Write(make([]byte, size-test.before)); err != nil {
				t.Fatal(err)
			}
			pw.Close()
			expectRead(size)
			resp := <-result
			c := newTestClient(t, resp)
			if id := c.expect("1").LastEventID; id != "" {
				t.Errorf("ID %q", id)
			}
			c.close()
			select {
			case <-gone:
			case <-time.After(testTimeout):
				t.Error("the upstream connection was not closed")
			}
		})
	}
}

func TestCopyBody(t *testing.T) {
	const limit = 10
	failure := errors.New("failure")
	for name, test := range map[string]struct {
		length int64 // as the request says
		body   io.Reader
		want   string
		own    bool
	}{
		"empty":            {0, strings.NewReader(""), "", true},
		"known":            {4, strings.NewReader("text"), "text", true},
		"unknown":          {-1, iotest.OneByteReader(strings.NewReader("text")), "text", true},
		"full":             {-1, strings.NewReader("0123456789"), "0123456789", true},
		"known to be over": {11, iotest.ErrReader(failure), "failure", false}, // not read
		"over":             {-1, strings.NewReader("0123456789a"), "0123456789a", false},
		"far over":         {-1, iotest.OneByteReader(strings.NewReader("0123456789abcdef")), "0123456789abcdef", false},
		"broken":           {-1, io.MultiReader(strings.NewReader("012"), &oneError{err: failure}), "012failure", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Body: io.NopCloser(test.body), ContentLength: test.length}
			before := r.Body
			if own := copyBody(r, limit); own != test.own {
				t.Fatalf("own %v", own)
			}
			data, err := io.ReadAll(r.Body)
			text := string(data)
			if err != nil {
				text += err.Error()
			}
			if text != test.want {
				t.Errorf("%q, expected %q", text, test.want)
			}
			if _, again := r.Body.Read(make([]byte, 1)); again == nil {
				t.Error("no end")
			}
			if name == "known to be over" && r.Body != before {
				t.Error("the body was read")
			}
			if test.own && r.Body == before {
				t.Error("the body is the client's")
			}
			if r.Body.Close() != nil {
				t.Error("not closed")
			}
		})
	}
	if !copyBody(&http.Request{}, limit) || !copyBody(&http.Request{Body: http.NoBody}, limit) {
		t.Error("no body is not right")
	}
	b := newOwnBody([]byte("text"))
	_ = b.Close()
	if n, err := b.Read(make([]byte, 9)); n != 0 || err != io.EOF {
		t.Error("a closed body can be read")
	}
}

// oneError fails once, and ends after that.
type oneError struct{ err error }

func (e *oneError) Read([]byte) (int, error) {
	if err := e.err; err != nil {
		e.err = nil
		return 0, err
	}
	return 0, io.EOF
}

// With detach other answers are what they are without sse.
func TestDetachedOtherRequestsPass(t *testing.T) {
	testOtherRequestsPass(t, "sse {\ndetach 1m\n}")
	if n, _ := stream.Process.Remembered(); n > 0 {
		t.Errorf("%d keys are remembered that nobody shares anyway", n)
	}
}

// The upstream connection of an answer that is no event stream, or of none yet,
// ends with its client.
func TestDetachedOtherAnswersEnd(t *testing.T) {
	for _, test := range []string{"application/x-ndjson", "no head", "text/event-stream; coded"} {
		t.Run(test, func(t *testing.T) {
			address, asked, expectGone := startHanging(t, func(w http.ResponseWriter) {
				if test == "no head" {
					return
				}
				w.Header().Set("Content-Type", test)
				if strings.HasSuffix(test, "coded") {
					w.Header().Set("Content-Encoding", "br")
				}
				fmt.Fprint(w, "{}\n")
				_ = http.NewResponseController(w).Flush()
			})
			g := startGateway(t, site("sse {\ndetach 1m\n}\nreverse_proxy "+address+" {\nflush_interval -1\n}"))
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			go func() {
				defer close(left)
				resp, err := g.client.Do(g.request(http.MethodPost, "/").WithContext(ctx))
				if err != nil {
					return
				}
				defer resp.Body.Close()
				_, _ = io.ReadFull(resp.Body, make([]byte, 3))
				leave()
			}()
			<-asked
			if test == "no head" {
				leave()
			}
			<-left
			expectGone()
			eventually(t, "nothing is left", func() bool { return len(ownGoroutines()) == 0 && len(stream.Process.Every()) == 0 })
			leave()
		})
	}
}

// Content codings are removed, as the ids are put into the text.
func TestDetachedCoding(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
	})
	g := startGateway(t, proxied("detach 1m", u))
	c := g.prompt(http.MethodPost, "/", "Accept-Encoding: gzip")
	up := u.accept()
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	fmt.Fprint(z, "data: 1\n\ndata: 2\n\n")
	z.Close()
	up.write(coded.String())
	up.end()
	id := c.expect("1").LastEventID
	c.expect("2")
	c.expectEnd()
	again := g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id)
	again.expect("2")
	again.expectEnd()
}

// What is the MCP's is not detached.
func TestDetachedNotMCP(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m", u))
	c := g.prompt(http.MethodPost, "/", "Mcp-Session-Id: s", "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.1")
	up := u.accept()
	if up.request.Header.Get("Last-Event-ID") == "" {
		t.Error("the ID did not reach the upstream")
	}
	up.write("id: 5\ndata: 1\n\n")
	if id := c.expect("1").LastEventID; id != "5" || c.outcome() != "gap" { // nothing tells that the ID is known
		t.Errorf("ID %q, SSE-Resume %q", id, c.outcome())
	}
	c.close()
	up.expectGone()
}

// Streams of requests that share are none of detach's affair, and are resumed
// as without it.
func TestDetachedAndShared(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m", u))
	a := g.subscribe("/")
	up := u.accept()
	b := g.subscribe("/")
	up.event("1", "2")
	id := b.expect("1").LastEventID
	b.close()
	again := g.subscribe("/", "Last-Event-ID: "+id)
	again.expect("2")
	a.expect("1", "2")
	u.expectOne()

	c := g.prompt(http.MethodGet, "/") // does not name the media type
	upC := u.accept()
	upC.event("own")
	id = c.expect("own").LastEventID
	c.close()
	upC.event("more")
	back := g.subscribe("/", "Last-Event-ID: "+id)
	back.expect("more")
}

// After a reload the stream goes on, and its client finds it.
func TestDetachedOverReload(t *testing.T) {
	u, after := startUpstream(t, nil), startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m", u))
	ask := func(fields ...string) *testClient {
		t.Helper()
		return newTestClient(t, g.askOverReload(http.MethodPost, "/", fields...))
	}
	a := ask()
	up := u.accept()
	b := ask()
	upB := u.accept()
	up.event("1")
	upB.event("1")
	idA, idB := a.expect("1").LastEventID, b.expect("1").LastEventID
	a.close()
	for range 3 {
		g.load(proxied("detach 1m\nbuffer 100", after))
		up.event("2")
		upB.event("2")
		b.expect("2")
		a = ask("Last-Event-ID: " + idA)
		idA = a.expect("2").LastEventID
		a.close()
	}
	b.close()
	b = ask("Last-Event-ID: " + idB)
	b.expect("2", "2", "2")
	upB.end()
	b.expectEnd()
	c := ask()
	after.accept().event("new")
	c.expect("new")
	if _, all := u.counts(); all != 2 {
		t.Errorf("%d requests", all)
	}
}

// Over max_streams an event stream is refused, other answers are not.
func TestDetachedMaxStreams(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/json" {
			w.Header().Set("Content-Type", "application/json")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
	})
	g := startGateway(t, proxied("detach 1m\nmax_streams 1", u))
	c := g.prompt(http.MethodPost, "/")
	up := u.accept()
	up.event("1")
	id := c.expect("1").LastEventID
	got := g.read(http.MethodPost, "/", "")
	if !strings.Contains(got.status, "503") || !strings.Contains(got.head, "Retry-After") || strings.Contains(got.head, "event-stream") {
		t.Errorf("one too many: %s", got.short())
	}
	u.accept().expectGone()
	result := make(chan answer, 1)
	go func() { result <- g.read(http.MethodPost, "/json", "") }()
	u.accept().end()
	if got := <-result; !strings.Contains(got.status, "200") {
		t.Errorf("another answer: %s", got.short())
	}
	c.close()
	g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id)
}

// A response that ends before the answer does is not whole, and breaks off.
func TestDetachedMaxAge(t *testing.T) {
	g, u, c, up, id := startPrompt(t, "detach 1m\nmax_age 1h", "1")
	for _, end := range stream.Process.LeaveNow() {
		if time.Until(end.At) > time.Hour || end.Why != stream.EndMaxAge {
			t.Errorf("the response ends at %v, for %q", end.At, end.Why)
		}
	}
	c.expectBroken()
	up.event("2")
	up.end()
	c = g.prompt(http.MethodPost, "/", "Last-Event-ID: "+id)
	c.expect("2")
	c.expectEnd()
	u.expectOne()
}

// So does one whose process stops; the upstream is let go, also of those
// without a client. A stream that begins then is cut, other answers are not.
func TestDetachedStopOverHTTP(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/json" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
	})
	g := startGateway(t, proxied("detach 1m\ndrain 10ms", u))
	alone := g.prompt(http.MethodPost, "/")
	upAlone := u.accept()
	alone.close()
	c := g.prompt(http.MethodPost, "/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	stream.Process.Stop()
	upAlone.expectGone()
	c.expectBroken()
	up.expectGone()
	if got := g.read(http.MethodPost, "/", ""); got.err != "no answer" {
		t.Errorf("who comes then: %s", got.short())
	}
	u.accept().expectGone()
	result := make(chan answer, 1)
	go func() { result <- g.read(http.MethodPost, "/json", "") }()
	u.accept().end()
	if got := <-result; !strings.Contains(got.status, "200") {
		t.Errorf("another answer: %s", got.short())
	}
}

// A client that leaves is noticed, also when it has sent its request again with
// a body that the server would not read.
func TestDetachedResumedClientLeaves(t *testing.T) {
	g, _, c, up, id := startPrompt(t, "detach 1m\nheartbeat off", "1")
	c.close()
	eventually(t, "the client has left", func() bool { return subscribers() == 0 })
	c = newTestClient(t, g.ask(http.MethodPost, "/", string(bigFile()[:900_000]), "Last-Event-ID: "+id))
	up.event("2")
	c.expect("2")
	c.close()
	eventually(t, "the client has left again", func() bool { return subscribers() == 0 })
}

// A client gets all of an answer that is larger than the buffer, at its pace.
func TestDetachedLargeAnswer(t *testing.T) {
	const events = 20_000
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range events {
			fmt.Fprintf(w, "data: %d %0200d\n\n", i, 0)
		}
	}))
	t.Cleanup(server.Close)
	g := startGateway(t, site("sse {\ndetach 1m\nbuffer 10 4KiB\n}\nreverse_proxy "+server.Listener.Addr().String()))
	c := g.prompt(http.MethodPost, "/")
	for i := range events {
		if m := c.next(); !strings.HasPrefix(m.Data, fmt.Sprintf("%d ", i)) {
			t.Fatalf("event %q, expected %d", m.Data, i)
		}
	}
	c.expectEnd()
}

// The user and the certificate separate clients.
func TestDetachedParts(t *testing.T) {
	h := &Handler{Detach: caddy.Duration(time.Minute), Share: sharePublic}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Cleanup() }()
	key := func(change func(r *http.Request, repl *caddy.Replacer)) stream.Key {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://a.test/a?b=c", nil)
		repl := caddy.NewReplacer()
		r = caddyhttp.PrepareRequest(r, repl, httptest.NewRecorder(), nil)
		if change != nil {
			change(r, repl)
		}
		return stream.Process.Key(h.detachedParts(r))
	}
	same := key(nil)
	for name, test := range map[string]struct {
		change func(r *http.Request, repl *caddy.Replacer)
		same   bool
	}{
		"user":         {func(_ *http.Request, repl *caddy.Replacer) { repl.Set("http.auth.user.id", "me") }, false},
		"certificate":  {func(r *http.Request, _ *caddy.Replacer) { r.TLS = tlsWith("a") }, false},
		"path":         {func(r *http.Request, _ *caddy.Replacer) { r.URL.Path = "/b" }, false},
		"tls":          {func(r *http.Request, _ *caddy.Replacer) { r.TLS = new(tls.ConnectionState) }, true},
		"method":       {func(r *http.Request, _ *caddy.Replacer) { r.Method = http.MethodGet }, true},
		"content type": {func(r *http.Request, _ *caddy.Replacer) { r.Header.Set("Content-Type", "a/b") }, true},
		"origin":       {func(r *http.Request, _ *caddy.Replacer) { r.Header.Set("Origin", "https://a.test") }, true},
		"id":           {func(r *http.Request, _ *caddy.Replacer) { r.URL.RawQuery = "lastEventId=5&b=c" }, true},
	} {
		if got := key(test.change) == same; got != test.same {
			t.Errorf("%s: same %v", name, got)
		}
	}
	if key(func(r *http.Request, _ *caddy.Replacer) { r.TLS = tlsWith("a") }) == key(func(r *http.Request, _ *caddy.Replacer) { r.TLS = tlsWith("b") }) {
		t.Error("two certificates are one")
	}
}

// tlsWith is the state of a TLS connection with a client certificate.
func tlsWith(certificate string) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(certificate)}}}
}
