package stream

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// A splice, or a probe, beside its stream: what both bring is compared (see
// internal/evidence), until the splice is merged, given up, or each is seen to be told
// its own.

// pair is the stream and a connection beside it, to be compared. The lock is held.
func (s *Stream) pair(sp *Stream) evidence.Pair {
	return evidence.Pair{Stream: &s.track, Beside: &sp.track, Likeness: &sp.splice.Likeness, ID: sp.openID, Shared: s.shares()}
}

// brings takes note, before it is kept, of a block of a stream or a splice that
// is to be seen on the other. The lock is held.
func (s *Stream) brings(b *replay.Block) {
	if st := s.splice; st != nil {
		if !st.succeeds {
			st.parent.pair(s).Brings(b)
		}
		return
	}
	for sp := range s.splices {
		s.pair(sp).StreamBrings(b)
	}
}

// due is when a splice has had its time to be merged; zero: not before there is
// something to compare.
func (st *spliceState) due() time.Time {
	o := st.parent.options
	switch {
	case st.parent.shares():
		return st.since.Add(o.SpliceTimeout)
	case st.Active.IsZero():
		return time.Time{}
	}
	return st.Active.Add(o.SpliceTimeout)
}

// compareSplice goes on comparing what a stream and a splice have brought. It
// returns why each is told its own, "" if nothing shows that. The lock is held.
func (s *Stream) compareSplice(sp *Stream, now time.Time, again *time.Time) ownReason {
	st := sp.splice
	if s.conn != nil && st.Field == "" {
		st.Field = differingField(s.head, sp.head, s.options.Insignificant)
	}
	if s.pair(sp).Compare(now, again, st.probe) {
		return ownEvent
	}
	return ""
}

// differingField returns the name of a field in which two heads differ, unless
// it is known to be of one response; "" if there is none.
func differingField(a, b *Head, insignificant func(name string) bool) string {
	if a == nil || b == nil {
		return ""
	}
	return evidence.DifferingField(a.Header, b.Header, insignificant)
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
		if sp.track.HeadAt.IsZero() && !now.Before(timeout) && s.phase == phaseLive {
			sp.spliceFailed(Ending{})
			return
		}
		st.timer.Reset(max(timeout.Sub(now), evidence.Pause))
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
		evidence.Earliest(&again, at)
	case st.proves && s.sharing.barrier == 0:
		if _, ok := s.pair(sp).Together(now, &again); ok {
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
		if to, ok := s.pair(sp).Together(now, &again); ok {
			s.mergeSplice(sp, to)
			return
		}
	}
	if due := st.due(); !due.IsZero() {
		if !now.Before(due) {
			s.spliceTimedOut(sp, now)
			return
		}
		evidence.Earliest(&again, due)
	}
	st.timer.Reset(again.Sub(now))
}

// spliceTimedOut gives a splice up that could not be merged in its time.
func (s *Stream) spliceTimedOut(sp *Stream, now time.Time) {
	switch {
	case sp.splice.probe:
		s.probeFailed(sp)
	case sp.track.Full, now.Sub(sp.track.HeldAt) < evidence.TwinWindow:
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
	if next, skips := s.skips(sp, to); skips {
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
