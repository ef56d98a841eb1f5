package caddysse

// census is what there is at a moment.
type census struct {
	kinds  map[string]int
	states map[string]int
}

// census counts streams and upstream connections.
func (h *hub) census() census {
	c := census{
		kinds:  map[string]int{kindShared: 0, kindSplice: 0, kindPrivate: 0, kindDetached: 0},
		states: map[string]int{stateOpening: 0, stateOpen: 0, stateWaiting: 0},
	}
	for _, s := range h.every() {
		s.countIn(&c)
	}
	h.allMu.Lock()
	defer h.allMu.Unlock()
	c.kinds[kindPrivate] = len(h.private)
	return c
}

// countIn adds a stream to a census.
func (s *stream) countIn(c *census) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.kinds[s.kind()]++
	if state := s.upstreamState(); state != stateEnded {
		c.states[state]++
	}
}

// kind tells streams apart, as a label.
func (s *stream) kind() string {
	switch {
	case s.isSplice:
		return kindSplice
	case s.detached:
		return kindDetached
	}
	return kindShared
}

// upstreamState is that of the stream's upstream connection. The stream's lock
// is held.
func (s *stream) upstreamState() string {
	switch {
	case s.phase == phaseLive:
		return stateOpen
	case s.phase == phaseOpening, s.phase == phaseBroken && s.headAt.IsZero() && s.conn != nil && !s.conn.ended:
		return stateOpening
	case s.phase == phaseBroken:
		return stateWaiting
	}
	return stateEnded
}

// Kinds of streams, as a label.
const (
	kindShared  = "shared"
	kindSplice  = "splice"
	kindPrivate = "private"

	// kindDetached is a private stream that may outlive its client.
	kindDetached = "detached"
)

// States of the upstream connections of shared streams, as a label.
const (
	stateOpening = "opening" // the first one, no head came yet
	stateOpen    = "open"
	stateWaiting = "waiting" // lost, and not reached again yet

	// stateEnded is no label: the upstream, or the gateway, has ended the
	// stream, and there is no connection.
	stateEnded = "ended"
)
