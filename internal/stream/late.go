package stream

import (
	"slices"
	"strconv"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/number"
)

// Gaps that show later.
//
// When the gateway has just begun, nothing is known of the upstream: whether its ids
// count, so that the first one tells whether it went on after the last event ID that
// it was asked with. So the clients that come back then are told as soon as its ids
// have shown it.

// maxAnswers bounds how many answers that nobody waits for any more are kept.
const maxAnswers = 64

// expect takes note that a connection of the stream or of a splice is opened with a
// client's last event ID; nil if that will not tell anything.
func (s *Stream) expect(id string, of *Stream) *firstAnswer {
	n, ok := evidence.Number(id)
	if !ok || s.said.counts() {
		return nil
	}
	if len(s.late.open) >= maxAnswers {
		s.late.open = slices.DeleteFunc(s.late.open, func(a *firstAnswer) bool { return a != s.late.opening && !s.awaited(a) })
	}
	a := &firstAnswer{id: id, asked: n, of: of}
	s.late.open = append(s.late.open, a)
	return a
}

// expectFirst is expect for the connection that opens the stream.
func (s *Stream) expectFirst(id string) { s.late.opening = s.expect(id, s) }

// awaited reports whether a client is to be told what an answer shows.
func (s *Stream) awaited(a *firstAnswer) bool {
	for sub := range s.subscribers() {
		if sub.isToldOf(a) {
			return true
		}
	}
	return false
}

// judgeAnswers looks at the answers that there were, now that an ID of a stream or of
// one of its splices has come. The lock is held.
func (s *Stream) judgeAnswers(id string, of *Stream, now time.Time) {
	if len(s.late.open) == 0 {
		return
	}
	n, ok := evidence.Number(id)
	for _, a := range s.late.open {
		if a.of == of && !a.begun {
			a.begun, a.first, a.at, a.judged = true, n, now, a.judged || !ok
		}
		if a.begun && !a.judged && s.said.counts() {
			s.judgeAnswer(a, now)
		}
	}
	s.late.open = slices.DeleteFunc(s.late.open, func(a *firstAnswer) bool { return a.judged })
}

// judgeAnswer judges one answer of an upstream that counts. If it begins at or below the ID
// it may be a history, which soon gets past that; else the upstream began anew.
func (s *Stream) judgeAnswer(a *firstAnswer, now time.Time) {
	switch {
	case a.first > a.asked+1:
		s.tellLate(a, number.As[int64](a.first-a.asked-1)) // a gap of more is none
	case a.first == a.asked+1, s.said.numbers.Reached(a.asked):
		a.judged = true
	case now.Sub(a.at) >= evidence.ResumePause:
		s.tellLate(a, -1)
	}
}

// tellLate tells the clients that an answer was for, wherever they read by now.
func (s *Stream) tellLate(a *firstAnswer, missed int64) {
	a.judged, a.gap = true, true
	s.logSkipped(a.id, strconv.FormatUint(a.first, 10), missed)
	for sub := range s.subscribers() {
		if sub.isToldOf(a) {
			sub.awaitsAnswer(nil)
			sub.tell(s.gapEvent(GapUpstream, a.id, missed))
			sub.stream.wakeLocked()
		}
	}
}

// skippedAfter reports whether the upstream did not go on after the ID that the
// stream was opened with, so that what is kept since is not all that came after it.
func (s *Stream) skippedAfter(id string, position uint64) bool {
	return s.late.opening != nil && s.late.opening.gap && id == s.openID && position == 0
}
