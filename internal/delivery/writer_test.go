package delivery

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// testTimeout ends a test that would wait for ever.
const testTimeout = 10 * time.Second

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
	server := httptest.NewTLSServer(nil)
	server.Close() // it has a certificate
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		_, _ = io.Copy(io.Discard, client)
	}()
	stuck := &stuckConn{Conn: near, released: make(chan struct{})}
	conn := tls.Server(stuck, &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS13})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	stuck.stuck.Store(true)

	s := newSocket(conn, time.Minute, nil)
	c := &connection{inbox: &inbox{news: make(chan struct{}, 1)}, socket: s}
	s.await(c, []byte("data: 1\n\n"))
	<-c.inbox.news
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

// records is a host's record that takes note of what it is told.
type records struct {
	reason stream.EndReason
	bytes  int
	done   func()
}

func (r *records) Ended(_ *stream.Subscriber, reason stream.EndReason, bytes int, done func()) {
	r.reason, r.bytes, r.done = reason, bytes, done
}

// When the process exits it waits for connections to end, and for what is
// recorded of them.
func TestConnectionIsHeldUntilItIsRecorded(t *testing.T) {
	w := &writer{live: &live{n: 1}}
	record := new(records)
	c := &connection{sub: new(stream.Subscriber), log: record, bytes: 7, counted: new(meter.Gauge)}
	w.over(c, stream.EndStopping)
	if record.reason != stream.EndStopping || record.bytes != 7 {
		t.Errorf("recorded is %q after %d bytes", record.reason, record.bytes)
	}
	if w.live.n != 1 {
		t.Error("the connection is gone before it was recorded")
	}
	record.done()
	if w.live.n != 0 {
		t.Error("the connection is not gone when it was recorded")
	}
}

// Of a response that is not recorded nothing is waited for.
func TestConnectionWithoutRecordIsNotHeld(t *testing.T) {
	w := &writer{live: &live{n: 1}}
	c := &connection{sub: new(stream.Subscriber), counted: new(meter.Gauge)}
	if w.over(c, stream.EndClient); w.live.n != 0 {
		t.Error("the connection is not gone")
	}
}

// A client to which the end of its response cannot be written is waited for
// once when the process exits, not once for each handler.
func TestExitWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, live := stream.NewHub(), &live{n: 1}
		began := time.Now()
		for range 10 { // handlers
			live.wait(h.Stop().Add(stream.DefaultDrain))
			if d := time.Since(began); d != stream.DefaultDrain {
				t.Errorf("waited for %v", d)
			}
		}
	})
}

// silent is an upstream that never answers.
type silent struct{}

func (silent) Open(ctx context.Context, _ string, _ *upstreams.Conn) upstreams.Ending {
	<-ctx.Done()
	return upstreams.Ending{Err: ctx.Err()}
}

func (silent) Retired() bool                   { return false }
func (silent) Renew(any, *stream.Renewal) bool { return false }

// full is a socket that has no room.
type full struct{ socket }

func (full) await(*connection, []byte) {}
func (full) acks() (acks, bool)        { return acks{taken: 1000, waiting: 1000}, true }

// fullConnection is one whose client has not read what there is.
func fullConnection(t *testing.T, timeout time.Duration) (*writer, *connection) {
	t.Helper()
	hub := stream.NewHub()
	sub, err := hub.Join(&stream.Request{
		Instance: hub.Register("place", nil), Options: stream.Defaults(), Logger: zap.NewNop(),
		Source: func(bool) stream.Source { return silent{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Leave)
	w := newWriter(clock{began: time.Now()}, nil)
	c := &connection{sub: sub, socket: full{}, index: -1, settings: &Settings{WriteTimeout: timeout}}
	w.tick = 1
	w.block(c, make([]byte, 1000))
	return w, c
}

// Time in which the process was held up is not the client's; after that it has all of
// write_timeout that was left to it.
func TestConnectionIsNotCutForTheGatewaysPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := fullConnection(t, time.Second)
		w.tick = c.lookAt + moment(time.Minute)
		for range looksPerTimeout - 1 {
			if !w.takes(c) {
				t.Fatalf("it is said to take nothing, after %v", time.Duration(w.tick))
			}
			w.tick = c.lookAt
		}
		if w.takes(c) {
			t.Error("it may take nothing for longer than write_timeout")
		}
	})
}

// failing is a socket to which nothing can be written, or only a part.
type failing struct {
	socket
	part   int
	err    error
	closed bool
}

func (s *failing) write([]byte) (int, error)  { return s.part, s.err }
func (s *failing) resume([]byte) (int, error) { return s.part, s.err }
func (*failing) await(*connection, []byte)    {}
func (*failing) acks() (acks, bool)           { return acks{}, false }
func (s *failing) close()                     { s.closed = true }

// Who cannot be written to is let go at once, whatever it was that failed, and however much of it went out.
func TestWhoCannotBeWrittenToIsLetGo(t *testing.T) {
	event := []byte("data: 1\n\n")
	for name, write := range map[string]func(w *writer, c *connection){
		"event":     func(w *writer, c *connection) { w.send(c, event) },
		"heartbeat": func(w *writer, c *connection) { w.heartbeat(c) },
		"end":       func(w *writer, c *connection) { w.end(c, stream.EndUpstream) },
		"rest": func(w *writer, c *connection) {
			w.block(c, event)
			w.resume(c)
		},
		"rest before the end": func(w *writer, c *connection) {
			w.block(c, event)
			c.end = stream.EndUpstream
			w.resume(c)
		},
	} {
		for part := range event {
			for end, err := range map[stream.EndReason]error{stream.EndClient: syscall.EPIPE, stream.EndWrite: os.ErrDeadlineExceeded} {
				w, c := fullConnection(t, time.Second)
				s, record := &failing{part: part, err: err}, new(records)
				c.held, c.socket, c.log, c.counted = nil, s, record, new(meter.Gauge)
				c.settings.Beat = []byte(EmptyComment)
				c.settings.beatChunk = replay.AppendChunk(nil, c.settings.Beat)
				sub := c.sub
				write(w, c)
				if name == "end" || name == "rest before the end" {
					end = stream.EndUpstream // what had been decided
				}
				if !c.closed || !s.closed || record.reason != end {
					t.Errorf("%s, %d bytes of it, %v: let go: %v, closed: %v, recorded as %q, expected %q", name, part, err, c.closed, s.closed, record.reason, end)
				}
				if n := len(sub.Origin.SampleSubscribers(time.Now())); n != 0 {
					t.Errorf("%s: %d subscribers are left", name, n)
				}
			}
		}
	}
}

// Who sends on and on after its request costs no more than a bounded look into it.
func TestSoMuchIsReadOfWhoGoesOnSending(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	s := &asyncSocket{conn: server}
	sent := make(chan int)
	go func() {
		n := 0
		for piece := make([]byte, 1000); ; {
			m, err := client.Write(piece)
			if n += m; err != nil {
				sent <- n
				return
			}
		}
	}()
	if s.hasHungUp() {
		t.Error("it is said to have hung up")
	}
	if s.hasHungUp() {
		t.Error("it is said to have hung up, when it is not looked at any more")
	}
	_ = client.Close()
	if n := <-sent; n < maxRead || n > maxRead+2<<10 {
		t.Errorf("%d bytes were read, expected %d", n, maxRead)
	}
}
