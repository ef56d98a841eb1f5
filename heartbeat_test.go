package caddysse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// pipeListener is a listener on connections in memory.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// bubbleServer is a handler behind an http.Server, in a bubble of fake time.
type bubbleServer struct {
	t        testing.TB
	listener *pipeListener
	served   sync.WaitGroup
	handling sync.WaitGroup
}

// serveInBubble provisions a handler in front of next and serves it. All of it
// is gone when the test ends.
func serveInBubble(t *testing.T, h *Handler, next caddyhttp.HandlerFunc) *bubbleServer {
	t.Helper()
	before := stream.Process
	stream.Process = stream.NewHub()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	h.logger = zap.NewNop()
	s := &bubbleServer{t: t, listener: newPipeListener()}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.handling.Add(1)
			defer s.handling.Done()
			repl := caddy.NewReplacer()
			r = caddyhttp.PrepareRequest(r, repl, w, nil)
			if err := h.ServeHTTP(w, r, next); err != nil {
				t.Errorf("ServeHTTP: %v", err)
			}
		}),
	}
	s.served.Go(func() { _ = server.Serve(s.listener) })
	t.Cleanup(func() {
		_ = server.Close()
		s.served.Wait()
		s.handling.Wait()
		time.Sleep(stream.DefaultLinger) // in fake time: what lingers ends
		stream.Process.Wait()
		cancel()
		if err := h.Cleanup(); err != nil {
			t.Error(err)
		}
		stream.Process.Wait()
		stream.Process = before
	})
	return s
}

// arrival is what came to a client at once, and when.
type arrival struct {
	at   time.Duration // since the client asked
	text string
}

func (a arrival) String() string { return fmt.Sprintf("%v %q", a.at, a.text) }

// listen asks for the event stream and takes note of all that comes until the
// given time, less the prime block.
func (s *bubbleServer) listen(accept string, until time.Duration) []arrival {
	s.t.Helper()
	conn := s.listener.dial()
	began := time.Now()
	stop := time.AfterFunc(until, func() { _ = conn.Close() })
	defer stop.Stop()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\nAccept: "+accept+"\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []arrival
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			got = append(got, arrival{time.Since(began), string(buf[:n])})
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.ErrClosedPipe) {
				s.t.Errorf("reading: %v", err)
			}
			return got
		}
	}
}

// step is something that the upstream sends, and when.
type step struct {
	at   time.Duration
	text string
}

// script is an upstream that follows steps, and then is silent.
func script(steps ...step) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		began := time.Now()
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for _, step := range steps {
			select {
			case <-time.After(step.at - time.Since(began)):
			case <-r.Context().Done():
				return nil
			}
			if _, err := io.WriteString(w, step.text); err != nil {
				return err
			}
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		return nil
	}
}

// seconds makes an arrival or step time readable.
func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func TestHeartbeats(t *testing.T) {
	const beat = ":\n\n"
	every := func(d time.Duration) *caddy.Duration { return new(caddy.Duration(d)) }
	padded := ":" + strings.Repeat(" ", 96-2) + "\n"
	for _, test := range []struct {
		name  string
		set   *Heartbeat
		steps []step
		want  []arrival
	}{
		{
			"quiet", nil, nil,
			[]arrival{{seconds(15), beat}, {seconds(30), beat}, {seconds(45), beat}, {seconds(60), beat}},
		},
		{
			"begins again with each event", nil,
			[]step{{seconds(10), "data: 1\n\n"}, {seconds(24), "data: 2\n\n"}, {seconds(38.5), ": comment\n\n"}},
			[]arrival{
				{seconds(10), "data: 1\n\n"}, {seconds(24), "data: 2\n\n"}, {seconds(38.5), ": comment\n\n"},
				{seconds(53.5), beat}, {seconds(68.5), beat},
			},
		},
		{
			"none in a busy stream", nil,
			[]step{{seconds(14), "data: 1\n\n"}, {seconds(28), "data: 2\n\n"}, {seconds(42), "data: 3\n\n"}, {seconds(56), "data: 4\n\n"}},
			[]arrival{
				{seconds(14), "data: 1\n\n"}, {seconds(28), "data: 2\n\n"}, {seconds(42), "data: 3\n\n"},
				{seconds(56), "data: 4\n\n"},
			},
		},
		{
			"other interval", &Heartbeat{Interval: every(40 * time.Second)},
			[]step{{seconds(3), "data: 1\n\n"}},
			[]arrival{{seconds(3), "data: 1\n\n"}, {seconds(43), beat}},
		},
		{
			"as an event", &Heartbeat{Event: "beat", Data: "{}"},
			[]step{{seconds(20), "data: 1\n\n"}},
			[]arrival{
				{seconds(15), "event: beat\ndata: {}\n\n"}, {seconds(20), "data: 1\n\n"},
				{seconds(35), "event: beat\ndata: {}\n\n"}, {seconds(50), "event: beat\ndata: {}\n\n"}, {seconds(65), "event: beat\ndata: {}\n\n"},
			},
		},
		{
			"as an event without data", &Heartbeat{Interval: every(50 * time.Second), Event: "beat"}, nil,
			[]arrival{{seconds(50), "event: beat\ndata:\n\n"}},
		},
		{
			"with padding", &Heartbeat{Interval: every(time.Minute), Padding: 99}, nil,
			[]arrival{{seconds(60), padded + beat}},
		},
		{
			"off", &Heartbeat{Interval: every(0)},
			[]step{{seconds(50), "data: 1\n\n"}},
			[]arrival{{seconds(50), "data: 1\n\n"}},
		},
	} {
		for _, accept := range []string{eventStreamType, "*/*"} { // shared, private
			t.Run(test.name+" "+accept, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					off := false
					h := &Handler{Heartbeat: test.set, Prime: &off, IDs: "upstream"}
					s := serveInBubble(t, h, script(test.steps...))
					if got := s.listen(accept, seconds(69)); !slices.Equal(got, test.want) {
						t.Errorf("got\n%v\nexpected\n%v", got, test.want)
					}
				})
			})
		}
	}
}

// A heartbeat is never inside a block, and before or after one it changes
// nothing of it. Of a private stream all bytes pass as they come.
func TestHeartbeatsBetweenBlocks(t *testing.T) {
	const beat = ":\n\n"
	for _, test := range []struct {
		name    string
		steps   []step
		shared  []arrival
		private []arrival
	}{
		{
			"lines",
			[]step{{seconds(1), "data: a\nda"}, {seconds(20), "ta: b\n"}, {seconds(40), "\n"}},
			[]arrival{{seconds(15), beat}, {seconds(30), beat}, {seconds(40), "data: a\ndata: b\n\n"}, {seconds(55), beat}},
			[]arrival{{seconds(1), "data: a\nda"}, {seconds(20), "ta: b\n"}, {seconds(40), "\n"}, {seconds(55), beat}},
		},
		{
			"tokens",
			[]step{{seconds(20), "one "}, {seconds(40), "two "}},
			[]arrival{{seconds(15), beat}, {seconds(30), beat}, {seconds(45), beat}, {seconds(60), beat}},
			[]arrival{{seconds(15), beat}, {seconds(20), "one "}, {seconds(40), "two "}},
		},
		{
			"between CR and LF",
			[]step{{seconds(1), "data: a\r\n\r"}, {seconds(30), "\n"}},
			[]arrival{{seconds(1), "data: a\n\n"}, {seconds(16), beat}, {seconds(31), beat}, {seconds(46), beat}, {seconds(61), beat}},
			[]arrival{{seconds(1), "data: a\r\n\r"}, {seconds(30), "\n"}, {seconds(45), beat}, {seconds(60), beat}},
		},
		{
			"CR alone",
			[]step{{seconds(1), "data: a\r\r"}, {seconds(50), "data: b\r"}},
			[]arrival{{seconds(1), "data: a\n\n"}, {seconds(16), beat}, {seconds(31), beat}, {seconds(46), beat}, {seconds(61), beat}},
			[]arrival{{seconds(1), "data: a\r\r"}, {seconds(16), beat}, {seconds(31), beat}, {seconds(46), beat}, {seconds(50), "data: b\r"}},
		},
		{
			"byte order mark at once",
			[]step{{0, "\uFEFF"}, {seconds(20), "data: a\n\n"}, {seconds(21), "\uFEFFdata: b\n\n"}},
			[]arrival{{seconds(15), beat}, {seconds(20), "data: a\n\n"}, {seconds(21), "\uFEFFdata: b\n\n"}, {seconds(36), beat}, {seconds(51), beat}, {seconds(66), beat}},
			[]arrival{{0, "\uFEFF"}, {seconds(15), beat}, {seconds(20), "data: a\n\n"}, {seconds(21), "\uFEFFdata: b\n\n"}, {seconds(36), beat}, {seconds(51), beat}, {seconds(66), beat}},
		},
		{ // which a client would take for part of the first line
			"byte order mark after a heartbeat",
			[]step{{seconds(20), "\xEF"}, {seconds(21), "\xBB"}, {seconds(22), "\xBFdata: a\n\n"}, {seconds(30), "\uFEFFdata: b\n\n"}},
			[]arrival{{seconds(15), beat}, {seconds(22), "data: a\n\n"}, {seconds(30), "\uFEFFdata: b\n\n"}, {seconds(45), beat}, {seconds(60), beat}},
			[]arrival{{seconds(15), beat}, {seconds(22), "data: a\n\n"}, {seconds(30), "\uFEFFdata: b\n\n"}, {seconds(45), beat}, {seconds(60), beat}},
		},
		{
			"no byte order mark after a heartbeat",
			[]step{{seconds(20), "\xEF\xBB"}, {seconds(22), "data: a\n\n"}},
			[]arrival{{seconds(15), beat}, {seconds(22), "\xEF\xBBdata: a\n\n"}, {seconds(37), beat}, {seconds(52), beat}, {seconds(67), beat}},
			[]arrival{{seconds(15), beat}, {seconds(22), "\xEF\xBBdata: a\n\n"}, {seconds(37), beat}, {seconds(52), beat}, {seconds(67), beat}},
		},
	} {
		for accept, want := range map[string][]arrival{eventStreamType: test.shared, "*/*": test.private} {
			t.Run(test.name+" "+accept, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					off := false
					s := serveInBubble(t, &Handler{Prime: &off, IDs: "upstream"}, script(test.steps...))
					if got := s.listen(accept, seconds(69)); !slices.Equal(got, want) {
						t.Errorf("got\n%v\nexpected\n%v", got, want)
					}
				})
			})
		}
	}
}

// Each subscriber of a stream has its own idleness.
func TestHeartbeatsOfEachSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := false
		h := &Handler{Prime: &off, IDs: "upstream", Join: "live"}
		s := serveInBubble(t, h, script(step{seconds(33), "data: 1\n\n"}))
		var first, second []arrival
		var wg sync.WaitGroup
		wg.Go(func() { first = s.listen(eventStreamType, seconds(50)) })
		wg.Go(func() {
			time.Sleep(seconds(4))
			second = s.listen(eventStreamType, seconds(46))
		})
		wg.Wait()
		want := []arrival{{seconds(15), ":\n\n"}, {seconds(30), ":\n\n"}, {seconds(33), "data: 1\n\n"}, {seconds(48), ":\n\n"}}
		if !slices.Equal(first, want) {
			t.Errorf("first: %v, expected %v", first, want)
		}
		want = []arrival{{seconds(15), ":\n\n"}, {seconds(29), "data: 1\n\n"}, {seconds(44), ":\n\n"}}
		if !slices.Equal(second, want) {
			t.Errorf("second: %v, expected %v", second, want)
		}
	})
}

// While the upstream is lost, its subscribers are kept.
func TestHeartbeatsWhileBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := false
		var connections atomic.Int64
		h := &Handler{Prime: &off, IDs: "upstream"}
		s := serveInBubble(t, h, func(w http.ResponseWriter, _ *http.Request) error {
			connections.Add(1)
			if connections.Load() > 1 {
				return caddyhttp.Error(http.StatusBadGateway, errBreak)
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			<-time.After(seconds(10))
			panic(http.ErrAbortHandler)
		})
		want := []arrival{{seconds(15), ":\n\n"}, {seconds(30), ":\n\n"}, {seconds(45), ":\n\n"}}
		if got := s.listen(eventStreamType, seconds(50)); !slices.Equal(got, want) || connections.Load() < 3 {
			t.Errorf("got %v with %d connections, expected %v", got, connections.Load(), want)
		}
	})
}
