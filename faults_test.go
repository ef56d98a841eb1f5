package caddysse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
)

func init() { caddy.RegisterModule(new(faultyListener)) }

// faultyListener is a listener wrapper: to a connection that a test chooses something happens.
type faultyListener struct{}

func (*faultyListener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.test_faults", New: func() caddy.Module { return new(faultyListener) }}
}

func (*faultyListener) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*faultyListener) WrapListener(ln net.Listener) net.Listener { return faultyAccepts{ln} }

// nextFault is that of the next connection; nil: none.
var nextFault atomic.Pointer[fault]

type faultyAccepts struct{ net.Listener }

func (l faultyAccepts) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	f := nextFault.Swap(nil)
	if err != nil || f == nil {
		return conn, err
	}
	if f.shut == nil {
		return &faultyConn{Conn: conn, fault: f}, nil
	}
	// It is to be a socket of the system's, to be taken over.
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	same, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	f.shut <- same.(*net.UnixConn)
	return conn, nil
}

// fault is what happens to a connection: a write fails, and all after it do.
type fault struct {
	write int // which one, from 0 on
	part  int // how much of it goes out: none, a half, all but a byte
	err   error

	lives bool        // the connection can be read from all the same; with armed
	armed atomic.Bool // it is the next write that fails

	shut   chan *net.UnixConn // gets the connection, to shut it down instead; nil: it does not
	happen atomic.Bool
	closed atomic.Bool // the gateway has let go of the connection
}

// faultyConn is a connection that has a fault.
type faultyConn struct {
	net.Conn
	fault *fault

	mu     sync.Mutex
	writes int
}

func (c *faultyConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.writes++ }()
	switch f := c.fault; {
	case f.lives && f.armed.Load():
		n, _ = c.Conn.Write(p[:[]int{0, len(p) / 2, max(0, len(p)-1)}[f.part]])
		f.armed.Store(false)
		f.happen.Store(true)
		return n, &net.OpError{Op: "write", Net: "unix", Err: f.err}
	case f.lives:
		return c.Conn.Write(p)
	case c.writes < f.write:
		return c.Conn.Write(p)
	case c.writes == f.write:
		n, _ = c.Conn.Write(p[:[]int{0, len(p) / 2, max(0, len(p)-1)}[f.part]])
	}
	if !errors.Is(c.fault.err, os.ErrDeadlineExceeded) {
		_ = c.Conn.Close() // reading fails, too
	}
	c.fault.happen.Store(true)
	return n, &net.OpError{Op: "write", Net: "unix", Err: c.fault.err}
}

func (c *faultyConn) Close() error {
	c.fault.closed.Store(true)
	return c.Conn.Close()
}

// faultyErrors are with what writes fail.
var faultyErrors = []error{os.NewSyscallError("write", syscall.ECONNRESET), os.NewSyscallError("write", syscall.EPIPE), os.ErrDeadlineExceeded}

// faultyWay is a way in which clients are written to.
type faultyWay struct {
	name, wrappers, delivery string
	tls, shut                bool
}

// A write to a client fails at every point: that of the head, of each event, of the end; whole or in part, with each
// error. It is let go, others notice nothing, nothing is left of it, and it comes back with its ID and has all.
func TestWritesFailAtEveryPoint(t *testing.T) {
	overHTTP1(t) // it chooses by itself
	for _, way := range []faultyWay{
		{name: "HTTP/1.1", wrappers: "test_faults", delivery: "handler"},
		{name: "HTTP/1.1, taken over", wrappers: "test_faults", delivery: "connection", shut: true},
		{name: "HTTP/2", wrappers: "test_faults\ntls", delivery: "handler", tls: true},
		{name: "HTTP/2, taken over", wrappers: "test_faults\ntls\nsse", delivery: "connection", tls: true},
	} {
		t.Run(way.name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g, dial := way.start(t, u)
			points := 0
			for write := 0; ; write++ {
				happened := false
				for part := range 3 {
					f := &fault{write: write, part: part, err: faultyErrors[(write+part)%len(faultyErrors)]}
					if way.shut {
						f.shut = make(chan *net.UnixConn, 1)
					}
					at := fmt.Sprintf("/%d/%d", write, part)
					t.Cleanup(func() {
						if t.Failed() && at != "" {
							t.Log("failed at", at)
						}
					})
					if way.strike(t, g, dial, u, f, at) {
						happened = true
						points++
					}
					at = ""
				}
				if !happened {
					break
				}
			}
			t.Logf("%d points", points)
			if points < 12 {
				t.Errorf("only %d points: a head, three events and an end have more", points)
			}
			assertNothingLeft(t, u)
		})
	}
}

// start starts a gateway whose clients are written to in this way, and returns who asks it on one connection.
func (way faultyWay) start(t *testing.T, u *upstream) (g *gateway, client func(stays *staying) *http.Client) {
	t.Helper()
	return way.startSite(t, "sse {\njoin live\nlinger 0s\ndelivery "+way.delivery+"\n}\nreverse_proxy "+u.address)
}

// startSite is start for a site of its own.
func (way faultyWay) startSite(t *testing.T, directives string) (g *gateway, client func(stays *staying) *http.Client) {
	t.Helper()
	if way.wrappers != "" {
		globals := testGlobals
		t.Cleanup(func() { testGlobals = globals })
		testGlobals = strings.TrimSuffix(strings.TrimSpace(globals), "}") + "servers {\nlistener_wrappers {\n" + way.wrappers + "\n}\n}\n}\n"
	}
	scheme, certificate := "http://", ""
	if way.tls {
		pair := newCertificate(t, "server")
		scheme, certificate = "https://gateway.test", "tls "+pair.cert+" "+pair.key
	}
	g = startGateway(t, scheme+" {\nbind {socket}\n"+certificate+"\n"+directives+"\n}\n")
	connects := func(dials int64, stays *staying) *http.Client {
		transport := unixClient(g.socket).Transport.(*http.Transport)
		dial, left := transport.DialContext, new(atomic.Int64)
		left.Store(dials)
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if left.Add(-1) < 0 {
				return nil, errors.New("it does not connect again")
			}
			conn, err := dial(ctx, network, address)
			if err != nil || stays == nil {
				return conn, err
			}
			return stays.keep(conn), nil
		}
		if way.tls {
			transport.ForceAttemptHTTP2 = true
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "gateway.test", MinVersion: tls.VersionTLS12}
			return &http.Client{Transport: schemeSetter{transport}}
		}
		return &http.Client{Transport: transport}
	}
	g.client = connects(math.MaxInt64, nil)
	return g, func(stays *staying) *http.Client { return connects(1, stays) }
}

// strike lets a fault happen to a client beside another one. It returns whether it did: the client may have been given
// all before.
func (way faultyWay) strike(t *testing.T, g *gateway, client func(stays *staying) *http.Client, u *upstream, f *fault, target string) bool {
	t.Helper()
	other := g.subscribe(target)
	up := u.accept()
	for up.request.URL.Path != target { // a client whose head failed came when the others had left
		up = u.accept()
	}
	stays := new(staying)
	victim := newVictim(t, g, client(stays), f, target)
	victim.stays = stays
	defer victim.leave()
	for n := 1; n <= 3; n++ {
		if f.shut != nil && n == f.write {
			victim.await(n - 1)
			_ = victim.socket.CloseWrite()
			f.happen.Store(true)
		}
		up.event(strconv.Itoa(n))
		other.expect(strconv.Itoa(n))
		victim.await(n)
	}
	if f.happen.Load() {
		eventually(t, "only the other client is there", func() bool { return attached() == 1 })
		victim.comeBack(g, target, 3)
	}
	eventually(t, "those are there that are to be", func() bool { return attached() <= 2 })
	up.end()
	other.expectEnd()
	eventually(t, "all have left", func() bool { return attached() == 0 })
	if f.shut == nil && (!f.happen.Load() || errors.Is(f.err, os.ErrDeadlineExceeded) && way.tls) {
		// It is the client that closes a connection of HTTP/2, on which net/http waits for it.
		eventually(t, "the connection is let go", func() bool { victim.leave(); return f.closed.Load() })
	} else if f.shut == nil {
		eventually(t, "the connection is let go, without the client", f.closed.Load)
	}
	victim.leave()
	return f.happen.Load()
}

// staying is a client's connection that it does not close when it can read no more, so that the gateway learns by its
// writes alone that they fail.
type staying struct {
	mu   sync.Mutex
	conn net.Conn
	over bool // it may be closed
}

func (s *staying) keep(conn net.Conn) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return stayingConn{conn, s}
}

func (s *staying) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over = true; s.conn != nil {
		_ = s.conn.Close()
	}
}

type stayingConn struct {
	net.Conn
	stays *staying
}

func (c stayingConn) Close() error {
	c.stays.mu.Lock()
	defer c.stays.mu.Unlock()
	if !c.stays.over {
		return nil
	}
	return c.Conn.Close()
}

// victim is a client to which something happens.
type victim struct {
	t      *testing.T
	fault  *fault
	stays  *staying
	socket *net.UnixConn // the gateway's end, to shut down
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	seen int    // events
	id   string // of the newest
	over bool   // it is given nothing more
}

// newVictim lets a client come on a connection of its own that has a fault.
func newVictim(t *testing.T, g *gateway, client *http.Client, f *fault, target string) *victim {
	t.Helper()
	v := &victim{t: t, fault: f, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	v.cancel = func() { cancel(); client.CloseIdleConnections() }
	nextFault.Store(f)
	req := g.request(http.MethodGet, target, "Accept: text/event-stream").WithContext(ctx)
	answered := make(chan struct{})
	go func() {
		defer close(v.done)
		resp, err := client.Do(req)
		if err == nil {
			defer resp.Body.Close()
		}
		close(answered)
		if err == nil {
			v.read(resp.Body)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.over = true
	}()
	eventually(t, "the client's connection is accepted", func() bool { return nextFault.Load() == nil })
	if f.shut != nil {
		v.socket = <-f.shut
		t.Cleanup(func() { _ = v.socket.Close() })
		if f.write == 0 {
			_ = v.socket.CloseWrite()
			f.happen.Store(true)
		}
	}
	eventually(t, "the client has its head, or never will", func() bool { return !open(answered) || f.happen.Load() })
	if !f.happen.Load() {
		eventually(t, "both clients are there", func() bool { return attached() == 2 || f.happen.Load() })
	}
	return v
}

func (v *victim) read(body io.Reader) {
	for m, err := range eventstream.NewReader(body).Messages() {
		if err != nil {
			return
		}
		v.mu.Lock()
		if v.seen++; m.Data != strconv.Itoa(v.seen) {
			v.t.Errorf("given event %q after %d events", m.Data, v.seen-1)
		}
		v.id = m.LastEventID
		v.mu.Unlock()
	}
}

// await waits until the client has so many events, or will not have them.
func (v *victim) await(n int) {
	v.t.Helper()
	eventually(v.t, fmt.Sprintf("event %d comes, or never will", n), func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.seen >= n || v.over || v.fault.happen.Load()
	})
}

// comeBack lets the client come back with its ID, to be given what it has missed.
func (v *victim) comeBack(g *gateway, target string, newest int) {
	v.t.Helper()
	v.leave()
	if v.id == "" {
		return // it has had nothing, and knows of nothing
	}
	back := g.subscribe(target, "Last-Event-ID: "+v.id)
	defer back.close()
	if newest > v.seen {
		back.expect(numbers(v.seen+1, newest)...)
	}
	if want := fmt.Sprintf("replayed; events=%d", newest-v.seen); newest > v.seen && back.outcome() != want {
		v.t.Errorf("SSE-Resume: %s, expected %s", back.outcome(), want)
	}
}

// leave lets the client go.
func (v *victim) leave() {
	v.stays.hangUp()
	v.cancel()
	<-v.done
}

// takenWrites are the kinds of writes to connections that were taken over.
var takenWrites = []struct {
	name    string
	options string
	cause   func(up *upstreamClient) // nil: it comes by itself
	whole   bool                     // the response has ended, whatever becomes of its end
}{
	{name: "event", cause: func(up *upstreamClient) { up.event("2") }},
	{name: "heartbeat", options: "heartbeat 50ms"},
	{name: "tail", cause: func(up *upstreamClient) { up.write("data: tail"); up.end() }},
	{name: "end", cause: (*upstreamClient).end, whole: true},
	{name: "an end that is none", options: "reconnect never", cause: (*upstreamClient).breakOff, whole: true},
}

// A write to a connection that was taken over fails, while the client neither leaves nor says anything: the gateway notices
// at once, and over HTTP/2 lets all go whose streams go over that connection.
func TestFailedWritesOfTakenOverConnectionsAreNoticedAtOnce(t *testing.T) {
	overHTTP1(t) // it chooses by itself
	for _, way := range []faultyWay{
		{name: "HTTP/1.1", wrappers: "test_faults", shut: true},
		{name: "HTTP/2", wrappers: "test_faults\ntls\nsse", tls: true},
	} {
		for _, kind := range takenWrites {
			if way.shut && kind.name == "an end that is none" {
				continue // nothing is written
			}
			t.Run(way.name+"/"+kind.name, func(t *testing.T) {
				u, log := startUpstream(t, nil), filepath.Join(t.TempDir(), "access.log")
				_, dial := way.startSite(t, "log own {\noutput file "+log+"\n}\nsse {\njoin live\nlinger 0s\nprime off\ndelivery connection\n"+kind.options+"\n}\nreverse_proxy "+u.address)
				for part := range 3 {
					f := &fault{lives: true, part: part, err: faultyErrors[part]}
					ends := []string{[]string{"client", "client", "write"}[part]}
					if way.shut {
						f.shut, ends[0] = make(chan *net.UnixConn, 1), "client"
					}
					if way.tls {
						ends = append(ends, ends[0]) // of the other stream
					}
					if kind.whole || (kind.name == "tail" && way.tls) {
						ends[0] = ""
					}
					way.strikeTaken(t, dial, u, f, kind.cause)
					expectEnds(t, log, part, ends)
				}
				assertNothingLeft(t, u)
			})
		}
	}
}

// strikeTaken lets a write fail to a client whose connection was taken over, and who over HTTP/2 has another stream there.
func (way faultyWay) strikeTaken(t *testing.T, dial func(stays *staying) *http.Client, u *upstream, f *fault, cause func(up *upstreamClient)) {
	t.Helper()
	stays, targets := new(staying), []string{"/struck"}
	if way.tls {
		targets = append(targets, "/beside")
	}
	client := dial(stays)
	nextFault.Store(f)
	var ups []*upstreamClient
	var clients sync.WaitGroup
	for _, target := range targets {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gateway.test"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", eventStreamType)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
		ups = append(ups, u.accept())
		ups[len(ups)-1].event("1")
	}
	eventually(t, "the connection is a writer's", func() bool { return delivery.Live() == len(targets) })
	if f.shut != nil {
		socket := <-f.shut
		defer socket.Close()
		_ = socket.CloseWrite()
	}
	f.armed.Store(true)
	if cause != nil {
		cause(ups[0])
	}
	eventually(t, "its clients are gone", func() bool { return attached() == 0 && delivery.Live() == 0 })
	eventually(t, "the application is asked for no more", func() bool { open, _ := u.counts(); return open == 0 })
	if f.shut == nil {
		eventually(t, "the connection is closed", f.closed.Load)
	}
	stays.hangUp()
	client.CloseIdleConnections()
	clients.Wait()
}

// expectEnds waits for the entries of clients in the access log, and compares why their responses ended; "": whatever.
func expectEnds(t *testing.T, log string, before int, ends []string) {
	t.Helper()
	eventually(t, "there is an entry for each", func() bool { return len(accessEntries(t, log)) == (before+1)*len(ends) })
	for _, entry := range accessEntries(t, log)[before*len(ends):] {
		want := ends[0]
		if request, _ := entry["request"].(map[string]any); request["uri"] == "/beside" {
			want = ends[1]
		}
		if sse, _ := entry["sse"].(map[string]any); want != "" && sse["end_reason"] != want {
			t.Errorf("the access log says %v, expected %q", sse, want)
		}
	}
}

// breakingApp sends three numbered events, and its first connection for each URL breaks after as many bytes as the URL
// says, with an end of its stream or a reset. The next one goes on after the ID that it is asked to go on after, to a
// fourth event. The whole of the first is a clean end.
type breakingApp struct{ seen sync.Map }

const (
	breakingHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	breakingBody = "11\r\nid: 1\ndata: 1\n\nid\r\n" + "1d\r\n: 2\r\ndata: 2\r\n\r\nid: 3\ndata: 3\r\n" + "2\r\n\n\n\r\n" + "0\r\n\r\n"
)

func (a *breakingApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, again := a.seen.LoadOrStore(r.URL.Path, true); !again {
		var at int
		var how string
		_, _ = fmt.Sscanf(r.URL.Path, "/%d/%s", &at, &how)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, (breakingHead + breakingBody)[:at])
		if how == "reset" {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
		return
	}
	last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	w.Header().Set("Content-Type", "text/event-stream")
	for n := last + 1; n <= 4; n++ {
		_, _ = fmt.Fprintf(w, "id: %d\ndata: %d\n\n", n, n)
	}
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// A read from the application fails at every byte of its head and its body: whoever has a head is given every event, once
// and in order. Who has none is told that the gateway has, and may ask again.
func TestUpstreamBreaksAtEveryByte(t *testing.T) {
	u := new(upstream) // counts
	app := new(breakingApp)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.count(1)
		defer u.count(-1)
		app.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	g := startGateway(t, site("sse {\njoin live\nlinger 0s\ngap_event lost\n}\nreverse_proxy "+server.Listener.Addr().String()))
	var all sync.WaitGroup
	whole := len(breakingHead + breakingBody)
	for at := range whole + 1 {
		for _, how := range []string{"end", "reset"} {
			all.Go(func() { readBroken(t, g, at, how, at == whole && how == "end") })
		}
	}
	all.Wait()
	assertNothingLeft(t, u)
}

// readBroken reads what a connection that breaks brings, and what comes after it.
func readBroken(t *testing.T, g *gateway, at int, how string, clean bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var resp *http.Response
	for range 2 {
		var err error
		req := g.request(http.MethodGet, fmt.Sprintf("/%d/%s", at, how), "Accept: text/event-stream").WithContext(ctx)
		if resp, err = g.client.Do(req); err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadGateway {
			break
		}
		if at >= len(breakingHead) && how == "end" {
			t.Errorf("broken after %d bytes: %s, though there was a head", at, resp.Status)
		}
	}
	got := ""
	for m, err := range eventstream.NewReader(resp.Body).Messages() {
		if err != nil {
			t.Errorf("%d, %s: %q, and then %v", at, how, got, err)
			return
		}
		if m.Type == "lost" && got == "" {
			continue // before the first event there is no ID to go on after
		}
		if got += m.Data; m.Data == "4" {
			break
		}
	}
	if want := map[bool]string{false: "1234", true: "123"}[clean]; got != want && (how == "end" || got != "123" || at != len(breakingHead+breakingBody)) {
		t.Errorf("broken after %d bytes, with %s: given %q, expected %q", at, how, got, want)
	}
}
