package stream

import (
	"strconv"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Where a subscriber begins: after its last event ID, or where the option join says.

// locate returns the position up to which a client with the last event ID id
// has been given the stream, and false if that is unknown or something after
// it is lost. The stream's lock is held.
func (s *Stream) locate(id string) (position uint64, ok bool) {
	if id == "" || !replay.ValidID(id) {
		return 0, false
	}
	if s.options.IDs != IDsUpstream {
		if epoch, position, ok := replay.ParseID(id); ok {
			return position, epoch == s.epoch && position <= s.buffer.Newest && position >= s.buffer.Lost
		}
	}
	if id == s.openID && !s.gaveID && s.buffer.Newest > 0 {
		return 0, false // the upstream gives no ids: this one means nothing to it
	}
	return s.buffer.Find(id)
}

// resume sets where a new subscriber begins. The stream's lock is held.
func (s *Stream) resume(sub *Subscriber, id string) {
	f := &s.buffer
	sub.live = f.Newest
	if replay.ValidID(id) && replay.Sendable(id) && !s.ownID(id) {
		sub.id = id
	}
	position, own, known := s.trusted(sub, id)
	sub.own = sub.own || own
	gap := ""
	switch {
	case id == "":
		sub.Outcome = ResumeLive
		s.join(sub)
	case known && s.skippedAfter(id, position):
		sub.cursor = position
		sub.Outcome = ResumeGap
		gap = GapUpstream
	case known && id == s.openID && f.Newest == 0:
		sub.Outcome = ResumeSpliced
		sub.cursor = position
	case known:
		sub.cursor = position
		if sub.barred() && f.Newest > s.sharing.barrier {
			s.askForProof() // what comes next is there
		}
		n, _ := f.EventsAfter(position)
		sub.Outcome = ResumeReplayed + "; events=" + strconv.FormatUint(n, 10)
	case sub.id != "" && s.mayKnow():
		sub.Outcome = ResumeSpliced
		sub.waiting = true
	default:
		sub.id = ""
		sub.Outcome = ResumeGap
		gap = s.gapReason(id)
		if _, position, _ := replay.ParseID(id); f.Lost > 0 || sub.barred() || position == nowhere {
			s.join(sub)
		}
	}
	s.recount(sub)
	if known && id == s.openID && position == 0 {
		sub.answer = s.opening
	}
	if gap != "" {
		missed := s.missed(id)
		sub.gap = &Gap{gap, id, missed}
		sub.pending = s.gapEvent(gap, id, missed)
	}
	s.beginWith(sub, id, known, gap != "")
	if sub.waiting {
		s.admit(sub, sub.joined)
	}
}

// beginWith gives a new subscriber what comes before the blocks, or leaves it for
// later: an ID to resume from and a reconnection time. known tells that its own ID
// is one of the stream's, gap that it is told of one.
func (s *Stream) beginWith(sub *Subscriber, id string, known, gap bool) {
	prime := ""
	switch {
	case sub.waiting:
	case known && s.upstreamIDs:
		// By the letter of HTML 9.2.6 an event without an id takes the last
		// event ID away from a client that has just come back.
		prime = id
	case !known && sub.cursor == s.buffer.Newest:
		prime = s.newestID()
	}
	if !s.settled && !known && !gap && s.options.primeAfter > 0 {
		sub.unprimed, sub.untimed, sub.hadRetry = true, true, s.hasRetry
	} else {
		sub.pending = s.appendPrelude(sub.pending, prime)
	}
}

// ofThisLife reports whether an ID is one of the gateway's that the stream gave.
func (s *Stream) ofThisLife(id string) bool {
	epoch, _, ok := replay.ParseID(id)
	return ok && epoch == s.epoch && s.options.IDs != IDsUpstream
}

// trusted is locate for an ID that may be taken for this stream's: not for one
// that the upstream gave, while it may be telling each connection its own. own
// reports whether the client with that ID is the one that such a connection is.
func (s *Stream) trusted(sub *Subscriber, id string) (position uint64, own, ok bool) {
	if s.learned.unmerged > 0 && !s.ownID(id) && id != s.openID {
		return 0, false, false
	}
	position, ok = s.locate(id)
	barrier := s.sharing.barrier
	switch {
	case !ok, s.shares(), s.Detached:
		return position, false, ok
	case position == 0 && id == s.openID: // nobody was given it here
		return position, false, sub != nil && sub.own
	case s.ownID(id): // nobody guesses the epoch
		return position, barrier == 0 || position > barrier, true
	case barrier > 0 && position <= barrier:
		return position, false, true
	}
	return 0, false, false
}

// mayKnow reports whether the upstream may know IDs that the stream does not.
func (s *Stream) mayKnow() bool {
	if s.options.IDs == IDsGateway {
		return false
	}
	return s.upstreamIDs || s.buffer.Events == 0 || s.options.IDs == IDsUpstream
}

// recount sets a subscriber's count of events to that at its cursor, from where it
// is going to read.
func (s *Stream) recount(sub *Subscriber) {
	s.readTo = min(s.readTo, sub.cursor)
	if n, ok := s.buffer.EventsAfter(sub.cursor); ok {
		sub.events = s.buffer.Events - n
	}
}

// join sets where a subscriber without a known ID begins.
func (s *Stream) join(sub *Subscriber) {
	f := &s.buffer
	sub.cursor = f.Newest
	switch s.options.Join {
	case joinAuto:
		// Who comes before the first block gets all that a client of the
		// upstream itself would, if it may. Others need a splice.
		sub.waiting = !s.fresh || sub.barred()
	case JoinReplay:
		sub.cursor = max(f.Tail(s.options.JoinReplay), f.Lost)
	case JoinGreeting:
		if f.Lost == 0 && !s.greeting.over(time.Now()) {
			sub.cursor = 0
			break
		}
		sub.greeted = s.greeting.blocks // if it is not over, the rest comes as all does
	}
}
