package stream

import (
	"context"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Who upstream connections are for, one after the other: a stream, or a splice. A
// successor has another connection beside it, its stream's, and another way then.

// successor is the Receiver that a successor is.
type successor struct{ *Stream }

var _, _ upstreams.Receiver = (*Stream)(nil), successor{}

// receiver is who wants the stream's connections. The lock is held.
func (s *Stream) receiver() upstreams.Receiver {
	if s.succeeds() {
		return successor{s}
	}
	return s
}

// startLocked opens the stream's upstream connection, or lets the cluster do so.
func (s *Stream) startLocked(lastEventID string) {
	if s.member != nil {
		s.member.start(lastEventID)
		return
	}
	s.connectLocked(lastEventID)
}

// start lets the cluster find out where the stream comes from. The stream's lock is held.
func (m *Member) start(lastEventID string) {
	m.stop()
	ctx, cancel := context.WithCancel(context.Background())
	m.end, m.opens = cancel, lastEventID
	m.stream.cancel = func() {} // there is nothing yet that could be
	m.stream.hub.spawn(func() {
		defer cancel()
		m.cluster.Run(ctx, m)
	})
}

// connectLocked opens the stream's upstream connection.
func (s *Stream) connectLocked(lastEventID string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	src := s.source // not that of who comes before the goroutine runs
	to := s.receiver()
	st := s.splice
	if st != nil {
		st.connects = true
	}
	s.hub.spawn(func() {
		defer s.connectionClosed(st)
		defer cancel()
		upstreams.Run(ctx, to, src, lastEventID)
	})
}

// Hurried implements upstreams.Receiver.
func (s *Stream) Hurried() <-chan struct{} { return s.hurry }

// Lapsed ends what the new configuration has no handlers for.
func (s *Stream) Lapsed() {
	s.Log().Error("upstream lost, and no handler of the new configuration was found")
	s.finish(endReload, nil)
}

// Lapsed gives the successor up: its stream has its own connection.
func (s successor) Lapsed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if parent := s.splice.parent; parent.successor == s.Stream {
		parent.dropSuccessor()
	}
}

// Next tells how to open the upstream connection again.
func (s *Stream) Next() (src upstreams.Source, lastEventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.useParentsSource()
	return s.source, s.said.lastID
}

// Next tells the same of a successor. It goes on where its stream is by now.
func (s successor) Next() (src upstreams.Source, lastEventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parent := s.splice.parent
	parent.brought = nil
	return s.source, parent.said.lastID
}

// useParentsSource makes a splice connect with the newest handlers. The lock is
// held.
func (s *Stream) useParentsSource() {
	if s.splice != nil {
		s.source = s.splice.parent.source
	}
}

// Receive takes note of the stream's next connection.
func (s *Stream) Receive(src upstreams.Source, lastEventID string, giveUp context.CancelCauseFunc) (upstreams.Intake, upstreams.Terms) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.receive(src, lastEventID, giveUp, s.attemptLimit(time.Now()))
}

// Receive takes note of that of a successor. Nobody waits for it.
func (s successor) Receive(src upstreams.Source, lastEventID string, giveUp context.CancelCauseFunc) (upstreams.Intake, upstreams.Terms) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.receive(src, lastEventID, giveUp, AttemptTime)
}

// receive is Receive; limit is how long the connection may take until its head comes,
// 0: as long as it likes.
func (s *Stream) receive(src upstreams.Source, lastEventID string, giveUp context.CancelCauseFunc, limit time.Duration) (upstreams.Intake, upstreams.Terms) {
	terms := upstreams.Terms{
		IDParam: s.IDParam, Timeout: s.options.Timeout, MaxBlockSize: s.options.MaxEventSize,
	}
	if replay.Sendable(lastEventID) {
		terms.LastEventID = lastEventID
	}
	conn := &intake{
		source:  src,
		giveUp:  giveUp,
		options: s.options,
		asked:   terms.LastEventID != "",
		openID:  lastEventID,
		mends:   s.attempts.broke,
		mu:      s.mu,
		stream:  s,
		first:   s.attempts.connections == 0,
		repeats: evidence.Repeats{Start: s.buffer.Newest, ID: lastEventID},
		seen:    evidence.Connection{Began: time.Now()},
	}
	s.fresh = !conn.asked
	if limit > 0 {
		conn.late = time.AfterFunc(limit, conn.timeOut)
	}
	s.attempts.connections++
	s.setConn(conn)
	return conn, terms
}

// attemptLimit is how long the next connection may take until its head comes; 0:
// as long as it likes, because a client waits for that answer, or because it is
// a splice's, which has a time of its own. The lock is held.
func (s *Stream) attemptLimit(now time.Time) time.Duration {
	if s.head == nil || (s.kind.beside && s.attempts.connections == 0) {
		return 0
	}
	return s.attempts.limit(now, s.options.GiveUp)
}

// timeOut gives the connection up, unless its head has come.
func (c *intake) timeOut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headed {
		c.giveUp(upstreams.ErrNoAnswer)
	}
}
