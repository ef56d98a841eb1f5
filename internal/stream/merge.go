package stream

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A splice, or a probe, beside its stream: what both bring is compared (see
// internal/evidence), until the splice is merged, given up, or each is seen to be told
// its own.

// trySplice merges a splice if it can be, gives it up if it cannot, and else
// sets when to look again.
func (s *Stream) trySplice(sp *Stream, now time.Time) {
	st := sp.splice
	if st.merged || sp.isGone() {
		return
	}
	timeout := st.opened.Add(s.options.SpliceTimeout)
	if !s.isLive() || !sp.isLive() {
		// One of them has no connection: nothing can be said.
		if !sp.isHeaded() && !now.Before(timeout) && s.isLive() {
			sp.spliceFailed(upstreams.Ending{})
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
	if sp.isGone() { // it was a probe of the trial
		return
	}
	same := (!st.probe || st.proves) && s.greetedAsAll(sp, now, &again)
	switch at := sp.greetedAt(); {
	case sp.isGone():
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
			s.spliceTimedOut(sp)
			return
		}
		evidence.Earliest(&again, due)
	}
	st.timer.Reset(again.Sub(now))
}

// spliceTimedOut gives a splice up that could not be merged in its time.
func (s *Stream) spliceTimedOut(sp *Stream) {
	switch {
	case sp.isProbe():
		s.probeFailed(sp)
	case sp.track.WasHeld():
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
	s.pace.readFrom(to)
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
	s.endSplice(sp)
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

// closeTime is how long an application that holds one connection is given to
// notice that it is closed, before it is asked for another one.
const closeTime = 500 * time.Millisecond

// breakTime is how long the client of a splice that could not reach the application
// waits for the answer: the stream's own connection may break as well. Then the
// application is being restarted, and the client waits for it with the others.
const breakTime = 500 * time.Millisecond

// isUnreached reports whether nobody was there to answer.
func isUnreached(end upstreams.Ending) bool {
	return end.Status == http.StatusBadGateway || end.Status == http.StatusGatewayTimeout || (end.Status == 0 && end.Err != nil)
}

// spliceFailed takes note that the connection of a splice ended before it had a
// head: its place is free, and its clients are given the upstream's own answer.
// They may join at the newest event if the application seems to hold one
// connection only, and if nobody but the first of them has the stream it is
// closed for that. The lock is held.
func (s *Stream) spliceFailed(end upstreams.Ending) {
	if s.splice == nil { // left to its client meanwhile
		for _, sub := range s.readers() {
			sub.finishFor(EndPerClient)
		}
		s.endLocked()
		return
	}
	parent := s.splice.parent
	if s.isProbe() {
		parent.probeFailed(s)
		return
	}
	now := time.Now()
	hung := end.Status == 0 && end.Err == nil
	full := hung || end.Status == http.StatusConflict || end.Status == http.StatusTooManyRequests || end.Status == http.StatusServiceUnavailable
	alone := full
	for sub := range parent.subscribers() {
		alone = alone && (sub.waiting || (sub.stream != parent && !sub.stream.isMerged()))
	}
	joins := full && !parent.spliced && parent.shares()
	for _, sub := range s.readers() {
		switch {
		case joins:
			s.dropSubscriber(sub)
			sub.stream = parent
			parent.tellRefused(sub)
			parent.joinAt(sub, parent.buffer.Newest)
		case sub.released: // has a head, from when the stream was broken
			sub.finishAt(sub.cursor, EndBroken)
		case alone:
			sub.finishFor(EndAskAgain)
		case hung && !parent.shares():
			sub.finishFor(EndNoSecond)
		case isUnreached(end) && !parent.isLive():
			parent.waitAgain(sub)
		case isUnreached(end):
			sub.finishFor(EndPerClient).from = now.Add(breakTime)
		default:
			sub.finishFor(EndPerClient)
		}
	}
	if c := s.Log().Check(zap.DebugLevel, "splice refused"); c != nil {
		c.Write(zap.Int("status", end.Status), zap.Duration("after", now.Sub(s.splice.opened)), zap.Bool("joins", joins), zap.Bool("alone", alone))
	}
	Counts.Splices.With(SplicePrivate).Inc()
	parent.closeSplice(s)
	if alone && !joins {
		parent.close()
		parent.endLocked()
		for sub := range parent.subscribers() {
			if sub.finish() == EndAskAgain {
				sub.ending.from = now.Add(closeTime)
			}
		}
	}
	s.endLocked()
	s.hub.untrack(s)
}

// tellRefused tells a client that joins at the newest event, because its splice was
// refused, what it does not get: the greeting, or what came after its ID.
func (s *Stream) tellRefused(sub *Subscriber) {
	if sub.id() == "" || s.isCurrent(sub.id()) {
		sub.resumption().outcome += "; greeting=none"
		return
	}
	gap := Gap{GapUpstream, sub.id(), s.missed(sub.id())}
	s.logGap(gap)
	sub.resumption().outcome = ResumeGap
	sub.tellFirst(gap.Event(s.options.GapEvent))
}

// probeFailed takes note that a probe has ended, which has shown nothing.
func (s *Stream) probeFailed(sp *Stream) {
	now := time.Now()
	if t := s.sharing.trial; t != nil && (t.x == sp || t.y == sp) {
		s.trialFailed(now)
	}
	if !sp.isGone() {
		s.endProbe(sp)
	}
	if sp.splice.proves {
		s.endBarred()
	}
}
