package stream

import (
	"slices"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// A subscriber that waits: with its head or without, until it has a place to read.

// hasWaiting reports whether a client waits for a splice, or for a verdict.
func (s *Stream) hasWaiting() bool {
	for sub := range s.subscribers() {
		if sub.waiting {
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
	sub.outage = !s.isLive()
}

// waitAgain takes a subscriber, which was given nothing, back from a splice.
func (s *Stream) waitAgain(sub *Subscriber) {
	sub.stream.dropSubscriber(sub)
	sub.stream, sub.waiting, sub.ending = s, true, nil
	sub.cursor, sub.events, sub.live = s.buffer.Newest, s.buffer.Events, s.buffer.Newest
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
	if !sub.released || sub.id() != "" || (!sub.outage && !s.saidAfter(sub.start)) {
		return
	}
	gap := Gap{GapUpstream, "", -1}
	s.logGap(gap)
	sub.tell(gap.Event(s.options.GapEvent))
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

// greetsOthers reports whether the upstream greets connections, but not the newest
// of the stream, which goes on after an ID: who came without one, while the
// upstream was away, is greeted by a splice.
func (s *Stream) greetsOthers() bool { return s.track.Greets && s.conn != nil && s.conn.resumed }

// goesOnFromHead reports whether a waiting subscriber that has its head goes on where
// the stream was then.
func (s *Stream) goesOnFromHead(sub *Subscriber) bool {
	return s.shares() && sub.released && sub.id() == "" && !s.greetsOthers()
}

// goOnFromHead lets one of them read, and tells it what is not kept any more.
func (s *Stream) goOnFromHead(sub *Subscriber) {
	s.joinAt(sub, sub.start)
	if sub.cursor < s.buffer.Lost {
		sub.tell(sub.skip(GapEvicted))
	}
}

// joinReleased lets those who do so read at once: what the upstream sends first, after
// an outage, may be more than the buffer holds.
func (s *Stream) joinReleased() {
	for sub := range s.subscribers() {
		if sub.waiting && sub.finish() == "" && s.goesOnFromHead(sub) {
			s.goOnFromHead(sub)
		}
	}
}
