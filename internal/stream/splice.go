package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
)

// Joining a stream that has begun.
//
// A client of the upstream itself sees what the upstream sends when a
// connection opens (a greeting, a snapshot of the state, old events), and then
// what it broadcasts. A client that came later to a shared stream would miss
// the first part. So it is served by an upstream connection of its own, a
// splice, until that connection is seen to bring what the stream brings; then
// it is merged into the stream at that point, and its own connection closed.
//
// A splice is a stream like any other, with its own replay buffer, except that
// it is found through its parent, shares the parent's lock, and gives no ids
// of the gateway that could be resumed from: positions in it mean nothing to who
// comes back.

const (
	// spliceInterval is how far apart splices without a last event ID are opened
	// when many newcomers come: who comes meanwhile shares the next. spliceBurst
	// of them may be opened at once after a while without.
	spliceInterval = 250 * time.Millisecond
	spliceBurst    = 3

	// headPatience is how long others join a splice that has no head yet.
	headPatience = time.Second
)

// spliceFor returns the splice that a waiting subscriber is to read, nil if it
// has to wait. The oldest that takes it comes first.
func (s *Stream) spliceFor(sub *Subscriber, now time.Time) (found *Stream) {
	for sp := range s.splices {
		if sp.takes(sub, now) && (found == nil || sp.Serial() < found.Serial()) {
			found = sp
		}
	}
	if found == nil && !now.Before(s.nextSplice(sub, now)) {
		return s.openSplice(sub.id(), sub.param())
	}
	return found
}

// nextSplice is when a splice may be opened for a waiting subscriber, as far as
// is known.
func (s *Stream) nextSplice(sub *Subscriber, now time.Time) time.Time {
	all, withoutID, answering := s.closing, 0, 0
	for sp := range s.splices {
		if sp.openID == "" && !sp.isHung(now) && (sp.splice.proves || !sp.isProbe()) {
			answering++
		}
		if sp.isProbe() {
			continue
		}
		all++
		if sp.openID == "" {
			withoutID++
		}
	}
	limit := s.options.SpliceLimit
	switch never := now.Add(time.Hour); {
	case s.source.Retired(): // the handlers of the new configuration are being looked for
		return never
	case sub.released && sub.id() == "" && !s.shares() && s.sharing.barrier > 0:
		return never // it goes on from where it was released, when that is known to be shared
	case all >= limit, !s.shares() && answering > 0 && sub.id() == "":
		return never // until one of them has ended
	case sub.id() != "" && limit > 1 && all-withoutID >= limit-1:
		return never // the last place is for who has none
	case !s.shares() && s.sharing.barrier == 0:
		return s.track.HeadAt.Add(proofDelay)
	case sub.id() == "":
		return s.openings.Add(-(spliceBurst - 1) * spliceInterval)
	}
	return now
}

// isHung reports whether a splice has been without an answer for so long that
// nobody else joins it.
func (s *Stream) isHung(now time.Time) bool {
	return !s.isHeaded() && now.Sub(s.splice.opened) >= headPatience
}

// takes reports whether a subscriber may share a splice: what that has brought is
// what the subscriber asks for, and all of it is there.
func (s *Stream) takes(sub *Subscriber, now time.Time) bool {
	parent := s.splice.parent
	switch {
	case s.splice.probe, s.isGone(), !parent.shares(), s.isHung(now), s.isRenewed():
		return false
	case parent.follows() && parent.compares():
		return false // a break of the connection elsewhere, after which it may be another application, is known here too late
	}
	if sub.id() == "" {
		return s.openID == "" && s.track.NewestAt.IsZero() && parent.learned.unmerged == 0
	}
	if s.openID == sub.id() { // a block of the splice that has it, too, is not where the client is
		return s.buffer.Lost == 0
	}
	_, ok := s.buffer.Find(sub.id())
	return ok
}

// isRenewed reports whether a splice has lost its connection, or has another one
// since. That was opened for the client that it has, maybe after a restart of the
// application, and may be greeted with something of its own.
func (s *Stream) isRenewed() bool {
	return s.compares() && s.conn != nil && (s.conn.ended || !s.conn.first)
}

// openSplice opens an upstream connection with a last event ID, beside that of
// the stream.
func (s *Stream) openSplice(id, param string) *Stream {
	sp := s.addSplice(id, param)
	sp.splice.answer = s.expect(id, sp)
	sp.splice.Current = s.isCurrent(id)
	s.hub.track(sp)
	if id == "" {
		s.openings = evidence.Later(s.openings, sp.splice.opened).Add(spliceInterval)
	}
	sp.startLocked(id)
	return sp
}

// move lets a waiting subscriber read a splice: all of it, or what comes after
// its ID.
func (s *Stream) move(sub *Subscriber, sp *Stream) {
	sub.waiting = false
	if sp.isHeaded() { // else when the head comes
		s.tellMissed(sub)
	}
	sub.stream = sp
	sub.cursor, sub.events, sub.live = 0, 0, 0
	switch position, ok := sp.buffer.Find(sub.id()); {
	case sub.id() == "":
		sub.cursor, sub.events = sp.buffer.Newest, sp.buffer.Events
	case ok && sub.id() != sp.openID:
		sub.cursor = position
		if n, ok := sp.buffer.EventsAfter(position); ok {
			sub.events = sp.buffer.Events - n
		}
	}
	sp.addSubscriber(sub)
	sub.awaitsAnswer(sp.splice.answer)
	if sub.outcome() == ResumeLive && !s.settled {
		return // it has no ID, and the first event may have to be the first of all
	}
	if s.options.EmptyBlocks && (s.options.IDs == IDsGateway || (s.options.IDs == IDsAuto && !s.said.showsIDs)) {
		// It was told of what it has missed: before the first event, which has
		// an ID, it has to come back as one without. (Without empty_blocks it
		// may come with the one that it had: it is told again.)
		sub.tell([]byte("id\n\n"))
	}
}
