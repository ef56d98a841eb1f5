package stream

import "time"

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
	if sp.openID == "" || sp.splice.skipped || !s.said.showsIDs {
		return false
	}
	return !s.said.numbers.IsBehind(sp.openID) // else the client is ahead
}

// tellLeft tells the clients of a splice that is left to them what they would be told
// at the merge, unless the upstream may be about to show that it goes on.
func (s *Stream) tellLeft(sp *Stream, now time.Time) {
	if s.pair(sp).MayBeHistory() {
		return
	}
	gap := s.gapSoFar(sp, now)
	for sub := range sp.subs {
		sub.tell(gap)
	}
}

// gapSoFar returns the gap event that the clients of a splice would be told at the
// merge, as far as can be said before that; nil if there is none.
func (s *Stream) gapSoFar(sp *Stream, now time.Time) []byte {
	switch {
	case sp.track.HeadAt.IsZero():
		return nil
	case sp.splice.merged:
		return sp.splice.gap
	}
	next, skips := s.skipsSoFar(sp, now)
	if !skips {
		return nil
	}
	s.logSkipped(sp.openID, next, -1)
	return s.gapEvent(GapUpstream, sp.openID, -1)
}
