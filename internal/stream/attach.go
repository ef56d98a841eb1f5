package stream

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A request comes to a stream.

// attach adds a subscriber and finds where it begins, in one step. The hub's
// lock is held.
func (s *Stream) attach(req *Request) (*Subscriber, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() {
		return nil, errGone
	}
	if limit := req.Options.MaxSubscribers; limit > 0 && s.countSubscribers() >= limit {
		return nil, ErrTooManySubscribers
	}
	now := time.Now()
	s.buffer.Evict(now)
	s.charge()
	if s.hasEnded() && !s.kind.answer {
		if _, _, ok := s.trusted(nil, req.LastEventID); !ok && (!s.shares() || !s.ofThisLife(req.LastEventID)) {
			return nil, errNewLife
		}
	}
	newer := !s.kind.answer && (req.Instance.sequence > s.owner.sequence || (s.source.Retired() && !req.Instance.Retired.Load()))
	if req.digest == nil && !s.kind.answer && (newer || s.phase == phaseEnded) {
		return nil, errUnprepared
	}
	if newer {
		s.ownedBy(req.Instance, req.Options, req.Source(false), req.Logger)
		if s.isBroken() || (s.isStale() && !s.renewing) {
			s.useSource()
		}
	}
	s.stopLinger()
	s.attended(now)
	s.arrivals++
	sub := &Subscriber{
		comer: comer{Origin: s, arrival: s.arrivals, cameAt: now.Sub(s.born), client: req.Client},
		place: place{home: s, stream: s},
	}
	if req.IDParam != "" {
		sub.resumption().param = req.IDParam
	}
	if age := s.options.RandomAge(); age > 0 {
		sub.leaveBy(now.Add(age), EndMaxAge)
	}
	if s.arrivals == 1 {
		sub.own = true
	}
	s.addSubscriber(sub)
	s.isJoinedBy(req.Holder)
	if s.member != nil && s.member.asked != nil {
		s.member.asked[sub] = req.LastEventID
	}
	s.resume(sub, req.LastEventID)
	if s.hasEnded() && s.kind.answer {
		s.endFor(sub)
	} else if s.hasEnded() {
		// Who comes back after the end goes on where it was, and with it the
		// stream.
		s.reopen(req, now)
	}
	if s.cancel == nil {
		s.startLocked(s.openID)
	}
	return sub, nil
}

// keptHead is the head of a stream that has ended.
func (s *Stream) keptHead() *upstreams.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headForAll()
}

// reopen opens the stream again for a request. The lock is held.
func (s *Stream) reopen(req *Request, now time.Time) {
	s.beginAgain()
	s.attempts.begin(now)
	if req.Instance.sequence >= s.owner.sequence && !req.Instance.Retired.Load() {
		s.source = req.Source(true)
	}
	s.startLocked(s.said.lastID)
}

// ownedBy makes a handler the owner of a stream. The locks of the hub and of the
// stream are held.
func (s *Stream) ownedBy(inst *Instance, options *Options, src Source, logger *zap.Logger) {
	s.owner = inst
	s.adoptable = inst.aloneLocked()
	s.options = options
	s.buffer.Limits = options.Buffer
	s.source = src
	s.setLogger(logger)
	s.seats.ring() // no splice is opened with retired handlers
}

func (s *Stream) isStale() bool {
	return s.source.Retired() || (!s.follows() && s.conn != nil && !s.conn.ended && s.conn.source.Retired())
}

// becomesStale reports whether a stream has to be moved, and nobody is at it.
func (s *Stream) becomesStale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kind.moves || s.endsWithClients() || s.renewing || s.isGone() {
		return false
	}
	s.renewing = s.isStale()
	return s.renewing
}

// useSource makes a stream connect with the source that it was given. The lock is held.
func (s *Stream) useSource() {
	for sp := range s.splices {
		if sp.isBroken() {
			sp.hurryUp()
		}
	}
	switch s.phase {
	case phaseBroken:
		s.hurryUp()
	case phaseLive:
		s.openSuccessor()
	case phaseOpening, phaseEnded, phaseGone:
		// The first looks when it has its head, the second opens the next
		// connection with the new source anyway.
	}
}
