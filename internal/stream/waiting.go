package stream

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Who waits: for the head, for a splice, for a verdict. What a waiting subscriber
// is to read, when its head may be sent, and when it has waited enough.

// admit finds what a waiting subscriber is to read. The lock is held.
func (s *Stream) admit(sub *Subscriber, now time.Time) {
	position, own, known := s.trusted(sub, sub.id)
	switch {
	case s.phase == phaseGone:
		return // its end is set, or is about to be
	case known:
		sub.waiting, sub.own = false, sub.own || own
		sub.cursor = position
		s.recount(sub)
		return
	case sub.finish != "":
		return // the stream has ended, though it may have gone on since
	case s.learned.perConnection():
		sub.finish = EndPerClient
		return
	case s.phase != phaseLive:
		return
	case s.goesOnFromHead(sub):
		s.goOnFromHead(sub)
		return
	case s.shares() && sub.id == "" && s.fresh:
		s.joinAt(sub, s.buffer.Newest)
		return
	case s.waitedEnough(sub, now):
		sub.finish = EndPerClient
		return
	}
	if sp := s.spliceFor(sub, now); sp != nil {
		s.move(sub, sp)
	} else if s.isSilent(sub, now) && !sub.released {
		sub.release()
	}
}

// greetsOthers reports whether the upstream greets connections, but not the newest
// of the stream, which goes on after an ID: who came without one, while the
// upstream was away, is greeted by a splice.
func (s *Stream) greetsOthers() bool { return s.track.Greets && s.conn != nil && s.conn.resumed }

// goesOnFromHead reports whether a waiting subscriber that has its head goes on where
// the stream was then.
func (s *Stream) goesOnFromHead(sub *Subscriber) bool {
	return s.shares() && sub.released && sub.id == "" && !s.greetsOthers()
}

// joinReleased lets those who do so read at once: what the upstream sends first, after
// an outage, may be more than the buffer holds.
func (s *Stream) joinReleased() {
	for sub := range s.subs {
		if sub.waiting && sub.finish == "" && s.goesOnFromHead(sub) {
			s.goOnFromHead(sub)
		}
	}
}

// goOnFromHead lets one of them read, and tells it what is not kept any more.
func (s *Stream) goOnFromHead(sub *Subscriber) {
	s.joinAt(sub, sub.start)
	if sub.cursor < s.buffer.Lost {
		sub.pending = append(sub.pending, sub.skip(GapEvicted)...)
	}
}

// joinAt lets a waiting subscriber read the stream after position.
func (s *Stream) joinAt(sub *Subscriber, position uint64) {
	sub.waiting = false
	sub.cursor, sub.live = position, s.buffer.Newest
	s.recount(sub)
	if position == s.buffer.Newest {
		sub.prime(s.newestID())
	}
}

// waitedEnough reports whether a subscriber has waited so long that it goes
// upstream on its own. Of many, one does so at a time.
func (s *Stream) waitedEnough(sub *Subscriber, now time.Time) bool {
	if now.Before(sub.waitEnd()) || (sub.released && s.isSilent(sub, now)) || now.Before(s.nextFall()) {
		return false
	}
	s.fellAt = now
	return true
}

// nextFall is when the next one that has waited enough goes upstream on its own.
func (s *Stream) nextFall() time.Time {
	return s.fellAt.Add(time.Second / time.Duration(max(1, s.options.SpliceLimit)))
}

// isSilent reports whether a stream that is not proven waits for its first
// event beside a splice that was greeted with nothing: there is nothing yet that
// could be somebody's own, and nothing is missed by who waits.
func (s *Stream) isSilent(sub *Subscriber, now time.Time) bool {
	if s.shares() || sub.id != "" {
		return false
	}
	for sp := range s.splices {
		at := sp.greetedAt()
		if sp.openID == "" && (sp.splice.proves || !sp.splice.probe) && !at.IsZero() && !now.Before(at) && sp.track.NewestAt.IsZero() &&
			s.track.Said == sp.splice.Said && differingField(s.head, sp.head, s.options.Insignificant) == "" {
			return true
		}
	}
	return false
}

// release lets a waiting subscriber have its head: it begins where the stream is
// now.
func (sub *Subscriber) release() {
	s := sub.home
	sub.released, sub.start, sub.events = true, s.buffer.Newest, s.buffer.Events
	sub.outage = s.phase != phaseLive
}

// saidAfter reports whether a stream has had something after a position that may
// have been for somebody else, too.
func (s *Stream) saidAfter(position uint64) bool {
	return position < s.buffer.Lost || slices.ContainsFunc(s.buffer.After(position), func(b *replay.Block) bool { return b.Told || b.Says() })
}

// tellMissed tells a subscriber that is given a splice, and had its head before,
// that it may have missed something meanwhile. What came while the upstream was away
// may come to the stream later, but not to the splice.
func (s *Stream) tellMissed(sub *Subscriber) {
	if !sub.released || sub.id != "" || (!sub.outage && !s.saidAfter(sub.start)) {
		return
	}
	gap := Gap{GapUpstream, "", -1}
	s.logGap(gap)
	sub.pending = append(sub.pending, gap.Event(s.options.GapEvent)...)
}

// HasMissed reports whether a subscriber, which is sent to the upstream on its own
// after its head, may miss something: who has waited with a head, until it has a
// connection, and who was not given what came.
func (sub *Subscriber) HasMissed() bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.id == "" && sub.home.settled && (sub.released || sub.stream.saidAfter(sub.cursor))
}

// WaitForHead waits until the head of a client may be sent. One that needs a
// splice has none before that has its own, so that what the client causes once
// it is connected reaches it. It returns false if the client has left.
func (sub *Subscriber) WaitForHead(ctx context.Context) bool {
	for {
		wake, until := sub.held(time.Now())
		if wake == nil {
			return true
		}
		var timer <-chan time.Time
		if !until.IsZero() {
			timer = time.After(time.Until(until))
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return false
		}
	}
}

// held returns what is closed when the head of a client may be one that can be
// sent, and when to look again at the latest; nil when it can be.
func (sub *Subscriber) held(now time.Time) (wake <-chan struct{}, until time.Time) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	s := sub.home
	if sub.waiting {
		s.admit(sub, now)
	}
	if sub.finish == EndAskAgain && now.Before(sub.finishFrom) {
		return s.bell.wait(), sub.finishFrom
	}
	if sub.finish != "" || s.phase == phaseGone {
		return nil, time.Time{}
	}
	if sub.waiting {
		if (s.phase == phaseLive || !s.shares()) && !sub.released {
			until = sub.lookAgain()
			if !until.IsZero() && !until.After(now) { // something is due with the head
				until = now.Add(seatInterval)
			}
			return s.waitForSeat(), until
		}
		if !sub.released {
			sub.release()
		}
		return nil, time.Time{}
	}
	sp := sub.stream
	if !sp.isSplice || !sp.track.HeadAt.IsZero() || sp.phase == phaseGone {
		return nil, time.Time{}
	}
	return sp.bell.wait(), time.Time{}
}

// Head returns the head that a client is to be sent, after ready: that of the
// connection which it is served by; or why there is none.
func (sub *Subscriber) Head() (*Head, error) {
	h, err := sub.Origin.verdict()
	if err != nil {
		return nil, err
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sp := sub.stream; sp.isSplice && !sp.track.HeadAt.IsZero() {
		return sp.head, nil
	}
	return h, nil
}

// TurnedAway tells how the subscriber's request is to be answered that cannot be
// given a stream, before it was sent a head; "" if it can.
func (sub *Subscriber) TurnedAway() EndReason {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	switch {
	case sub.finish == EndPerClient, sub.finish == EndAskAgain, sub.finish == EndNoSecond:
		return sub.finish
	case sub.finish == EndRefused && sub.stream.isSplice:
		return sub.finish
	}
	return ""
}

// hasWaiting reports whether a client waits for a splice, or for a verdict.
func (s *Stream) hasWaiting() bool {
	for sub := range s.subs {
		if sub.waiting {
			return true
		}
	}
	return false
}

// waitForSeat returns what is closed when a waiting subscriber is to look again.
func (s *Stream) waitForSeat() <-chan struct{} {
	if s.seats == nil {
		s.seats = make(chan struct{})
	}
	return s.seats
}

// offerSeats lets those who wait look again, after a block.
func (s *Stream) offerSeats(now time.Time) {
	if s.seats != nil && now.Sub(s.seatsAt) >= seatInterval {
		s.seatsAt = now
		s.wakeWaiting()
	}
}

// lookAgain is when a waiting subscriber is to look again at the latest; zero:
// when it is told to.
func (sub *Subscriber) lookAgain() time.Time {
	s := sub.home
	if s.phase != phaseLive {
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
		if hung := sp.splice.opened.Add(headPatience); sp.track.HeadAt.IsZero() && now.Before(hung) {
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
	end := evidence.Later(sub.joined, sub.home.track.HeadAt).Add(timeout)
	evidence.Earliest(&end, sub.joined.Add(2*timeout))
	return end
}
