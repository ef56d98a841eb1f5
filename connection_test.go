package caddysse

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// transport is a way to reach a gateway.
type transport struct {
	name string
	dial func(ctx context.Context) (net.Conn, error)

	http2   bool        // streams of connections that are shared; otherwise it is HTTP/1.1
	address string      // over TLS: of the socket
	config  *tls.Config // over TLS

	// dialBy is dial with settings of one's own.
	dialBy func(ctx context.Context, d *net.Dialer) (net.Conn, error)
}

// startTransports starts a gateway that is reached over a Unix socket, over
// TCP, and over TLS and TCP; or, where clients share connections of HTTP/2, in that
// way only.
func startTransports(t *testing.T, u *upstream, options string) []transport {
	t.Helper()
	server := newCertificate(t, "server")
	listen := func() (address string, fd uintptr) {
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		file, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = ln.Close(), file.Close() })
		return ln.Addr().String(), file.Fd()
	}
	plain, plainFD := listen()
	secure, secureFD := listen()
	handlers := "sse {\njoin live\n" + options + "\n}\nreverse_proxy " + u.address
	g := startGateway(t, site(handlers)+
		fmt.Sprintf("http://gateway.test:1 {\nbind fd/%d {\nprotocols h1 h2\n}\n%s\n}\n", plainFD, handlers)+
		fmt.Sprintf("https://gateway.test:2 {\nbind fd/%d {\nprotocols h1 h2\n}\ntls %s %s\n%s\n}\n", secureFD, server.cert, server.key, handlers))
	all := []transport{
		{name: "unix", dialBy: func(ctx context.Context, _ *net.Dialer) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.socket)
		}},
		{name: "tcp", dialBy: func(ctx context.Context, d *net.Dialer) (net.Conn, error) { return d.DialContext(ctx, "tcp", plain) }},
		{name: "tls", dialBy: func(ctx context.Context, d *net.Dialer) (net.Conn, error) {
			over := tls.Dialer{NetDialer: d, Config: &tls.Config{RootCAs: server.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}
			return over.DialContext(ctx, "tcp", secure)
		}},
	}
	all[2].address = secure
	all[2].config = &tls.Config{RootCAs: server.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12}
	if overHTTP2() && !keepsHTTP1.Load() {
		config := all[2].config.Clone()
		all = []transport{{
			name: "http2", http2: true, address: secure, config: all[2].config,
			dialBy: func(ctx context.Context, d *net.Dialer) (net.Conn, error) {
				config := config.Clone()
				config.NextProtos = []string{"h2"}
				return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, "tcp", secure)
			},
		}}
	}
	for i := range all {
		all[i].dial = func(ctx context.Context) (net.Conn, error) { return all[i].dialBy(ctx, new(net.Dialer)) }
	}
	return all
}

// rawSubscriber is a client that reads only what it is told to.
type rawSubscriber struct {
	conn net.Conn
	resp *http.Response
	read bytes.Buffer // of the body
}

// subscribe asks for an event stream.
func (tr transport) subscribe(ctx context.Context, target string) (*rawSubscriber, error) {
	if tr.http2 {
		resp, conn, err := tr.stream(ctx, new(net.Dialer), http.MethodGet, target)
		if err != nil {
			return nil, err
		}
		return &rawSubscriber{conn: conn, resp: resp}, nil
	}
	conn, err := tr.dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: gateway.test\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && !isEventStream(resp.StatusCode, resp.Header) {
		err = fmt.Errorf("no event stream: %s", resp.Status)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &rawSubscriber{conn: conn, resp: resp}, nil
}

// stream asks for an event stream over HTTP/2, on a connection of its own. The client
// gives a small window for what is not read.
func (tr transport) stream(ctx context.Context, d *net.Dialer, method, target string) (*http.Response, net.Conn, error) {
	var conn net.Conn
	client := &http.Transport{
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			over, err := tr.dialBy(ctx, d)
			if err == nil {
				conn = unread{over.(*tls.Conn)}
			}
			return over, err
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://gateway.test"+target, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.RoundTrip(req)
	if err == nil && (resp.ProtoMajor != 2 || !isEventStream(resp.StatusCode, resp.Header)) {
		err = fmt.Errorf("no event stream of HTTP/2: %s %s", resp.Proto, resp.Status)
	}
	if err != nil && conn != nil {
		_ = conn.Close()
	}
	return resp, conn, err
}

// unread is a connection of HTTP/2 that its client reads, whoever sets a deadline.
type unread struct{ *tls.Conn }

// SetReadDeadline does nothing.
func (unread) SetReadDeadline(time.Time) error { return nil }

func (c *rawSubscriber) close() { _ = c.conn.Close() }

// messages are the events of all that was read and is to come.
func (c *rawSubscriber) messages() func(yield func(eventstream.Message, error) bool) {
	return eventstream.NewReader(io.MultiReader(&c.read, c.resp.Body)).Messages()
}

// numberedEvent has a number and a content that no other one has.
func numberedEvent(n, size int) string {
	text := strconv.Itoa(n)
	return text + " " + strings.Repeat(text+".", size/(len(text)+1))
}

// numberOf is the number of an event that is whole.
func numberOf(m eventstream.Message, size int) (int, error) {
	text, _, _ := strings.Cut(m.Data, " ")
	n, err := strconv.Atoi(text)
	if err != nil || m.Data != numberedEvent(n, size) {
		return 0, fmt.Errorf("not as it was sent: %.100q (%d bytes)", m.Data, len(m.Data))
	}
	return n, nil
}

// awaitTakenOver waits until connections were taken over, with the delivery that
// does that.
func awaitTakenOver(t *testing.T, n int) {
	t.Helper()
	if deliverytest.Of(t) == delivery.ByHandler {
		return
	}
	eventually(t, strconv.Itoa(n)+" connections are taken over", func() bool { return delivery.Live() == n })
}

// A client that reads slowly, or not for a while, gets every event exactly
// once, and keeps nobody waiting.
func TestSlowClients(t *testing.T) {
	const events, size = 250, 64 << 10 // more than the system's buffers hold
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 1024 64MiB\nwrite_timeout 1m\nprime off") {
		for name, share := range map[string]int64{"slow": size / 2, "frozen": 0} {
			t.Run(tr.name+" "+name, func(t *testing.T) {
				quick := subscribeRaw(t, tr, "/"+name)
				slow := subscribeRaw(t, tr, "/"+name)
				up := u.accept()
				up.event(numberedEvent(1, size))
				next, stop := quick.events(t, size)
				defer stop()
				next(1)
				readSome(t, slow, size/2)
				awaitTakenOver(t, 2)
				for n := 2; n <= events; n++ {
					up.event(numberedEvent(n, size))
					next(n)
					readSome(t, slow, share)
				}
				next, stop = slow.events(t, size)
				defer stop()
				for n := 1; n <= events; n++ {
					next(n)
				}
				up.event(numberedEvent(events+1, size))
				next(events + 1)
				quick.close()
				slow.close()
				awaitTakenOver(t, 0)
			})
		}
	}
}

// A client that never reads is cut after write_timeout; one that does not read
// and hangs up is gone at once. Nobody else notices.
func TestStuckClients(t *testing.T) {
	const size = 64 << 10
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 16\nwrite_timeout 200ms\nlag disconnect\nprime off") {
		for name, hangUp := range map[string]bool{"stuck": false, "hangs up": true} {
			t.Run(tr.name+" "+name, func(t *testing.T) {
				target := "/" + strings.ReplaceAll(name, " ", "-")
				before := gather(t)
				quick := subscribeRaw(t, tr, target)
				stuck := subscribeRaw(t, tr, target)
				up := u.accept()
				next, stop := quick.events(t, size)
				defer stop()
				n := 0
				publish := func() {
					n++
					up.event(numberedEvent(n, size))
					next(n)
				}
				publish()
				readSome(t, stuck, size/2)
				awaitTakenOver(t, 2)
				for range 100 { // more than the system's buffers hold
					publish()
				}
				if hangUp {
					stuck.close()
				}
				eventually(t, "the client is gone", func() bool {
					publish()
					return attached() == 1
				})
				var ended gathered
				defer func() {
					if t.Failed() {
						t.Logf("counted %v", ended)
					}
				}()
				eventually(t, "it is told why", func() bool {
					ended = gather(t).since(before)
					byClient := ended["subscribers_ended_total reason=client"] // with write_timeout so short it may be cut before
					return ended["subscribers_ended_total reason=write"]+byClient == 1 && (byClient == 0 || hangUp)
				})
				publish()
				if !hangUp {
					_ = stuck.conn.SetReadDeadline(time.Now().Add(testTimeout))
					if _, err := io.Copy(io.Discard, stuck.resp.Body); err == nil {
						t.Error("the response looks complete")
					}
				}
				quick.close()
				stuck.close()
				eventually(t, "both have left", func() bool { return attached() == 0 })
				awaitTakenOver(t, 0)
			})
		}
	}
}

// attached counts the subscribers of all streams.
func attached() int { return stream.Process.Subscribers() }

// subscribeRaw is subscribe for a client that has to be served.
func subscribeRaw(t *testing.T, tr transport, target string) *rawSubscriber {
	t.Helper()
	c, err := tr.subscribe(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// readSome reads some bytes of the body.
func readSome(t *testing.T, c *rawSubscriber, n int64) {
	t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	if _, err := io.CopyN(&c.read, c.resp.Body, n); err != nil {
		t.Fatal(err)
	}
}

// events returns what waits for the next event, which has to be that of a number.
func (c *rawSubscriber) events(t *testing.T, size int) (next func(n int), stop func()) {
	t.Helper()
	type result struct {
		message eventstream.Message
		err     error
	}
	results, stopped := make(chan result), make(chan struct{})
	_ = c.conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(results)
		for m, err := range c.messages() {
			select {
			case results <- result{m, err}:
			case <-stopped:
				return
			}
		}
	}()
	return func(n int) {
		t.Helper()
		select {
		case r, ok := <-results:
			if !ok || r.err != nil {
				t.Fatalf("the stream ended before event %d: %v", n, r.err)
			}
			if got, err := numberOf(r.message, size); err != nil || got != n {
				t.Fatalf("event %d, expected %d: %v", got, n, err)
			}
		case <-time.After(testTimeout):
			t.Fatalf("event %d did not come", n)
		}
	}, sync.OnceFunc(func() { close(stopped) })
}

// A handler that records the whole response says so only when it is given the
// head: what it has not let through must not be missing before the events.
func TestRecordedResponseIsNotTakenOver(t *testing.T) {
	for name, recorder := range map[string]string{
		"templates":  "templates {\nmime text/event-stream\n}",
		"log_append": "log_append body {http.response.body}",
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, site("route {\n"+recorder+"\nsse {\njoin live\nprime off\nids upstream\n}\nreverse_proxy "+u.address+"\n}"))
			go func() {
				up := <-u.connections
				for i, n := range numbers(1, 20) { // in one of the pauses at least the client waits
					up.event(n)
					for !delivered(uint64(i + 1)) {
						runtime.Gosched()
					}
				}
				up.end()
			}()
			c := g.subscribe("/")
			c.expect(numbers(1, 20)...)
			c.expectEnd()
		})
	}
}

// delivered reports whether all subscribers were given the blocks up to position.
func delivered(position uint64) bool { return stream.Process.Delivered(position) }

// With `timeouts write` Caddy flushes the response when the handlers have
// returned.
func TestTakeOverUnderWriteTimeoutOfServer(t *testing.T) {
	overHTTP1(t) // over TLS nobody would get through the handshake
	dir := t.TempDir()
	u := startUpstream(t, nil)
	g := startGatewayWith(t, "servers {\ntimeouts {\nwrite 1ns\n}\n}\nlog stdlib {\noutput file "+filepath.Join(dir, "log")+"\nlevel DEBUG\ninclude http.stdlib\n}",
		site("log {\noutput discard\n}\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	c := g.subscribe("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	up.event("2")
	c.expect("2")
	up.end()
	c.expectEnd()
	g.load(site("respond 204"))
	if text, err := fs.ReadFile(os.DirFS(dir), "log"); err != nil || strings.Contains(string(text), "panic") {
		t.Errorf("%v %s", err, text)
	}
}

// A client that hangs up just before its connection is taken over: what the
// handlers before sse do when it has returned is not looked at meanwhile.
func TestTakeOverOfClientThatHangsUp(t *testing.T) {
	u := startUpstream(t, nil)
	var after strings.Builder
	for range 20 {
		after.WriteString("log_append a {http.sse.resume}\n")
	}
	g := startGateway(t, site("log {\noutput discard\n}\nroute {\n"+after.String()+"sse {\njoin live\n}\nreverse_proxy "+u.address+"\n}"))
	stay := g.subscribe("/")
	up := u.accept()
	for _, n := range numbers(1, 200) {
		c := g.subscribe("/")
		go c.close()
		up.event(n)
		stay.expect(n)
	}
}
