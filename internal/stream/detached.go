package stream

import (
	"errors"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// OpenDetached makes a stream for one request. It is not known to the hub until
// keepDetached.
func (h *Hub) OpenDetached(req *Request) (*Subscriber, error) {
	req.prepare(nil)
	defer func() { req.digest = nil }()
	s := h.openedBy(req, nil)
	s.kind = detachedKind
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
	if s.isGone() {
		return ErrStreamOver // its client has left
	}
	s.adoptable = s.owner.aloneLocked()
	h.detached[s.epoch] = s
	h.answers[s.Key] = append(h.answers[s.Key], s)
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
func (h *Hub) CancelDetached(epoch string, req *Request) (*upstreams.Head, bool) {
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

// FindResponse looks for an answer among the detached streams that a request is
// entitled to, and returns the ID of the event with a number in it.
func (h *Hub) FindResponse(req *Request, id string, number int64) (lastEventID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.answers[req.Key] {
		if !h.entitledLocked(s, req.Instance) {
			continue
		}
		s.mu.Lock()
		position, ok := s.responses.After(id, number, &s.buffer)
		s.mu.Unlock()
		if ok {
			return string(replay.AppendID(nil, s.epoch, position))
		}
	}
	return ""
}
