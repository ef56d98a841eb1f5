package stream

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// When a splice may be merged into its stream: when both are seen to bring the
// same, so that a subscriber can go over from one to the other without losing
// or repeating anything. Whether two blocks are the same broadcast is a matter
// of evidence: their bytes, their ids, their times, their neighbours.

const (
	// maxSteps is how many blocks are looked at, each time that runs are compared
	// for a splice, and after how many in attemptWindow it is left for later: it is
	// done while the reader of the upstream waits.
	attemptWindow = 5 * time.Millisecond
	maxSteps      = 512
)

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
	for sp := range s.splices {
		s.trySplice(sp, now)
	}
	if s.successor != nil {
		s.trySuccessor(now)
	}
}

// trySplice merges a splice if it can be, gives it up if it cannot, and else
// sets when to look again.
func (s *Stream) trySplice(sp *Stream, now time.Time) {
	st := sp.splice
	if st.merged || sp.phase == phaseGone {
		return
	}
	timeout := st.opened.Add(s.options.SpliceTimeout)
	if s.phase != phaseLive || sp.phase != phaseLive {
		// One of them has no connection: nothing can be said.
		if sp.headAt.IsZero() && !now.Before(timeout) && s.phase == phaseLive {
			sp.spliceFailed(Ending{})
			return
		}
		st.timer.Reset(max(timeout.Sub(now), splicePause))
		return
	}
	again := now.Add(s.options.SpliceTimeout)
	why := s.compareSplice(sp, now, &again)
	if why == "" {
		why = s.judgeTrial(now, &again)
	}
	if why != "" {
		s.ownsApart(sp, why)
		return
	}
	if sp.phase == phaseGone { // it was a probe of the trial
		return
	}
	same := (!st.probe || st.proves) && s.greetedAsAll(sp, now, &again)
	switch at := sp.greetedAt(); {
	case sp.phase == phaseGone:
		return
	case !same:
	case now.Before(at):
		earliest(&again, at)
	case st.proves && s.sharing.barrier == 0:
		if _, ok := s.together(sp, now, &again); ok {
			s.endProbe(sp)
			s.prove()
			return
		}
	case st.proves: // that events are for all was seen before
		s.endProbe(sp)
		s.prove()
		return
	case st.probe:
	default:
		if to, ok := s.together(sp, now, &again); ok {
			s.mergeSplice(sp, to)
			return
		}
	}
	if due := st.due(); !due.IsZero() {
		if !now.Before(due) {
			s.spliceTimedOut(sp, now)
			return
		}
		earliest(&again, due)
	}
	st.timer.Reset(again.Sub(now))
}

// spliceTimedOut gives a splice up that could not be merged in its time.
func (s *Stream) spliceTimedOut(sp *Stream, now time.Time) {
	switch {
	case sp.splice.probe:
		s.probeFailed(sp)
	case sp.full, now.Sub(sp.heldAt) < twinWindow:
		s.privatize(sp) // its clients have held it up: that says nothing of the upstream
	default:
		s.giveUpSplice(sp, "splice_timeout")
	}
}

// ownsApart takes note that a splice was told its own.
func (s *Stream) ownsApart(sp *Stream, why ownReason) {
	if s.compares() {
		s.perConnection(why)
		return
	}
	s.giveUpSplice(sp, "it brings events of its own")
}

// together returns the position of the stream at which the splice is.
func (s *Stream) together(sp *Stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	if to, ok := s.meeting(sp, now, again); ok && s.isUpTo(sp, to, now) {
		return to, true
	}
	if s.quiet(sp, now, again) && (s.shares() || s.greetedAlike(sp)) {
		return s.buffer.Newest, true
	}
	return 0, false
}

// isUpTo reports whether a splice is not behind a stream that is not proven, at a
// position, by more than two connections are that are told the same: what the
// stream has got since is to come to the splice, too.
func (s *Stream) isUpTo(sp *Stream, position uint64, now time.Time) bool {
	if s.shares() {
		return true
	}
	for _, b := range s.buffer.After(position) {
		if b.Says() && !b.Told {
			return now.Sub(b.At) <= s.skew(sp)
		}
	}
	return true
}

// greetedAlike reports whether stream and splice were greeted, and with the same.
func (s *Stream) greetedAlike(sp *Stream) bool {
	return s.conn != nil && s.conn.hello && len(s.conn.greeting) < maxGreeting && slices.Equal(s.conn.greeting, sp.conn.greeting)
}

// earliest makes *at the earlier of two times.
func earliest(at *time.Time, other time.Time) {
	if other.Before(*at) {
		*at = other
	}
}

// mergeSplice ends a splice: its subscribers go on in the stream after position
// to, when they were given what the splice has.
func (s *Stream) mergeSplice(sp *Stream, to uint64) {
	st := sp.splice
	st.merged, st.at, st.to = true, sp.buffer.Newest, to
	s.readTo = min(s.readTo, to)
	after, _ := s.buffer.EventsAfter(to) // known: to is in the buffer
	st.events = s.buffer.Events - after
	Counts.Splices.With(SpliceMerged).Inc()
	s.learned.unmerged = 0
	if st.answer != nil {
		st.answer.of = s
	}
	s.prove()
	if next, skips := s.skips(sp, to, st.brought); skips {
		st.skip()
		st.gap = s.gapEvent(GapUpstream, sp.openID, -1)
		s.logSkipped(sp.openID, next, -1)
	}
	if c := s.Log().Check(zap.DebugLevel, "splice merged"); c != nil {
		c.Write(zap.Uint64("position", to), zap.Duration("after", time.Since(st.opened)))
	}
	s.closeSplice(sp)
	sp.endLocked()
}

// giveUpSplice makes a splice private.
func (s *Stream) giveUpSplice(sp *Stream, why string) {
	s.learned.unmerged++
	if s.learned.unmerged == enoughSplices {
		s.Log().Warn("upstream seems to send each connection something different: new clients get connections of their own "+
			"(override with join live, confirm with share off)", zap.String("reason", why))
	} else {
		s.options.Lines.notMerged.Log(func(suppressed int) {
			s.Log().Info("splice not merged: it is private now", zap.String("reason", why), zap.Int("suppressed", suppressed))
		})
	}
	s.privatize(sp)
}

// meeting returns the position of the stream's block that is the splice's
// newest.
func (s *Stream) meeting(sp *Stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	b := sp.buffer.NewestBlock()
	if b == nil || !b.Dispatches {
		return 0, false
	}
	if n, _ := s.buffer.Twins(b.Hash); n == 0 {
		return 0, false // nothing else is as fast to tell
	}
	if b.ID != "" {
		return s.meetingByID(sp, b)
	}
	if !sp.splice.mayAttempt(now, again) {
		return 0, false
	}
	return s.meetingByRun(sp, now, again)
}

// mayAttempt bounds how much is looked at to find a meeting by comparing runs.
func (st *spliceState) mayAttempt(now time.Time, again *time.Time) bool {
	if now.Sub(st.attemptsAt) >= attemptWindow {
		st.steps, st.attemptsAt = 0, now
	}
	if st.steps < maxSteps {
		return true
	}
	earliest(again, st.attemptsAt.Add(attemptWindow))
	return false
}

// meetingByID looks for the block with the same id, and the same bytes: a
// snapshot may carry the id of the last change. Old blocks do not count:
// counters that each connection has for itself repeat.
func (s *Stream) meetingByID(sp *Stream, b *replay.Block) (position uint64, ok bool) {
	n, twin := s.buffer.WithID(b.ID)
	if n != 1 || !twin.Equal(b) || !s.near(sp, twin, b) || !sp.isLive(twin) || !s.counts(sp, b) {
		return 0, false
	}
	return twin.Position, true
}

// meetingByRun looks for the run of blocks that ends with the splice's newest.
func (s *Stream) meetingByRun(sp *Stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	if i, last, ok := s.alignment(sp); ok {
		k, newest := s.buffer.Blocks[i], sp.buffer.Blocks[last]
		if newest.At.Sub(k.At) <= twinWindow && s.witnessed(sp, i, last) {
			return k.Position, true
		}
	}
	return s.meetingOfEquals(sp, now, again)
}

// alignment returns which block of the stream is the splice's newest event, last, if
// both bring the same: as far after the newest witness, a block that occurs once on
// either side. Without one there is nothing to be seen.
func (s *Stream) alignment(sp *Stream) (i, last int, ok bool) {
	theirs, after := sp.buffer.Blocks, 0
	last = -1
	for j, b := range slices.Backward(theirs) {
		if sp.splice.steps++; len(theirs)-j > maxSteps {
			return 0, 0, false
		}
		if !b.Dispatches {
			continue
		}
		if last < 0 {
			last = j
		}
		n, k := s.buffer.Twins(b.Hash)
		switch {
		case n == 0, !s.counts(sp, b):
			return 0, 0, false // the stream has not got it yet, or it may be how each begins
		case n == 1 && sp.buffer.OccursOnce(b):
			i, ok = s.eventsAfter(sp, k, after)
			return i, last, ok
		}
		after++
	}
	return 0, 0, false
}

// eventsAfter returns the index of the event that came to the stream n events after a
// block, for a splice; false if it has not come yet.
func (s *Stream) eventsAfter(sp *Stream, k *replay.Block, n int) (i int, ok bool) {
	blocks := s.buffer.Blocks
	i = len(blocks) - len(s.buffer.After(k.Position)) - 1
	for n > 0 {
		sp.splice.steps++
		if i++; i == len(blocks) {
			return 0, false
		}
		if blocks[i].Dispatches {
			n--
		}
	}
	return i, true
}

// witnessed reports whether it shows that the splice's block j, to its end, is the
// stream's block i: by three pairs in a row of blocks that occur once on either
// side, or by one that came after a pause on both.
func (s *Stream) witnessed(sp *Stream, i, j int) bool {
	ours, theirs := s.buffer.Blocks, sp.buffer.Blocks
	n := 0
	for range maxSteps {
		for i >= 0 && !ours[i].Dispatches {
			i--
		}
		for j >= 0 && !theirs[j].Dispatches {
			j--
		}
		if i < 0 || j < 0 || !s.near(sp, ours[i], theirs[j]) || !ours[i].Equal(theirs[j]) {
			return false
		}
		if s.counts(sp, theirs[j]) && s.buffer.OccursOnce(ours[i]) && sp.buffer.OccursOnce(theirs[j]) {
			n++
			if n >= enoughWitnesses || (ours[i].AfterPause && apart(ours[i], theirs[j]) <= 2*maxSettle && sp.isLive(ours[i]) &&
				(theirs[j].AfterPause || theirs[j].Ordinal == 1)) {
				return true
			}
		}
		i, j = i-1, j-1
	}
	return false
}

// meetingOfEquals is for upstreams whose blocks are all the same, so that only
// their times tell them apart: the newest of both belong together if they came
// at the same time, and nothing came since.
func (s *Stream) meetingOfEquals(sp *Stream, now time.Time, again *time.Time) (position uint64, ok bool) {
	ours, ok := recentEquals(&s.buffer, now)
	if !ok {
		return 0, false
	}
	theirs, ok := recentEquals(&sp.buffer, now)
	if !ok {
		return 0, false
	}
	a, b := ours.newest, theirs.newest
	if !a.Equal(b) {
		return 0, false
	}
	interval := b.At.Sub(theirs.oldest.At) / time.Duration(theirs.count-1)
	settle := min(interval/4, maxSettle)
	if apart(a, b) >= settle {
		return 0, false
	}
	settled := later(a.At, b.At).Add(settle)
	if now.Before(settled) {
		earliest(again, settled)
		return 0, false
	}
	return a.Position, true
}

// equals are the newest events of a buffer, all the same.
type equals struct {
	newest, oldest *replay.Block
	count          int
}

// recentEquals returns the events of the last two twinWindows, at least
// enoughWitnesses, if they are all the same and not too many to be told apart by
// their times.
func recentEquals(f *replay.Buffer, now time.Time) (e equals, ok bool) {
	for _, b := range slices.Backward(f.Blocks) {
		if !b.Dispatches {
			continue
		}
		if e.count >= enoughWitnesses && now.Sub(b.At) > 2*twinWindow {
			break
		}
		if e.newest == nil {
			e.newest = b
		}
		if !b.Equal(e.newest) || e.count >= maxSteps {
			return e, false
		}
		e.oldest = b
		e.count++
	}
	return e, e.count >= enoughWitnesses
}

// quiet reports whether a splice has told its greeting, if any, and the stream
// has had nothing since the splice was opened, so that the splice is at the
// stream's newest block.
func (s *Stream) quiet(sp *Stream, now time.Time, again *time.Time) bool {
	if sp.full || s.full || s.said != sp.splice.said {
		return false // the next block of the splice is there already, or the stream's
	}
	last := later(later(sp.headAt, sp.newestAt), s.headAt) // a new connection may still bring what was missed
	last = later(last, later(sp.heldAt, s.heldAt))         // and so may one that was not read
	pause := splicePause
	if sp.openID != "" {
		pause = resumePause
	}
	silent := last.Add(max(pause, s.greetingTime()))
	if now.Before(silent) {
		earliest(again, silent)
		return false
	}
	return true
}

// isLive reports whether a block came to the stream after the splice had its
// head: only such a block can have been told to both. An older one is part of
// what the upstream greets with, and more of that may follow.
func (s *Stream) isLive(k *replay.Block) bool { return s.headAt.Sub(k.At) <= maxSettle }

// near reports whether two blocks can be the same broadcast. On connections that
// were opened shortly one after the other what each does by itself comes as far
// apart as they were opened.
func (s *Stream) near(sp *Stream, k, b *replay.Block) bool { return apart(k, b) <= s.skew(sp) }

// counts reports whether a block of a splice can show that both are told the same.
// What came earlier may be how each connection begins, though they begin alike.
func (s *Stream) counts(sp *Stream, b *replay.Block) bool {
	return s.shares() || !b.At.Before(sp.greetedAt())
}

// skew is how far apart stream and splice may be told the same.
func (s *Stream) skew(sp *Stream) time.Duration {
	if s.shares() || s.conn == nil || sp.conn == nil {
		return twinWindow
	}
	return min(twinWindow, sp.conn.began.Sub(s.conn.began).Abs()/2, sp.headAt.Sub(s.headAt).Abs()/2)
}

func apart(a, b *replay.Block) time.Duration { return a.At.Sub(b.At).Abs() }
