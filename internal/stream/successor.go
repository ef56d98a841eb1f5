package stream

import (
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// overlap is how long a successor that goes on after an ID has to meet the
// stream. Without, the stream goes on after that ID.
const overlap = time.Second

// meetingTime is how long one without an ID has, and one that does not go on after its ID.
// Without, the stream goes
// on with it after a gap that is told.
const meetingTime = 4 * time.Second

// openSuccessor opens an upstream connection with the newest handlers beside
// the stream's own, unless there is one. The lock is held.
func (s *Stream) openSuccessor() {
	if sp := s.successor; sp != nil && sp.source == s.source && !sp.isGone() {
		return // another handler of the same configuration was cleaned up
	}
	s.dropSuccessor()
	if s.conn == nil || s.follows() || !s.conn.source.Retired() || s.source.Retired() || s.endsWithClients() {
		return
	}
	id := s.said.lastID
	if !replay.Sendable(id) {
		id = ""
	}
	s.buffer.Indexed()
	sp := s.newSplice(id, "")
	sp.splice.succeeds = true
	sp.buffer.Indexed()
	s.successor, s.brought, s.asksWith = sp, evidence.BroughtSince(&s.buffer, id), evidence.HashWith(&s.buffer, id)
	sp.splice.timer = time.AfterFunc(math.MaxInt64, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.successor == sp {
			s.trySuccessor(time.Now())
		}
	})
	sp.startLocked(id)
}

// trySuccessor lets the successor take over if it is at the same point as the
// stream, or has had its time. The lock is held.
func (s *Stream) trySuccessor(now time.Time) {
	sp := s.successor
	if !sp.isLive() || sp.conn.ended {
		return
	}
	if s.isBroken() {
		s.takeOver(sp)
		return
	}
	if !s.isLive() {
		return
	}
	resumed := sp.conn.resumed
	again := sp.track.HeadAt.Add(meetingTime)
	if resumed && !sp.splice.leavesOut() {
		again = sp.track.HeadAt.Add(overlap)
	}
	due := again
	if to, ok := s.pair(sp).Meeting(now, &again); ok {
		s.takeOverAt(sp, to)
		return
	}
	quiet := !resumed && s.pair(sp).Quiet(now, &again)
	if quiet && !sp.conn.beside.isAhead(&s.track) {
		s.takeOverAt(sp, s.buffer.Newest)
		return
	}
	if quiet || sp.track.Full || !now.Before(due) {
		s.takeOver(sp)
		return
	}
	sp.splice.timer.Reset(again.Sub(now))
}

// replaced lets the successor take over from a connection that has ended, if
// it can. The lock is held.
func (s *Stream) replaced() bool {
	sp := s.successor
	if sp == nil {
		return false
	}
	if !sp.isLive() || sp.conn.ended {
		s.dropSuccessor() // there is to be one attempt at a time
		return false
	}
	s.takeOver(sp)
	return true
}

// takeOverAt lets the stream go on with its successor, which has brought the
// block at position to last.
func (s *Stream) takeOverAt(sp *Stream, to uint64) {
	same := s.track.GreetsAsBefore(&sp.conn.seen)
	c := s.succeed(sp)
	if !same || s.sharing.renewed {
		s.unprove()
	}
	c.repeats.Reached(to)
	c.held, c.beside = nil, beside{}
}

// takeOver lets the stream go on with its successor as with a connection that
// was opened after the last one broke: after the ID that it was asked with, or from
// now on. What it has brought until now beside the old one is not given twice.
func (s *Stream) takeOver(sp *Stream) {
	same := s.track.GreetsAsBefore(&sp.conn.seen)
	leavesOut := sp.conn.resumed && sp.splice.leavesOut() && !s.said.counts() // of those the first ID tells
	c := s.succeed(sp)
	if !same || s.sharing.renewed {
		s.unprove()
	}
	held, old := c.held, beside{old: c.beside.old}
	if !c.resumed {
		held = c.beside.rest()
		c.tellGap()
		s.keepState(sp)
	} else if leavesOut {
		c.tellSkipped(s.said.lastID, sp.splice.begins, -1)
		c.asked = false // so that its ids do not tell it again
	}
	c.held, c.beside, c.blocks = nil, beside{}, 0
	for _, h := range held {
		if c.resumed && c.repeats.IsAwaited() && c.broughtToo(h, &old) {
			c.dropped++
			continue
		}
		if c.take(h.block, h.lines) != nil {
			return
		}
	}
	c.beside = old // which has nothing of what was held, but may have what comes
}

// keepState takes over what the blocks of a successor have set that are not given.
func (s *Stream) keepState(sp *Stream) {
	s.said.keep(&sp.said, sp.openID)
	if sp.said.hasRetry {
		s.attempts.wait(sp.said.retry)
	}
}

// broughtToo reports whether a block without an id is one that the connection before has
// brought: the next one after the ID that this one was asked with, or one that came beside it.
func (c *intake) broughtToo(h heldBlock, old *beside) bool {
	if h.block.HasID || h.block.CommentOnly() {
		return false
	}
	isNext, isBeside := c.repeats.Brought.Next(h.lines), old.repeats(h.hash, false) // it may be in both
	if isBeside && !isNext {
		c.repeats.Brought.SkipTo(nil, h.lines)
	}
	return isNext || isBeside
}

// succeed makes the connection of a successor the stream's.
func (s *Stream) succeed(sp *Stream) *intake {
	c, old := sp.conn, s.conn
	c.repeats.Brought, c.repeats.With = s.brought, s.asksWith
	s.successor, s.brought = nil, nil
	s.dropIndex()
	sp.splice.timer.Stop()
	sp.phase = phaseGone
	sp.freeBuffer()

	old.over = true
	s.cancel()
	s.cancel = sp.cancel
	s.setConn(c)
	c.stream, c.first, c.repeats.Start = s, false, s.buffer.Newest
	s.phase = phaseLive
	s.takeHead(sp.head)
	s.track.GoOn(&sp.track)
	for beside := range s.splices {
		s.pair(beside).StreamSucceeded()
	}
	s.fresh = false
	s.said.join(&sp.said)
	s.learned = learned{}
	s.attempts.replaced(time.Now())
	s.dropHurry()
	s.Log().Info("upstream connection moved to the new configuration", zap.Bool("resumed", c.resumed))
	sp.makeRoom()
	s.makeRoom() // for the old connection, which finds that it is over
	s.seats.ring()
	s.wakeLocked()
	return c
}

// successorEnded decides what follows the end of a successor's connection: the
// stream has its own, so there is time. The lock is held.
func (s *Stream) successorEnded(end upstreams.Ending) (delay time.Duration, again bool) {
	parent := s.splice.parent
	log := s.Log().With(zap.Int("status", end.Status), zap.NamedError("reason", end.Err))
	switch {
	case s.source.Retired():
		parent.dropSuccessor()
		return 0, false
	case !end.Retriable():
		log.Warn("upstream of the new configuration does not continue the stream")
		parent.dropSuccessor()
		s.hub.spawn(func() { // it needs the hub's lock, which comes first
			s.hub.remove(parent)
			s.hub.markUnshareable(parent.Key, unshareableTime, Private{Reason: PrivateNoStream})
			parent.leave(EndRefused)
		})
		return 0, false
	}
	s.phase = phaseBroken
	s.track.HeadAt, s.track.NewestAt = time.Time{}, time.Time{}
	s.freeBuffer()
	s.buffer.Indexed()
	s.splice.opened = time.Now()
	delay, _ = s.attempts.next(s.splice.opened, math.MaxInt64, end.RetryAfter)
	log.Warn("upstream of the new configuration cannot be reached: trying again", zap.Duration("in", delay))
	return delay, true
}
