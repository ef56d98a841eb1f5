package caddysse

import (
	"crypto/tls"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

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

// stuckConn is a connection whose client does not read any more. Its first
// writes succeed, the next one times out, and further ones wait.
type stuckConn struct {
	net.Conn
	stuck    atomic.Bool
	timeouts atomic.Int32
	released chan struct{}
}

func (c *stuckConn) Write(p []byte) (int, error) {
	switch {
	case !c.stuck.Load():
		return c.Conn.Write(p)
	case c.timeouts.Add(1) > 1:
		<-c.released
	}
	return 0, os.ErrDeadlineExceeded
}

// Over TLS the last thing that is sent is an alert. A writer has other
// connections: it does not wait for one whose client is stuck.
func TestWriterDoesNotWaitForLastAlert(t *testing.T) {
	files := newCertificate(t, "server")
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		client := tls.Client(far, &tls.Config{RootCAs: files.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS13})
		_, _ = io.Copy(io.Discard, client)
	}()
	stuck := &stuckConn{Conn: near, released: make(chan struct{})}
	conn := tls.Server(stuck, &tls.Config{Certificates: []tls.Certificate{files.pair}, MinVersion: tls.VersionTLS13})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	stuck.stuck.Store(true)

	s := newSocket(conn, time.Minute, nil)
	c := &connection{writer: &writer{news: make(chan struct{}, 1)}, socket: s}
	s.await(c, []byte("data: 1\n\n"))
	<-c.writer.news
	if _, err := s.resume([]byte("data: 1\n\n")); err == nil {
		t.Fatal("nothing timed out")
	}
	closed := make(chan struct{})
	go func() {
		s.close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(testTimeout):
		t.Error("closing the connection waits")
	}
	close(stuck.released)
}

// blockingCore is a log that cannot be written to until it is released.
type blockingCore struct {
	zapcore.Core
	entered  chan struct{}
	released chan struct{}
}

func (blockingCore) Enabled(zapcore.Level) bool { return true }

func (c blockingCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c blockingCore) Write(zapcore.Entry, []zapcore.Field) error {
	close(c.entered)
	<-c.released
	return nil
}

// When the process exits it waits for connections to end, and for what is
// logged of them.
func TestExitWaitsForAccessLog(t *testing.T) {
	ws := &writers{live: 1}
	core := blockingCore{zapcore.NewNopCore(), make(chan struct{}), make(chan struct{})}
	c := &connection{
		writer: &writer{set: ws},
		sub:    new(stream.Subscriber),
		log:    &accessRecord{loggers: []*zap.Logger{zap.New(core)}, complete: true},

		counted: new(meter.Gauge),
	}
	c.over(stream.EndStopping)
	<-core.entered
	live := func() int {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		return ws.live
	}
	if live() != 1 {
		t.Error("the connection is gone before its access-log entry was written")
	}
	close(core.released)
	eventually(t, "the connection is gone", func() bool { return live() == 0 })
}

// A client to which the end of its response cannot be written is waited for
// once when the process exits, not once for each handler.
func TestExitWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ws := stream.NewHub(), &writers{live: 1}
		began := time.Now()
		for range 10 { // handlers
			ws.waitEmpty(h.Stop().Add(stream.DefaultDrain))
			if d := time.Since(began); d != stream.DefaultDrain {
				t.Errorf("waited for %v", d)
			}
		}
	})
}
