package stream

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
)

// Trials: two connections opened at the same moment, to be compared; see
// sharing.go. A probe is one that has no clients.

// openProbe opens an upstream connection that has no clients, to be compared with
// one that was opened with the same last event ID.
func (s *Stream) openProbe(id, param string) *Stream {
	sp := s.addSplice(id, param)
	sp.splice.probe = true
	sp.startLocked(id)
	return sp
}

// lastSentID is the ID with which the stream's newest connection was opened.
func (s *Stream) lastSentID() string {
	if s.conn == nil || !s.conn.Asked {
		return ""
	}
	return s.conn.openID
}

// endProbe gives a probe up.
func (s *Stream) endProbe(sp *Stream) {
	s.closeSplice(sp)
	sp.endLocked()
	s.hub.untrack(sp)
}

// endTrial gives the trial up, and the probes that were opened for it. The splices
// that have waited for what it shows go on.
func (s *Stream) endTrial() {
	t := s.sharing.trial
	s.sharing.trial = nil
	if t == nil {
		return
	}
	for _, sp := range []*Stream{t.x, t.y} {
		if sp.splice != nil && sp.splice.probe && !sp.splice.proves && sp.phase != phaseGone {
			s.endProbe(sp)
		}
	}
	for sp := range s.splices {
		sp.splice.timer.Reset(0)
	}
}

// hurryTrial opens a probe beside a splice that has been brought something that
// its stream was not: at the same moment, nearly.
func (s *Stream) hurryTrial(sp *Stream, now time.Time, again *time.Time) {
	st := sp.splice
	if s.sharing.trial != nil || s.sharing.trials > 0 || st.hurried || sp.conn == nil {
		return
	}
	first, ok := st.Unseen()
	if !ok || first.Sub(sp.conn.seen.Began) > sameMoment || s.source.Retired() {
		return
	}
	at := first.Add(evidence.MaxSettle)
	if now.Before(at) {
		evidence.Earliest(again, at)
		return
	}
	st.hurried = true
	if now.Sub(at) < evidence.MaxSettle {
		s.sharing.trials++
		s.sharing.trial = &trial{x: sp, y: s.openProbe(sp.openID, sp.IDParam)}
	}
}

// tryAnew opens two probes at once.
func (s *Stream) tryAnew(sp *Stream, now time.Time, again *time.Time) {
	switch {
	case s.source.Retired():
		return
	case now.Before(s.sharing.after):
		evidence.Earliest(again, s.sharing.after)
		return
	}
	s.sharing.trials++
	s.sharing.trial = &trial{x: s.openProbe(sp.openID, sp.IDParam), y: s.openProbe(sp.openID, sp.IDParam)}
}

// dropTrialOf gives up the trial that a splice is part of: it has shown enough.
func (s *Stream) dropTrialOf(sp *Stream) {
	if t := s.sharing.trial; t != nil && (t.x == sp || t.y == sp) {
		s.endTrial()
	}
}

// judgeTrial compares the two connections of the trial, when both have had their
// time. It returns why each is told its own. The lock is held.
func (s *Stream) judgeTrial(now time.Time, again *time.Time) ownReason {
	t := s.sharing.trial
	if t == nil {
		return ""
	}
	for _, sp := range []*Stream{t.x, t.y} {
		at := sp.greetedAt()
		switch {
		case sp.phase == phaseGone, sp.splice == nil:
			s.trialFailed(now)
			return ""
		case sp.phase != phaseLive, at.IsZero():
			return ""
		case now.Before(at):
			evidence.Earliest(again, at)
			return ""
		case !sp.splice.Compared():
			return ""
		}
	}
	x, y := t.x.splice, t.y.splice
	field := differingField(t.x.head, t.y.head, s.options.Insignificant)
	switch {
	case x.Unknown, y.Unknown:
		s.trialFailed(now)
	case field == "" && slices.Equal(x.Own, y.Own):
		s.sharing.snapshot = true // before those who wait look
		s.endTrial()
	case s.cameBetween(t), field == "" && begins(x.Own, y.Own):
		s.trialFailed(now) // the one that has brought less may not be at the end of its greeting
	case slices.Equal(x.Own, y.Own):
		return ownHead
	default:
		return ownGreeting
	}
	return ""
}

// begins reports whether one of two greetings is the beginning of the other.
func begins(a, b []uint64) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

// cameBetween reports whether the stream got something while the connections of
// a trial were greeted: the state may have changed between.
func (s *Stream) cameBetween(t *trial) bool {
	asked := t.x.conn.seen.Began
	if t.y.conn.seen.Began.Before(asked) {
		asked = t.y.conn.seen.Began
	}
	asked = asked.Add(-2 * evidence.MaxSettle)
	last := evidence.Later(t.x.splice.GreetedLast, t.y.splice.GreetedLast).Add(2 * evidence.MaxSettle)
	for _, b := range slices.Backward(s.buffer.Blocks) {
		if b.At.Before(asked) {
			break
		}
		if b.Says() && !b.Told && !b.At.After(last) {
			return true
		}
	}
	return false
}

// trialFailed gives up a trial that has shown nothing.
func (s *Stream) trialFailed(now time.Time) {
	s.endTrial()
	s.sharing.after = now.Add(trialPause << min(s.sharing.trials, maxTrials))
}

// greetedAsAll reports whether a splice is known to have been greeted with what
// everybody is greeted with. It opens probes if it takes others to tell. The lock
// is held.
func (s *Stream) greetedAsAll(sp *Stream, now time.Time, again *time.Time) bool {
	st := sp.splice
	if !s.compares() || s.sharing.snapshot {
		return true
	}
	s.hurryTrial(sp, now, again)
	at := sp.greetedAt()
	switch {
	case at.IsZero():
		return false
	case now.Before(at):
		evidence.Earliest(again, at)
		return false
	case !st.Compared():
		return false
	case st.Unknown: // others may tell
	case len(st.Own) == 0 && st.Field == "":
		s.dropTrialOf(sp)
		return true
	}
	if s.sharing.trial == nil {
		s.tryAnew(sp, now, again)
	}
	return false
}
