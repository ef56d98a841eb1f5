package stream

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// How a stream ends, and a connection beside it; and how its subscribers are let go.
// One thing ends another, so all of it is here. Streams are not ended elsewhere.

// isPrivateFor takes note why a stream is private, once. The lock is held.
func (s *Stream) isPrivateFor(why Private) {
	if s.why.Reason != "" || why.Reason == "" {
		return
	}
	s.why = why
	Counts.Private.With(string(why.Reason)).Inc()
}

// stop tells the cluster that the stream is over, or has ended. The stream's lock is held.
func (m *Member) stop() {
	if m != nil && m.end != nil {
		m.end()
		m.end = nil
	}
}

// lingerLocked ends the stream after the linger time, unless somebody comes.
func (s *Stream) lingerLocked() {
	s.stay.restart(time.Now(), s.options.Linger)
	wait := s.lingerTime()
	if s.isFollowed() {
		wait = max(wait, lingerMoment) // it looks again whether it still is
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		s.hub.locked(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case !s.stay.isMeant(timer) || s.hasSubscribers():
			case s.isFollowed():
				s.lingerLocked() // others have clients
			default:
				s.expireLocked()
			}
		})
	})
	s.stay.endWith(timer)
	if s.lingers() {
		s.hub.addLingering(s)
	}
}

// stopLinger takes back that the stream ends by itself. The lock is held.
func (s *Stream) stopLinger() {
	if s.stay.stop(time.Now()) {
		s.hub.removeLingering(s)
	}
}

// expireLocked ends a stream that has no subscribers. The hub's lock is held too.
func (s *Stream) expireLocked() {
	s.endLocked()
	s.hub.removeLocked(s)
	s.hub.untrack(s)
}

// expire ends a stream that only lingers as if its time were over. It returns
// false if somebody has come.
func (s *Stream) expire() (ended bool) {
	s.hub.locked(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ended = s.lingers(); ended {
			s.expireLocked()
		}
	})
	return ended
}

// endLocked ends the stream for good and frees what it holds.
func (s *Stream) endLocked() {
	s.phase = phaseGone
	s.member.stop()
	s.stopLinger()
	if s.cancel != nil {
		s.cancel()
	}
	s.dropSuccessor()
	s.leaveSplices()
	if s.left != nil {
		s.left.parent.decide(s, time.Now())
	}
	for sub := range s.subscribers() {
		switch {
		case !sub.waiting || sub.finish() != "":
		case sub.released:
			sub.finishAt(sub.cursor, EndBroken)
		default:
			sub.finishFor(EndAskAgain) // it was sent nothing
		}
	}
	if !s.hasSubscribers() {
		s.freeBuffer()
	}
	s.wakeLocked()
	s.makeRoom()
}

// leaveSplices leaves all splices to their subscribers: there is no stream any
// more that they could be merged into.
func (s *Stream) leaveSplices() {
	s.sharing.trial = nil
	for sp := range s.splices {
		if sp.isProbe() {
			s.endProbe(sp)
			continue
		}
		s.privatize(sp)
	}
	s.decideAll(time.Now())
}

// privatize leaves a splice to its subscribers: it is not going to be merged.
// It ends with the last of them.
func (s *Stream) privatize(sp *Stream) {
	Counts.Splices.With(SplicePrivate).Inc()
	now := time.Now()
	sp.isPrivateFor(Private{Reason: PrivateNotMerged}) // unless it is for another
	if s.asksForMore(sp) {
		s.leaveOpen(sp, now)
	}
	s.closeSplice(sp)
	sp.splice = nil
	sp.private, sp.draining = true, true
	sp.settled = sp.settled || s.settled
	if sp.left != nil {
		s.decide(sp, now)
	} else {
		sp.buffer.ForgetIndex()
	}
	for sub := range sp.subscribers() {
		s.dropSubscriber(sub)
		sub.home, sub.own = sp, true
	}
	switch {
	case s.hasSubscribers():
	case !s.isGone():
		s.lingerLocked()
	default:
		s.freeBuffer()
		s.hub.untrack(s)
	}
	sp.wakeLocked()
}

// endSplice ends a splice that nobody needs any more. It has its place until its
// connection is closed: else many clients that leave in one moment would each open
// one in the place of the client before.
func (s *Stream) endSplice(sp *Stream) {
	if st := sp.splice; st.connects && !st.closes { // else it was merged, and its last client has read it
		st.closes = true
		s.closing++
	}
	s.closeSplice(sp)
	sp.endLocked()
}

// connectionClosed frees the place of a splice that was over, when its connection is
// closed; st is nil if the connection is none of a splice.
func (s *Stream) connectionClosed(st *spliceState) {
	if st == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.connects = false
	if st.closes {
		st.parent.closing--
		st.parent.seats.ring()
	}
}

// closeSplice takes a splice from its stream.
func (s *Stream) closeSplice(sp *Stream) {
	sp.splice.timer.Stop()
	delete(s.splices, sp)
	s.dropTrialOf(sp)
	s.dropIndex()
	s.seats.ring()
}

// dropSuccessor gives up the connection that was to succeed the stream's.
func (s *Stream) dropSuccessor() {
	sp := s.successor
	if sp == nil {
		return
	}
	s.successor, s.brought = nil, nil
	s.dropIndex()
	sp.splice.timer.Stop()
	sp.endLocked()
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
		if sp.isProbe() && !sp.splice.proves && !sp.isGone() {
			s.endProbe(sp)
		}
	}
	for sp := range s.splices {
		sp.splice.timer.Reset(0)
	}
}

// dropTrialOf gives up the trial that a splice is part of: it has shown enough.
func (s *Stream) dropTrialOf(sp *Stream) {
	if t := s.sharing.trial; t != nil && (t.x == sp || t.y == sp) {
		s.endTrial()
	}
}

// Leave removes a subscriber. The last one leaving starts the linger time.
func (sub *Subscriber) Leave() {
	sub.Origin.mu.Lock()
	s := sub.home
	if sub.stream != s {
		sub.stream.release(sub)
	}
	s.dropSubscriber(sub)
	sub.given(true)
	forget := false
	if !s.hasSubscribers() {
		switch {
		case s.isGone():
			s.freeBuffer()
			forget = true
		case s.endsWithClients(), s.head == nil, s.lingerTime() <= 0 && !s.isFollowed():
			s.endLocked()
			forget = true
		default:
			s.lingerLocked()
		}
	}
	if s.only == sub && !forget {
		s.endLocked()
	}
	pass := sub.pass
	s.mu.Unlock()
	if pass != nil {
		pass.Left()
	}
	if forget {
		s.hub.forget(s)
	}
	s.hub.endYoung()
}

// release takes a subscriber from a splice, which ends with its last one.
func (s *Stream) release(sub *Subscriber) {
	s.dropSubscriber(sub)
	sub.given(true)
	if s.hasSubscribers() || s.splice == nil {
		return
	}
	if parent := s.splice.parent; s.isLive() && parent.compares() && !parent.shares() && parent.hasWaiting() && len(parent.splices) <= s.options.SpliceLimit {
		s.splice.probe, s.splice.proves = true, true // its client has left, but others wait for what it shows
		return
	}
	s.splice.parent.endSplice(s)
	s.hub.untrack(s)
}

// retire makes room for a stream's next life and returns its head. The hub's
// lock is held.
func (s *Stream) retire() *upstreams.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked()
	if !s.hasSubscribers() {
		s.hub.untrack(s)
	}
	return s.headForAll()
}

// finish lets the subscribers go when they were given everything. The stream
// is kept for the linger time: who comes back goes on in it.
func (s *Stream) finish(reason EndReason, tail []byte) {
	if s.finishNow(reason, tail) {
		s.hub.forget(s)
	}
}

// finishNow is finish. It returns whether the stream is over and has no
// subscribers.
func (s *Stream) finishNow(reason EndReason, tail []byte) (forget bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() {
		return false
	}
	if len(tail) > 0 {
		tail = slices.Clone(tail)
		s.over.tail = tail
		for sub := range s.subscribers() {
			if sub.stream == s && sub.finish() == "" && !sub.barred() {
				sub.finishFor(sub.finish()).tail = tail
			}
		}
	}
	s.phase = phaseEnded
	s.member.stop()
	s.reopening = false
	s.dropSuccessor()
	if s.kind.answer {
		s.source = nil // with the client's credentials
	}
	s.endResponses(reason)
	if s.endsWithClients() || s.splice != nil {
		s.endLocked()
		return !s.hasSubscribers()
	}
	if !s.hasSubscribers() {
		s.lingerLocked()
	}
	return false
}

// leave ends the stream for all subscribers, when they were given everything.
func (s *Stream) leave(reason EndReason) {
	s.hub.remove(s)
	s.mu.Lock()
	s.endResponses(reason)
	s.endLocked()
	forget := !s.hasSubscribers()
	s.mu.Unlock()
	if forget {
		s.hub.forget(s)
	}
}

// endResponses ends the subscribers' responses when they were given everything.
// Where all of them would turn to an upstream in trouble in one moment, each ends
// at a random one within the time of drain. The lock is held.
func (s *Stream) endResponses(reason EndReason) {
	s.finishLocked(reason)
	switch reason {
	case endGaveUp, EndRefused, EndOversized:
		now := time.Now()
		for sub := range s.subscribers() {
			if sub.finish() == reason && !s.kind.beside {
				sub.ending.from = now.Add(randomUpTo(s.options.Drain))
			}
		}
	}
}

// finishLocked lets all subscribers go as soon as they were given everything
// that is in the buffer.
func (s *Stream) finishLocked(reason EndReason) {
	s.over.why = reason
	back := ""
	if s.settled {
		back = s.comesBack()
	}
	for sub := range s.subscribers() {
		if sub.finish() == "" && sub.stream == s {
			sub.finishAt(s.buffer.Newest, reason)
			sub.tell(s.appendPrime(nil, back))
			if sub.waiting && !sub.released {
				sub.finishFor(EndAskAgain) // it was sent nothing
			}
		}
	}
	s.wakeLocked()
	s.seats.ring()
}

// comesBack is the ID with which the clients of a splice come back that are cut, or
// whose splice ends; "" if they need none: where the upstream gives ids, and where it has
// given nothing yet. They are known by it: they are told that they may have missed
// something, and they wait for an upstream that is away as the stream's own clients do,
// with the head that these had. So that must not be another's: while the stream is not
// proven, both are compared.
func (s *Stream) comesBack() string {
	if s.splice == nil || s.said.showsIDs || s.options.IDs == IDsUpstream {
		return ""
	}
	p := s.splice.parent
	if !p.shares() && (!s.isHeaded() || !p.isHeaded() || differingField(p.head, s.head, s.options.Insignificant) != "") {
		return ""
	}
	return string(replay.AppendID(nil, p.epoch, nowhere))
}

// refuse ends a stream whose first answer is not an event stream to share. If
// that is a failure, or an answer to the client's last event ID, it says nothing of
// the next answer: then requests go upstream
// on their own only for as long as it took, so that they do not wait for one slow
// failure after the other.
func (s *Stream) refuse(failed bool, why Private) {
	s.hub.remove(s)
	s.mu.Lock()
	if s.refused || s.stopped {
		s.mu.Unlock()
		return
	}
	s.refused, s.why = true, orElse(why, Private{Reason: PrivateNoStream})
	s.phase = phaseGone
	s.member.stop()
	reopened := s.head != nil
	s.reopening = false
	s.leaveSplices()
	s.wakeLocked() // a tail, and who waits for it to be reopened
	forget := !s.hasSubscribers()
	if forget {
		s.freeBuffer() // what is kept of before it was reopened
	}
	s.mu.Unlock()
	if !s.kind.answer && (!failed || !s.hub.keeps(s.Key)) { // before those who wait look again
		alone := unshareableTime
		if failed {
			alone = min(alone, time.Since(s.born))
		}
		s.hub.markUnshareable(s.Key, alone, why)
	}
	if !reopened {
		s.endWait()
	}
	if forget {
		s.hub.forget(s)
	}
}

// drain ends all subscribers' responses, each at a random moment within
// window, and with the last of them the stream.
func (s *Stream) drain(window time.Duration, reason EndReason) {
	s.hub.remove(s)
	s.mu.Lock()
	now := time.Now()
	for sub := range s.subscribers() {
		at := now.Add(randomUpTo(window))
		if s.kind.answer {
			at = now.Add(window) // it may come to its end
		}
		sub.leaveBy(at, reason)
	}
	s.draining = true
	forget := !s.hasSubscribers()
	opening := s.isUnanswered()
	if opening {
		s.stopped = true
		s.endWait()
	}
	for sp := range s.splices {
		sp.wakeLocked()
	}
	s.seats.ring()
	if (forget && !s.isGone()) || opening { // the connection of one that was refused is its client's
		s.endLocked()
	}
	s.wakeLocked()
	s.mu.Unlock()
	if forget {
		s.hub.forget(s)
	}
}

// randomUpTo is a random time up to d.
func randomUpTo(d time.Duration) time.Duration { return time.Duration(random() * float64(d)) }

// onlyFirst leaves a stream to its first subscriber; the others get upstream
// connections of their own.
func (s *Stream) onlyFirst(others EndReason) {
	for sub := range s.subscribers() {
		if s.only == nil || sub.arrival < s.only.arrival {
			s.only = sub
		}
	}
	for sub := range s.subscribers() {
		if sub != s.only {
			sub.finishAt(s.buffer.Newest, others)
		}
	}
	s.wakeLocked()
}

// unshareable takes note that the newest head of the stream may not be shared:
// a splice is private to its first subscriber, a stream takes no more of them.
func (s *Stream) unshareable(first bool, why Private) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.succeeds():
		s.splice.parent.close()
	case !s.kind.beside:
		s.close()
	case s.splice != nil && !s.isGone():
		s.isPrivateFor(why)
		s.splice.parent.privatize(s)
		if first {
			s.onlyFirst(EndPerClient)
		} else {
			s.onlyFirst(EndBroken) // they were given events: they come back with the ID of the last
		}
	}
}
