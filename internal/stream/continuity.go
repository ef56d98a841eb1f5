package stream

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Whether an upstream went on after the last event ID that it was asked with.
//
// An application that does not look at Last-Event-ID answers with what it sends
// at the moment: what came in between is lost, and nothing says so. But it shows:
// where ids are numbers that count, in the first one; else in that the stream has
// an event before the first one of the answer that is not the one asked with.

// checkContinuity looks at the first ids of a connection that was asked to go on
// after one, and tells a gap if it did not. The stream's lock is held.
func (c *Conn) checkContinuity(b eventstream.Block) {
	s := c.Stream
	if len(b.ID) == 0 || s.succeeds() {
		return
	}
	id := string(b.ID)
	first := c.answer.IsFirst()
	c.answer.Add()
	if c.Asked && !c.isNewStream() {
		c.compare(id)
	}
	s.numbers.Add(id, first)
	s.root().judgeAnswers(id, s, time.Now())
}

// compare looks at an ID of a connection, of which the first two show something. The
// stream's lock is held.
func (c *Conn) compare(id string) {
	s := c.Stream
	if !s.root().numbers.Count() {
		return
	}
	switch shows, missed := c.answer.Look(id, &s.numbers, s.isSplice); {
	case shows == evidence.Skipped:
		c.tellSkipped(id, missed)
	case shows == evidence.WentOn && s.splice != nil:
		s.splice.WentOn()
	}
}

// isNewStream reports whether the connection is the first of a stream that is no
// splice, which nothing is known of.
func (c *Conn) isNewStream() bool { return c.first && !c.Stream.isSplice }

// tellSkipped tells the stream's subscribers that the upstream did not go on
// after the last event ID, but with the ID next. The stream's lock is held.
func (c *Conn) tellSkipped(next string, missed int64) {
	s := c.Stream
	after := s.newestID()
	if st := s.splice; st != nil {
		after = s.openID
		st.skip()
	}
	s.logSkipped(s.lastUpstreamID, next, missed)
	c.appendGap(s.gapEvent(GapUpstream, after, missed))
}

// skip takes note that the splice's clients are told of the gap.
func (st *spliceState) skip() {
	st.skipped = true
	if st.answer != nil {
		st.answer.judged = true
	}
}

// logSkipped counts and logs that the upstream did not go on after an ID.
func (s *Stream) logSkipped(after, next string, missed int64) {
	Counts.Gaps.With(GapUpstream).Inc()
	s.options.Lines.skipped.Log(func(suppressed int) {
		s.Log().Warn("possible gap: upstream did not continue after the last event ID",
			zap.String("last_event_id", shownID(after)), zap.String("id", shownID(next)),
			zap.Int64("missed", missed), zap.Int("suppressed", suppressed))
	})
}

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
	if sp.openID == "" || sp.splice.skipped || !s.upstreamIDs {
		return false
	}
	return !s.numbers.IsBehind(sp.openID) // else the client is ahead
}

// tellBeforeEnd appends the gap event that a subscriber would be told when its splice
// is merged: its response ends before, and when it comes back its ID is a newer one.
func (sub *Subscriber) tellBeforeEnd(dst []*replay.Block, now time.Time) []*replay.Block {
	if sub.stream.splice == nil {
		return dst
	}
	if gap := sub.home.gapSoFar(sub.stream, now); len(gap) > 0 {
		dst = append(dst, &replay.Block{Wire: gap})
	}
	return dst
}

// tellLeft tells the clients of a splice that is left to them what they would be told
// at the merge, unless the upstream may be about to show that it goes on.
func (s *Stream) tellLeft(sp *Stream, now time.Time) {
	if s.pair(sp).MayBeHistory() {
		return
	}
	gap := s.gapSoFar(sp, now)
	for sub := range sp.subs {
		sub.pending = append(sub.pending, gap...)
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

// isCurrent reports whether the stream has an ID, and no event after it.
func (s *Stream) isCurrent(id string) bool {
	position, known := s.locate(id)
	return known && !slices.ContainsFunc(s.buffer.After(position), func(b *replay.Block) bool { return b.Dispatches && !b.Told })
}

// checkRenumbered makes blocks of earlier connections unreachable by id when
// the upstream gives one of their ids to another block: it has begun anew. The
// stream's lock is held.
func (c *Conn) checkRenumbered(b eventstream.Block, lines []byte) {
	s := c.Stream
	other := evidence.Renumbered(&s.buffer, c.repeats.Start, s.lastUpstreamID, b, lines)
	if other == nil {
		return
	}
	s.throttles().anew.Log(func(suppressed int) {
		s.Log().Warn("possible gap: upstream reused event IDs (did its counter restart?)",
			zap.String("id", shownID(other.ID)), zap.Int("suppressed", suppressed))
	})
	s.buffer.ForgetIDs(c.repeats.Start)
}
