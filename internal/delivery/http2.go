package delivery

import (
	"context"
	"net"
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/h2"
)

// sharedConn is a connection of HTTP/2 that the server shares with the writers,
// because of the listener wrapper.
type sharedConn struct {
	*h2.Side

	home

	queued bool // for the writer: it is among those to be flushed
}

// flush implements queue.
func (over *sharedConn) flush() {
	over.queued = false
	over.Conn().Flush()
}

// sideOf returns the server's side of a connection that it shares; nil: it does
// not, or what Caddy or another listener wrapper has put around it is not known
// to leave the bytes as they are.
func sideOf(conn net.Conn) *h2.Side {
	if side, ok := conn.(*h2.Side); ok {
		return side
	}
	around := reflect.ValueOf(conn)
	if around.Kind() != reflect.Struct || around.Type().PkgPath() != pathCaddyHTTP || around.NumField() != 1 || !around.Type().Field(0).IsExported() {
		return nil
	}
	side, _ := reflect.TypeAssert[*h2.Side](around.Field(0))
	return side
}

// streamSocket is a stream of HTTP/2 that was taken over from the server.
type streamSocket struct {
	stream   *h2.Stream
	over     *sharedConn
	timeout  time.Duration // write_timeout
	taken    ackTeller     // of the connection; nil: not known
	finished bool          // the response is complete
}

// claimTime is how long the server may take to write a few bytes until it is not
// waited for that a stream is taken over: until then its client gets no events.
const claimTime = time.Second

// claim takes a response's stream over from the server. It returns nil if that
// cannot be done; the client may have been sent a comment then.
func (over *sharedConn) claim(ctx context.Context, to *Response) socket {
	claim := over.Conn().Claim()
	if claim == nil {
		return nil
	}
	to.began = true
	if to.writePiece([]byte(claim.Marker()), true) == nil {
		timer := time.NewTimer(claimTime)
		defer timer.Stop()
		select {
		case <-claim.Done():
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	stream := claim.Settle()
	if stream == nil {
		return nil
	}
	return &streamSocket{stream: stream, over: over, timeout: to.settings.WriteTimeout, taken: acksOf(over)}
}

func (s *streamSocket) watch(c *connection) {
	s.stream.Watch(func(e h2.Event) {
		switch e {
		case h2.Writable:
			c.signal(signalWritable)
		case h2.Ended:
			c.signal(signalHungUp)
		}
	})
}

func (s *streamSocket) write(p []byte) (n int, err error) {
	if n, err = s.stream.Write(p); err != nil {
		if fault := s.fault(); timedOut(fault) {
			return 0, fault // which another stream's write has met
		}
		return 0, os.NewSyscallError("send", syscall.EPIPE) // what others say of who has left
	}
	s.flush()
	return n, nil
}

// flush lets the writer flush the connection at the end of its turn.
func (s *streamSocket) flush() {
	if w := s.over.writer; !s.over.queued {
		s.over.queued = true
		w.queues = append(w.queues, s.over)
	}
}

func (s *streamSocket) await(*connection, []byte) { s.stream.Await() }

func (s *streamSocket) resume(rest []byte) (n int, err error) { return s.write(rest) }

// readable is not called: the server reads, or who has taken the stream over.
func (*streamSocket) readable(*connection) {}

// acks says of a stream that waits for room only what was written to it: the
// client gives that when it takes what there is. Otherwise what counts is what
// the client takes of the connection.
func (s *streamSocket) acks() (acks, bool) {
	stuck, written := s.stream.Stuck()
	switch {
	case stuck:
		return acks{taken: written, waiting: 1}, true
	case s.taken == nil:
		queued := s.over.Conn().Queued()
		return acks{taken: written - int64(queued), waiting: int64(queued)}, true
	}
	a, known := s.taken()
	a.waiting += int64(s.over.Conn().Queued())
	return a, known
}

func (s *streamSocket) fault() error { return s.over.Conn().Fault() }

// finish ends the response as complete.
func (s *streamSocket) finish() {
	s.finished = true
	s.stream.Finish()
}

// close ends the response. If the client has not taken what it was sent the system
// ends the connection after a while: nobody else may notice.
func (s *streamSocket) close() {
	if !s.finished {
		if stuck, _ := s.stream.Stuck(); !stuck && s.timeout > 0 {
			if a, known := s.acks(); known && a.waiting > 0 {
				setUserTimeout(s.over, s.timeout)
			}
		}
		s.stream.Reset()
	}
	s.flush()
	live := s.over.writer.live
	live.hold()
	s.over.Conn().Written(live.gone)
}

// Interface guard.
var _ socket = (*streamSocket)(nil)
