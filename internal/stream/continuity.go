package stream

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
)

// Whether an upstream went on after the last event ID that it was asked with.
//
// An application that does not look at Last-Event-ID answers with what it sends
// at the moment: what came in between is lost, and nothing says so. But it shows:
// where ids are numbers that count, in the first one; else in that the stream has
// an event before the first one of the answer that is not the one asked with.

// skips reports whether a splice that was opened with an ID shows, now that it is
// to be merged at a position of the stream, that the upstream did not go on after
// that ID; next is the one that it went on with instead. The lock is held.
func (s *Stream) skips(sp *Stream, to uint64) (next string, skips bool) {
	if !s.asksForMore(sp) {
		return "", false
	}
	after, known := s.locate(sp.openID)
	return s.pair(sp).Skips(to, after, known)
}

// skipsSoFar is skips for a splice that is not going to be merged for its client.
func (s *Stream) skipsSoFar(sp *Stream, now time.Time) (next string, skips bool) {
	if !s.asksForMore(sp) {
		return "", false
	}
	after, known := s.locate(sp.openID)
	return s.pair(sp).SkipsSoFar(now, after, known)
}

// asksForMore reports whether a splice was opened with an ID after which there may be
// something, and its clients were not told yet that it is missing.
func (s *Stream) asksForMore(sp *Stream) bool {
	if sp.openID == "" || sp.comparing().skipped || !s.said.showsIDs {
		return false
	}
	return !s.said.numbers.IsBehind(sp.openID) // else the client is ahead
}

// openTime bounds how long a splice that was left to its clients is compared on: a history
// may come in batches.
const openTime = evidence.ResumePause

// leaveOpen takes note that a splice is about to be left to its clients, and that it may be
// told later whether the upstream went on after its ID; see decide.
func (s *Stream) leaveOpen(sp *Stream, now time.Time) {
	st := sp.splice
	sp.left, st.decideBy = st, now.Add(openTime)
	s.open = append(s.open, sp)
}

// decide tells the clients to whom a splice was left what they would be told at the merge,
// as soon as what it has brought is not the beginning of what came after its ID, or may be
// no longer. In doubt they are told a gap.
func (s *Stream) decide(sp *Stream, now time.Time) {
	st := sp.left
	if again := st.decideBy; s.isLive() && sp.isLive() && now.Before(again) {
		p := s.pair(sp)
		p.Compare(now, &again, true)
		if p.MayBeHistory() {
			st.timer.Reset(again.Sub(now))
			return
		}
	}
	if sp.hasSubscribers() {
		gap := s.gapSoFar(sp, now)
		for sub := range sp.subscribers() {
			sub.tell(gap)
		}
	}
	s.closeLeft(sp)
	sp.wakeLocked()
}

// decideAll decides for all that are left to their clients.
func (s *Stream) decideAll(now time.Time) {
	for _, sp := range slices.Clone(s.open) {
		s.decide(sp, now)
	}
}

// closeLeft ends the comparison of a splice that was left to its clients.
func (s *Stream) closeLeft(sp *Stream) {
	sp.left.timer.Stop()
	sp.left = nil
	sp.buffer.ForgetIndex()
	s.open = slices.DeleteFunc(s.open, func(o *Stream) bool { return o == sp })
	s.dropIndex()
}

// gapSoFar returns the gap event that the clients of a splice would be told at the
// merge, as far as can be said before that; nil if there is none.
func (s *Stream) gapSoFar(sp *Stream, now time.Time) []byte {
	switch {
	case !sp.isHeaded():
		return nil
	case sp.comparing().merged:
		return sp.splice.gap
	}
	next, skips := s.skipsSoFar(sp, now)
	if !skips {
		return nil
	}
	s.logSkipped(sp.openID, next, -1)
	return s.gapEvent(GapUpstream, sp.openID, -1)
}
