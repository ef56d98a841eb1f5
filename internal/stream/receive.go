package stream

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// A block of an upstream connection comes into the stream: whether it is a repeated
// one, whether something is missing before it, its bytes, its place in the buffer, and
// who is woken. What is decided about it (decide, append) is for who reads the upstream;
// apply would be the same for a stream whose blocks come, decided, from elsewhere.

// take takes a block whose lines for the subscribers are given. The stream's
// lock is held.
func (c *intake) take(b eventstream.Block, lines []byte) error {
	k, err := c.decide(b, lines)
	if k == nil {
		return err
	}
	c.append(k)
	c.stream.responses.Add(b, &c.stream.buffer)
	return nil
}

// decide makes the block that subscribers get; nil without an error if the stream has
// it. What is missing before it is told.
func (c *intake) decide(b eventstream.Block, lines []byte) (*replay.Block, error) {
	s := c.stream
	if c.over || c.deserted || s.isGone() {
		return nil, ErrStreamOver // merged, say: nothing may come after that point
	}
	if !b.CommentOnly() {
		c.seen.NoteLines(lines, time.Now())
	}
	if !c.first && !s.succeeds() {
		if c.isBehind(b, lines) {
			return nil, nil
		}
		if c.repeats.Has(&s.buffer, b, lines, c.blocks > 0) {
			c.dropped++
			return nil, nil
		}
		c.checkRenumbered(b, lines)
	}
	continues := c.goesOn(b)
	c.checkContinuity(b)
	if c.over || s.isGone() {
		return nil, ErrStreamOver // while there was no room
	}
	s.attempts.heard(b.Dispatches())
	if b.Dispatches() {
		s.answer.Events(1)
	}
	s.said.take(b, c.options.IDs != IDsGateway)
	if b.HasRetry {
		s.attempts.wait(b.Retry)
	}
	if s.succeeds() {
		c.hold(b, lines)
	} else {
		Counts.Blocks.Inc()
		if b.Dispatches() || b.HasID {
			s.proveAgain(c, continues)
		}
	}
	return c.wireBlock(lines, b), nil
}

// wireBlock makes the block that subscribers get. The stream's lock is held.
func (c *intake) wireBlock(lines []byte, b eventstream.Block) *replay.Block {
	s := c.stream
	var id []byte
	switch {
	case !b.Dispatches(), s.said.showsIDs, c.options.IDs == IDsUpstream, s.isExclusive():
	case s.kind.ids:
		id = replay.AppendID(make([]byte, 0, 64), s.epoch, s.buffer.Newest+1)
	case s.splice != nil && !s.isProbe() && !s.splice.succeeds:
		id = []byte(s.comesBack()) // the network may cut its clients at any time
	}
	blk := replay.NewBlock(b, lines, id, time.Now())
	if !c.options.EmptyBlocks {
		blk.OpenComment()
	}
	return blk
}

// append adds a block of the connection to the stream. The stream's lock is held.
func (c *intake) append(b *replay.Block) {
	s := c.stream
	if !b.CommentOnly && !b.Told {
		c.blocks++
		b.Ordinal = c.blocks
		s.settled = s.settled || b.Dispatches
		if b.Says() {
			if s.comparing() != nil || s.compares() {
				c.seen.Note(b, &s.track)
			}
			s.track.Note(b, s.splice == nil)
			s.fresh = false
			s.brings(b)
		}
		if sp := s.successor; sp != nil && sp.openID != "" {
			s.brought.Note(b)
			sp.parentBrings(b)
		}
		if sp := s.successor; sp != nil && sp.isLive() {
			sp.conn.beside.bringsOld(b.Hash)
		}
	}
	s.figures.took(int64(b.Lines) + 1)
	s.apply(b, b.HasID && c.options.IDs != IDsGateway)
}

// apply puts a block into the stream's buffer and wakes its subscribers. setsID tells
// that they have its ID then. The stream's lock is held.
func (s *Stream) apply(b *replay.Block, setsID bool) {
	if b.Position > 0 {
		s.buffer.Place(b) // where another node has it
	} else {
		s.buffer.Append(b)
	}
	s.charge()
	if setsID {
		s.buffer.SetLastID(b.ID, b.Position)
	}
	if s.options.Join == JoinGreeting {
		s.greeting.add(b, s.buffer.Limits.Size)
	}
	s.trySplices(b.At)
	s.seats.offer(b.At)
	s.wakeLocked()
}

// trySplices looks whether splices can be merged, after s has got a block. The
// lock is held.
func (s *Stream) trySplices(now time.Time) {
	if s.succeeds() {
		s.splice.parent.trySuccessor(now)
		return
	}
	if s.splice != nil {
		s.splice.parent.trySplice(s, now)
		return
	}
	if s.left != nil {
		s.left.parent.decide(s, now)
		return
	}
	for _, sp := range slices.Clone(s.open) {
		s.decide(sp, now)
	}
	for sp := range s.splices {
		s.trySplice(sp, now)
	}
	if s.successor != nil {
		s.trySuccessor(now)
	}
}

// hold keeps a block until it is decided what becomes of it. What the old connection
// brings, too, is not given twice: where no ID tells it from what that one has not
// brought, it is given only if the old one is lost.
func (c *intake) hold(b eventstream.Block, lines []byte) {
	b.Lines, b.ID, b.Type = nil, slices.Clone(b.ID), slices.Clone(b.Type) // only its fields are looked at
	h := heldBlock{
		block: b, lines: lines, hash: replay.HashBlock(lines, b.HasID, string(b.ID)),
		isBeside: c.stream.splice.parent.isLive(),
	}
	switch {
	case c.resumed:
		h.lines = slices.Clone(lines)
		c.held = append(c.held, h)
		c.stream.bringsBeside(h)
	case !b.CommentOnly():
		c.beside.bringsNew(h, c.stream.buffer.Limits.Size)
	}
}

// isBehind reports whether a block of a connection that has taken over is one that the
// connection before has brought: this one was behind it.
func (c *intake) isBehind(b eventstream.Block, lines []byte) bool {
	if len(c.beside.old) == 0 || b.CommentOnly() {
		return false
	}
	if !c.beside.repeats(replay.HashBlock(lines, b.HasID, string(b.ID)), b.Dispatches()) {
		return false
	}
	c.repeats.Brought.SkipTo(b.ID, lines)
	return true
}

// isNewStream reports whether the connection is the first of a stream that is no
// splice, which nothing is known of.
func (c *intake) isNewStream() bool { return c.first && !c.stream.kind.beside }

// checkContinuity looks at the first ids of a connection that was asked to go on
// after one, and tells a gap if it did not. The stream's lock is held.
func (c *intake) checkContinuity(b eventstream.Block) {
	s := c.stream
	if len(b.ID) == 0 || s.succeeds() {
		return
	}
	id := string(b.ID)
	first := c.answer.IsFirst()
	c.answer.Add()
	if c.asked && !c.isNewStream() {
		c.compare(id)
	}
	s.said.numbers.Add(id, first)
	if !s.kind.beside {
		if d := s.said.toTell(); d != nil {
			c.tellSkipped(d.after, d.next, d.missed)
		}
	}
	s.root().judgeAnswers(id, s, time.Now())
}

// compare looks at an ID of a connection, of which the first two show something. The
// stream's lock is held.
func (c *intake) compare(id string) {
	s := c.stream
	counts := s.root().said.counts()
	if s.kind.beside && !counts {
		return
	}
	switch shows, missed := c.answer.Look(id, &s.said.numbers, s.kind.beside); {
	case shows == evidence.Skipped && !counts:
		s.said.lack(id, missed)
	case shows == evidence.Skipped:
		c.tellSkipped(s.said.lastID, id, missed)
	case shows == evidence.WentOn && s.comparing() != nil:
		s.comparing().WentOn()
	}
}

// tellSkipped tells the stream's subscribers that the upstream did not go on
// after an ID, but with another one. The stream's lock is held.
func (c *intake) tellSkipped(last, next string, missed int64) {
	s := c.stream
	after := s.newestID()
	switch st := s.comparing(); {
	case st != nil:
		after = s.openID
		st.skip()
	case s.said.showsIDs:
		after = last
	}
	s.logSkipped(last, next, missed)
	c.appendGap(s.gapEvent(GapUpstream, after, missed))
}

// checkRenumbered makes blocks of earlier connections unreachable by id when
// the upstream gives one of their ids to another block: it has begun anew. The
// stream's lock is held.
func (c *intake) checkRenumbered(b eventstream.Block, lines []byte) {
	s := c.stream
	other := evidence.Renumbered(&s.buffer, c.repeats.Start, s.said.lastID, b, lines)
	if other == nil {
		return
	}
	s.throttles().anew.Log(func(suppressed int) {
		s.Log().Warn("possible gap: upstream reused event IDs (did its counter restart?)",
			zap.String("id", shownID(other.ID)), zap.Int("suppressed", suppressed))
	})
	s.buffer.ForgetIDs(c.repeats.Start)
}

// TellGap tells all subscribers that blocks may be missing here. The stream's
// lock is held.
func (c *intake) tellGap() {
	s := c.stream
	s.throttles().possible.Log(func(suppressed int) {
		s.Log().Warn("possible gap: reconnected to an upstream that gives no event IDs",
			zap.Int("suppressed", suppressed))
	})
	Counts.Gaps.With(GapUpstream).Inc()
	c.appendGap(s.gapEvent(GapUpstream, s.newestID(), -1))
}

// appendGap appends a gap event, if it is not empty. The stream's lock is held.
func (c *intake) appendGap(wire []byte) {
	s := c.stream
	if len(wire) == 0 {
		return
	}
	wire = wire[:len(wire)-1] // the blank line comes after the id
	told := eventstream.Block{Lines: wire, HasData: true}
	if s.kind.beside {
		c.waitForRoom(told, wire)
	}
	if s.isGone() {
		return
	}
	b := c.wireBlock(wire, told)
	b.Told = true
	c.append(b)
}
