package stream

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
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

	// enoughSplices in a row that could not be merged decide what is learnt of an
	// upstream.
	enoughSplices = 3

	// spliceInterval is how far apart splices without a last event ID are opened
	// when many newcomers come: who comes meanwhile shares the next. spliceBurst
	// of them may be opened at once after a while without.
	spliceInterval = 250 * time.Millisecond
	spliceBurst    = 3

	// headPatience is how long others join a splice that has no head yet.
	headPatience = time.Second

	// closeTime is how long an application that holds one connection is given to
	// notice that it is closed, before it is asked for another one.
	closeTime = 500 * time.Millisecond
)

// spliceState is what a splice has more than other streams. The lock of the
// stream guards it.
type spliceState struct {
	parent   *Stream
	opened   time.Time
	since    time.Time // when it began to have time to be merged
	succeeds bool      // has no subscribers: it is to be the stream's own; see reload.go
	probe    bool      // has none: it is compared with others; see sharing.go
	proves   bool      // a probe that shows whether the stream's new connection is shared
	timer    *time.Timer

	evidence.Likeness
	hurried bool // a probe was opened beside it

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
	unmerged int // splices in a row that could not be merged
}

// perConnection reports whether the upstream tells each connection its own.
func (l learned) perConnection() bool { return l.unmerged >= enoughSplices }

// spliceFor returns the splice that a waiting subscriber is to read, nil if it
// has to wait. The oldest that takes it comes first.
func (s *Stream) spliceFor(sub *Subscriber, now time.Time) (found *Stream) {
	for sp := range s.splices {
		if sp.takes(sub, now) && (found == nil || sp.number < found.number) {
			found = sp
		}
	}
	if found == nil && !now.Before(s.nextSplice(sub, now)) {
		return s.openSplice(sub.id, sub.param)
	}
	return found
}

// nextSplice is when a splice may be opened for a waiting subscriber, as far as
// is known.
func (s *Stream) nextSplice(sub *Subscriber, now time.Time) time.Time {
	all, withoutID, answering := 0, 0, 0
	for sp := range s.splices {
		if sp.openID == "" && !sp.isHung(now) && (sp.splice.proves || !sp.splice.probe) {
			answering++
		}
		if sp.splice.probe {
			continue
		}
		all++
		if sp.openID == "" {
			withoutID++
		}
	}
	limit := s.options.SpliceLimit
	switch never := now.Add(time.Hour); {
	case s.source.Retired(): // the handlers of the new configuration are being looked for
		return never
	case sub.released && sub.id == "" && !s.shares() && s.sharing.barrier > 0:
		return never // it goes on from where it was released, when that is known to be shared
	case all >= limit, !s.shares() && answering > 0 && sub.id == "":
		return never // until one of them has ended
	case sub.id != "" && limit > 1 && all-withoutID >= limit-1:
		return never // the last place is for who has none
	case !s.shares() && s.sharing.barrier == 0:
		return s.track.HeadAt.Add(proofDelay)
	case sub.id == "":
		return s.openings.Add(-(spliceBurst - 1) * spliceInterval)
	}
	return now
}

// isHung reports whether a splice has been without an answer for so long that
// nobody else joins it.
func (s *Stream) isHung(now time.Time) bool {
	return s.track.HeadAt.IsZero() && now.Sub(s.splice.opened) >= headPatience
}

// takes reports whether a subscriber may share a splice: what that has brought is
// what the subscriber asks for, and all of it is there.
func (s *Stream) takes(sub *Subscriber, now time.Time) bool {
	parent := s.splice.parent
	if s.splice.probe || s.phase == phaseGone || !parent.shares() || s.isHung(now) || s.isRenewed() {
		return false
	}
	if sub.id == "" {
		return s.openID == "" && s.track.NewestAt.IsZero() && parent.learned.unmerged == 0
	}
	if s.openID == sub.id { // a block of the splice that has it, too, is not where the client is
		return s.buffer.Lost == 0
	}
	_, ok := s.buffer.Find(sub.id)
	return ok
}

// isRenewed reports whether a splice has lost its connection, or has another one
// since. That was opened for the client that it has, maybe after a restart of the
// application, and may be greeted with something of its own.
func (s *Stream) isRenewed() bool {
	return s.compares() && s.conn != nil && (s.conn.ended || !s.conn.first)
}

// newSplice makes a splice with a last event ID.
func (s *Stream) newSplice(id, param string) *Stream {
	sp := &Stream{
		hub:            s.hub,
		facts:          s.facts,
		number:         NextNumber(),
		born:           time.Now(),
		Key:            s.Key,
		place:          s.place,
		path:           s.path,
		shownHost:      s.shownHost,
		shownPath:      s.shownPath,
		parts:          s.parts,
		epoch:          s.epoch,
		openID:         id,
		IDParam:        param,
		isSplice:       true,
		ready:          s.ready,
		hurry:          make(chan struct{}, 1),
		mu:             s.mu,
		options:        s.options,
		source:         s.source,
		phase:          phaseBroken,
		head:           s.head,
		subs:           make(map[*Subscriber]struct{}),
		splice:         &spliceState{parent: s, opened: time.Now(), since: time.Now(), Likeness: evidence.Likeness{Said: s.track.Said}},
		gaveID:         s.gaveID,
		upstreamIDs:    s.upstreamIDs,
		lastUpstreamID: id,
	}
	sp.buffer.Limits = s.buffer.Limits
	sp.track.Buffer = &sp.buffer
	sp.numbers.Add(id, true)
	sp.setLogger(s.Log())
	return sp
}

// openSplice opens an upstream connection with a last event ID, beside that of
// the stream.
func (s *Stream) openSplice(id, param string) *Stream {
	sp := s.addSplice(id, param)
	sp.splice.answer = s.expect(id, sp)
	sp.splice.Current = s.isCurrent(id)
	s.hub.track(sp)
	if id == "" {
		s.openings = evidence.Later(s.openings, sp.splice.opened).Add(spliceInterval)
	}
	sp.startLocked(id)
	return sp
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
		if sp.splice != nil && sp.phase != phaseGone {
			s.trySplice(sp, time.Now())
		}
	})
	return sp
}

// move lets a waiting subscriber read a splice: all of it, or what comes after
// its ID.
func (s *Stream) move(sub *Subscriber, sp *Stream) {
	sub.waiting = false
	if !sp.track.HeadAt.IsZero() { // else when the head comes
		s.tellMissed(sub)
	}
	sub.stream = sp
	sub.cursor, sub.events, sub.live = 0, 0, 0
	switch position, ok := sp.buffer.Find(sub.id); {
	case sub.id == "":
		sub.cursor, sub.events = sp.buffer.Newest, sp.buffer.Events
	case ok && sub.id != sp.openID:
		sub.cursor = position
		if n, ok := sp.buffer.EventsAfter(position); ok {
			sub.events = sp.buffer.Events - n
		}
	}
	sp.subs[sub] = struct{}{}
	sub.answer = sp.splice.answer
	if sub.Outcome == ResumeLive && !s.settled {
		return // it has no ID, and the first event may have to be the first of all
	}
	if s.options.EmptyBlocks && (s.options.IDs == IDsGateway || (s.options.IDs == IDsAuto && !s.upstreamIDs)) {
		// What comes has no ids of the gateway: who is cut meanwhile has to
		// come back as one without an ID. (Without empty_blocks it may come with
		// the one that it had: it is told again.)
		sub.pending = append(sub.pending, "id\n\n"...)
	}
}

// nowhere is no position of a stream. Who comes back with an ID that names it was a
// client of a splice: nobody knows what it has missed.
const nowhere = math.MaxUint64

// comesBack is the ID with which the clients of a splice come back that ends, ""
// if they need none: where the upstream gives ids, and where it has given nothing
// yet. They are known by it, so that they wait for an upstream that is away as
// the stream's own clients do, with the head that these had. So that must not be
// another's: while the stream is not proven, both are compared.
func (s *Stream) comesBack() string {
	if s.splice == nil || !s.settled || s.upstreamIDs || s.options.IDs == IDsUpstream {
		return ""
	}
	p := s.splice.parent
	if !p.shares() && (s.track.HeadAt.IsZero() || p.track.HeadAt.IsZero() || differingField(p.head, s.head, s.options.Insignificant) != "") {
		return ""
	}
	return string(replay.AppendID(nil, p.epoch, nowhere))
}

// release takes a subscriber from a splice, which ends with its last one.
func (s *Stream) release(sub *Subscriber) {
	delete(s.subs, sub)
	sub.given(true)
	if len(s.subs) > 0 || s.splice == nil {
		return
	}
	if parent := s.splice.parent; s.phase == phaseLive && parent.compares() && !parent.shares() && parent.hasWaiting() {
		s.splice.probe, s.splice.proves = true, true // its client has left, but others wait for what it shows
		return
	}
	s.splice.parent.closeSplice(s)
	s.endLocked()
	s.hub.untrack(s)
}

// closeSplice frees a splice's place.
func (s *Stream) closeSplice(sp *Stream) {
	sp.splice.timer.Stop()
	delete(s.splices, sp)
	s.dropTrialOf(sp)
	s.dropIndex()
	s.wakeWaiting()
}

// dropIndex ends the index of what is kept if nothing is compared with it.
func (s *Stream) dropIndex() {
	if len(s.splices) == 0 && s.successor == nil {
		s.buffer.ForgetIndex()
	}
}

// tellRefused tells a client that joins at the newest event, because its splice was
// refused, what it does not get: the greeting, or what came after its ID.
func (s *Stream) tellRefused(sub *Subscriber) {
	if sub.id == "" || s.isCurrent(sub.id) {
		sub.Outcome += "; greeting=none"
		return
	}
	gap := Gap{GapUpstream, sub.id, s.missed(sub.id)}
	s.logGap(gap)
	sub.Outcome = ResumeGap
	sub.pending = append(gap.Event(s.options.GapEvent), sub.pending...)
}

// spliceFailed takes note that the connection of a splice ended before it had a
// head: its place is free, and its clients are given the upstream's own answer.
// They may join at the newest event if the application seems to hold one
// connection only, and if nobody but the first of them has the stream it is
// closed for that. The lock is held.
func (s *Stream) spliceFailed(end Ending) {
	if s.splice == nil { // left to its client meanwhile
		for _, sub := range s.readers() {
			sub.finish = EndPerClient
		}
		s.endLocked()
		return
	}
	parent := s.splice.parent
	if s.splice.probe {
		parent.probeFailed(s)
		return
	}
	now := time.Now()
	hung := end.Status == 0 && end.Err == nil
	full := hung || end.Status == http.StatusConflict || end.Status == http.StatusTooManyRequests || end.Status == http.StatusServiceUnavailable
	alone := full
	for sub := range parent.subs {
		alone = alone && (sub.waiting || (sub.stream != parent && !sub.stream.splice.merged))
	}
	joins := full && !parent.spliced && parent.shares()
	for _, sub := range s.readers() {
		switch {
		case joins:
			delete(s.subs, sub)
			sub.stream = parent
			parent.tellRefused(sub)
			parent.joinAt(sub, parent.buffer.Newest)
		case sub.released: // has a head, from when the stream was broken
			sub.finish, sub.finishAt = EndBroken, sub.cursor
		case alone:
			sub.finish = EndAskAgain
		case hung && !parent.shares():
			sub.finish = EndNoSecond
		default:
			sub.finish = EndPerClient
		}
	}
	if c := s.Log().Check(zap.DebugLevel, "splice refused"); c != nil {
		c.Write(zap.Int("status", end.Status), zap.Duration("after", now.Sub(s.splice.opened)), zap.Bool("joins", joins), zap.Bool("alone", alone))
	}
	Counts.Splices.With(SplicePrivate).Inc()
	parent.closeSplice(s)
	if alone && !joins {
		parent.closed.Store(true)
		parent.endLocked()
		for sub := range parent.subs {
			if sub.finish == EndAskAgain {
				sub.finishFrom = now.Add(closeTime)
			}
		}
	}
	s.endLocked()
	s.hub.untrack(s)
}

// probeFailed takes note that a probe has ended, which has shown nothing.
func (s *Stream) probeFailed(sp *Stream) {
	now := time.Now()
	if t := s.sharing.trial; t != nil && (t.x == sp || t.y == sp) {
		s.trialFailed(now)
	}
	if sp.phase != phaseGone {
		s.endProbe(sp)
	}
	if sp.splice.proves {
		s.endBarred()
	}
}

// merge moves a subscriber that has read a merged splice to its end on to the
// stream. It returns false if there is nothing to do.
func (sub *Subscriber) merge() bool {
	sp, s := sub.stream, sub.home
	if sp.splice == nil || !sp.splice.merged || sub.cursor < sp.splice.at {
		return false
	}
	to := sp.splice.to
	sub.stream = s
	sub.cursor, sub.live, sub.events = to, to, sp.splice.events
	sub.pending = slices.Clone(sp.splice.gap)
	switch {
	case !s.upstreamIDs && s.options.IDs != IDsUpstream:
		sub.prime(string(replay.AppendID(nil, s.epoch, to)))
	case to == s.buffer.Newest:
		sub.prime(s.newestID())
	}
	if s.phase == phaseEnded || s.phase == phaseGone {
		sub.finish, sub.finishAt, sub.tail = cmp.Or(s.over, EndBroken), s.buffer.Newest, s.overTail // while it was on its way
	}
	sp.release(sub)
	return true
}

// privatize leaves a splice to its subscribers: it is not going to be merged.
// It ends with the last of them.
func (s *Stream) privatize(sp *Stream) {
	Counts.Splices.With(SplicePrivate).Inc()
	s.tellLeft(sp, time.Now())
	sp.isPrivateFor(Private{Reason: PrivateNotMerged}) // unless it is for another
	s.closeSplice(sp)
	sp.splice = nil
	sp.private, sp.draining = true, true
	sp.settled = sp.settled || s.settled
	sp.buffer.ForgetIndex()
	for sub := range sp.subs {
		delete(s.subs, sub)
		sub.home, sub.own = sp, true
	}
	switch {
	case len(s.subs) > 0:
	case s.phase != phaseGone:
		s.lingerLocked()
	default:
		s.freeBuffer()
		s.hub.untrack(s)
	}
	sp.wakeLocked()
}

// leaveSplices leaves all splices to their subscribers: there is no stream any
// more that they could be merged into.
func (s *Stream) leaveSplices() {
	s.sharing.trial = nil
	for sp := range s.splices {
		if sp.splice.probe {
			s.endProbe(sp)
			continue
		}
		s.privatize(sp)
	}
}

// unshareable takes note that the newest head of the stream may not be shared:
// a splice is private to its first subscriber, a stream takes no more of them.
func (s *Stream) unshareable(first bool, why Private) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.succeeds():
		s.splice.parent.closed.Store(true)
	case !s.isSplice:
		s.closed.Store(true)
	case s.splice != nil && s.phase != phaseGone:
		s.isPrivateFor(why)
		s.splice.parent.privatize(s)
		if first {
			s.onlyFirst(EndPerClient)
		} else {
			s.onlyFirst(EndBroken) // they were given events: they come back with the ID of the last
		}
	}
}

// seatInterval is how often, at most, those who wait for a splice look whether
// their ID has come into the replay buffer meanwhile.
const seatInterval = 100 * time.Millisecond

// How a splice ended, as a label.
const (
	SpliceMerged  = "merged"
	SplicePrivate = "private"
)
