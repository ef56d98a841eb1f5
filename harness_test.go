package caddysse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// testTimeout bounds every wait for something that has to happen. It is
// generous: it is only ever waited for in full by a test that fails.
const testTimeout = 30 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	_ = caddy.Stop()
	os.Exit(code)
}

// gateway is a Caddy in this process. There can be one at a time.
type gateway struct {
	t      testing.TB
	socket string
	client *http.Client
}

// startGateway loads a Caddyfile in which {socket} stands for the listener's
// address. When the test ends the gateway is stopped, and it is checked that
// nothing of it is left.
func startGateway(t testing.TB, caddyfile string) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "sse") //nolint:usetesting // short: a socket's path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &gateway{t: t, socket: filepath.Join(dir, "s")}
	g.client = gatewayClient(g.socket)
	g.load(caddyfile)
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		assertHubEmpty(t)
	})
	return g
}

// load replaces the configuration, as a reload does. The servers of the old one do not accept connections any more, and the
// client has none of theirs, which they would close.
func (g *gateway) load(caddyfile string) {
	g.t.Helper()
	if err := loadCaddyfile(g.t, strings.ReplaceAll(caddyfile, "{socket}", "unix/"+g.socket)); err != nil {
		g.t.Fatal(err)
	}
	g.client.CloseIdleConnections()
}

func loadCaddyfile(t testing.TB, caddyfile string) error {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	body, _, err := adapter.Adapt([]byte(testGlobals+caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	return loadConfig(t, withDelivery(t, body))
}

// loadConfig replaces the configuration, and waits until the servers of the old
// one do not accept connections any more. Caddy does not; on a Unix socket old
// and new share the queue, and the old one hangs up.
func loadConfig(t testing.TB, body []byte) error {
	t.Helper()
	body = withProbes(t, body)
	old := serverProbes.Swap(new(probeCount))
	if err := caddy.Load(body, true); err != nil {
		serverProbes.Store(old)
		return err
	}
	eventually(t, "the old servers' listeners are closed", func() bool { return old.closed.Load() == old.servers.Load() })
	return nil
}

// withProbes adds a probe to each server of a configuration.
func withProbes(t testing.TB, body []byte) []byte {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(body, &config); err != nil {
		t.Fatal(err)
	}
	apps, _ := config["apps"].(map[string]any)
	app, _ := apps["http"].(map[string]any)
	servers, _ := app["servers"].(map[string]any)
	for _, server := range servers {
		server := server.(map[string]any)
		routes, _ := server["routes"].([]any)
		server["routes"] = append([]any{map[string]any{"handle": []any{map[string]any{"handler": "test_probe"}}}}, routes...)
	}
	body, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// probe is an HTTP handler that does nothing but count its server.
type probe struct{}

// serverProbes counts the servers of the newest configuration, and those of them
// whose listeners were closed.
var serverProbes atomic.Pointer[probeCount]

type probeCount struct{ servers, closed atomic.Int32 }

func init() {
	serverProbes.Store(new(probeCount))
	caddy.RegisterModule(probe{})
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_probe", New: func() caddy.Module { return new(probe) }}
}

func (probe) Provision(ctx caddy.Context) error {
	count := serverProbes.Load()
	count.servers.Add(1)
	ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server).RegisterOnShutdown(func() { count.closed.Add(1) })
	return nil
}

func (probe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// withDelivery sets the way to write to clients that is tested in an adapted
// configuration: all tests hold for both.
func withDelivery(t testing.TB, body []byte) []byte {
	t.Helper()
	if overHTTP2() {
		return withHTTP2(body)
	}
	if !bytes.Contains(body, []byte(`"handler":"sse"`)) || bytes.Contains(body, []byte(`"delivery":`)) {
		return body
	}
	if delivery := deliverytest.Of(t); delivery != "" {
		body = bytes.ReplaceAll(body, []byte(`"handler":"sse"`), []byte(`"delivery":"`+delivery+`","handler":"sse"`))
	}
	return body
}

var testGlobals = `{
	admin off
	auto_https off
	persist_config off
	log {
		output discard
	}
}
`

// site is a Caddyfile with one site that listens on the gateway's socket.
func site(directives string) string {
	return "http:// {\nbind {socket}\n" + directives + "\n}\n"
}

// proxied is a site with sse, given its options, in front of an upstream.
// Without another join, newcomers share at once, so that each upstream
// connection that a test sees is one of a stream.
func proxied(options string, upstream *upstream) string {
	if !strings.Contains(options, "join ") {
		options += "\njoin live"
	}
	return site("sse {\n" + options + "\n}\nreverse_proxy " + upstream.address)
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}}
}

// request makes a request to the gateway. Header fields follow as "Name: value".
func (g *gateway) request(method, target string, fields ...string) *http.Request {
	g.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://gateway.test"+target, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	return req
}

// get asks for an event stream, as EventSource does.
func (g *gateway) get(target string, fields ...string) *http.Response {
	g.t.Helper()
	req := g.request(http.MethodGet, target, fields...)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := g.client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// subscribe is get for an answer that has to be an event stream.
func (g *gateway) subscribe(target string, fields ...string) *testClient {
	g.t.Helper()
	return newTestClient(g.t, g.get(target, fields...))
}

// testClient reads an event stream as EventSource does.
type testClient struct {
	t        testing.TB
	resp     *http.Response
	reader   *eventstream.Reader
	messages chan eventstream.Message
	err      error // why messages is closed, if not by the stream's end
}

func newTestClient(t testing.TB, resp *http.Response) *testClient {
	t.Helper()
	if resp.StatusCode != http.StatusOK || !isEventStream(resp.StatusCode, resp.Header) {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		t.Fatalf("no event stream: %s %v %q", resp.Status, resp.Header, body)
	}
	c := &testClient{t: t, resp: resp, messages: make(chan eventstream.Message, 1<<16)}
	c.reader = eventstream.NewReader(resp.Body)
	go func() {
		defer close(c.messages)
		for m, err := range c.reader.Messages() {
			if err != nil {
				c.err = err
				return
			}
			c.messages <- m
		}
	}()
	t.Cleanup(c.close)
	return c
}

// close leaves, as a client does that goes away.
func (c *testClient) close() { _ = c.resp.Body.Close() }

// outcome is the response header SSE-Resume.
func (c *testClient) outcome() string { return c.resp.Header.Get("SSE-Resume") }

// next waits for an event.
func (c *testClient) next() eventstream.Message {
	c.t.Helper()
	select {
	case m, ok := <-c.messages:
		if !ok {
			c.t.Fatalf("the stream ended (%v), expected an event", c.err)
		}
		return m
	case <-time.After(testTimeout):
		c.t.Fatal("no event came")
	}
	panic("unreachable")
}

// expect waits for events with the given data.
func (c *testClient) expect(data ...string) (last eventstream.Message) {
	c.t.Helper()
	for _, want := range data {
		if last = c.next(); last.Data != want {
			c.t.Fatalf("event %q, expected %q", last.Data, want)
		}
	}
	return last
}

// skipTo waits for an event with the given data, whatever comes before it.
func (c *testClient) skipTo(data string) {
	c.t.Helper()
	for m := c.next(); m.Data != data; {
		m = c.next()
	}
}

// expectEnd waits for the end of the stream, with nothing before it.
func (c *testClient) expectEnd() {
	c.t.Helper()
	select {
	case m, ok := <-c.messages:
		if ok {
			c.t.Fatalf("event %q, expected the end", m.Data)
		}
		if c.err != nil {
			c.t.Fatalf("the stream broke off (%v), expected its end", c.err)
		}
	case <-time.After(testTimeout):
		c.t.Fatal("the stream did not end")
	}
}

// upstream is an SSE application for tests: each connection is handed to the
// test, which writes to it.
type upstream struct {
	t           testing.TB
	server      *httptest.Server
	address     string
	connections chan *upstreamClient

	mu   sync.Mutex
	open int
	peak int
	all  int
}

// upstreamClient is one connection to an upstream.
type upstreamClient struct {
	t       testing.TB
	request *http.Request
	w       http.ResponseWriter
	headed  chan struct{} // closed when the head was sent
	gone    <-chan struct{}
	finish  chan string // what to do at the end: "" clean, "break"

	mu   sync.Mutex // held while writing
	over bool       // nothing can be written any more
}

// startUpstream starts an upstream. head, which may be nil, sets the response
// head; without it, it is that of the common tutorial. All bytes are written
// by the test.
func startUpstream(t testing.TB, head func(w http.ResponseWriter, r *http.Request)) *upstream {
	t.Helper()
	u := &upstream{t: t, connections: make(chan *upstreamClient, 4096)}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.count(1)
		defer u.count(-1)
		if head != nil {
			head(w, r)
		} else {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-cache")
		}
		c := &upstreamClient{
			t: t, request: r.Clone(context.Background()), w: w,
			headed: make(chan struct{}), gone: r.Context().Done(), finish: make(chan string, 1),
		}
		u.connections <- c // before the head: the gateway may answer a head with another request
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		close(c.headed)
		select {
		case how := <-c.finish:
			if how == "break" {
				panic(http.ErrAbortHandler)
			}
		case <-c.gone:
		}
		c.mu.Lock() // the server writes to w when this returns
		defer c.mu.Unlock()
		c.over = true
	}))
	u.address = u.server.Listener.Addr().String()
	t.Cleanup(func() {
		u.server.CloseClientConnections()
		u.server.Close()
	})
	return u
}

func (u *upstream) count(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open += n
	u.all += max(n, 0)
	u.peak = max(u.peak, u.open)
}

// counts returns how many connections there are, and how many there were.
func (u *upstream) counts() (open, all int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open, u.all
}

// accept waits for the next connection, in the order of their requests, and for
// its head to be sent.
func (u *upstream) accept() *upstreamClient {
	u.t.Helper()
	select {
	case c := <-u.connections:
		<-c.headed
		return c
	case <-time.After(testTimeout):
		u.t.Fatal("no upstream connection was opened")
	}
	panic("unreachable")
}

// write sends bytes at once.
func (c *upstreamClient) write(text string) {
	c.t.Helper()
	<-c.headed
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		c.t.Fatalf("the gateway has closed the upstream connection, before %q", text)
	}
	if _, err := io.WriteString(c.w, text); err != nil {
		c.t.Errorf("writing as the upstream: %v", err)
	}
	_ = http.NewResponseController(c.w).Flush()
}

// event sends events with the given data.
func (c *upstreamClient) event(data ...string) {
	c.t.Helper()
	for _, d := range data {
		c.write("data: " + d + "\n\n")
	}
}

// last is numbered for a connection that the gateway may have closed.
func (c *upstreamClient) last(id string) {
	<-c.headed
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_, _ = io.WriteString(c.w, "id: "+id+"\ndata: "+id+"\n\n")
		_ = http.NewResponseController(c.w).Flush()
	}
}

// numbered sends events whose ids are their data.
func (c *upstreamClient) numbered(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.write("id: " + id + "\ndata: " + id + "\n\n")
	}
}

// end ends the answer as HTTP says; breakOff does not.
func (c *upstreamClient) end()      { c.finish <- "" }
func (c *upstreamClient) breakOff() { c.finish <- "break" }

// expectGone waits for the gateway to close the connection.
func (c *upstreamClient) expectGone() {
	c.t.Helper()
	select {
	case <-c.gone:
	case <-time.After(testTimeout):
		c.t.Fatal("the upstream connection was not closed")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // polls; nothing depends on how long
	}
}

// assertHubEmpty checks that no stream, subscriber or upstream connection is
// left, and makes a new hub for the next test.
func assertHubEmpty(t testing.TB) {
	t.Helper()
	eventually(t, "all streams have no subscribers", func() bool { return stream.Process.Subscribers() == 0 })
	eventually(t, "there is no private stream", func() bool { return stream.Process.Census().Kinds[stream.KindPrivate] == 0 })
	eventually(t, "no connection is a writer's", func() bool { return delivery.Live() == 0 })
	eventually(t, "nobody is a guest", func() bool { return access.Process.Len() == 0 })
	stream.Process.EndAll()
	done := make(chan struct{})
	go func() { stream.Process.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(testTimeout):
		buf := make([]byte, 1<<20)
		t.Errorf("upstream connections are left:\n%s", buf[:runtime.Stack(buf, true)])
	}
	if left := stream.Process.Leftovers(); left != "" {
		t.Errorf("left in the hub: %s", left)
	}
	stream.Process.Restart()
}

// errBreak stands for whatever a connection breaks with.
var errBreak = errors.New("connection reset")

// body reads an answer to its end.
func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return string(text)
}

// numbers returns "from" to "to", as texts.
func numbers(from, to int) (texts []string) {
	for i := from; i <= to; i++ {
		texts = append(texts, strconv.Itoa(i))
	}
	return texts
}

// adapt returns the JSON that a Caddyfile with one sse directive becomes.
func adapt(t testing.TB, caddyfile string) (string, error) {
	t.Helper()
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, out); err != nil {
		t.Fatal(err)
	}
	return compact.String(), nil
}

// testSettings are those of streams without any option.
func testSettings() *stream.Options { return new(Handler).streamOptions() }

// open reports whether a channel is not closed.
func open(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// follows returns the number of an event that comes after the one of another
// number; 0: the first.
func follows(last int, m eventstream.Message, size int) (int, error) {
	n, err := numberOf(m, size)
	if err == nil && last > 0 && n != last+1 {
		err = fmt.Errorf("event %d after %d", n, last)
	}
	return n, err
}
