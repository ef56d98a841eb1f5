package caddysse

import (
	"time"
)

// detached are the settings of streams that go on without a client for d. Who
// has missed something of such a stream gets all that is kept.
func (o *streamOptions) detached(d time.Duration) *streamOptions {
	options := *o
	options.ids = idsGateway
	options.linger = d
	options.join, options.joinReplay = joinReplay, -1
	options.reconnect = reconnectBroken // an answer is never asked for again
	options.primeAfter = 0              // its client may be cut before the first event
	return &options
}

// openDetached makes a stream for one request. It is not known to the hub until
// keepDetached.
func (h *hub) openDetached(req *joinRequest) (*subscriber, error) {
	s := newStream(h, req, nil)
	s.detached = true
	s.answer = newAnswerClock()
	s.responses = newResponsesLog(req.parts)
	s.greeting.ended = true // nobody is greeted with it
	return s.attach(req)
}

// keepDetached makes a stream known that has just got its head, or tells why
// it cannot be.
func (h *hub) keepDetached(s *stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return errStopping
	}
	if limit := s.options.maxStreams; limit > 0 && h.count[s.place] >= limit && !h.makePlaceLocked(s.place) {
		return errTooManyStreams
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseGone {
		return errStreamOver // its client has left
	}
	s.adoptable = h.aloneLocked(s.owner)
	h.detached[s.epoch] = s
	h.count[s.place]++
	h.track(s)
	return nil
}

// findDetachedLocked returns the detached stream of an epoch if the request is
// entitled to it, else nil.
func (h *hub) findDetachedLocked(epoch string, req *joinRequest) *stream {
	s := h.detached[epoch]
	if s == nil || s.key != req.key || !h.entitledLocked(s, req.instance) {
		return nil
	}
	return s
}

// resumeDetached attaches a subscriber to the detached stream of an epoch; nil
// if there is none for the request.
func (h *hub) resumeDetached(epoch string, req *joinRequest) (*subscriber, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.findDetachedLocked(epoch, req)
	if s == nil {
		return nil, nil //nolint:nilnil // neither is an error
	}
	return s.attach(req)
}

// cancelDetached ends the detached stream of an epoch, and returns its head. It
// returns false if there is none for the request.
func (h *hub) cancelDetached(epoch string, req *joinRequest) (*head, bool) {
	h.mu.Lock()
	s := h.findDetachedLocked(epoch, req)
	h.mu.Unlock()
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	s.leave(endBroken)
	return head, true
}

// removeDetachedLocked is removeLocked for a detached stream.
func (h *hub) removeDetachedLocked(s *stream) {
	if h.detached[s.epoch] != s {
		return
	}
	delete(h.detached, s.epoch)
	h.uncountLocked(s.place)
}

// lingerTime is how long the stream stays when its last subscriber leaves now.
// Lingering is earned, by an event, by a second client, or by the time that its
// client was there: else who asks and leaves, again and again, would have the
// gateway keep many connections for the work of one.
func (s *stream) lingerTime() time.Duration {
	if !s.detached {
		if s.arrivals > 1 || s.buffer.Events > 0 {
			return s.options.linger
		}
		return min(s.options.linger, max(leastLinger, time.Since(s.born)))
	}
	if s.phase != phaseEnded {
		return s.options.linger
	}
	newest := s.headAt
	if s.newestAt.After(newest) {
		newest = s.newestAt
	}
	return max(0, time.Until(newest.Add(s.buffer.Limits.Age)))
}

// withoutCookies returns a head for those who come back: the cookies were for
// the first time, and may be older by now than what the client has.
func (h *head) withoutCookies() *head {
	if len(h.header["Set-Cookie"]) == 0 {
		return h
	}
	again := *h
	again.header = h.header.Clone()
	again.header.Del("Set-Cookie")
	return &again
}
