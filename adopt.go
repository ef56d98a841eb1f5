package caddysse

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

// renewalInterval and maxRenewalSpread: so long after each other streams
// are moved after a reload, and so long that takes at most.
const renewalInterval = 5 * time.Millisecond

const maxRenewalSpread = 5 * time.Second

// renewal is what is to be found out after a reload: which handler of the new
// configuration takes a stream over.
type renewal struct {
	key streamKey // of the stream

	// What the handler left that was reached; without a source none was.
	instance *instance
	options  *streamOptions
	source   source
	logger   *zap.Logger
}

// retire takes note that a handler's configuration is gone, and moves its
// streams to the one that there is now.
func (h *hub) retire(inst *instance) {
	h.mu.Lock()
	inst.retired.Store(true)
	h.instances = slices.DeleteFunc(h.instances, func(i *instance) bool { return i == inst })
	h.setMemoryLocked()
	stopping := h.stopping
	h.mu.Unlock()
	if stopping {
		return
	}
	var stale []*stream
	for _, s := range h.every() {
		if s.becomesStale() {
			stale = append(stale, s)
		}
	}
	if len(stale) == 0 {
		return
	}
	pause := min(renewalInterval, maxRenewalSpread/time.Duration(len(stale)))
	h.running.Go(func() {
		for _, s := range stale {
			h.running.Go(func() { h.renew(s) })
			time.Sleep(pause)
		}
	})
}

// renewLate moves a stream that a request has opened which was on its way when
// its configuration went.
func (h *hub) renewLate(s *stream) {
	if s.becomesStale() {
		h.running.Go(func() { h.renew(s) })
	}
}

// becomesStale reports whether a stream has to be moved, and nobody is at it.
func (s *stream) becomesStale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isSplice || s.detached || s.only != nil || s.draining || s.renewing || s.phase == phaseGone {
		return false
	}
	s.renewing = s.isStale()
	return s.renewing
}

func (s *stream) isStale() bool {
	return s.source.retired() || (s.conn != nil && !s.conn.ended && s.conn.source.retired())
}

// renew moves a stream to the newest configuration. If no handler there is
// reached by the request that opened it, its subscribers are drained.
func (h *hub) renew(s *stream) {
	var refused any // the server that did
	for {
		s.mu.Lock()
		src := s.source
		if s.phase == phaseGone || s.draining || !src.retired() {
			s.renewing = false
			s.useSource()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		q := &renewal{key: s.key}
		server := h.newestServer(s.place)
		if server == nil || server == refused {
			break
		}
		if src.renew(server, q) {
			h.adopt(s, q)
		} else {
			refused = server // but there may be a newer one by now, or a client
		}
	}
	s.log().Warn("no sse handler of the new configuration takes the stream over: disconnecting its clients")
	s.drain(s.drainTime(), endReload)
}

// newestServer returns the server of the newest configuration that has a
// handler of a place, nil if there is none.
func (h *hub) newestServer(place string) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, inst := range slices.Backward(h.instances) {
		if inst.place == place && (h.serves == nil || h.serves(inst.server)) {
			return inst.server
		}
	}
	return nil
}

// adopt makes the handler that a renewal has found the owner of a stream.
func (h *hub) adopt(s *stream, q *renewal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.source.retired() {
		return // a client has brought it
	}
	if !h.entitledLocked(s, q.instance) {
		// Its place is not its own: requests that reach the new handler may
		// have reached another one before, with other events.
		s.closed.Store(true)
	}
	s.ownedBy(q.instance, q.options, q.source, q.logger)
}

// ownedBy makes a handler the owner of a stream. The locks of the hub and of the
// stream are held.
func (s *stream) ownedBy(inst *instance, options *streamOptions, src source, logger *zap.Logger) {
	s.owner = inst
	s.adoptable = s.hub.aloneLocked(inst)
	s.options = options
	s.buffer.Limits = options.buffer
	s.source = src
	s.setLogger(logger)
	s.wakeWaiting() // no splice is opened with retired handlers
}

// useSource makes a stream connect with the source that it was given. The lock is held.
func (s *stream) useSource() {
	for sp := range s.splices {
		if sp.phase == phaseBroken {
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

// hurryUp lets the next attempt be made at once.
func (s *stream) hurryUp() {
	s.backoff.reset()
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// dropHurry forgets that the next attempt is to be made at once.
func (s *stream) dropHurry() {
	select {
	case <-s.hurry:
	default:
	}
}
