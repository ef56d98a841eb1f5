package caddysse

import (
	"slices"
	"time"
)

// Joining a stream that has begun.
//
// A client of the upstream itself sees what the upstream sends when a
// connection opens (a greeting, a snapshot of the state, old events), and then
// what it broadcasts. A client that came later to a shared stream would miss
// the first part. So it is served by an upstream connection of its own, a
// splice, until that connection is seen to bring what the stream brings; then
// it is merged into the stream at that point, and its own connection closed.
//
// A splice is a stream like any other, with its own replay buffer, except that
// it is found through its parent, shares the parent's lock, and gives no ids
// of the gateway: positions in it mean nothing to who comes back.

const (
	// defaultSpliceLimit is how many splices of one stream may run at once.
	defaultSpliceLimit = 8

	// defaultSpliceTimeout is how long a splice may take to be merged, and how
	// long a client waits for a place in one.
	defaultSpliceTimeout = 30 * time.Second

	// twinWindow is how far apart two connections may bring the same
	// broadcast.
	twinWindow = time.Second

	// splicePause ends what an upstream sends to greet a connection.
	splicePause = time.Second

	// resumePause ends what an upstream sends to a connection that goes on
	// after an ID: a history may come in batches.
	resumePause = 5 * time.Second

	// enoughSplices in a row decide what is learnt of an upstream.
	enoughSplices = 3

	// enoughWitnesses is how many blocks, each of which occurs once in either
	// buffer, show that two connections bring the same.
	enoughWitnesses = 3

	// maxSettle is how long both connections must have been quiet for equal
	// blocks to be told apart by their time.
	maxSettle = 50 * time.Millisecond
)

// spliceState is what a splice has more than other streams. The lock of the
// stream guards it.
type spliceState struct {
	parent   *stream
	opened   time.Time
	succeeds bool   // has no subscribers: it is to be the stream's own; see reload.go
	paused   uint64 // position of the first block after a pause; 0: none yet
	timer    *time.Timer

	// A merged splice is over for its subscribers at position at; they go on
	// in the parent after position to.
	merged bool
	at, to uint64
	events uint64 // the stream's count of events at to

	answer  *firstAnswer // to the ID; see late.go
	skipped bool         // it is told that the upstream did not go on after the ID
	gap     []byte       // the event that tells so at the merge; nil: nothing is told then
}

// learned is what splices have shown of an upstream connection. It is forgotten
// when the connection is renewed.
type learned struct {
	nothing  int // splices in a row that brought nothing but what the stream got too
	unmerged int // splices in a row that could not be merged
}

// plain reports whether the upstream tells newcomers nothing of their own.
func (l learned) plain() bool { return l.nothing >= enoughSplices }

// perConnection reports whether the upstream tells each connection its own.
func (l learned) perConnection() bool { return l.unmerged >= enoughSplices }

// admit finds what a waiting subscriber is to read. The lock is held.
func (s *stream) admit(sub *subscriber, now time.Time) {
	position, known := s.trusted(sub.id)
	switch {
	case s.phase == phaseGone:
		return // its end is set, or is about to be
	case known:
		sub.waiting = false
		sub.cursor = position
		s.recount(sub)
		return
	case sub.finish != "":
		return // the stream has ended, though it may have gone on since
	case s.learned.perConnection(), s.phase == phaseLive && !now.Before(sub.waitEnd()):
		sub.finish = endPerClient
		return
	case sub.id == "" && (s.fresh || s.learned.plain()):
		sub.waiting = false
		sub.cursor, sub.live = s.buffer.newest, s.buffer.newest
		s.recount(sub)
		sub.pending = s.appendPrime(sub.pending, s.newestID())
		return
	case s.phase != phaseLive:
		return
	}
	for sp := range s.splices {
		if sp.takes(sub) {
			s.move(sub, sp)
			return
		}
	}
	switch {
	case s.source.retired():
		// The handlers of the new configuration are being looked for.
	case len(s.splices) < s.options.spliceLimit:
		s.move(sub, s.openSplice(sub.id, sub.param))
	}
}

// takes reports whether a subscriber may share a splice: it asks for the same,
// and has missed nothing of it.
func (s *stream) takes(sub *subscriber) bool {
	if s.openID != sub.id || s.phase == phaseGone {
		return false
	}
	if sub.id == "" {
		return s.newestAt.IsZero() && s.splice.parent.learned.unmerged == 0
	}
	return s.buffer.lost == 0
}

// newSplice makes a splice with a last event ID.
func (s *stream) newSplice(id, param string) *stream {
	sp := &stream{
		hub:            s.hub,
		number:         nextNumber(),
		born:           time.Now(),
		key:            s.key,
		place:          s.place,
		path:           s.path,
		shownHost:      s.shownHost,
		shownPath:      s.shownPath,
		parts:          s.parts,
		epoch:          s.epoch,
		openID:         id,
		idParam:        param,
		isSplice:       true,
		ready:          s.ready,
		hurry:          make(chan struct{}, 1),
		mu:             s.mu,
		options:        s.options,
		source:         s.source,
		sent:           s.source,
		phase:          phaseBroken,
		head:           s.head,
		subs:           make(map[*subscriber]struct{}),
		splice:         &spliceState{parent: s, opened: time.Now()},
		gaveID:         s.gaveID,
		upstreamIDs:    s.upstreamIDs,
		lastUpstreamID: id,
	}
	sp.buffer.limits = s.buffer.limits
	sp.sequence.add(id, true)
	sp.setLogger(s.log())
	return sp
}

// openSplice opens an upstream connection with a last event ID, beside that of
// the stream.
func (s *stream) openSplice(id, param string) *stream {
	sp := s.newSplice(id, param)
	sp.splice.answer = s.expect(id, sp)
	s.splices[sp] = struct{}{}
	s.hub.track(sp)
	sp.splice.timer = time.AfterFunc(s.options.spliceTimeout, func() {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		if sp.splice != nil && sp.phase != phaseGone {
			s.trySplice(sp, time.Now())
		}
	})
	sp.startLocked(id)
	return sp
}

// move lets a waiting subscriber read a splice.
func (s *stream) move(sub *subscriber, sp *stream) {
	sub.waiting = false
	sub.stream = sp
	sub.cursor, sub.events, sub.live = 0, 0, 0
	if sub.id == "" {
		sub.cursor, sub.events = sp.buffer.newest, sp.buffer.events
	}
	sp.subs[sub] = struct{}{}
	sub.answer = sp.splice.answer
	if sub.outcome == resumeLive && !s.settled {
		return // it has no ID, and the first event may have to be the first of all
	}
	if s.options.ids == idsGateway || (s.options.ids == idsAuto && !s.upstreamIDs) {
		// What comes has no ids of the gateway: who is cut meanwhile has to
		// come back as one without an ID.
		sub.pending = append(sub.pending, "id\n\n"...)
	}
}

// held returns what is closed when the head of a client may be sent that is
// served by a splice, and nil when it may: not before the splice has its own,
// so that what the client causes once it is connected reaches it.
func (sub *subscriber) held() <-chan struct{} {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sp := sub.stream
	if sp.splice == nil || !sp.headAt.IsZero() || sp.failed || sp.phase == phaseGone {
		return nil
	}
	return sp.bell.wait()
}

// turnedAway reports whether the subscriber is to get the upstream's answer to
// a request of its own, before it was sent a head.
func (sub *subscriber) turnedAway() bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.finish == endPerClient || (sub.finish == endRefused && sub.stream.isSplice)
}

// release takes a subscriber from a splice, which ends with its last one.
func (s *stream) release(sub *subscriber) {
	delete(s.subs, sub)
	sub.given(true)
	if len(s.subs) > 0 || s.splice == nil {
		return
	}
	s.splice.parent.closeSplice(s)
	s.endLocked()
	s.hub.untrack(s)
}

// closeSplice frees a splice's place.
func (s *stream) closeSplice(sp *stream) {
	sp.splice.timer.Stop()
	delete(s.splices, sp)
	s.wakeWaiting()
}

// merge moves a subscriber that has read a merged splice to its end on to the
// stream. It returns false if there is nothing to do.
func (sub *subscriber) merge() bool {
	sp, s := sub.stream, sub.home
	if sp.splice == nil || !sp.splice.merged || sub.cursor < sp.splice.at {
		return false
	}
	to := sp.splice.to
	sub.stream = s
	sub.cursor, sub.live, sub.events = to, to, sp.splice.events
	sub.pending = slices.Clone(sp.splice.gap)
	switch {
	case !s.upstreamIDs && s.options.ids != idsUpstream:
		sub.pending = s.appendPrime(sub.pending, string(appendGatewayID(nil, s.epoch, to)))
	case to == s.buffer.newest:
		sub.pending = s.appendPrime(sub.pending, s.newestID())
	}
	if s.phase == phaseEnded || s.phase == phaseGone {
		sub.finish, sub.finishAt, sub.tail = s.over, s.buffer.newest, s.overTail // while it was on its way
	}
	sp.release(sub)
	return true
}

// privatize leaves a splice to its subscribers: it is not going to be merged.
// It ends with the last of them.
func (s *stream) privatize(sp *stream) {
	theMetrics.splices.WithLabelValues(splicePrivate).Inc()
	s.closeSplice(sp)
	sp.splice = nil
	sp.private, sp.draining = true, true
	sp.settled = sp.settled || s.settled
	for sub := range sp.subs {
		delete(s.subs, sub)
		sub.home = sp
	}
	if len(s.subs) == 0 && s.phase != phaseGone {
		s.lingerLocked()
	}
	sp.wakeLocked()
}

// unshareable takes note that the newest head of the stream may not be shared:
// a splice is private to its first subscriber, a stream takes no more of them.
func (s *stream) unshareable(first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.succeeds():
		s.splice.parent.closed.Store(true)
	case !s.isSplice:
		s.closed.Store(true)
	case s.splice != nil && s.phase != phaseGone:
		s.splice.parent.privatize(s)
		if first {
			s.onlyFirst(endPerClient)
		} else {
			s.onlyFirst(endBroken) // they were given events: they come back with the ID of the last
		}
	}
}

// noteBlock takes note of a block that is about to be appended and is not
// comment-only.
func (s *stream) noteBlock(b *block) {
	if !s.begun {
		s.begun = true
		root := s
		if s.splice != nil {
			root = s.splice.parent
		}
		root.firstTime = max(root.firstTime, b.at.Sub(s.headAt))
	}
	s.fresh = false
	if sp := s.splice; sp != nil && sp.paused == 0 && !s.newestAt.IsZero() && b.at.Sub(s.newestAt) >= splicePause {
		sp.paused = s.buffer.newest + 1
	}
	s.newestAt = b.at
}

// seatInterval is how often, at most, those who wait for a splice look whether
// their ID has come into the replay buffer meanwhile.
const seatInterval = 100 * time.Millisecond

// waitForSeat returns what is closed when a waiting subscriber is to look again.
func (s *stream) waitForSeat() <-chan struct{} {
	if s.seats == nil {
		s.seats = make(chan struct{})
	}
	return s.seats
}

// offerSeats lets those who wait look again, after a block.
func (s *stream) offerSeats(now time.Time) {
	if s.seats != nil && now.Sub(s.seatsAt) >= seatInterval {
		s.seatsAt = now
		s.wakeWaiting()
	}
}

// lookAgain is when a waiting subscriber has waited long enough.
func (sub *subscriber) lookAgain() time.Time {
	if sub.home.phase != phaseLive {
		return sub.lookAt()
	}
	at := sub.waitEnd()
	if due := sub.lookAt(); !due.IsZero() {
		earliest(&at, due)
	}
	return at
}

// waitEnd is when a subscriber has waited for a splice long enough, while the
// upstream could be reached.
func (sub *subscriber) waitEnd() time.Time {
	since := sub.joined
	if at := sub.home.headAt; at.After(since) {
		since = at
	}
	return since.Add(sub.home.options.spliceTimeout)
}
