package stream

import (
	"errors"
	"time"
)

// Detached are the settings of streams that go on without a client for d. Who
// has missed something of such a stream gets all that is kept.
func (o *Options) Detached(d time.Duration) *Options {
	options := *o
	options.IDs = IDsGateway
	options.Linger = d
	options.Join, options.JoinReplay = JoinReplay, -1
	options.Reconnect = reconnectBroken // an answer is never asked for again
	options.primeAfter = 0              // its client may be cut before the first event
	return &options
}

// OpenDetached makes a stream for one request. It is not known to the hub until
// keepDetached.
func (h *Hub) OpenDetached(req *Request) (*Subscriber, error) {
	s := newStream(h, req, nil)
	s.Detached = true
	s.why = orElse(req.Private, Private{Reason: PrivateMethod})
	s.answer = NewAnswerClock()
	s.responses = newResponsesLog(req.Parts)
	s.greeting.ended = true // nobody is greeted with it
	sub, err := s.attach(req)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	return sub, err
}

// keepDetached makes a stream known that has just got its head, or tells why
// it cannot be.
func (h *Hub) keepDetached(s *Stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return ErrStopping
	}
	if limit := s.options.MaxStreams; limit > 0 && h.count[s.place] >= limit && !h.makePlaceLocked(s.place) {
		return errTooManyStreams
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseGone {
		return ErrStreamOver // its client has left
	}
	s.adoptable = s.owner.aloneLocked()
	h.detached[s.epoch] = s
	h.count[s.place]++
	h.track(s)
	return nil
}

// findDetachedLocked returns the detached stream of an epoch if the request is
// entitled to it, else nil.
func (h *Hub) findDetachedLocked(epoch string, req *Request) *Stream {
	s := h.detached[epoch]
	if s == nil || s.Key != req.Key || !h.entitledLocked(s, req.Instance) {
		return nil
	}
	return s
}

// ResumeDetached attaches a subscriber to the detached stream of an epoch; nil
// if there is none for the request.
func (h *Hub) ResumeDetached(epoch string, req *Request) (*Subscriber, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.findDetachedLocked(epoch, req)
	if s == nil {
		return nil, nil
	}
	sub, err := s.attach(req)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	return sub, err
}

// CancelDetached ends the detached stream of an epoch, and returns its head. It
// returns false if there is none for the request.
func (h *Hub) CancelDetached(epoch string, req *Request) (*Head, bool) {
	h.mu.Lock()
	s := h.findDetachedLocked(epoch, req)
	h.mu.Unlock()
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	s.leave(EndBroken)
	return head, true
}

// removeDetachedLocked is removeLocked for a detached stream.
func (h *Hub) removeDetachedLocked(s *Stream) {
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
func (s *Stream) lingerTime() time.Duration {
	if !s.Detached {
		if s.arrivals > 1 || s.buffer.Events > 0 {
			return s.options.Linger
		}
		return min(s.options.Linger, max(leastLinger, time.Since(s.born)))
	}
	if s.phase != phaseEnded {
		return s.options.Linger
	}
	newest := s.track.HeadAt
	if s.track.NewestAt.After(newest) {
		newest = s.track.NewestAt
	}
	return max(0, time.Until(newest.Add(s.buffer.Limits.Age)))
}

// WithoutCookies returns a head for those who come back: the cookies were for
// the first time, and may be older by now than what the client has.
func (h *Head) WithoutCookies() *Head {
	if len(h.Header["Set-Cookie"]) == 0 {
		return h
	}
	again := *h
	again.Header = h.Header.Clone()
	again.Header.Del("Set-Cookie")
	return &again
}
