package caddysse

import (
	"cmp"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http2"
)

// watch is a listener wrapper that notes the connections that are accepted, without
// keeping them.
type watch struct{ net.Listener }

func init() { caddy.RegisterModule(new(watch)) }

func (*watch) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.test_watch", New: func() caddy.Module { return new(watch) }}
}

func (*watch) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*watch) WrapListener(ln net.Listener) net.Listener { return &watch{ln} }

func (w *watch) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if over, ok := conn.(*tls.Conn); ok {
		watched.mu.Lock()
		defer watched.mu.Unlock()
		watched.all = append(watched.all, weak.Make(over))
	}
	return conn, err
}

var watched struct {
	mu  sync.Mutex
	all []weak.Pointer[tls.Conn]
}

// keptConnections counts the watched ones that are in memory.
func keptConnections() (n int) {
	watched.mu.Lock()
	defer watched.mu.Unlock()
	for _, p := range watched.all {
		if p.Value() != nil {
			n++
		}
	}
	return n
}

// footprint is what a process has.
type footprint struct{ goroutines, files, connections, kilobytes int }

func takeFootprint(t *testing.T) footprint {
	t.Helper()
	runtime.GC()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	rest, _, _ = strings.Cut(rest, "kB")
	resident, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil {
		t.Fatal(err)
	}
	return footprint{goroutines: runtime.NumGoroutine(), files: len(files), connections: keptConnections(), kilobytes: resident}
}

// ending is how connections end, in two steps: first all of some begin, then all of
// them end.
type ending struct {
	name    string
	timeout time.Duration // idle, of the server
	streams int           // of each connection that are taken over before it ends; -1: any
	size    int           // of an event
	cut     string        // write_timeout, if that is short
	few     bool          // not as many, as each takes its time
	kept    bool          // Go's server keeps some of them in memory for a time, without the wrapper even more
	begin   func(s *sharingGateway) (end func())
}

// subscribed is a client that gets events.
func (s *sharingGateway) subscribed(settings ...http2.Setting) *rawHTTP2 {
	s.t.Helper()
	c := s.raw(settings...)
	room := 65535
	for _, setting := range settings {
		if setting.ID == http2.SettingInitialWindowSize {
			room = int(setting.Val)
		}
	}
	c.request(1, "/", room)
	c.until("it begins", func() bool { return c.got[1].Len() > 0 })
	return c
}

// more reads until more events have come.
func (c *rawHTTP2) more() {
	c.t.Helper()
	had := c.got[1].Len()
	c.until("more comes", func() bool { return c.got[1].Len() > had })
}

func (s *sharingGateway) tcp() net.Conn {
	s.t.Helper()
	conn, err := new(net.Dialer).DialContext(s.t.Context(), "tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func leaves(conn io.Closer) func() { return func() { _ = conn.Close() } }

// endingsBefore are of connections without a stream.
var endingsBefore = []ending{
	{name: "within the handshake", begin: func(s *sharingGateway) func() {
		conn := s.tcp()
		_, _ = conn.Write([]byte{22, 3, 1, 2})
		return leaves(conn)
	}},
	{name: "after the handshake", begin: func(s *sharingGateway) func() { return leaves(s.dial()) }},
	{name: "within the preface", begin: func(s *sharingGateway) func() {
		conn := s.dial()
		_, _ = io.WriteString(conn, "PRI *")
		return leaves(conn)
	}},
	{name: "after the preface", begin: func(s *sharingGateway) func() {
		conn := s.dial()
		_, _ = io.WriteString(conn, http2.ClientPreface)
		return leaves(conn)
	}},
	{name: "another protocol", begin: func(s *sharingGateway) func() {
		c := &rawHTTP2{t: s.t, conn: s.dial()}
		_, _ = io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
		return c.untilClosed
	}},
	{name: "without a request", begin: func(s *sharingGateway) func() { return leaves(s.raw().conn) }},
	{name: "after the request", streams: -1, kept: true, begin: func(s *sharingGateway) func() {
		c := s.raw()
		c.request(1, "/", 65535)
		return leaves(c.conn)
	}},
}

// endingsWithin are of connections with streams that were taken over.
var endingsWithin = []ending{
	{name: "a reset connection", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			_ = c.conn.NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.conn.NetConn().Close()
		}
	}},
	{name: "goodbye of TLS", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			c.do(c.conn.CloseWrite())
			c.untilClosed()
		}
	}},
	{name: "reset streams", streams: 3, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		c.request(3, "/", 65535)
		c.request(5, "/", 65535)
		c.until("all begin", func() bool { return c.got[3].Len() > 0 && c.got[5].Len() > 0 })
		return func() {
			for _, id := range []uint32{1, 3, 5} {
				c.do(c.framer.WriteRSTStream(id, http2.ErrCodeCancel))
			}
			c.do(c.framer.WritePing(false, [8]byte{}))
			c.until("the connection goes on", func() bool { return c.pongs == 1 })
			_ = c.conn.Close()
		}
	}},
	{name: "goodbye of the client", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			c.do(c.framer.WriteGoAway(0, http2.ErrCodeNo, nil))
			c.more()
			_ = c.conn.Close()
		}
	}},
	{name: "goodbye of the client with an error", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			c.do(c.framer.WriteGoAway(0, http2.ErrCodeInternal, nil))
			_ = c.conn.Close()
		}
	}},
	{name: "an error of the stream", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			c.do(c.framer.WriteData(1, false, []byte("x")))
			c.until("it ends", func() bool { return c.ended[1] != "" })
			_ = c.conn.Close()
		}
	}},
	{name: "an error of the connection", streams: 1, begin: func(s *sharingGateway) func() {
		c := s.subscribed()
		return func() {
			c.do(c.framer.WriteContinuation(1, true, []byte{0x82}))
			c.until("the server says what is wrong", func() bool { return c.ended[0] != "" }) // and waits for a second
			_ = c.conn.Close()
		}
	}},
	{name: "a stuck stream", streams: -1, cut: "1s", begin: func(s *sharingGateway) func() {
		c := s.subscribed(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		return func() {
			c.until("it is cut", func() bool { return c.ended[1] != "" })
			_ = c.conn.Close()
		}
	}},
	{name: "a client that does not read", streams: -1, size: 8 << 10, few: true, cut: "1s", begin: func(s *sharingGateway) func() {
		c := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		c.do(c.framer.WriteWindowUpdate(0, 1<<30))
		c.allRoom += 1 << 30
		c.request(1, "/", 1<<30)
		c.until("it begins", func() bool { return c.got[1].Len() > 0 })
		return func() {
			eventually(c.t, "it is cut", func() bool { return c.framer.WritePing(false, [8]byte{}) != nil })
			_ = c.conn.Close()
		}
	}},
	{name: "the server goes first", timeout: 250 * time.Millisecond, streams: 1, begin: func(s *sharingGateway) func() {
		c, began := s.subscribed(), time.Now()
		return func() {
			c.until("the server has gone", func() bool { return c.ended[0] == "NO_ERROR" && time.Since(began) > 1500*time.Millisecond })
			c.more()
			_ = c.conn.Close()
		}
	}},
	{name: "the server goes first, then the last stream", timeout: 250 * time.Millisecond, streams: 1, begin: func(s *sharingGateway) func() {
		c, began := s.subscribed(), time.Now()
		return func() {
			c.until("the server has gone", func() bool { return c.ended[0] == "NO_ERROR" && time.Since(began) > 1500*time.Millisecond })
			c.do(c.framer.WriteRSTStream(1, http2.ErrCodeCancel))
			c.untilClosed()
		}
	}},
}

// Whichever way a connection ends, nothing of it is left: no goroutine, no file, and
// nothing in memory.
func TestNothingIsLeftOfSharedConnections(t *testing.T) {
	for _, ending := range append(endingsBefore, endingsWithin...) {
		t.Run(ending.name, func(t *testing.T) { testNothingIsLeft(t, ending) })
	}
}

func testNothingIsLeft(t *testing.T, ending ending) {
	t.Helper()
	servers := "listener_wrappers {\ntest_watch\nsse\n}"
	if ending.timeout > 0 {
		servers += fmt.Sprintf("\ntimeouts {\nidle %v\n}", ending.timeout)
	}
	u := startUpstream(t, nil)
	s := sharingSetup{servers: servers, sends: 32 << 10, options: "heartbeat off\nprime off\nlinger 0s\nbuffer 64\nwrite_timeout " + cmp.Or(ending.cut, "1m")}.start(t, u)
	watched.mu.Lock()
	watched.all = nil
	watched.mu.Unlock()
	leave := s.eventsFor(u, ending.size)
	defer leave()
	n, batch := *http2Connections, 25
	if ending.few {
		n, batch = (n+3)/4, 5
	}
	s.endings(ending, 1) // what is made once is
	before := takeFootprint(t)
	for n > 0 {
		s.endings(ending, min(n, batch))
		n -= batch
	}
	var after footprint
	defer func() {
		if t.Failed() {
			t.Logf("before %+v, after %+v, counted %v", before, after, gather(t).since(sharingBefore))
		}
	}()
	eventually(t, "nothing is left", func() bool {
		after = takeFootprint(t)
		const others = 5 // that come and go; and the newest connections, which a writer may still know
		return after.goroutines <= before.goroutines+others && after.files <= before.files+others && (ending.kept || after.connections <= others)
	})
	leave()
	awaitMetric(t, takenOver, 0)
}

// eventsFor lets events come, every few milliseconds, to a client that stays until leave
// is called.
func (s *sharingGateway) eventsFor(u *upstream, size int) (leave func()) {
	s.t.Helper()
	first := s.subscribe(s.client(), "/")
	up := u.accept()
	done := make(chan struct{})
	var events sync.WaitGroup
	events.Go(func() {
		text := strings.Repeat("x", max(size, 10))
		for open(done) {
			up.last(text)
			time.Sleep(5 * time.Millisecond) // paces the events
		}
	})
	events.Go(func() {
		for range first.messages {
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		first.close()
		events.Wait()
		up.expectGone()
	})
}

// endings lets n connections begin, and end.
func (s *sharingGateway) endings(ending ending, n int) {
	s.t.Helper()
	var ends []func()
	for range n {
		ends = append(ends, ending.begin(s)) // which a slow machine may take longer for than a write_timeout of those that it cuts
	}
	if ending.streams >= 0 {
		want := float64(1 + n*ending.streams)
		eventually(s.t, "all are served", func() bool {
			now := gather(s.t).since(sharingBefore)
			return now[takenOver]+now[byHandler] == want && now[takenOver] > want/2 // in a second not all may have been taken over
		})
	}
	for _, end := range ends {
		end()
	}
	eventually(s.t, "all have left", func() bool { return gather(s.t).since(sharingBefore)[takenOver] <= 1 })
}

var http2Soak = flag.Duration("http2.soak", 0, "how long TestSoakOfSharedConnections goes on")

// However long connections come and go, in all the ways at once, with downloads beside
// them, the process stays as it is.
func TestSoakOfSharedConnections(t *testing.T) {
	u := startUpstream(t, nil)
	s := sharingSetup{
		servers: "listener_wrappers {\ntest_watch\nsse\n}", sends: 32 << 10,
		options: "heartbeat off\nprime off\nlinger 0s\nbuffer 64\nwrite_timeout 1s",
	}.start(t, u)
	leave := s.eventsFor(u, 1<<10)
	defer leave()
	round := func() (now footprint) {
		t.Run("round", func(t *testing.T) { // whose clients are not kept any longer
			s := *s
			s.t = t
			for _, ending := range append(endingsBefore, endingsWithin...) {
				if ending.timeout > 0 {
					continue // which takes a server of its own
				}
				ending.streams = -1 // who is stuck is cut meanwhile
				s.endings(ending, 5)
				s.download()
			}
		})
		now = takeFootprint(t)
		now.connections = 0
		return now
	}
	round()
	first, began, rounds := round(), time.Now(), 1
	last := first
	for shown := began; rounds < 2 || time.Since(began) < *http2Soak; rounds++ {
		last = round()
		if time.Since(shown) > time.Minute {
			shown = time.Now()
			t.Logf("after %v and %d rounds: %+v", time.Since(began).Round(time.Second), rounds, last)
		}
	}
	t.Logf("%d rounds in %v: at first %+v, at last %+v", rounds, time.Since(began).Round(time.Second), first, last)
	const others = 50 // of connections that are being closed: less than those of a round
	if last.goroutines > first.goroutines+others || last.files > first.files+others || last.kilobytes > first.kilobytes*3/2 {
		t.Error("the process grows")
	}
}

// download gets a large answer beside a stream.
func (s *sharingGateway) download() {
	s.t.Helper()
	client := s.client()
	defer client.CloseIdleConnections()
	c := s.subscribe(client, "/")
	resp, err := s.get(s.t.Context(), client, "/large")
	if err != nil {
		s.t.Fatal(err)
	}
	if text := body(s.t, resp); text != strings.Repeat("large", 20_000) {
		s.t.Errorf("%d bytes came", len(text))
	}
	c.close()
}
