package stream

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
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
	if s.conn == nil || !s.conn.asked {
		return ""
	}
	return s.conn.openID
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
		case sp.isGone(), sp.splice == nil:
			s.trialFailed(now)
			return ""
		case !sp.isLive(), at.IsZero():
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

// addSplice makes a splice, or a probe, of a stream.
func (s *Stream) addSplice(id, param string) *Stream {
	s.buffer.Indexed()
	sp := s.newSplice(id, param)
	sp.buffer.Indexed()
	s.splices[sp] = struct{}{}
	sp.splice.timer = time.AfterFunc(s.options.SpliceTimeout, func() {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		switch {
		case sp.isGone():
		case sp.splice != nil:
			s.trySplice(sp, time.Now())
		case sp.left != nil:
			s.decide(sp, time.Now())
		}
	})
	return sp
}

// askForProof opens a probe that is to show whether the stream's new connection
// is shared, unless there is one.
func (s *Stream) askForProof() {
	if s.sharing.barrier == 0 || s.sharing.asked || !s.isLive() || s.source.Retired() {
		return
	}
	s.sharing.asked = true
	s.openProbe(s.lastSentID(), "").splice.proves = true
}

// proveAgain looks whether the first block of a new connection shows that the
// stream goes on as before; else it opens a probe, if anybody waits for that. The
// lock is held.
func (s *Stream) proveAgain(c *intake, continues bool) {
	if s.sharing.proven || s.sharing.barrier == 0 || s.sharing.asked || s.isExclusive() || !s.compares() {
		return
	}
	quiet := c.blocks == 0 && time.Since(s.track.HeadAt) >= s.greetingTime()
	if (continues || quiet) && !s.sharing.renewed {
		s.prove() // it was greeted with nothing, or asked to go on and has
		return
	}
	if s.isFollowed() {
		s.askForProof()
		return
	}
	for sub := range s.subscribers() {
		if sub.stream == s && sub.barred() && (!sub.waiting || sub.released) {
			s.askForProof()
			return
		}
	}
}

// goesOn reports whether a block shows that a later connection goes on where the
// last one was lost: after the ID that it was asked to go on after, or after
// blocks that it has repeated.
func (c *intake) goesOn(b eventstream.Block) bool {
	if c.dropped > 0 {
		return true
	}
	return c.resumed && c.answer.IsFirst() && c.blocks == 0 && c.stream.said.numbers.IsNext(string(b.ID))
}
