package caddysse

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// slowReader reads a little, again and again, and from a point on everything.
type slowReader struct {
	from  io.Reader
	until time.Time
	buf   [8 << 10]byte
}

// Read implements io.Reader.
func (r *slowReader) Read(p []byte) (int, error) {
	if time.Now().Before(r.until) {
		<-time.After(25 * time.Millisecond) // is its pace
		p = p[:min(len(p), len(r.buf))]
	}
	return r.from.Read(p)
}

// A large event comes to a client that reads slowly and steadily, in however
// many times write_timeout: whatever the way to the client.
func TestSlowWriteWithProgress(t *testing.T) {
	const (
		timeout = 3 * time.Second
		size    = 8 << 20 // more than the system's buffers hold
	)
	u := startUpstream(t, nil)
	options := fmt.Sprintf("buffer 16 64MiB\nmax_event_size 32MiB\nwrite_timeout %v\nheartbeat off", timeout)
	event := strings.Repeat("x", size)
	go func() {
		for up := range u.connections {
			go up.write("data: " + event + "\n\ndata: end\n\n")
		}
	}()
	t.Cleanup(func() { close(u.connections) })
	clients := make(map[string]func(ctx context.Context) (io.ReadCloser, error))
	for _, tr := range startTransports(t, u, options) {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			clients[tr.name+" "+method] = func(ctx context.Context) (io.ReadCloser, error) { return tr.slow(ctx, method) }
		}
	}
	done := make(chan string)
	for name, open := range clients {
		go func() { done <- slowly(t.Context(), open, name, size, 2*timeout) }()
	}
	for range clients {
		if what := <-done; what != "" {
			t.Error(what)
		}
	}
}

// The same over HTTP/2, where it is the stream's window that counts.
func TestSlowWriteWithProgressOverHTTP2(t *testing.T) {
	const (
		timeout = 3 * time.Second
		size    = 8 << 20
	)
	u := startUpstream(t, nil)
	g := startTLS(t, newCertificate(t, "server"), u, fmt.Sprintf("buffer 16 64MiB\nmax_event_size 32MiB\nwrite_timeout %v", timeout))
	open := func(context.Context) (io.ReadCloser, error) { return g.get("/").Body, nil }
	go func() {
		if up, ok := <-u.connections; ok {
			up.write("data: " + strings.Repeat("x", size) + "\n\ndata: end\n\n")
		}
	}()
	if what := slowly(t.Context(), open, "HTTP/2", size, 2*timeout); what != "" {
		t.Error(what)
	}
}

// slowWindow is the window of a client that reads slowly. Its system acknowledges
// more about when half of it was read: with a large one, and on a machine that is
// busy, that is as rare as a write_timeout.
const slowWindow = 16 << 10

// slow asks for an event stream with a client whose window is small.
func (tr transport) slow(ctx context.Context, method string) (io.ReadCloser, error) {
	if tr.http2 {
		resp, conn, err := tr.stream(ctx, smallWindow(slowWindow), method, "/")
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{resp.Body, conn}, nil
	}
	conn, err := tr.dialBy(ctx, smallWindow(slowWindow))
	if err != nil {
		return nil, err
	}
	_, _ = io.WriteString(conn, method+" / HTTP/1.1\r\nHost: gateway.test\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{resp.Body, conn}, nil
}

// slowly reads a large event, slowly for a time, and tells what is not right.
func slowly(ctx context.Context, open func(ctx context.Context) (io.ReadCloser, error), name string, size int, d time.Duration) string {
	body, err := open(ctx)
	if err != nil {
		return fmt.Sprintf("%s: %v", name, err)
	}
	defer body.Close()
	began := time.Now()
	in := bufio.NewReaderSize(&slowReader{from: body, until: began.Add(d)}, 8<<10)
	for {
		line, err := in.ReadString('\n')
		switch {
		case err != nil:
			return fmt.Sprintf("%s: %v after %v, in a line of %d bytes", name, err, time.Since(began), len(line))
		case line == "data: end\n":
			return ""
		case strings.HasPrefix(line, "data: ") && len(line) != len("data: \n")+size:
			return fmt.Sprintf("%s: a line of %d bytes", name, len(line))
		}
	}
}

// A client that takes nothing is cut, although all that it is sent fits into its
// socket: nobody waits in a write.
func TestWhoTakesNothingIsCut(t *testing.T) {
	const size = 256 << 10
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 16 64MiB\nwrite_timeout 300ms\nheartbeat 50ms") {
		if tr.name == "unix" {
			continue // whose peer acknowledges what it reads: it may take its time
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(tr.name+" "+method, func(t *testing.T) {
				before := gather(t)
				body, err := tr.slow(t.Context(), method)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				u.accept().event(strings.Repeat("x", size))
				eventually(t, "it is cut", func() bool {
					return gather(t).since(before)["subscribers_ended_total reason=write"] == 1
				})
			})
		}
	}
}

// One that has read all it was sent is there as long as it likes.
func TestWhoHasTakenAllStays(t *testing.T) {
	const timeout = 300 * time.Millisecond
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, fmt.Sprintf("write_timeout %v\nheartbeat %v", timeout, timeout/3)) {
		t.Run(tr.name, func(t *testing.T) {
			c := subscribeRaw(t, tr, "/")
			defer c.close()
			up := u.accept()
			began := time.Now()
			up.event("1")
			go func() {
				<-time.After(5 * timeout)
				up.event("2")
			}()
			for m, err := range c.messages() {
				if err != nil {
					t.Fatalf("%v after %v", err, time.Since(began))
				}
				if m.Data == "2" {
					break
				}
			}
		})
	}
}

// When the response is to end, the rest of a large event has write_timeout: a
// client that reads slowly does not keep the process from its end.
func TestSlowWriteDoesNotHoldTheEnd(t *testing.T) {
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 16 64MiB\nmax_event_size 32MiB\nwrite_timeout 1s\nmax_age 2s\nheartbeat off") {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(tr.name+" "+method, func(t *testing.T) {
				before := gather(t)
				body, err := tr.slow(t.Context(), method)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				up := u.accept()
				go func() { // is cut
					up.mu.Lock()
					defer up.mu.Unlock()
					_, _ = io.WriteString(up.w, "data: "+strings.Repeat("x", 6<<20)+"\n\n")
					_ = http.NewResponseController(up.w).Flush()
				}()
				go func() { _, _ = io.Copy(io.Discard, &slowReader{from: body, until: time.Now().Add(testTimeout)}) }()
				eventually(t, "it ends", func() bool {
					ended := gather(t).since(before)
					if ended["subscribers_ended_total reason=max_age"] == 1 {
						t.Log("between two writes")
						return true
					}
					return ended["subscribers_ended_total reason=write"] == 1
				})
			})
		}
	}
}

// When the process exits nobody waits for a client that reads slowly, whatever
// write_timeout is.
func TestSlowWriteDoesNotHoldTheExit(t *testing.T) {
	overHTTP1(t) // it is about who is not taken over
	u := startUpstream(t, nil)
	all := startTransports(t, u, fmt.Sprintf("delivery handler\nbuffer 16 64MiB\nmax_event_size 32MiB\nwrite_timeout %v\ndrain 10ms\nheartbeat off", testTimeout))
	before := gather(t)
	body, err := all[1].slow(t.Context(), http.MethodGet)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	u.accept().event(strings.Repeat("x", 12<<20))
	go func() { _, _ = io.Copy(io.Discard, &slowReader{from: body, until: time.Now().Add(2 * testTimeout)}) }()
	eventually(t, "it is being written to", func() bool {
		return stream.Process.WritesAt(1)
	})
	stream.Process.Stop()
	eventually(t, "it ends", func() bool { return gather(t).since(before)["subscribers_ended_total reason=write"] == 1 })
}

// Over HTTP/2 a connection makes progress while one of its streams is not read:
// that one is cut, and the others go on.
func TestStuckStreamOfBusyConnection(t *testing.T) {
	u := startUpstream(t, nil)
	all := startTransports(t, u, "buffer 16 64MiB\nmax_event_size 32MiB\nwrite_timeout 1s\nheartbeat off")
	over := all[len(all)-1]
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   over.config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", over.address)
		},
	}}
	t.Cleanup(client.CloseIdleConnections)
	subscribe := func(path string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://gateway.test:2"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 2 {
			t.Fatal(resp.Proto)
		}
		return resp
	}
	before := gather(t)
	stuck := subscribe("/stuck")
	defer stuck.Body.Close()
	u.accept().event(strings.Repeat("x", 12<<20)) // more than the window of a stream
	busy := newTestClient(t, subscribe("/busy"))
	up := u.accept()
	n := 0
	eventually(t, "the stream is cut that is not read", func() bool {
		n++
		up.event(numberedEvent(n, 64<<10))
		busy.expect(numberedEvent(n, 64<<10))
		return gather(t).since(before)["subscribers_ended_total reason=write"] == 1
	})
	up.event("last")
	busy.expect("last")
}
