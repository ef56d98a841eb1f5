package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// server is what a doctor looks at, in a bubble of fake time.
type server struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (s *server) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *server) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *server) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// dial connects. A transport goes on dialling after the request that asked for
// it, so the server may have been closed before.
func (s *server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case s.conns <- server:
		return client, nil
	case <-s.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// examine runs the doctor, in fake time, on what a handler serves.
func examine(t *testing.T, o Options, handler http.HandlerFunc) (report *Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &server{conns: make(chan net.Conn), done: make(chan struct{})}
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handler}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(s) })
		defer served.Wait()
		defer server.Close()
		o.Dial = s.dial
		if o.URL == "" {
			o.URL = "http://app.test/events"
		}
		var err error
		if report, err = Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	})
	return report
}

// finding returns a finding of a report.
func (r *Report) finding(t *testing.T, name string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %s in %+v", name, r.Findings)
	return Finding{}
}

// expect checks a finding: its result and what its text says was seen.
func (r *Report) expect(t *testing.T, name string, result Result, seen string) {
	t.Helper()
	f := r.finding(t, name)
	if f.Result != result || !strings.Contains(f.Seen, seen) {
		t.Errorf("%s: %s, %q; expected %s, %q", name, f.Result, f.Seen, result, seen)
	}
	if result == Problem && (f.Why == "" || f.Change == "") {
		t.Errorf("%s: a problem without why (%q) or what to change (%q)", name, f.Why, f.Change)
	}
	if strings.ContainsAny(f.Seen+f.Why+f.Change, "\r\n") {
		t.Errorf("%s: more than a line", name)
	}
}

// stream is the answer to one request.
type stream struct {
	w http.ResponseWriter
	r *http.Request
}

// begin sends the head of an event stream as the gateway does, with further
// fields, "Name: value".
func begin(w http.ResponseWriter, r *http.Request, fields ...string) *stream {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		header.Set(name, value)
		if value == "" {
			header.Del(name)
		}
	}
	w.WriteHeader(http.StatusOK)
	s := &stream{w, r}
	s.send("")
	return s
}

// send sends bytes at once.
func (s *stream) send(text string) {
	_, _ = fmt.Fprint(s.w, text)
	_ = http.NewResponseController(s.w).Flush()
}

// wait waits. It returns false if the client is gone.
func (s *stream) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.r.Context().Done():
		return false
	}
}

// numbered sends numbered events, one each interval, until the client is gone.
func (s *stream) numbered(from int, every time.Duration) {
	for n := from; ; n++ {
		s.send(numbered(n))
		if !s.wait(every) {
			return
		}
	}
}

func numbered(n int) string { return fmt.Sprintf("id: %d\ndata: %d\n\n", n, n) }

// probeText is an event of a probe stream.
func probeText(data ProbeData) string {
	text, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", ProbeType, text)
}

// serveProbe answers as a gateway does, if a probe stream is asked for: with
// heartbeats each interval (0: none) in the idle one. pass sends.
func serveProbe(w http.ResponseWriter, r *http.Request, heartbeat time.Duration, pass func(s *stream, text string)) bool {
	kind := r.Header.Get(ProbeField)
	if kind == "" {
		return false
	}
	s := begin(w, r, ProbeField+": "+kind)
	began := time.Now()
	event := func(data ProbeData) {
		data.At = float64(time.Since(began)) / float64(time.Millisecond)
		pass(s, probeText(data))
	}
	if kind == ProbeFlow {
		for n := range ProbeEvents {
			event(ProbeData{Number: n + 1, Last: n == ProbeEvents-1})
			if n < ProbeEvents-1 && !s.wait(ProbeInterval) {
				return true
			}
		}
		return true
	}
	event(ProbeData{Number: 1, Heartbeat: float64(heartbeat) / float64(time.Millisecond)})
	for heartbeat > 0 && s.wait(heartbeat) {
		pass(s, ":\n\n")
	}
	<-r.Context().Done()
	return true
}
