package caddysse

import (
	"bytes"
	"slices"
	"time"

	"go.uber.org/zap"
)

// When a splice may be merged into its stream: when both are seen to bring the
// same, so that a subscriber can go over from one to the other without losing
// or repeating anything. Whether two blocks are the same broadcast is a matter
// of evidence: their bytes, their ids, their times, their neighbours.

// trySplices looks whether splices can be merged, after s has got a block. The
// lock is held.
func (s *stream) trySplices(now time.Time) {
	if s.succeeds() {
		s.splice.parent.trySuccessor(now)
		return
	}
	if s.splice != nil {
		s.splice.parent.trySplice(s, now)
		return
	}
	for sp := range s.splices {
		s.trySplice(sp, now)
	}
	if s.successor != nil {
		s.trySuccessor(now)
	}
}

// trySplice merges a splice if it can be, gives it up if it cannot, and else
// sets when to look again.
func (s *stream) trySplice(sp *stream, now time.Time) {
	if sp.splice.merged || sp.phase == phaseGone {
		return
	}
	timeout := sp.splice.opened.Add(s.options.spliceTimeout)
	if s.phase != phaseLive || sp.phase != phaseLive {
		// One of them has no connection: nothing can be said.
		sp.splice.timer.Reset(max(timeout.Sub(now), splicePause))
		return
	}
	again := timeout
	if to, ok := s.meeting(sp, now, &again); ok {
		s.mergeSplice(sp, to)
		return
	}
	if s.quiet(sp, now, &again) {
		s.mergeSplice(sp, s.buffer.newest)
		return
	}
	if s.tellsItsOwn(sp, now, &again) {
		s.giveUpSplice(sp, "it brings events of its own")
		return
	}
	if !now.Before(timeout) {
		s.giveUpSplice(sp, "splice_timeout")
		return
	}
	sp.splice.timer.Reset(again.Sub(now))
}

// earliest makes *at the earlier of two times.
func earliest(at *time.Time, other time.Time) {
	if other.Before(*at) {
		*at = other
	}
}

// mergeSplice ends a splice: its subscribers go on in the stream after position
// to, when they were given what the splice has.
func (s *stream) mergeSplice(sp *stream, to uint64) {
	st := sp.splice
	st.merged, st.at, st.to = true, sp.buffer.newest, to
	s.readTo = min(s.readTo, to)
	after, _ := s.buffer.eventsAfter(to) // known: to is in the buffer
	st.events = s.buffer.events - after
	theMetrics.splices.WithLabelValues(spliceMerged).Inc()
	s.learned.unmerged = 0
	if st.answer != nil {
		st.answer.of = s
	}
	if next, skips := s.skips(sp); skips {
		st.skip()
		st.gap = s.gapEvent(gapUpstream, sp.openID, -1)
		s.logSkipped(sp.openID, next, -1)
	}
	if sp.openID == "" {
		if s.hasAllOf(sp) {
			s.learned.nothing++
		} else {
			s.learned.nothing = 0
		}
	}
	if c := s.log().Check(zap.DebugLevel, "splice merged"); c != nil {
		c.Write(zap.Uint64("position", to), zap.Duration("after", time.Since(st.opened)))
	}
	s.closeSplice(sp)
	sp.endLocked()
}

// giveUpSplice makes a splice private.
func (s *stream) giveUpSplice(sp *stream, why string) {
	s.learned.nothing = 0
	s.learned.unmerged++
	if s.learned.unmerged == enoughSplices {
		s.log().Warn("the upstream seems to tell each connection its own: newcomers get upstream connections of their own; "+
			"join live shares regardless, share off says that this is right", zap.String("reason", why))
	} else {
		s.options.lines.notMerged.log(func(suppressed int) {
			s.log().Info("splice not merged: it is private now", zap.String("reason", why), zap.Int("suppressed", suppressed))
		})
	}
	s.privatize(sp)
}

// meeting returns the position of the stream's block that is the splice's
// newest.
func (s *stream) meeting(sp *stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	b := sp.buffer.newestBlock()
	switch {
	case b == nil || !b.dispatches:
		return 0, false
	case b.id != "":
		return s.meetingByID(sp, b)
	}
	return s.meetingByRun(sp, now, again)
}

// meetingByID looks for the block with the same id, and the same bytes: a
// snapshot may carry the id of the last change. Old blocks do not count:
// counters that each connection has for itself repeat.
func (s *stream) meetingByID(sp *stream, b *block) (position uint64, ok bool) {
	var twin *block
	for _, k := range s.buffer.blocks {
		if k.id != b.id || k.commentOnly {
			continue
		}
		if twin != nil {
			return 0, false // which of them?
		}
		twin = k
	}
	if twin == nil || !twin.equal(b) || !near(twin, b) || !sp.isLive(twin) {
		return 0, false
	}
	return twin.position, true
}

// meetingByRun looks for the run of blocks that ends with the splice's newest.
func (s *stream) meetingByRun(sp *stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	ours, theirs := s.buffer.dispatched(), sp.buffer.dispatched()
	newest := theirs[len(theirs)-1]
	for i, k := range slices.Backward(ours) {
		if newest.at.Sub(k.at) > twinWindow {
			break
		}
		if near(k, newest) && k.equal(newest) && witnesses(ours, theirs, i) >= enoughWitnesses {
			return k.position, true
		}
	}
	return meetingOfEquals(ours, theirs, now, again)
}

// witnesses counts the blocks that show that theirs, to its end, are ours up to
// index i: those in the run of equal pairs there that occur once on either
// side.
func witnesses(ours, theirs []*block, i int) (n int) {
	for j := len(theirs) - 1; i >= 0 && j >= 0 && n < enoughWitnesses; i, j = i-1, j-1 {
		if !near(ours[i], theirs[j]) || !ours[i].equal(theirs[j]) {
			break
		}
		if occursOnce(ours, ours[i]) && occursOnce(theirs, theirs[j]) {
			n++
		}
	}
	return n
}

func occursOnce(blocks []*block, b *block) bool {
	for _, k := range blocks {
		if k != b && k.equal(b) {
			return false
		}
	}
	return true
}

// meetingOfEquals is for upstreams whose blocks are all the same, so that only
// their times tell them apart: the newest of both belong together if they came
// at the same time, and nothing came since.
func meetingOfEquals(ours, theirs []*block, now time.Time, again *time.Time) (position uint64, ok bool) {
	if len(ours) < enoughWitnesses || len(theirs) < enoughWitnesses {
		return 0, false
	}
	a, b := ours[len(ours)-1], theirs[len(theirs)-1]
	recent := func(blocks []*block) []*block {
		i := len(blocks) - enoughWitnesses
		for i > 0 && now.Sub(blocks[i-1].at) <= 2*twinWindow {
			i--
		}
		return blocks[i:]
	}
	for _, side := range [][]*block{recent(ours), recent(theirs)} {
		for _, k := range side {
			if !k.equal(b) {
				return 0, false
			}
		}
	}
	window := recent(theirs)
	interval := b.at.Sub(window[0].at) / time.Duration(len(window)-1)
	settle := min(interval/4, maxSettle)
	if apart(a, b) >= settle {
		return 0, false
	}
	settled := a.at.Add(settle)
	if b.at.After(a.at) {
		settled = b.at.Add(settle)
	}
	if now.Before(settled) {
		earliest(again, settled)
		return 0, false
	}
	return a.position, true
}

// quiet reports whether a splice has told its greeting, if any, and the stream
// has had nothing since the splice was opened, so that the splice is at the
// stream's newest block.
func (s *stream) quiet(sp *stream, now time.Time, again *time.Time) bool {
	if sp.full || s.full || !s.newestAt.Before(sp.splice.opened) {
		return false // the next block of the splice is there already, or the stream's
	}
	last := sp.headAt
	for _, at := range []time.Time{sp.newestAt, s.headAt} { // a new connection may still bring what was missed
		if at.After(last) {
			last = at
		}
	}
	pause := splicePause
	if sp.openID != "" {
		pause = resumePause
	}
	silent := last.Add(max(pause, 2*s.firstTime))
	if now.Before(silent) {
		earliest(again, silent)
		return false
	}
	return true
}

// tellsItsOwn reports whether a splice has brought a block after its greeting
// that the stream did not get.
func (s *stream) tellsItsOwn(sp *stream, now time.Time, again *time.Time) bool {
	st := sp.splice
	if st.paused == 0 {
		return false
	}
	for _, b := range sp.buffer.after(st.paused - 1) {
		if !b.commentOnly && !s.hasTwin(b) {
			due := b.at.Add(twinWindow)
			if now.After(due) {
				return true
			}
			earliest(again, due.Add(time.Millisecond))
			return false
		}
		st.paused = b.position + 1
	}
	return false
}

// hasTwin reports whether the stream got a block of a splice too, at about the
// same time.
func (s *stream) hasTwin(b *block) bool { return s.twin(b) != nil }

func (s *stream) twin(b *block) *block {
	for _, k := range slices.Backward(s.buffer.blocks) {
		if b.at.Sub(k.at) > twinWindow {
			return nil
		}
		if near(k, b) && k.equal(b) {
			return k
		}
	}
	return nil
}

// hasAllOf reports whether the stream got each block of a splice too, and not
// as what both connections were greeted with: at the same place in both.
func (s *stream) hasAllOf(sp *stream) bool {
	if sp.buffer.lost > 0 {
		return false
	}
	for _, b := range sp.buffer.blocks {
		if b.commentOnly {
			continue
		}
		if k := s.twin(b); k == nil || k.ordinal == b.ordinal || !sp.isLive(k) {
			return false
		}
	}
	return sp.begun
}

// isLive reports whether a block came to the stream after the splice had its
// head: only such a block can have been told to both. An older one is part of
// what the upstream greets with, and more of that may follow.
func (s *stream) isLive(k *block) bool { return s.headAt.Sub(k.at) <= maxSettle }

// equal reports whether the upstream sent the same bytes for two blocks.
func (k *block) equal(b *block) bool {
	return k.hasID == b.hasID && k.id == b.id && bytes.Equal(k.wire[:k.lines], b.wire[:b.lines])
}

// near reports whether two blocks can be the same broadcast.
func near(a, b *block) bool { return apart(a, b) <= twinWindow }

func apart(a, b *block) time.Duration { return a.at.Sub(b.at).Abs() }
