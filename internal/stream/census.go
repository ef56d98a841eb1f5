package stream

// Census is what there is at a moment.
type Census struct {
	Kinds  map[string]int
	States map[string]int
}

// Census counts streams and upstream connections.
func (h *Hub) Census() Census {
	c := Census{
		Kinds:  map[string]int{KindShared: 0, KindSplice: 0, KindPrivate: 0, KindDetached: 0},
		States: map[string]int{StateOpening: 0, StateOpen: 0, StateWaiting: 0},
	}
	for _, s := range h.Every() {
		s.countIn(&c)
	}
	h.allMu.Lock()
	defer h.allMu.Unlock()
	c.Kinds[KindPrivate] = len(h.private)
	return c
}

// countIn adds a stream to a census.
func (s *Stream) countIn(c *Census) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Kinds[s.kind.label]++
	if state := s.upstreamState(); state != StateEnded && !s.follows() {
		c.States[state]++
	}
}

// upstreamState is that of the stream's upstream connection. The stream's lock
// is held.
func (s *Stream) upstreamState() string {
	switch {
	case s.isLive():
		return StateOpen
	case s.isOpening(), s.isBroken() && !s.isHeaded() && s.conn != nil && !s.conn.ended:
		return StateOpening
	case s.isBroken():
		return StateWaiting
	}
	return StateEnded
}

// States of the upstream connections of shared streams, as a label.
const (
	StateOpening = "opening" // the first one, no head came yet
	StateOpen    = "open"
	StateWaiting = "waiting" // lost, and not reached again yet

	// StateEnded is no label: the upstream, or the gateway, has ended the
	// stream, and there is no connection.
	StateEnded = "ended"
)
