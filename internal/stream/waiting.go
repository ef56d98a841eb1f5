package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Who waits: for the head, for a splice, for a verdict. What a waiting subscriber
// is to read, when its head may be sent, and when it has waited enough.

// admit finds what a waiting subscriber is to read. The lock is held.
func (s *Stream) admit(sub *Subscriber, now time.Time) {
	position, own, known := s.trusted(sub, sub.id())
	switch {
	case s.isGone():
		return // its end is set, or is about to be
	case known:
		sub.waiting, sub.own = false, sub.own || own
		sub.cursor = position
		s.recount(sub)
		return
	case sub.finish() != "":
		return // the stream has ended, though it may have gone on since
	case s.learned.perConnection():
		sub.finishFor(EndPerClient)
		return
	case !s.isLive():
		return
	case s.goesOnFromHead(sub):
		s.goOnFromHead(sub)
		return
	case s.shares() && sub.id() == "" && s.fresh:
		s.joinAt(sub, s.buffer.Newest)
		return
	}
	sp := s.spliceFor(sub, now)
	switch {
	case sp != nil: // even if it has waited enough: it waits no more
		s.move(sub, sp)
	case s.waitedEnough(sub, now):
		sub.finishFor(EndPerClient)
	case s.isSilent(sub, now) && !sub.released:
		sub.release()
	}
}

// waitedEnough reports whether a subscriber has waited so long that it goes
// upstream on its own. Of many, one does so at a time.
func (s *Stream) waitedEnough(sub *Subscriber, now time.Time) bool {
	if now.Before(sub.waitEnd()) || (sub.released && s.isSilent(sub, now)) || now.Before(s.nextFall()) {
		return false
	}
	s.seats.fellAt = now
	return true
}

// nextFall is when the next one that has waited enough goes upstream on its own.
func (s *Stream) nextFall() time.Time {
	return s.seats.fellAt.Add(time.Second / time.Duration(max(1, s.options.SpliceLimit)))
}

// isSilent reports whether a stream that is not proven waits for its first
// event beside a splice that was greeted with nothing: there is nothing yet that
// could be somebody's own, and nothing is missed by who waits.
func (s *Stream) isSilent(sub *Subscriber, now time.Time) bool {
	if s.shares() || sub.id() != "" {
		return false
	}
	for sp := range s.splices {
		at := sp.greetedAt()
		if sp.openID == "" && (sp.splice.proves || !sp.isProbe()) && !at.IsZero() && !now.Before(at) && sp.track.NewestAt.IsZero() &&
			s.track.Said == sp.splice.Said && differingField(s.head, sp.head, s.options.Insignificant) == "" {
			return true
		}
	}
	return false
}

// HasMissed reports whether a subscriber, which is sent to the upstream on its own
// after its head, may miss something: who has waited with a head, until it has a
// connection, and who was not given what came.
func (sub *Subscriber) HasMissed() bool {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	return sub.id() == "" && sub.home.settled && (sub.released || sub.stream.saidAfter(sub.cursor))
}

// Head returns the head that a client is to be sent, after ready: that of the
// connection which it is served by; or why there is none.
func (sub *Subscriber) Head() (*upstreams.Head, error) {
	h, err := sub.Origin.verdict()
	if err != nil {
		return nil, err
	}
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	if sp := sub.stream; sp.kind.beside && sp.isHeaded() {
		return sp.head, nil
	}
	return h, nil
}

// TurnedAway tells how the subscriber's request is to be answered that cannot be
// given a stream, before it was sent a head; "" if it can.
func (sub *Subscriber) TurnedAway() EndReason {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	switch {
	case sub.finish() == EndPerClient, sub.finish() == EndAskAgain, sub.finish() == EndNoSecond:
		return sub.finish()
	case sub.finish() == EndRefused && sub.stream.kind.beside:
		return sub.finish()
	}
	return ""
}

// lookAgain is when a waiting subscriber is to look again at the latest; zero:
// when it is told to.
func (sub *Subscriber) lookAgain() time.Time {
	s := sub.home
	if !s.isLive() {
		return sub.lookAt()
	}
	now := time.Now()
	at := evidence.Later(sub.waitEnd(), s.nextFall())
	switch {
	case sub.released && s.isSilent(sub, now):
		return sub.lookAt()
	case !s.shares():
		for sp := range s.splices {
			if heard := sp.greetedAt(); !heard.IsZero() && now.Before(heard) {
				evidence.Earliest(&at, heard)
			}
		}
	}
	for sp := range s.splices {
		if hung := sp.splice.opened.Add(headPatience); !sp.isHeaded() && now.Before(hung) {
			evidence.Earliest(&at, hung)
		}
	}
	evidence.Earliest(&at, s.nextSplice(sub, now))
	if due := sub.lookAt(); !due.IsZero() {
		evidence.Earliest(&at, due)
	}
	return at
}

// waitEnd is when a subscriber has waited for a splice long enough, while the
// upstream could be reached. After an outage there is another chance, but one only.
func (sub *Subscriber) waitEnd() time.Time {
	timeout := sub.home.options.SpliceTimeout
	end := evidence.Later(sub.joined(), sub.home.track.HeadAt).Add(timeout)
	evidence.Earliest(&end, sub.joined().Add(2*timeout))
	return end
}

// WhyPrivate tells why the subscriber's stream is private.
func (sub *Subscriber) WhyPrivate() Private {
	if sub.Origin == nil {
		return Private{}
	}
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	return sub.home.why
}

// WhyAlone tells a subscriber that is turned away, so that it gets an upstream connection of its own, for what.
func (sub *Subscriber) WhyAlone() Private {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	for _, s := range []*Stream{sub.stream, sub.home} {
		if s.why.Reason != "" {
			return s.why
		}
	}
	switch {
	case sub.finish() == EndRefused:
		return Private{Reason: PrivateNoStream}
	case sub.home.learned.perConnection():
		return Private{Reason: PrivatePerConnection}
	}
	return Private{Reason: PrivateNotMerged}
}

// lookAt is when something is due without anything new in the stream; zero:
// never.
func (sub *Subscriber) lookAt() (at time.Time) {
	for _, due := range []time.Time{sub.leaveAt(), sub.preludeAt(), sub.finishFrom()} {
		if !due.IsZero() && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	return at
}

// verdict returns, after ready, the head to give to subscribers, or why there
// is none: ErrUnshareable or ErrStopping.
func (s *Stream) verdict() (*upstreams.Head, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return nil, ErrStopping
	case s.refused:
		return nil, s.why.asError()
	}
	return s.headForAll(), nil
}
