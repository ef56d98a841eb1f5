package stream

import (
	"strconv"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Where a subscriber begins: after its last event ID, or where the option join says.

// resume sets where a new subscriber begins. The stream's lock is held.
func (s *Stream) resume(sub *Subscriber, id string) {
	f := &s.buffer
	sub.live = f.Newest
	if s.isAhead(id) && sub.waitsFor(id) {
		return
	}
	if id != "" && replay.ValidID(id) && replay.Sendable(id) && !s.ownID(id) {
		sub.resumption().id = id
	}
	position, own, known := s.trusted(sub, id)
	sub.own = sub.own || own
	gap := ""
	switch until, past := s.endOfPast(id); {
	case id == "":
		s.join(sub)
	case past:
		sub.cursor = until
		sub.resumption().outcome = ResumeGap
		gap = GapEpoch
	case known && s.skippedAfter(id, position):
		sub.cursor = position
		sub.resumption().outcome = ResumeGap
		gap = GapUpstream
	case known && id == s.openID && f.Newest == 0:
		sub.resumption().outcome = ResumeSpliced
		sub.cursor = position
	case known:
		sub.cursor = position
		if sub.barred() && f.Newest > s.sharing.barrier {
			s.askForProof() // what comes next is there
		}
		n, _ := f.EventsAfter(position)
		sub.resumption().outcome = ResumeReplayed + "; events=" + strconv.FormatUint(n, 10)
	case sub.id() != "" && s.mayKnow():
		sub.resumption().outcome = ResumeSpliced
		sub.waiting = true
	default:
		sub.resumption().id = ""
		sub.resumption().outcome = ResumeGap
		gap = s.gapReason(id)
		if _, position, _ := replay.ParseID(id); f.Lost > 0 || sub.barred() || position == nowhere || s.isOfOthers() {
			s.join(sub)
		}
	}
	s.recount(sub)
	if known && id == s.openID && position == 0 {
		sub.awaitsAnswer(s.late.opening)
	}
	if gap != "" {
		missed := s.missed(id)
		sub.resumption().gap = &Gap{gap, id, missed}
		sub.tell(s.gapEvent(gap, id, missed))
	}
	s.beginWith(sub, id, known, gap != "")
	if sub.waiting {
		s.admit(sub, sub.joined())
	}
}

// aheadTime is how long a client waits whose ID is of an event that the node does not have yet.
const aheadTime = 2 * time.Second

// isAhead reports whether an ID is of an event that is on its way from the stream's owner: a
// client that has come from there at once was faster.
func (s *Stream) isAhead(id string) bool {
	epoch, position, ok := replay.ParseID(id)
	return ok && s.follows() && s.options.IDs != IDsUpstream && epoch == s.epoch && position > s.buffer.Newest && position != nowhere
}

// waitsFor lets a new subscriber wait for the event that it had last, once.
func (sub *Subscriber) waitsFor(id string) bool {
	r := sub.resumption()
	if r.ahead == "" {
		r.ahead, r.aheadUntil = id, time.Now().Add(aheadTime)
		r.outcome = ResumeReplayed + "; events=0" // if it ends meanwhile
		sub.cursor = sub.stream.buffer.Newest
		sub.stream.recount(sub)
	}
	return !r.aheadUntil.IsZero()
}

// isAhead reports whether the subscriber waits for the event that it had last, and until when.
// When it does not any more, it begins, unless it ends: then it is given nothing.
func (sub *Subscriber) isAhead(now time.Time) (waits bool, until time.Time) {
	r := sub.resuming
	if r == nil || r.aheadUntil.IsZero() {
		return false, time.Time{}
	}
	if until = r.aheadUntil; sub.finish() != "" || (sub.stream.isAhead(r.ahead) && now.Before(until)) {
		return true, until
	}
	r.aheadUntil = time.Time{}
	sub.cursor = 0
	sub.stream.resume(sub, r.ahead)
	return false, time.Time{}
}

// endOfPast returns where a client goes on whose ID is of an earlier epoch, of an event that only
// the node had that owned the stream then: where that epoch has ended here.
func (s *Stream) endOfPast(id string) (until uint64, ok bool) {
	epoch, position, ok := replay.ParseID(id)
	if !ok || s.options.IDs == IDsUpstream || position == nowhere {
		return 0, false
	}
	for _, p := range s.past {
		if p.Epoch == epoch {
			return p.Until, position > p.Until && p.Until >= s.buffer.Lost && p.Until <= s.buffer.Newest
		}
	}
	return 0, false
}

// isOfOthers reports whether other nodes have had connections of this stream: a client with an
// ID of one that is not known here had events of it, and not those before this one began.
func (s *Stream) isOfOthers() bool {
	return len(s.past) > 0 || (s.member != nil && (s.member.foreign || s.member.others))
}

// beginWith gives a new subscriber what comes before the blocks, or leaves it for
// later: an ID to resume from and a reconnection time. known tells that its own ID
// is one of the stream's, gap that it is told of one.
func (s *Stream) beginWith(sub *Subscriber, id string, known, gap bool) {
	prime := ""
	switch {
	case sub.waiting:
	case known && s.said.showsIDs:
		// By the letter of HTML 9.2.6 an event without an id takes the last
		// event ID away from a client that has just come back.
		prime = id
	case !known && sub.cursor == s.buffer.Newest:
		prime = s.newestID()
	}
	if !s.settled && !known && !gap && s.options.primeAfter > 0 {
		sub.unprimed, sub.untimed, sub.hadRetry = true, true, s.said.hasRetry
	} else {
		sub.tell(s.appendPrelude(nil, prime))
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
		sub.isGreeted(s.greeting.blocks) // if it is not over, the rest comes as all does
	}
}
