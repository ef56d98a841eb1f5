package stream

import "time"

// LetIn gives a subscriber that is about to be served its pass.
func (sub *Subscriber) LetIn(pass Pass) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sub.pass = pass
}

// EndAt ends the response at a moment, unless it ends before. Who serves it has to be
// woken by the caller: to ring for one would wake all.
func (sub *Subscriber) EndAt(at time.Time, reason EndReason) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sub.leaveBy(at, reason)
}

// maxOtherPasses bounds how many subscribers' requests are run again for a stream
// whose own is refused.
const maxOtherPasses = 16

// renewedByOther looks for a subscriber whose request the new configuration takes
// for the same stream, where that of the one that opened it is refused.
func (s *Stream) renewedByOther(server any, q *Renewal) bool {
	s.mu.Lock()
	var passes []Pass
	for sub := range s.subscribers() {
		if sub.pass != nil {
			passes = append(passes, sub.pass)
		}
		if len(passes) == maxOtherPasses {
			break
		}
	}
	s.mu.Unlock()
	for _, pass := range passes {
		if pass.Renew(server, q) {
			return true
		}
	}
	return false
}

// EndHeld ends all streams that one holder's requests have opened and nobody else's
// joined, those too that have no client: what they keep, and their upstream connection,
// were for requests that are not to be let in. Their next request opens another one.
// Subscribers are let go within the window.
func (h *Hub) EndHeld(holder Holder, fits func(place, host string) bool, window time.Duration) {
	if holder == (Holder{}) {
		return
	}
	for _, s := range h.Every() {
		if s.isOnlyOf(holder) && fits(s.place, s.shownHost) {
			s.drain(window, EndRevoked)
		}
	}
}
