package stream

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Ended takes note of how the connection has ended, and decides what follows.
func (c *intake) Ended(ctx context.Context, end upstreams.Ending) (to upstreams.Receiver, delay time.Duration, again bool) {
	s, to := c.conclude(ctx, end)
	if ctx.Err() != nil {
		return to, 0, false
	}
	delay, again = s.after(c, end)
	return to, delay, again
}

// conclude takes note of how the connection has ended, and returns the stream that it
// was one of, which wants the next one: a successor has become the stream.
func (c *intake) conclude(ctx context.Context, end upstreams.Ending) (*Stream, upstreams.Receiver) {
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
	return s, s.receiver()
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
	exclusive := s.isExclusive() || s.private || !s.kind.reopens || s.isSharedSplice()
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
	case s.kind.beside && (!s.isHeaded() || s.isProbe()):
		s.spliceFailed(end)
		return aftermath{}
	case !s.kind.beside && s.compares():
		s.doubt()
	}
	q.outcome, q.options, q.subscribers = s.judge(end), s.options, s.countSubscribers()
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
		if !sp.isHeaded() {
			s.unshareSplice(sp)
		}
	}
}

// becomesBroken lets a stream wait for its next connection.
func (s *Stream) becomesBroken(q aftermath, end upstreams.Ending) {
	s.phase = phaseBroken
	s.reopening = false // who waited for an answer waits with the kept head
	s.fresh = s.said.lastID == ""
	now := time.Now()
	for sub := range s.subscribers() {
		if sub.finish() == EndPerClient && now.Before(sub.finishFrom()) {
			s.waitAgain(sub) // its splice has met the same
		}
	}
	s.dropHurry()
	s.seats.ring()
	s.wakeLocked()
	s.attempts.lost(now)
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
	subscribers := s.countSubscribers()
	s.options.Lines.ended.Log(func(suppressed int) {
		s.Log().Info("upstream ended the stream", zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
}
