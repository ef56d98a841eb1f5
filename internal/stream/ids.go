package stream

import (
	"math"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Event IDs and positions: what a last event ID stands for, and the ID from which a
// client can resume.

// nowhere is no position of a stream. Who comes back with an ID that names it was a
// client of a splice: nobody knows what it has missed.
const nowhere = math.MaxUint64

// ownID reports whether id looks like one that a gateway gave. Such an ID is
// never sent upstream, unless the upstream gives all ids.
func (s *Stream) ownID(id string) bool {
	_, _, ok := replay.ParseID(id)
	return ok && s.options.IDs != IDsUpstream
}

// ofThisLife reports whether an ID is one of the gateway's that the stream gave.
func (s *Stream) ofThisLife(id string) bool {
	epoch, position, ok := replay.ParseID(id)
	return ok && s.standsFor(epoch, position) && s.options.IDs != IDsUpstream
}

// locate returns the position up to which a client with the last event ID id
// has been given the stream, and false if that is unknown or something after
// it is lost. The stream's lock is held.
func (s *Stream) locate(id string) (position uint64, ok bool) {
	if id == "" || !replay.ValidID(id) {
		return 0, false
	}
	if s.options.IDs != IDsUpstream {
		if epoch, position, ok := replay.ParseID(id); ok {
			return position, s.standsFor(epoch, position) && position <= s.buffer.Newest && position >= s.buffer.Lost
		}
	}
	if id == s.openID && !s.said.gaveID && s.buffer.Newest > 0 {
		return 0, false // the upstream gives no ids: this one means nothing to it
	}
	return s.buffer.Find(id)
}

// isCurrent reports whether the stream has an ID, and no event after it.
func (s *Stream) isCurrent(id string) bool {
	position, known := s.locate(id)
	return known && !slices.ContainsFunc(s.buffer.After(position), (*replay.Block).IsEvent)
}

// mayKnow reports whether the upstream may know IDs that the stream does not.
func (s *Stream) mayKnow() bool {
	if s.options.IDs == IDsGateway {
		return false
	}
	return s.said.showsIDs || s.buffer.Events == 0 || s.options.IDs == IDsUpstream
}

// newestID returns the last event ID of a client that has been given
// everything, "" if it has none. The stream's lock is held.
func (s *Stream) newestID() string {
	switch {
	case s.said.showsIDs, !s.kind.ids:
		return s.buffer.LastID
	case s.options.IDs == IDsUpstream:
		return "" // the one that there may be is of the client that opened the stream
	}
	return string(replay.AppendID(make([]byte, 0, 64), s.epoch, s.buffer.Newest))
}

// recount sets a subscriber's count of events to that at its cursor, from where it
// is going to read.
func (s *Stream) recount(sub *Subscriber) {
	s.pace.readFrom(sub.cursor)
	if n, ok := s.buffer.EventsAfter(sub.cursor); ok {
		sub.events = s.buffer.Events - n
	}
}

// appendPrelude appends the block that a subscriber gets first: the newest
// reconnection time and an ID from which it can resume, if that is not empty.
// It dispatches nothing.
func (s *Stream) appendPrelude(dst []byte, prime string) []byte {
	n := len(dst)
	switch {
	case s.said.hasRetry:
		dst = eventstream.AppendRetry(dst, s.said.retry)
	case s.options.RetryMin > 0:
		dst = eventstream.AppendRetry(dst, s.options.randomRetry())
	}
	m := len(dst)
	dst = s.appendPrime(dst, prime)
	if len(dst) == m && m > n && s.options.EmptyBlocks {
		dst = append(dst, '\n')
	}
	return dst
}

// appendPrime appends a block that gives a client an ID to resume from.
func (s *Stream) appendPrime(dst []byte, id string) []byte {
	if id == "" || !s.options.Prime || s.isExclusive() {
		return dst
	}
	return append(append(append(dst, "id: "...), id...), "\n\n"...)
}

// preludeAt is when the prelude is due that a client was not given, because the
// first event may have to be the first of all; zero: nothing is due, or not before
// it has read on. An upstream that hands out sessions does so when its connection opens.
func (sub *Subscriber) preludeAt() time.Time {
	s := sub.stream
	if !sub.unprimed || sub.waiting || !s.isHeaded() || sub.cursor != s.buffer.Newest {
		return time.Time{}
	}
	return s.track.HeadAt.Add(s.options.primeAfter)
}

// prime gives a client an ID to resume from. Before the stream's first event that
// is left for the prelude.
func (sub *Subscriber) prime(id string) {
	s := sub.stream
	if !s.settled && s.options.primeAfter > 0 {
		sub.unprimed = true
		return
	}
	sub.tell(s.appendPrime(nil, id))
}

// givePrelude gives what a client that came before the first event was not
// given then, if it is due: an ID only if it has no event, which has one.
func (sub *Subscriber) givePrelude(now time.Time) bool {
	s := sub.stream
	at := sub.preludeAt()
	due := !at.IsZero() && !now.Before(at)
	if !sub.unprimed || (sub.events == 0 && !due) {
		return false
	}
	sub.unprimed = false
	if s.isExclusive() {
		return false
	}
	prime := ""
	if sub.events == 0 {
		prime = s.newestID()
	}
	seen := s.said.hasRetry && !sub.hadRetry
	if !sub.untimed || seen {
		sub.tell(s.appendPrime(nil, prime))
		return true
	}
	sub.untimed = false
	sub.tell(s.appendPrelude(nil, prime))
	return true
}
