package stream

import (
	"maps"
	"slices"
	"time"
)

// renewalInterval and maxRenewalSpread: so long after each other streams
// are moved after a reload, and so long that takes at most.
const renewalInterval = 5 * time.Millisecond

const maxRenewalSpread = 5 * time.Second

// Retire takes note that a handler's configuration is gone, and moves its
// streams to the one that there is now.
func (h *Hub) Retire(inst *Instance) {
	h.mu.Lock()
	inst.Retired.Store(true)
	h.instances = slices.DeleteFunc(h.instances, func(i *Instance) bool { return i == inst })
	h.setMemoryLocked()
	// What a single answer has shown it has shown to the old configuration: the new
	// one may share it.
	maps.DeleteFunc(h.unshareable, func(_ Key, why Private) bool { return time.Until(why.Until) <= unshareableTime })
	stopping := h.stopping
	h.mu.Unlock()
	if stopping {
		return
	}
	var stale []*Stream
	for _, s := range h.Every() {
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
func (h *Hub) renewLate(s *Stream) {
	if s.becomesStale() {
		h.running.Go(func() { h.renew(s) })
	}
}

// renew moves a stream to the newest configuration. If no handler there is
// reached by the request that opened it, its subscribers are drained.
func (h *Hub) renew(s *Stream) {
	var refused any // the server that did
	for {
		s.mu.Lock()
		src := s.source
		if s.isGone() || s.draining || !src.Retired() {
			s.renewing = false
			s.useSource()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		q := &Renewal{Key: s.Key}
		server := h.NewestServer(func(place string) bool { return place == s.place })
		if server == nil || server == refused {
			break
		}
		if src.Renew(server, q) || s.renewedByOther(server, q) {
			h.adopt(s, q)
		} else {
			refused = server // but there may be a newer one by now, or a client
		}
	}
	s.Log().Warn("no sse handler of the new configuration takes the stream over: disconnecting its clients")
	s.drain(s.DrainTime(), endReload)
}

func (h *Hub) newestServerLocked(fits func(place string) bool) any {
	for _, inst := range slices.Backward(h.instances) {
		if fits(inst.Place) && (h.Serves == nil || h.Serves(inst.server)) {
			return inst.server
		}
	}
	return nil
}

// adopt makes the handler that a renewal has found the owner of a stream.
func (h *Hub) adopt(s *Stream, q *Renewal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.source.Retired() {
		return // a client has brought it
	}
	if !h.entitledLocked(s, q.Instance) {
		// Its place is not its own: requests that reach the new handler may
		// have reached another one before, with other events.
		s.close()
	}
	s.ownedBy(q.Instance, q.Options, q.Source, q.Logger)
}

// NewestServer returns the server of the newest configuration that has a handler of
// a place that fits; nil: there is none.
func (h *Hub) NewestServer(fits func(place string) bool) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newestServerLocked(fits)
}
