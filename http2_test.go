package caddysse

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// sharingGateway is a gateway that shares connections of HTTP/2.
type sharingGateway struct {
	*gateway
	t       *testing.T
	address string
	config  *tls.Config
	load    func(options string)
}

// startSharing starts a gateway with the listener wrapper, over TLS and TCP. It
// also answers /plain and /large without sse.
func startSharing(t *testing.T, u *upstream, options string) *sharingGateway {
	t.Helper()
	return sharingSetup{options: options}.start(t, u)
}

// sharingSetup is what such a gateway is started with.
type sharingSetup struct {
	servers string // the global option, with the listener wrapper
	site    string // further directives
	options string
	sends   int // bytes that the server's system takes of it; 0: as it likes
}

func (setup sharingSetup) start(t *testing.T, u *upstream) *sharingGateway {
	t.Helper()
	cert := newCertificate(t, "server")
	listen := new(net.ListenConfig)
	if setup.sends > 0 {
		listen = smallSends(setup.sends)
	}
	ln, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ln.Close(), file.Close() })
	s := &sharingGateway{
		t: t, address: ln.Addr().String(),
		config: &tls.Config{
			RootCAs: cert.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(1), // handshakes are what takes the time of many connections
		},
	}
	caddyfile := func(options string) string {
		if !strings.Contains(options, "delivery ") {
			options += "\ndelivery connection" // whatever is tested otherwise
		}
		return fmt.Sprintf(`https://gateway.test:2 {
			bind fd/%d {
				protocols h1 h2
			}
			tls %s %s
			%s
			respond /plain "plain"
			respond /large %q
			sse {
				join live
				%s
			}
			reverse_proxy %s
		}`, file.Fd(), cert.cert, cert.key, setup.site, strings.Repeat("large", 20_000), options, u.address)
	}
	globals := "servers {\n" + cmp.Or(setup.servers, "listener_wrappers {\nsse\n}") + "\n}"
	overHTTP1(t) // for startGateway, and not touched further
	sharingBefore = gather(t)
	s.gateway = startGatewayWith(t, globals, caddyfile(setup.options))
	s.load = func(options string) {
		t.Helper()
		body, err := adapt(t, strings.Replace(testGlobals, "admin off", "admin off\n"+globals, 1)+caddyfile(options))
		if err != nil {
			t.Fatal(err)
		}
		if err := loadConfig(t, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// client returns a client with connections of its own.
func (s *sharingGateway) client() *http.Client {
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   s.config.Clone(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", s.address)
		},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (s *sharingGateway) get(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://gateway.test:2"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	if err == nil && resp.ProtoMajor != 2 {
		err = errors.New(resp.Proto)
	}
	return resp, err
}

func (s *sharingGateway) subscribe(client *http.Client, path string) *testClient {
	s.t.Helper()
	resp, err := s.get(s.t.Context(), client, path)
	if err != nil {
		s.t.Fatal(err)
	}
	return newTestClient(s.t, resp)
}

const (
	takenOver = "subscribers delivery=connection protocol=2"
	byHandler = "subscribers delivery=handler protocol=2"
)

// sharingBefore is what was counted before startSharing.
var sharingBefore gathered

func awaitMetric(t *testing.T, name string, n float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is %v", name, n), func() bool { return gather(t).since(sharingBefore)[name] == n })
}

// Streams of HTTP/2 are taken over where the listener wrapper is configured, and
// nowhere else; other requests of their connections are answered as ever.
func TestStreamsOfHTTP2AreTakenOver(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "heartbeat 20ms\nprime off\nlinger 0s")
	client := s.client()
	a, b := s.subscribe(client, "/a"), s.subscribe(client, "/b")
	upA, upB := u.accept(), u.accept()
	if upA.request.URL.Path == "/b" {
		upA, upB = upB, upA
	}
	upA.event("1")
	upB.event("one")
	a.expect("1")
	b.expect("one")
	awaitMetric(t, takenOver, 2)
	awaitMetric(t, byHandler, 0)
	before := gather(t)
	for i := 2; i < 100; i++ {
		upA.event(fmt.Sprint(i))
		a.expect(fmt.Sprint(i))
	}
	eventually(t, "heartbeats are sent", func() bool { return gather(t).since(before)["heartbeats_total"] >= 3 })
	for path, want := range map[string]string{"/plain": "plain", "/large": strings.Repeat("large", 20_000)} {
		resp, err := s.get(t.Context(), client, path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != want || err != nil {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		_ = resp.Body.Close()
	}
	b.close()
	awaitMetric(t, takenOver, 1)
	eventually(t, "it is told why", func() bool { return gather(t).since(before)["subscribers_ended_total reason=client"] == 1 })
	upA.event("last")
	a.expect("last")
	upA.end()
	a.expectEnd()
	awaitMetric(t, takenOver, 0)
	upB.expectGone()
	if n := gather(t).since(before)["subscribers_ended_total reason=upstream"]; n != 1 {
		t.Errorf("%v ended by the upstream", n)
	}
}

// With delivery handler nothing is taken over.
func TestStreamsOfHTTP2AreLeftToTheHandler(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "delivery handler")
	c := s.subscribe(s.client(), "/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	awaitMetric(t, byHandler, 1)
	awaitMetric(t, takenOver, 0)
}

// They are by default few enough for each run of the tests.
var (
	http2Connections = flag.Int("http2.connections", 20, "how many connections of HTTP/2 tests open that are about many")
	http2Streams     = flag.Int("http2.streams", 6, "how many streams TestSharedConnectionsGetEachEventOnce opens on each of a few of them")
)

// Each client gets each event once and in order, whatever the others of its
// connection do, over a reload, and its response ends in order at the stop.
func TestSharedConnectionsGetEachEventOnce(t *testing.T) {
	for name, test := range map[string]struct{ conns, streams, size int }{
		"one stream each": {*http2Connections, 1, 200},
		"many streams":    {max(8, *http2Connections/50), *http2Streams, 3000},
	} {
		t.Run(name, func(t *testing.T) { testEachEventOnce(t, test.conns, test.streams, test.size) })
	}
}

func testEachEventOnce(t *testing.T, conns, streams, size int) {
	t.Helper()
	u := startUpstream(t, nil)
	s := startSharing(t, u, "buffer 100000 256MiB\nprime off\ndrain 100ms")
	var clients sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopping := make(chan struct{})
	first := s.subscribe(s.client(), "/")
	up := u.accept()
	say := func(n int) { up.write(fmt.Sprintf("id: %d\ndata: %s\n\n", n, numberedEvent(n, size))) }
	say(1)
	first.next()
	for i := range conns {
		client := s.client()
		for j := range streams {
			stays := (i*streams+j)%2 == 0
			clients.Go(func() {
				for open(stopping) { // the others come and go
					visit, leave := context.WithCancel(ctx)
					resp, err := s.get(visit, client, "/")
					if err != nil {
						if open(stopping) {
							t.Error(err)
						}
						leave()
						return
					}
					last, stay := 0, 1+rand.IntN(30)
					for m, err := range eventstream.NewReader(resp.Body).Messages() {
						if err == nil {
							last, err = follows(last, m, size)
						}
						if err != nil {
							t.Errorf("connection %d, stream %d: after %d: %v", i, j, last, err)
							break
						}
						if stay--; stay == 0 && !stays {
							break
						}
					}
					leave()
					_ = resp.Body.Close()
					if stays && open(stopping) {
						t.Errorf("connection %d, stream %d was cut after %d", i, j, last)
						return
					}
				}
			})
		}
	}
	n := 1
	publish := func(more int) {
		for range more {
			n++
			say(n)
			if m := first.next(); m.Data != numberedEvent(n, size) {
				t.Fatalf("%.20q, expected %d", m.Data, n)
			}
		}
	}
	publish(100)
	s.load("buffer 100000 256MiB\nprime off\ndrain 200ms")
	up = u.accept() // which goes on where the other was
	publish(100)
	close(stopping)
	stream.Process.Stop()
	first.expectEnd()
	clients.Wait()
	awaitMetric(t, takenOver, 0)
}

// rawHTTP2 is a client that does with its windows what a test wants.
type rawHTTP2 struct {
	t       *testing.T
	conn    *tls.Conn
	framer  *http2.Framer
	got     map[uint32]*bytes.Buffer
	ended   map[uint32]string
	room    map[uint32]int
	allRoom int
	pongs   int
}

// dial connects over TLS, to speak HTTP/2. It has a small window of TCP.
func (s *sharingGateway) dial() *tls.Conn {
	s.t.Helper()
	config := s.config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{NetDialer: smallWindow(16 << 10), Config: config}).DialContext(s.t.Context(), "tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn.(*tls.Conn)
}

func (s *sharingGateway) raw(settings ...http2.Setting) *rawHTTP2 {
	s.t.Helper()
	conn := s.dial()
	c := &rawHTTP2{
		t: s.t, conn: conn, framer: http2.NewFramer(conn, conn),
		got: make(map[uint32]*bytes.Buffer), ended: make(map[uint32]string), room: make(map[uint32]int), allRoom: 65535,
	}
	c.framer.AllowIllegalWrites = true
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		s.t.Fatal(err)
	}
	c.do(c.framer.WriteSettings(settings...))
	return c
}

func (c *rawHTTP2) do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawHTTP2) request(id uint32, path string, room int) {
	c.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "gateway.test:2"}, {":path", path}, {"accept", "text/event-stream"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	c.got[id], c.room[id] = new(bytes.Buffer), room
	c.do(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
}

// until reads frames until is holds. It fails if a window is exceeded.
func (c *rawHTTP2) until(what string, is func() bool) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	for !is() {
		f, err := c.framer.ReadFrame()
		if err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
		id := f.Header().StreamID
		switch f := f.(type) {
		case *http2.DataFrame:
			c.got[id].Write(f.Data())
			c.room[id] -= len(f.Data())
			c.allRoom -= len(f.Data())
			if (c.room[id] < 0 || c.allRoom < 0) && len(f.Data()) > 0 {
				c.t.Fatalf("more than the windows allow: %d, %d", c.room[id], c.allRoom)
			}
			if f.StreamEnded() {
				c.ended[id] = "end"
			}
		case *http2.RSTStreamFrame:
			c.ended[id] = f.ErrCode.String()
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.do(c.framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if f.IsAck() {
				c.pongs++
			}
		case *http2.GoAwayFrame:
			c.ended[0] = f.ErrCode.String()
		}
	}
}

func (c *rawHTTP2) give(id uint32, n int) {
	c.t.Helper()
	if id == 0 {
		c.allRoom += n
	} else {
		c.room[id] += n
	}
	c.do(c.framer.WriteWindowUpdate(id, uint32(n)))
}

// A client that gives a stream no room is cut on that stream alone after
// write_timeout, one that gives a byte at a time is not, and what it gets is whole.
func TestStreamsOfASharedConnectionStandAlone(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "ids upstream\nwrite_timeout 1s\nheartbeat off\nprime off\nbuffer 16 64MiB")
	c := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 500})
	all := make(map[string]*upstreamClient)
	for i, path := range []string{"/stuck", "/slow", "/good"} {
		c.request(uint32(2*i+1), path, 500)
		up := u.accept()
		all[path] = up
		up.event("begin")
		c.until("it begins", func() bool { return c.got[uint32(2*i+1)].Len() >= len("data: begin\n\n") })
	}
	awaitMetric(t, takenOver, 3)
	all["/stuck"].event(numberedEvent(1, 5000))
	all["/slow"].event(numberedEvent(1, 600))
	c.until("the slow one waits", func() bool { return c.room[3] == 0 })
	before := gather(t)
	for i := 0; c.ended[1] == ""; i++ {
		all["/good"].event(fmt.Sprint(i))
		size := c.got[5].Len() + len(fmt.Sprintf("data: %d\n\n", i))
		c.give(5, 100)
		if c.got[3].Len() < len("data: begin\n\n")+len(numberedEvent(1, 600))+8 {
			c.give(3, 1)
		}
		c.until("the good one goes on", func() bool { return c.got[5].Len() >= size && (c.room[3] == 0 || c.got[3].Len() > 600) })
		time.Sleep(5 * time.Millisecond) // paces: the time in which the stuck one is cut is real
	}
	if c.ended[1] != "INTERNAL_ERROR" || c.ended[3] != "" || c.ended[5] != "" {
		t.Errorf("ended: %v", c.ended)
	}
	eventually(t, "it is told why", func() bool { return gather(t).since(before)["subscribers_ended_total reason=write"] == 1 })
	c.give(3, 1000)
	want := "data: begin\n\ndata: " + numberedEvent(1, 600) + "\n\n"
	c.until("the slow one has all", func() bool { return c.got[3].Len() >= len(want) })
	if got := c.got[3].String(); got != want {
		t.Errorf("the slow one got %q", got)
	}
	for _, up := range all {
		up.end()
	}
	c.until("the others end in order", func() bool { return c.ended[3] == "end" && c.ended[5] == "end" })
	if c.ended[0] != "" {
		t.Errorf("the connection ended: %s", c.ended[0])
	}
}

// A client whose windows split the marker is served by the handler, and gets its
// events.
func TestSplitMarkerIsHarmless(t *testing.T) {
	for _, window := range []int{1, 10, 27} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) { testSplitMarker(t, window) })
	}
}

func testSplitMarker(t *testing.T, window int) {
	t.Helper()
	u := startUpstream(t, nil)
	s := startSharing(t, u, "ids upstream\nheartbeat off\nprime off")
	c := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(window)})
	c.request(1, "/", window)
	up := u.accept()
	up.event("begin")
	var text string
	c.until("all comes", func() bool {
		if c.room[1] == 0 {
			c.give(1, window)
		}
		text = c.got[1].String()
		return strings.Contains(text, "data: begin\n\n") && gather(t).since(sharingBefore)[byHandler] == 1
	})
	up.event("next")
	c.until("and what is next", func() bool {
		if c.room[1] == 0 {
			c.give(1, window)
		}
		return strings.HasSuffix(c.got[1].String(), "data: next\n\n")
	})
	var data []string
	for m, err := range eventstream.NewReader(strings.NewReader(c.got[1].String())).Messages() {
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, m.Data)
	}
	if fmt.Sprint(data) != "[begin next]" {
		t.Errorf("%q", c.got[1].String())
	}
	awaitMetric(t, takenOver, 0)
}

// A client that does not read its connection costs a bounded amount of memory,
// and is gone after write_timeout.
func TestUnreadSharedConnectionIsCut(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "write_timeout 500ms\nheartbeat off\nprime off\nbuffer 64 64MiB\nlag skip\ngap_event gap")
	c := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	c.do(c.framer.WriteWindowUpdate(0, 1<<30))
	c.allRoom += 1 << 30
	c.request(1, "/", 1<<30)
	up := u.accept()
	up.event("begin")
	c.until("it begins", func() bool { return c.got[1].Len() > 0 })
	awaitMetric(t, takenOver, 1)
	before := gather(t)
	quick := s.subscribe(s.client(), "/")
	for i := 0; gather(t).since(sharingBefore)[takenOver] != 1 || gather(t).since(before)["subscribers_ended_total reason=write"] == 0; i++ {
		up.event(numberedEvent(i, 32<<10))
		quick.skipTo(numberedEvent(i, 32<<10))
	}
	quick.close()
	awaitMetric(t, takenOver, 0)
	eventually(t, "the connection is gone", func() bool { return c.framer.WritePing(false, [8]byte{}) != nil })
}

// What a client must not send on a stream that was taken over ends that stream, or
// is the server's to punish, as without the wrapper.
func TestMalformedFramesOnTakenOverStreams(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "heartbeat off\nprime off")
	for name, test := range map[string]struct {
		send func(f *http2.Framer) error
		want string // of the stream; after a slash, of the connection
	}{
		"no room":       {func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 0) }, "PROTOCOL_ERROR"},
		"too much room": {func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 1<<31-1) }, "FLOW_CONTROL_ERROR"},
		"data":          {func(f *http2.Framer) error { return f.WriteData(1, false, []byte("x")) }, "STREAM_CLOSED"},
		"headers": {func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndHeaders: true, EndStream: true})
		}, "/PROTOCOL_ERROR"},
		"continuation":    {func(f *http2.Framer) error { return f.WriteContinuation(1, true, []byte{0x82}) }, "/PROTOCOL_ERROR"},
		"short reset":     {func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameRSTStream, 0, 1, []byte{1}) }, "/FRAME_SIZE_ERROR"},
		"short update":    {func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, []byte{1}) }, "/FRAME_SIZE_ERROR"},
		"large frame":     {func(f *http2.Framer) error { return f.WriteRawFrame(99, 0, 1, make([]byte, 1<<20+1)) }, "/FRAME_SIZE_ERROR"},
		"no room for all": {func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 0) }, "/PROTOCOL_ERROR"},
		"too much for all": {func(f *http2.Framer) error {
			return errors.Join(f.WriteWindowUpdate(0, 1<<31-1), f.WriteWindowUpdate(0, 1<<31-1))
		}, "/FLOW_CONTROL_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.t = t
			c := s.raw()
			path := "/" + strings.ReplaceAll(name, " ", "-")
			c.request(1, path, 65535)
			up := u.accept()
			up.event("begin")
			c.until("it begins", func() bool { return c.got[1].Len() > 0 })
			awaitMetric(t, takenOver, 1)
			c.do(test.send(c.framer))
			stream, conn, _ := strings.Cut(test.want, "/")
			c.until("it ends", func() bool { return (stream != "" && c.ended[1] != "") || (conn != "" && c.ended[0] != "") })
			if c.ended[0] != conn || (stream != "" && c.ended[1] != stream) {
				t.Errorf("ended with %v, expected %s", c.ended, test.want)
			}
			awaitMetric(t, takenOver, 0)
			if stream == "" {
				return
			}
			c.request(3, "/plain", 65535)
			c.until("the connection goes on", func() bool { return c.got[3].String() == "plain" })
		})
	}
}

// At a reload the old server, which has nothing to wait for, says goodbye and goes;
// the streams go on, and end with the connection.
func TestTakenOverStreamsOutliveTheirServer(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "heartbeat off\nprime off")
	c := s.raw()
	c.request(1, "/", 65535)
	up := u.accept()
	up.write("id: 1\ndata: begin\n\n")
	c.until("it begins", func() bool { return c.got[1].Len() > 0 })
	awaitMetric(t, takenOver, 1)
	s.load("heartbeat off\nprime off\nretry 1s") // the old server has nothing to wait for
	up = u.accept()
	c.until("the server says goodbye", func() bool { return c.ended[0] != "" })
	if c.ended[0] != "NO_ERROR" {
		t.Errorf("with %s", c.ended[0])
	}
	for i := range 5 {
		up.write(fmt.Sprintf("id: %d\ndata: %d\n\n", 2+i, i))
		c.until("it goes on", func() bool { return strings.HasSuffix(c.got[1].String(), fmt.Sprintf("data: %d\n\n", i)) })
		time.Sleep(400 * time.Millisecond) // paces the events: the server takes a second to close, and says nothing of it
	}
	c.do(c.framer.WritePing(false, [8]byte{1}))
	up.end()
	c.until("it ends in order", func() bool { return c.ended[1] == "end" })
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	for {
		if _, err := c.framer.ReadFrame(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("not closed: %v", err)
			}
			break
		}
	}
	awaitMetric(t, takenOver, 0)
}

// around is a listener wrapper that wraps connections in something of its own.
type around struct{ net.Listener }

func init() { caddy.RegisterModule(new(around)) }

func (*around) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.test_wrap", New: func() caddy.Module { return new(around) }}
}

func (*around) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*around) WrapListener(ln net.Listener) net.Listener { return &around{ln} }

func (w *around) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	over, ok := conn.(tlsConn)
	if !ok {
		return conn, err
	}
	return aroundConn{over}, err
}

// tlsConn is a connection over TLS, also one that was wrapped.
type tlsConn interface {
	net.Conn
	ConnectionState() tls.ConnectionState
}

type aroundConn struct{ tlsConn }

// A listener wrapper that is on, and has not seen a connection, is told.
func TestWrapperThatSeesNothingIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		servers string
		told    bool
	}{
		"as it should be":        {"listener_wrappers {\nsse\n}", false},
		"another comes after it": {"listener_wrappers {\nsse\ntest_wrap\n}", true},
		"it is not there":        {"protocols h1 h2", false},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			s := sharingSetup{servers: test.servers}.start(t, u)
			c := s.subscribe(s.client(), "/")
			u.accept().event("1")
			c.expect("1")
			found := hints.Process.List()
			if !test.told {
				if len(found) > 0 {
					t.Errorf("hints %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Kind != hints.Wrapper || found[0].Place != "http2" || !strings.Contains(found[0].Remedy, "sse last") {
				t.Errorf("hints %+v", found)
			}
		})
	}
}
