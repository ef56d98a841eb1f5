package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startOrigin serves an origin on a free port until the test ends.
func startOrigin(t *testing.T) string {
	t.Helper()
	o, port, err := newOrigin("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// measureOnce runs a client.
func measureOnce(t *testing.T, args ...string) *result {
	t.Helper()
	cfg, err := parseClient(append([]string{"-settle", "10ms", "-saturated", "1m", "-pid", fmt.Sprint(os.Getpid())}, args...))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFloor(t *testing.T) {
	at := startOrigin(t)
	r := measureOnce(t, "-addr", at, "-origin", at, "-n", "50", "-steps", "100:0.2,200:0.1")
	if !r.clean() || r.Published != 40 || r.Received != 50*40 || r.Saturated {
		t.Errorf("%+v", r)
	}
	if len(r.Steps) != 2 || r.Steps[0].Deliveries+r.Steps[1].Deliveries != 50*40 || r.Steps[0].P50 <= 0 || r.Steps[0].P50 > r.Steps[0].Max {
		t.Errorf("steps %+v", r.Steps)
	}
	if r.Origin.Accepted != 50 || r.Origin.Peak != 50 || r.Idle.RSS1 == 0 {
		t.Errorf("origin %+v, memory %+v", r.Origin, r.Idle)
	}
	var machine, people bytes.Buffer
	if err := r.print(&machine, &people); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(machine.Bytes(), new(result)); err != nil || strings.Count(people.String(), "ev/s") != 2 {
		t.Errorf("%v\n%s", err, people.String())
	}
}

// TestFaultsShow withholds events from every second subscriber, and then sends some twice.
func TestFaultsShow(t *testing.T) {
	at := startOrigin(t)
	r := measureOnce(t, "-addr", at, "-origin", at, "-n", "50", "-steps", "200:0.2", "-drop", "10")
	if r.Missing != 25*4 || r.Steps[0].Faults < 25*3 || r.Duplicate != 0 || r.clean() {
		t.Errorf("withheld 4 events from 25 subscribers: %d missing, %d twice", r.Missing, r.Duplicate)
	}
	at = startOrigin(t)
	r = measureOnce(t, "-addr", at, "-origin", at, "-n", "50", "-steps", "200:0.2", "-repeat", "10")
	if r.Missing != 0 || r.Duplicate != 50*4 || r.Steps[0].Faults != 50*4 || r.clean() {
		t.Errorf("sent 4 events twice to 50 subscribers: %d missing, %d twice", r.Missing, r.Duplicate)
	}
	r = measureOnce(t, "-addr", at, "-origin", at, "-n", "5", "-steps", "100:0.05", "-size", "200", "-burst", "5")
	if !r.clean() || r.Published != 5 {
		t.Errorf("%+v", r)
	}
}

// TestCorruptShows compares what a server sends with the size that was ordered.
func TestCorruptShows(t *testing.T) {
	s := &subscriber{client: &client{clientConfig: clientConfig{order: order{plan: plan{{1, time.Second}}, size: 100}}}}
	s.client.segments.begin(0, 1)
	stream := appendEvent(nil, event{seq: 1}, 100, false)
	stream = appendEvent(stream, event{seq: 2}, 99, false)
	stream = append(stream, bytes.Replace(appendEvent(nil, event{seq: 3}, 100, false), []byte("The"), []byte("the"), 1)...)
	s.scanner.feed(stream, s)
	if s.track.got != 1 || s.client.sequence.corrupt != 2 {
		t.Errorf("%d events and %d corrupt, want 1 and 2", s.track.got, s.client.sequence.corrupt)
	}
}

// TestStuck has clients beside that never read: the others get everything.
func TestStuck(t *testing.T) {
	at := startOrigin(t)
	r := measureOnce(t, "-addr", at, "-origin", at, "-n", "10", "-stuck", "5", "-steps", "100:0.3", "-size", "200000")
	if !r.clean() || r.Received != 10*30 || r.Origin.Peak != 15 {
		t.Errorf("%+v, origin %+v", r, r.Origin)
	}
}

// relay serves what an origin has, as begin has the server begin.
func relay(t *testing.T, at string, begin func(*httptest.Server)) string {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+at+r.URL.Path, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for b := make([]byte, 4096); ; {
			n, err := resp.Body.Read(b)
			_, _ = w.Write(b[:n])
			if rc.Flush() != nil || err != nil {
				return
			}
		}
	}))
	begin(server)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

func withPriorKnowledge(s *httptest.Server) {
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
}

func overTLS(s *httptest.Server) {
	s.EnableHTTP2 = true
	s.StartTLS()
}

func TestHTTP2(t *testing.T) {
	at := startOrigin(t)
	r := measureOnce(t, "-addr", relay(t, at, withPriorKnowledge), "-origin", at, "-h2", "-n", "55", "-per-conn", "10", "-path", "/s/{s}", "-streams", "3", "-steps", "100:0.2")
	if !r.clean() || r.Received != 55*20 || r.Origin.Peak != 55 {
		t.Errorf("%+v, origin %+v", r, r.Origin)
	}
}

// TestResume compares an origin, which forgets what it has sent, with a gateway that does nothing to help.
func TestResume(t *testing.T) {
	at := startOrigin(t)
	cfg, err := parseClient([]string{"-addr", at, "-origin", at})
	if err != nil {
		t.Fatal(err)
	}
	r, err := runResume(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.Resume.ID != "" || r.Resume.Missed < resumeAway || r.Resume.Kept || r.Origin.Accepted != 3 {
		t.Errorf("%+v, origin %+v", r.Resume, r.Origin)
	}
}

// TestEndedShows cuts connections, and refuses some.
func TestEndedShows(t *testing.T) {
	at := startOrigin(t)
	n := 0
	cutter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n > 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Write([]byte(": bye\n\n"))
		http.NewResponseController(w).Flush() // else it has a Content-Length
	}))
	defer cutter.Close()
	r := measureOnce(t, "-addr", cutter.Listener.Addr().String(), "-origin", at, "-n", "5", "-conc", "1", "-steps", "100:0.05")
	if r.Ended != 3 || r.Connect.Failed != 2 || r.clean() {
		t.Errorf("%d ended, %d not connected", r.Ended, r.Connect.Failed)
	}
}

// TestPublisher posts to a hub that keeps what it gets.
func TestPublisher(t *testing.T) {
	got := make(chan event, 100)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body)
		e, ok := parseEvent(b.Bytes())
		if !ok {
			t.Errorf("posted %q", b.String())
		}
		got <- e
		w.WriteHeader(http.StatusCreated)
	}))
	defer hub.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0") // for a free port
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runPublisher(ctx, at, hub.URL+"/publish") }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for {
		if _, err := control(ctx, at, "status"); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the publisher does not begin")
		}
	}
	o := order{plan: plan{{100, 50 * time.Millisecond}}, size: 100, burst: 1}
	if _, err := control(ctx, at, "start?"+o.query()); err != nil {
		t.Fatal(err)
	}
	for want := uint32(1); want <= 6; want++ {
		if e := <-got; e.seq != want || e.last != (want == 6) {
			t.Fatalf("event %+v, want %d of 5 and the end mark", e, want)
		}
	}
}

func TestControlRefuses(t *testing.T) {
	at := startOrigin(t)
	for _, command := range []string{"start?steps=x", "nonsense"} {
		if _, err := control(t.Context(), at, command); err == nil {
			t.Errorf("%q is done", command)
		}
	}
}

func TestClock(t *testing.T) {
	c := newClock()
	system := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	const precision = int64(time.Millisecond)
	before, now, after := system(), c.now(), system()
	if now < before-precision || now > after+precision {
		t.Errorf("the clock says %d, the system's %d before and %d after", now, before, after)
	}
}

func TestTLS(t *testing.T) {
	for name, args := range map[string][]string{"HTTP/1.1": nil, "HTTP/2": {"-h2", "-per-conn", "10"}} {
		t.Run(name, func(t *testing.T) {
			at := startOrigin(t)
			args = append(args, "-addr", relay(t, at, overTLS), "-origin", at, "-tls", "-n", "25", "-steps", "100:0.2")
			r := measureOnce(t, args...)
			if !r.clean() || r.Received != 25*20 || r.Origin.Peak != 25 || !strings.HasSuffix(r.Proto, " tls") {
				t.Errorf("%+v, origin %+v", r, r.Origin)
			}
		})
	}
}

// TestTLSRefused has a server that speaks no TLS, and one that speaks no HTTP/2 over it.
func TestTLSRefused(t *testing.T) {
	at := startOrigin(t)
	for name, addr := range map[string]string{"no TLS": at, "no HTTP/2": relay(t, at, (*httptest.Server).StartTLS)} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parseClient([]string{"-addr", addr, "-tls", "-h2", "-n", "1"})
			if err != nil {
				t.Fatal(err)
			}
			c, err := newClient(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.run(t.Context()); err == nil || !strings.Contains(err.Error(), "TLS") {
				t.Errorf("error %v", err)
			}
		})
	}
}
