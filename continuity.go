package caddysse

import (
	"bytes"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// Whether an upstream went on after the last event ID that it was asked with.
//
// An application that does not look at Last-Event-ID answers with what it sends
// at the moment: what came in between is lost, and nothing says so. But it shows:
// where ids are numbers that count, in the first one; else in that the stream has
// an event before the first one of the answer that is not the one asked with.

// enoughCounting is how many ids in a row that each are one more than the last
// show that the upstream counts.
const enoughCounting = 8

// sequence looks at ids that are numbers. The zero value has seen none.
type sequence struct {
	last  uint64
	known bool // the last ID was a number
	run   int  // how many in a row were one more than the one before
}

// number returns the number that an ID is in decimal.
func (*sequence) number(id string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == id
}

// add takes the next ID.
func (q *sequence) add(id string) {
	n, ok := q.number(id)
	if ok && q.known && n == q.last+1 {
		q.run++
	} else {
		q.run = 0
	}
	q.last, q.known = n, ok
}

// counts reports whether each ID was one more than the last.
func (q *sequence) counts() bool { return q.run >= enoughCounting }

// checkContinuity looks at the first ID of a connection that was asked to go on
// after one, and tells a gap if it did not. The stream's lock is held.
func (c *upstreamConn) checkContinuity(b eventstream.Block) {
	s := c.stream
	if len(b.ID) == 0 || s.succeeds() {
		return
	}
	if c.resumed && !c.continued && !c.isNewStream() {
		c.continued = true
		q, counts := &s.sequence, s.sequence.counts()
		if s.splice != nil {
			counts = s.splice.parent.sequence.counts()
		}
		switch n, ok := q.number(string(b.ID)); {
		case !ok || !q.known:
		case n < q.last && !s.isSplice:
			c.tellSkipped(string(b.ID), -1) // it began anew
			s.buffer.forgetIDs(c.start)
		case n > q.last+1 && counts:
			c.tellSkipped(string(b.ID), int64(n-q.last-1)) //nolint:gosec // a gap of more is none
		}
	}
	s.sequence.add(string(b.ID))
}

// isNewStream reports whether the connection is the first of a stream that is no
// splice, which nothing is known of.
func (c *upstreamConn) isNewStream() bool { return c.first && !c.stream.isSplice }

// tellSkipped tells the stream's subscribers that the upstream did not go on
// after the last event ID, but with the ID next. The stream's lock is held.
func (c *upstreamConn) tellSkipped(next string, missed int64) {
	s := c.stream
	after := s.newestID()
	if st := s.splice; st != nil {
		after, st.skipped = s.openID, true
	}
	s.logSkipped(s.lastUpstreamID, next, missed)
	c.appendGap(s.gapEvent(gapUpstream, after, missed))
}

// logSkipped counts and logs that the upstream did not go on after an ID.
func (s *stream) logSkipped(after, next string, missed int64) {
	theMetrics.gaps.WithLabelValues(gapUpstream).Inc()
	s.options.lines.skipped.log(func(suppressed int) {
		s.log().Warn("possible gap: the upstream did not go on after the last event ID that it was asked with",
			zap.String("last_event_id", shownID(after)), zap.String("id", shownID(next)),
			zap.Int64("missed", missed), zap.Int("suppressed", suppressed))
	})
}

// skips reports whether a splice that was opened with an ID shows, now that it is
// to be merged, that the upstream did not go on after that: the stream has an event
// just before the splice's first one, with another ID; or the splice brought none,
// and the stream has some. The lock is held.
func (s *stream) skips(sp *stream) (next string, skips bool) {
	if sp.openID == "" || sp.splice.skipped || !s.upstreamIDs {
		return "", false
	}
	if _, ok := s.buffer.find(sp.openID); ok {
		return "", false // found, and not all of it lost: it is one of those kept
	}
	kept := s.buffer.dispatched()
	brought := sp.buffer.dispatched()
	if len(brought) == 0 {
		return "", len(kept) > 0 && sp.buffer.lost == 0
	}
	first := brought[0]
	if first.ordinal != 1 || slices.ContainsFunc(kept, func(k *block) bool { return !k.hasID }) {
		return "", false // not the first of the answer any more; or several events share an ID
	}
	i := slices.IndexFunc(kept, func(k *block) bool {
		return k.id == first.id && bytes.Equal(k.wire[:k.lines], first.wire[:first.lines])
	})
	return first.id, i > 0
}
