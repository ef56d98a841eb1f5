package stream

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Sharing is earned.
//
// Many applications tell each connection something of its own: a connection id
// with which the client then asks for what only it may see. Nothing in the
// request says so. So unless the operator vouches for it, nobody is given what a
// stream's connection brings but the client that opened it, until a second
// connection was seen to bring the same: the stream is proven then. The second
// connection is that of the stream's second client, a splice, however early that
// client comes. Who comes third waits for the verdict.
//
// What a connection brings before its first pause, and the fields of its head,
// is its greeting. If two connections that were opened at the same moment are
// greeted differently, each is told its own, whatever they have in common later.
// If an older one was greeted differently, that may have been a snapshot of a
// state that has changed since: then two connections are compared that are
// opened at the same moment, one or both of them probes, which have no clients.

const (
	// proofDelay is how long after the head of a stream its second client's
	// connection is opened. What each of two connections does so long after it
	// was opened comes at different moments, what is sent to both at the same.
	proofDelay = 250 * time.Millisecond

	// sameMoment is how far apart two connections may be opened that are to be
	// greeted the same. Nothing may have come between the two.
	sameMoment = time.Second

	// trialPause is how long after a trial that failed, because something came
	// between, there is another one. It is doubled maxTrials times.
	trialPause = time.Second
	maxTrials  = 3
)

// prove takes note that two connections were told the same. The lock is held.
func (s *Stream) prove() {
	if s.options.Vouched {
		return
	}
	s.noteShared()
	s.settleProof()
}

// settleProof lets all who wait have what the stream's connection brings. The lock
// is held.
func (s *Stream) settleProof() {
	if s.sharing.proven {
		return
	}
	s.sharing.proven, s.sharing.asked = true, false
	s.sharing.once, s.sharing.renewed, s.sharing.shown = true, false, nil
	s.dropUnproven()
	s.endTrial()
	for sp := range s.splices {
		if sp.isProbe() {
			s.endProbe(sp)
		}
	}
	s.seats.ring()
	s.wakeLocked()
}

// noteShared makes it known to the key's later streams. The lock is held.
func (s *Stream) noteShared() {
	if s.head == nil || s.isClosed() {
		return
	}
	s.facts.noteShared(s.Key, sharedFact{head: s.headHash(), greeting: s.greetingTime(), greets: s.track.Greets})
}

// takeHead takes note of the head of the stream's newest connection. It may name a session,
// say, that is this connection's own, if it says something else than the one before did.
// Then nothing but another connection proves that it is for all, and clients are given
// the head that was. The lock is held.
func (s *Stream) takeHead(h *upstreams.Head) {
	old := s.head
	s.head = h
	if old == nil || !s.compares() {
		return
	}
	s.leaveUnproven()
	s.sharing.renewed = differingField(old, h, s.options.Insignificant) != ""
	if s.sharing.renewed && s.sharing.once && s.sharing.shown == nil {
		s.sharing.shown = old
	}
}

// leaveUnproven takes note, as the stream has another connection, of what those before
// have brought that nobody has proven: it is told to one client each, and what proves the
// new one says nothing of it. The lock is held.
func (s *Stream) leaveUnproven() {
	if s.sharing.proven {
		return
	}
	for _, b := range s.buffer.After(max(s.sharing.barrier, s.sharing.before)) {
		if !b.Told {
			s.sharing.before = b.Position
		}
	}
}

// dropUnproven keeps that from who may have the stream from now on. The lock is held.
func (s *Stream) dropUnproven() {
	if s.sharing.before > s.sharing.barrier {
		s.buffer.DropTo(s.sharing.before)
		s.charge()
	}
	s.sharing.before = 0
}

// headHash is what the heads of two connections have in common that are told the
// same. The lock is held.
func (s *Stream) headHash() uint64 {
	return evidence.HashHead(s.head.Header, s.options.Insignificant)
}

// recall looks, as the first connection of a stream has its head, whether connections
// of the key were told the same before. That was another stream: since then the
// application may be another one, which greets each connection with something of its
// own. So it is believed only if the connection is greeted with nothing in its time.
// Else the stream is one of which nothing is known. The lock is held.
func (s *Stream) recall(c *intake) {
	if !s.compares() || !s.kind.guarded {
		return
	}
	fact, ok := s.facts.sharedBy(s.Key)
	if !ok || fact.doubted {
		return
	}
	if fact.head != s.headHash() {
		s.facts.doubt(s.Key)
		return
	}
	s.track.Greets = fact.greets
	wait := max(s.greetingTime(), fact.greeting)
	due := time.Now().Add(wait)
	time.AfterFunc(wait, func() {
		now := time.Now()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.recalled(c, due, now)
	})
}

// recalled believes what was remembered, if the connection was greeted with nothing
// until due. Who looks late may not have read what there is. The lock is held.
func (s *Stream) recalled(c *intake, due, now time.Time) {
	switch {
	case s.sharing.proven:
	case s.hasBeenTold():
		s.facts.doubt(s.Key)
	case s.conn != c, !s.isLive(), s.isClosed(), now.Sub(due) > evidence.MaxSettle:
	case s.facts.believes(s.Key): // no other stream has cast doubt since
		s.settleProof() // it is no evidence that would be remembered for longer
		for sp := range s.splices {
			sp.splice.timer.Reset(0) // to be looked at
		}
	}
}

// hasBeenTold reports whether a connection of the stream, or beside it, has brought
// anything that says something.
func (s *Stream) hasBeenTold() bool {
	told := s.track.Said > 0
	for sp := range s.splices {
		told = told || sp.track.Said > 0
	}
	return told
}

// unprove takes note that the stream has a new connection, which may greet it
// with something of its own: one subscriber is given that, the others when
// another connection was told the same. The lock is held.
func (s *Stream) unprove() {
	if !s.compares() {
		return
	}
	s.facts.forget(s.Key)
	for sp := range s.splices {
		s.unshareSplice(sp)
	}
	s.sharing.snapshot, s.sharing.trials = false, 0 // of the application as it was
	if !s.sharing.proven {
		return
	}
	s.sharing.proven, s.sharing.asked, s.sharing.barrier = false, false, s.buffer.Newest
	var sole *Subscriber
	for sub := range s.subscribers() {
		sub.own = false
		if sub.stream == s && !sub.waiting && sub.finish() == "" && (sole == nil || sub.arrival < sole.arrival) {
			sole = sub
		}
	}
	if sole != nil {
		sole.own = true
	}
}

// unshareSplice leaves a splice that is shared to the first of its clients: it may
// be greeted with something of its own. The others wait, or come back if they
// were given something.
func (s *Stream) unshareSplice(sp *Stream) {
	readers := sp.readers()
	if len(readers) < 2 {
		return
	}
	first := slices.MinFunc(readers, func(a, b *Subscriber) int { return cmp.Compare(a.arrival, b.arrival) })
	for _, sub := range readers {
		switch {
		case sub == first:
		case sp.track.Said == 0 && sub.Sent == 0:
			s.waitAgain(sub)
			if sp.isHeaded() {
				sub.release() // it has its head: what comes until it has a connection, it misses
			}
		default:
			sub.finishAt(sub.cursor, EndBroken)
		}
	}
	sp.wakeLocked()
}

// perConnection leaves each connection to its own client, for a reason, and lets
// newcomers have connections of their own. The lock is held.
func (s *Stream) perConnection(why ownReason) {
	s.facts.noteOwn(s.Key, s.path, why)
	private := Private{Reason: PrivatePerConnection, Detail: string(why)}
	s.isPrivateFor(private)
	s.close()
	subscribers := s.countSubscribers()
	s.options.Lines.perClient.Log(func(suppressed int) {
		s.Log().Info("upstream sends each connection something different: path is not shared (override with join live or share public)",
			zap.String("reason", string(why)), zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
	s.dropSuccessor()
	s.sharing.trial = nil
	for sp := range s.splices {
		s.leaveToFirst(sp, private)
	}
	for sub := range s.subscribers() {
		if sub.own && (s.only == nil || sub.arrival > s.only.arrival) {
			s.only = sub
		}
	}
	for sub := range s.subscribers() {
		switch {
		case sub == s.only, sub.finish() != "":
		case sub.events > 0 && sub.Sent > 0:
			sub.finishAt(sub.cursor, EndBroken) // it comes back
		default:
			sub.finishAt(sub.cursor, EndPerClient)
		}
	}
	if !s.isExclusive() {
		s.endLocked()
	}
	s.seats.ring()
	s.wakeLocked()
	s.hub.spawn(func() { // it needs the hub's lock, which comes first
		s.hub.remove(s)
		s.mu.Lock()
		forget := s.isGone() && !s.hasSubscribers()
		s.mu.Unlock()
		if forget {
			s.hub.untrack(s)
		}
	})
}

// leaveToFirst leaves a splice to the first of its clients, or ends it if it is
// a probe.
func (s *Stream) leaveToFirst(sp *Stream, why Private) {
	if sp.isProbe() {
		s.endProbe(sp)
		return
	}
	sp.isPrivateFor(why)
	s.privatize(sp)
	first := slices.MinFunc(sp.readers(), func(a, b *Subscriber) int { return cmp.Compare(a.arrival, b.arrival) })
	for sub := range sp.subscribers() {
		if sub != first {
			sub.finishAt(sub.cursor, EndBroken)
			if sub.Sent == 0 {
				sub.finishFor(EndPerClient)
			}
		}
	}
}

// endBarred ends the responses of those who may not be given what comes: they
// come back, and begin another stream.
func (s *Stream) endBarred() {
	s.close()
	for sub := range s.subscribers() {
		if sub.stream == s && sub.barred() && (!sub.waiting || sub.released) && sub.finish() == "" {
			sub.finishAt(sub.cursor, EndBroken)
		}
	}
	s.wakeLocked()
}

// makeExclusive leaves the stream to its first subscriber, because the
// upstream gives each connection a session of its own. The others get
// connections of their own. It returns false if there is no subscriber.
func (s *Stream) makeExclusive() bool {
	s.hub.remove(s)
	why := Private{Reason: PrivateEndpoint}
	s.hub.markUnshareable(s.Key, unshareableForever, why)
	s.facts.noteOwn(s.Key, s.path, ownSession)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isGone():
	case s.isProbe():
		s.splice.parent.perConnection(ownGreeting)
		return true
	case s.splice != nil:
		s.isPrivateFor(why)
		s.splice.parent.privatize(s)
	}
	s.isPrivateFor(why)
	s.sharing.trial = nil
	for sp := range s.splices { // each of them has its own, too
		s.leaveToFirst(sp, why)
	}
	s.onlyFirst(EndPerClient)
	s.dropSuccessor()
	subscribers := s.countSubscribers()
	s.options.Lines.perClient.Log(func(suppressed int) {
		s.Log().Info("upstream opens a session for each connection: path is not shared",
			zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
	if !s.isExclusive() {
		s.endLocked()
		s.hub.untrack(s)
		return false
	}
	s.wakeLocked()
	return true
}
