package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

const (
	// AttemptTime bounds how long an upstream that was lost may take to answer:
	// then another attempt is made. One of several backends may be frozen, a
	// network may swallow what it is sent. One that took longer before, because
	// it sends its head with its first event, has twice that time.
	AttemptTime = 30 * time.Second

	// leastAttemptTime is what an attempt has, however little of give_up is left.
	leastAttemptTime = time.Second

	// handlersTime is how long a stream that was lost after a reload waits for
	// the handlers of the new configuration.
	handlersTime = time.Minute

	// returnTime is how long the handlers behind sse may take to return when
	// their upstream connection was given up.
	returnTime = time.Second
)

// run owns an upstream connection of the stream: it opens it, reads it at the
// upstream's own speed, and opens it again when it breaks. It returns when the
// stream is over, or goes on with a connection of another goroutine.
func (s *Stream) run(ctx context.Context, cancel context.CancelFunc, src Source, lastEventID string) {
	defer cancel()
	for {
		conn, end := s.connect(ctx, src, lastEventID)
		if ctx.Err() != nil {
			return
		}
		s = conn.Current() // a successor has become the stream
		delay, again := s.after(conn, end)
		if !again {
			return
		}
		if !s.pause(ctx, delay) {
			return
		}
		src, lastEventID = s.nextConnection()
		if src.Retired() { // those of the new configuration are being looked for
			if !s.pause(ctx, handlersTime) {
				return
			}
			if src, lastEventID = s.nextConnection(); src.Retired() {
				s.lapse()
				return
			}
		}
	}
}

// pause waits before the next attempt to connect, unless that is to be made at
// once. It returns false if the stream is over.
func (s *Stream) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-s.hurry:
	case <-time.After(d):
	}
	return true
}

// lapse ends what the new configuration has no handlers for.
func (s *Stream) lapse() {
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

// nextConnection tells how to open the upstream connection again.
func (s *Stream) nextConnection() (src Source, lastEventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.succeeds() {
		parent := s.splice.parent
		parent.brought = nil
		return s.source, parent.lastUpstreamID
	}
	s.useParentsSource()
	return s.source, s.lastUpstreamID
}

// useParentsSource makes a splice connect with the newest handlers. The lock is
// held.
func (s *Stream) useParentsSource() {
	if s.splice != nil {
		s.source = s.splice.parent.source
	}
}

// connect runs one upstream connection to its end.
func (s *Stream) connect(ctx context.Context, src Source, lastEventID string) (conn *Conn, end Ending) {
	connCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	conn = &Conn{
		Cancel:  cancel,
		source:  src,
		mu:      s.mu,
		Stream:  s,
		Options: s.options,
		first:   s.connections == 0,
		mends:   s.broke,
		openID:  lastEventID,
		seen:    evidence.Connection{Began: time.Now()},
		repeats: evidence.Repeats{Start: s.buffer.Newest, ID: lastEventID},
	}
	conn.decoder.MaxBlockSize = conn.Options.MaxEventSize
	if !replay.Sendable(lastEventID) {
		lastEventID = ""
	}
	conn.Asked = lastEventID != ""
	s.fresh = lastEventID == ""
	if limit := s.attemptLimit(time.Now()); limit > 0 {
		defer time.AfterFunc(limit, conn.timeOut).Stop()
	}
	s.connections++
	s.setConn(conn)
	s.mu.Unlock()

	end = conn.run(connCtx, lastEventID)
	Counts.Connections.With(resultOf(ctx, end)).Inc()
	if s.kind.answer && end.Events {
		Answers.Ended.With(resultOf(ctx, end)).Inc()
	}
	if end.Events && end.Clean {
		end.tail = conn.decoder.Rest()
	}
	s.mu.Lock()
	conn.ended = true
	conn.letGo()
	if ctx.Err() == nil && !conn.over {
		conn.Stream.noteEnd(end, time.Now())
	}
	if conn.dropped > 0 {
		s, dropped := conn.Stream, conn.dropped
		s.throttles().repeated.Log(func(suppressed int) {
			s.Log().Info("upstream repeated events after the reconnect", zap.Int("dropped", dropped), zap.Int("suppressed", suppressed))
		})
	}
	s.mu.Unlock()
	return conn, end
}

// attemptLimit is how long the next connection may take until its head comes; 0:
// as long as it likes, because a client waits for that answer, or because it is
// a splice's, which has a time of its own. The lock is held.
func (s *Stream) attemptLimit(now time.Time) time.Duration {
	switch {
	case s.head == nil, s.kind.beside && s.connections == 0 && !s.succeeds():
		return 0
	case s.succeeds(): // the stream has another connection meanwhile
		return AttemptTime
	}
	return min(max(AttemptTime, 2*s.slowestHead), max(leastAttemptTime, s.backoff.left(now, s.options.GiveUp)))
}

// timeOut gives the connection up, unless its head has come.
func (c *Conn) timeOut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headed {
		c.Cancel(errNoAnswer)
	}
}

// run runs the handlers behind sse to the connection's end. Not all return when
// they are told to: those of FastCGI wait for an application that says nothing.
// Such ones are left to themselves, and can bring the stream nothing any more.
func (c *Conn) run(ctx context.Context, lastEventID string) (end Ending) {
	ended := make(chan Ending, 1)
	go func() { ended <- c.source.Open(ctx, lastEventID, c) }()
	select {
	case end = <-ended:
		return end
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	select {
	case end = <-ended:
		if !end.Events && errors.Is(cause, errNoAnswer) {
			return Ending{Err: cause} // and not what the handlers say of it
		}
		return end
	case <-time.After(returnTime):
		return c.desert(cause)
	}
}

// desert lets the stream go on without the handlers' having returned.
func (c *Conn) desert(cause error) Ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deserted = true
	end := Ending{Events: c.headed, Err: cause}
	if c.headed {
		end.Status = http.StatusOK
	}
	return end
}

// IsDeserted reports whether the stream went on without the connection's
// handlers having returned.
func (c *Conn) IsDeserted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deserted
}

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
func (s *Stream) judge(end Ending) outcome {
	if end.Events {
		s.broke = !end.Clean || s.options.Reconnect == ReconnectAlways
	}
	if errors.Is(end.Err, eventstream.ErrBlockTooLarge) {
		s.oversized++
	}
	s.useParentsSource()
	exclusive := s.only != nil || s.private || !s.kind.reopens || s.isSharedSplice()
	resumable := s.gave() && s.lastUpstreamID != "" && replay.Sendable(s.lastUpstreamID)
	switch mode := s.options.Reconnect; {
	case end.Events && (!end.Clean || resumable) && s.replaced():
		return succeeded
	case end.Events && end.Clean && (exclusive || mode != ReconnectAlways):
		return passedOn
	case exclusive, end.Events && (mode == ReconnectNever || (mode == ReconnectResumable && !resumable)):
		return broken
	case s.oversized > 1:
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
func (s *Stream) after(conn *Conn, end Ending) (delay time.Duration, again bool) {
	q := s.conclude(conn, end)
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

// conclude is after, but for what needs the hub's lock.
func (s *Stream) conclude(conn *Conn, end Ending) (q aftermath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case conn.over, s.phase == phaseGone:
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
		if q.delay, again = s.backoff.next(time.Now(), s.options.GiveUp, end.RetryAfter, rand.Float64); !again {
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
		s.isBroken(q, end)
	default: // endWith says it
	}
	return q
}

// noteLasted takes note of how long a connection did.
func (s *Stream) noteLasted(conn *Conn, end Ending) {
	switch {
	case end.Events:
		s.backoff.lasted(time.Since(s.track.HeadAt))
	case errors.Is(end.Err, errNoAnswer):
		s.backoff.lasted(time.Since(conn.seen.Began)) // there was no hurry
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

// isBroken lets a stream wait for its next connection.
func (s *Stream) isBroken(q aftermath, end Ending) {
	s.phase = phaseBroken
	s.reopening = false // who waited for an answer waits with the kept head
	s.fresh = s.lastUpstreamID == ""
	s.dropHurry()
	s.wakeWaiting()
	s.wakeLocked()
	if s.lostAt.IsZero() {
		s.lostAt = time.Now()
	}
	log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
	if q.outcome == waitsForIt {
		log.Warn("upstream lost after a reload: waiting for the handlers of the new configuration")
		return
	}
	attempt := s.backoff.attempts
	s.throttles().lost.Log(func(suppressed int) {
		log.Warn("upstream lost: trying again", zap.Duration("in", q.delay), zap.Int("attempt", attempt),
			zap.Int("subscribers", q.subscribers), zap.Int("suppressed", suppressed))
	})
}

// endWith ends a stream that has lost its upstream for good.
func (s *Stream) endWith(q aftermath, end Ending) {
	log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
	final := &s.throttles().final
	switch q.outcome {
	case passedOn:
		s.logEnded()
		s.finish(EndUpstream, end.tail)
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
