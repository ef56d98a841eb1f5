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
	if id != "" && replay.ValidID(id) && replay.Sendable(id) && !s.ownID(id) {
		sub.resumption().id = id
	}
	position, own, known := s.trusted(sub, id)
	sub.own = sub.own || own
	gap := ""
	switch {
	case id == "":
		s.join(sub)
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
		if _, position, _ := replay.ParseID(id); f.Lost > 0 || sub.barred() || position == nowhere {
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
