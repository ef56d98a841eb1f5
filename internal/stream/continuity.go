package stream

import (
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Whether an upstream went on after the last event ID that it was asked with.
//
// An application that does not look at Last-Event-ID answers with what it sends
// at the moment: what came in between is lost, and nothing says so. But it shows:
// where ids are numbers that count, in the first one; else in that the stream has
// an event before the first one of the answer that is not the one asked with.

// enoughCounting is how many ids that each are one more than the last, and no
// other ones, show that the upstream counts.
const enoughCounting = 8

// sequence looks at the upstream's ids, whether they count. The zero value has
// seen none.
type sequence struct {
	last      uint64
	known     bool // the last ID was a number
	run       int  // how many were one more than the one before
	irregular bool // one was not, within a connection
}

// Number returns the number that an ID is in decimal.
func Number(id string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == id
}

// add takes the next ID; first tells that it is the first one of a connection.
func (q *sequence) add(id string, first bool) {
	n, ok := Number(id)
	switch {
	case ok && q.known && n == q.last+1:
		q.run++
	case q.known && !first:
		q.irregular = true
	}
	q.last, q.known = n, ok
}

// counts reports whether each ID was one more than the last.
func (q *sequence) counts() bool { return q.run >= enoughCounting && !q.irregular }

// checkContinuity looks at the first ids of a connection that was asked to go on
// after one, and tells a gap if it did not. The stream's lock is held.
func (c *Conn) checkContinuity(b eventstream.Block) {
	s := c.Stream
	if len(b.ID) == 0 || s.succeeds() {
		return
	}
	id := string(b.ID)
	c.ids++
	if c.ids <= 2 && c.Asked && !c.isNewStream() {
		c.compare(id)
	}
	s.sequence.add(id, c.ids == 1)
	root := s
	if s.splice != nil {
		root = s.splice.parent
	}
	root.judgeAnswers(id, s, time.Now())
}

// compare looks at the first or the second ID of a connection. The stream's lock
// is held.
func (c *Conn) compare(id string) {
	s := c.Stream
	counts := s.sequence.counts()
	if s.splice != nil {
		counts = s.splice.parent.sequence.counts()
	}
	n, ok := Number(id)
	if !ok || !counts || !s.sequence.known {
		return
	}
	switch last := s.sequence.last; {
	case c.ids == 1 && n == last+1 && s.splice != nil:
		s.splice.past = true // it went on
	case c.ids == 1 && n > last+1:
		c.tellSkipped(id, number.As[int64](n-last-1)) // a gap of more is none
	case c.ids == 1 && n < last && !s.isSplice:
		c.before = last // it begins anew, if it counts from here on; else this is a greeting
	case c.ids == 2 && n == last+1 && n < c.before:
		c.tellSkipped(id, -1)
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
//
// Nothing that it brought speaks for the upstream; see isPast. And the stream has an
// event up to that position, after the ID if that is known, which the splice
// was not sent.
//
// looked is what the splice has brought, as far as it is known whether the stream has
// got it, too.
func (s *Stream) skips(sp *Stream, to uint64, looked []pendingBlock) (next string, skips bool) {
	if sp.openID == "" || sp.splice.skipped || !s.upstreamIDs || s.hasPast(sp, looked) {
		return "", false
	}
	if n, ok := Number(sp.openID); ok && s.sequence.counts() && n >= s.sequence.last {
		return "", false // the client is ahead
	}
	brought := fromUpstream(&sp.buffer)
	i := slices.IndexFunc(brought, func(b *replay.Block) bool { return b.HasID && !s.greetsWith(b) })
	if i >= 0 {
		next = brought[i].ID
	}
	greeted := slices.ContainsFunc(brought, s.greetsWith)
	after, known := s.locate(sp.openID)
	if !known && s.buffer.Lost > 0 {
		return next, !sp.splice.current
	}
	return next, slices.ContainsFunc(fromUpstream(&s.buffer), func(k *replay.Block) bool {
		switch {
		case k.Position > to, known && k.Position <= after, greeted && s.greetsWith(k), slices.ContainsFunc(brought, k.Equal):
			return false
		}
		return sp.buffer.Lost == 0 || (k.HasID && !sp.isLive(k)) // it may have been brought, and be evicted
	})
}

// arrived returns up to which position a stream has nothing that may still be on its
// way to a splice: that is older, or the splice has brought something after it. What
// comes to a splice that waits for its clients is on its way for as long as that takes.
func (s *Stream) arrived(sp *Stream, now time.Time) (position uint64) {
	held := sp.full || now.Sub(sp.heldAt) <= twinWindow
	for _, k := range slices.Backward(s.buffer.Blocks) {
		n := 0
		if k.HasID && k.Dispatches {
			n, _ = sp.buffer.Twins(k.Hash)
		}
		if n > 0 || !sp.isLive(k) || (!held && now.Sub(k.At) > twinWindow) {
			return k.Position
		}
	}
	return 0
}

// tellBeforeEnd appends the gap event that a subscriber would be told when its splice
// is merged: its response ends before, and when it comes back its ID is a newer one.
func (sub *Subscriber) tellBeforeEnd(dst []*replay.Block, now time.Time) []*replay.Block {
	sp, s := sub.stream, sub.home
	if sp.splice == nil || sp.headAt.IsZero() {
		return dst
	}
	gap := sp.splice.gap
	if !sp.splice.merged {
		looked, ahead := s.lookedUp(sp)
		to := s.arrived(sp, now)
		if ahead {
			to = s.buffer.Newest // that was sent before
		}
		if next, skips := s.skips(sp, to, looked); skips {
			s.logSkipped(sp.openID, next, -1)
			gap = s.gapEvent(GapUpstream, sp.openID, -1)
		}
	}
	if len(gap) == 0 {
		return dst
	}
	return append(dst, &replay.Block{Wire: gap})
}

// isCurrent reports whether the stream has an ID, and no event after it.
func (s *Stream) isCurrent(id string) bool {
	position, known := s.locate(id)
	return known && !slices.ContainsFunc(s.buffer.After(position), func(b *replay.Block) bool { return b.Dispatches && !b.Told })
}

// isPast reports whether a block that a splice has brought can only be from before
// the splice was opened: a history or a snapshot, which speaks for the upstream. What
// each connection is greeted with is none, nor what came to the stream at the same
// time, as its block k, nor an event without an id that the stream has had before (a
// ping).
func (s *Stream) isPast(sp *Stream, p pendingBlock, k *replay.Block) bool {
	switch {
	case !p.event:
		return false
	case k != nil:
		return p.hasID && !sp.isLive(k)
	}
	return p.hasID || !s.knows(p.hash)
}

// hasPast reports whether a splice has brought such a block.
func (s *Stream) hasPast(sp *Stream, looked []pendingBlock) bool {
	return sp.splice.past || slices.ContainsFunc(looked, func(p pendingBlock) bool { return s.isPast(sp, p, s.gotNear(p)) })
}

// lookedUp returns what a splice has brought and is not yet compared, less the newest
// of it, if the stream has not got that: it may be on its way. ahead tells that there
// are events among those.
func (s *Stream) lookedUp(sp *Stream) (looked []pendingBlock, ahead bool) {
	looked = sp.splice.brought
	for n := len(looked) - 1; n >= 0 && !s.knows(looked[n].hash); n-- {
		ahead = ahead || (looked[n].event && looked[n].hasID)
		looked = looked[:n]
	}
	return looked, ahead
}

// maxGreeted bounds how many blocks count as what the upstream greets with.
const maxGreeted = 64

var greetedSeed = maphash.MakeSeed()

// greet takes note of a block that is not comment-only, if the upstream sent it to
// greet the connection: the first one, and what came with it. The stream's lock is
// held.
func (c *Conn) greet(lines []byte, now time.Time) {
	switch n := len(c.greeted); {
	case n == 0:
		c.greetedAt, c.greetedLast = now, now
	case n == maxGreeted, now.Sub(c.greetedLast) > maxSettle, now.Sub(c.greetedAt) > splicePause:
		return
	}
	c.greetedLast = now
	c.greeted = append(c.greeted, maphash.Bytes(greetedSeed, lines))
}

// greetsWith reports whether the upstream greeted the stream's connection with a
// block, too.
func (s *Stream) greetsWith(b *replay.Block) bool {
	return slices.Contains(s.conn.greeted, maphash.Bytes(greetedSeed, b.Wire[:b.Lines]))
}

// fromUpstream returns the kept events that the upstream has sent.
func fromUpstream(f *replay.Buffer) []*replay.Block {
	return slices.DeleteFunc(f.Dispatched(), func(b *replay.Block) bool { return b.Told })
}
