package stream

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A stream is a Receiver, and so are a splice and a successor.
var _ upstreams.Receiver = (*Stream)(nil)

// Hurried implements upstreams.Receiver.
func (s *Stream) Hurried() <-chan struct{} { return s.hurry }

// Lapsed ends what the new configuration has no handlers for.
func (s *Stream) Lapsed() {
	s.mu.Lock()
	if s.succeeds() {
		defer s.mu.Unlock()
		if parent := s.splice.parent; parent.successor == s {
			parent.dropSuccessor()
		}
		return
	}
	s.mu.Unlock()
	s.Log().Error("upstream lost, and no handler of the new configuration was found")
	s.finish(endReload, nil)
}

// Next tells how to open the upstream connection again.
func (s *Stream) Next() (src upstreams.Source, lastEventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.succeeds() {
		parent := s.splice.parent
		parent.brought = nil
		return s.source, parent.said.lastID
	}
	s.useParentsSource()
	return s.source, s.said.lastID
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
	if limit := s.attemptLimit(time.Now()); limit > 0 {
		conn.late = time.AfterFunc(limit, conn.timeOut)
	}
	s.attempts.connections++
	s.setConn(conn)
	return conn, terms
}

// Ended takes note of how the connection has ended, and decides what follows.
func (c *intake) Ended(ctx context.Context, end upstreams.Ending) (to upstreams.Receiver, delay time.Duration, again bool) {
	s := c.conclude(ctx, end)
	if ctx.Err() != nil {
		return s, 0, false
	}
	delay, again = s.after(c, end)
	return s, delay, again
}

// conclude takes note of how the connection has ended, and returns the stream that it
// was one of: a successor has become the stream.
func (c *intake) conclude(ctx context.Context, end upstreams.Ending) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stream
	if c.late != nil {
		c.late.Stop()
	}
	if s.kind.answer && end.Events {
		Answers.Ended.With(upstreams.ResultOf(ctx, end)).Inc()
	}
	c.ended = true
	c.letGo()
	if ctx.Err() == nil && !c.over {
		s.figures.ended(end, time.Now())
	}
	if c.dropped > 0 {
		dropped := c.dropped
		s.throttles().repeated.Log(func(suppressed int) {
			s.Log().Info("upstream repeated events after the reconnect", zap.Int("dropped", dropped), zap.Int("suppressed", suppressed))
		})
	}
	return s
}

// attemptLimit is how long the next connection may take until its head comes; 0:
// as long as it likes, because a client waits for that answer, or because it is
// a splice's, which has a time of its own. The lock is held.
func (s *Stream) attemptLimit(now time.Time) time.Duration {
	switch {
	case s.head == nil, s.kind.beside && s.attempts.connections == 0 && !s.succeeds():
		return 0
	case s.succeeds(): // the stream has another connection meanwhile
		return AttemptTime
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

// Deserted lets the stream go on without the handlers' having returned.
func (c *intake) Deserted() (headed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deserted = true
	return c.headed
}

// Log is where what happens to the connection's stream is told.
func (c *intake) Log() *zap.Logger { return c.current().Log() }

// What follows the end of an upstream connection.
type outcome int

const (
	nothing    outcome = iota // more: it is done already
	tryAgain                  // after a while
	waitsForIt                // for the handlers of a new configuration
	succeeded                 // another connection has taken over
	unanswered                // the stream never had a head
	passedOn                  // the upstream's clean end is the subscribers'
	broken                    // the break is not hidden from them
	oversized                 // it sends blocks over max_event_size
	refused                   // it does not go on with the stream
	gaveUp                    // it was away for give_up
)

// aftermath is what follows, as was decided with the stream's lock.
type aftermath struct {
	outcome
	delay time.Duration // with tryAgain and waitsForIt

	// As they were then.
	options     *Options
	subscribers int
}

// judge decides what follows the end of a connection of a stream that has a
// head. The stream's lock is held.
func (s *Stream) judge(end upstreams.Ending) outcome {
	s.attempts.ended(end, s.options.Reconnect == ReconnectAlways)
	s.useParentsSource()
	exclusive := s.only != nil || s.private || !s.kind.reopens || s.isSharedSplice()
	resumable := s.gave() && s.said.lastID != "" && replay.Sendable(s.said.lastID)
	switch mode := s.options.Reconnect; {
	case end.Events && (!end.Clean || resumable) && s.replaced():
		return succeeded
	case end.Events && end.Clean && (exclusive || mode != ReconnectAlways):
		return passedOn
	case exclusive, end.Events && (mode == ReconnectNever || (mode == ReconnectResumable && !resumable)):
		return broken
	case s.attempts.areOversized():
		return oversized
	case !end.Retriable():
		return refused
	case s.source.Retired():
		return waitsForIt
	}
	return tryAgain
}

// after decides what follows the end of an upstream connection: whether to try
// again, and when.
func (s *Stream) after(conn *intake, end upstreams.Ending) (delay time.Duration, again bool) {
	q := s.sequel(conn, end)
	switch q.outcome {
	case nothing, succeeded:
	case tryAgain, waitsForIt:
		return q.delay, true
	case unanswered:
		s.refuse(end.Retriable(), Private{})
	default:
		s.endWith(q, end)
	}
	return 0, false
}

// sequel is after, but for what needs the hub's lock.
func (s *Stream) sequel(conn *intake, end upstreams.Ending) (q aftermath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case conn.over, s.isGone():
		return aftermath{}
	case s.head == nil:
		return aftermath{outcome: unanswered}
	}
	s.noteLasted(conn, end)
	switch {
	case s.succeeds():
		if delay, again := s.successorEnded(end); again {
			return aftermath{outcome: tryAgain, delay: delay}
		}
		return aftermath{}
	case s.kind.beside && (s.track.HeadAt.IsZero() || (s.splice != nil && s.splice.probe)):
		s.spliceFailed(end)
		return aftermath{}
	case !s.kind.beside && s.compares():
		s.doubt()
	}
	q.outcome, q.options, q.subscribers = s.judge(end), s.options, len(s.subs)
	if q.outcome == tryAgain {
		var again bool
		if q.delay, again = s.attempts.next(time.Now(), s.options.GiveUp, end.RetryAfter); !again {
			q.outcome = gaveUp
		}
	}
	if conn.source.Retired() && !s.source.Retired() {
		q.delay = 0 // it was the reload's doing
	}
	switch q.outcome {
	case succeeded:
		log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
		log.Info("upstream lost after a reload")
	case tryAgain, waitsForIt:
		s.becomesBroken(q, end)
	default: // endWith says it
	}
	return q
}

// noteLasted takes note of how long a connection did.
func (s *Stream) noteLasted(conn *intake, end upstreams.Ending) {
	switch {
	case end.Events:
		s.attempts.lasted(time.Since(s.track.HeadAt))
	case errors.Is(end.Err, upstreams.ErrNoAnswer):
		s.attempts.lasted(time.Since(conn.seen.Began)) // there was no hurry
	}
}

// doubt forgets what was learnt of the application: it may be another version of it
// that answers next.
func (s *Stream) doubt() {
	s.facts.forget(s.Key)
	for sp := range s.splices {
		if sp.track.HeadAt.IsZero() {
			s.unshareSplice(sp)
		}
	}
}

// becomesBroken lets a stream wait for its next connection.
func (s *Stream) becomesBroken(q aftermath, end upstreams.Ending) {
	s.phase = phaseBroken
	s.reopening = false // who waited for an answer waits with the kept head
	s.fresh = s.said.lastID == ""
	s.dropHurry()
	s.seats.ring()
	s.wakeLocked()
	s.attempts.lost(time.Now())
	log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
	if q.outcome == waitsForIt {
		log.Warn("upstream lost after a reload: waiting for the handlers of the new configuration")
		return
	}
	attempt := s.attempts.count()
	s.throttles().lost.Log(func(suppressed int) {
		log.Warn("upstream lost: trying again", zap.Duration("in", q.delay), zap.Int("attempt", attempt),
			zap.Int("subscribers", q.subscribers), zap.Int("suppressed", suppressed))
	})
}

// endWith ends a stream that has lost its upstream for good.
func (s *Stream) endWith(q aftermath, end upstreams.Ending) {
	log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
	final := &s.throttles().final
	switch q.outcome {
	case passedOn:
		s.logEnded()
		s.finish(EndUpstream, end.Tail)
		if q.options.Reconnect == ReconnectNever {
			s.leave(EndUpstream) // who comes next is to see the upstream's own answer
		}
	case broken:
		final.Log(func(suppressed int) {
			log.Warn("upstream lost", zap.Int("suppressed", suppressed))
		})
		if s.kind.answer {
			s.finish(EndBroken, nil) // its client may be yet to come
		} else {
			s.leave(EndBroken)
		}
	case oversized:
		final.Log(func(suppressed int) {
			log.Error("upstream sends blocks over max_event_size", zap.Int("suppressed", suppressed))
		})
		s.leave(EndOversized)
	case refused:
		final.Log(func(suppressed int) {
			log.Warn("upstream does not continue the stream", zap.Int("suppressed", suppressed))
		})
		if !s.kind.beside { // whose answer is one to its ID
			// Who comes now is to see the upstream's own answer.
			s.hub.remove(s)
			s.hub.markUnshareable(s.Key, unshareableTime, Private{Reason: PrivateNoStream})
		}
		s.leave(EndRefused)
	default:
		final.Log(func(suppressed int) {
			log.Error("upstream lost: giving up", zap.Duration("after", q.options.GiveUp), zap.Int("subscribers", q.subscribers), zap.Int("suppressed", suppressed))
		})
		s.finish(endGaveUp, nil)
	}
}

// logEnded logs that the upstream has ended the stream as HTTP says: its clients'
// responses end, too.
func (s *Stream) logEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	subscribers := len(s.subs)
	s.options.Lines.ended.Log(func(suppressed int) {
		s.Log().Info("upstream ended the stream", zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
}
