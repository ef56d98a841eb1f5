package stream

// What a connection holds beside the replay buffer: the block that has not come to its
// end, which may be as large as max_event_size, and what a content coding needs. It
// counts in memory, and cannot be evicted.

// smallHold is from when on that counts: each connection has some of it.
const smallHold = 64 << 10

// Coding takes note of how many bytes the decoder of a content coding keeps.
func (c *Conn) Coding(bytes int64) {
	c.coding = bytes
	c.countHeld()
}

// countHeld counts what the connection holds now.
func (c *Conn) countHeld() {
	size := int64(cap(c.decoder.Rest())) + c.coding
	if size < smallHold {
		size = 0
	}
	if size == c.holds.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && !c.deserted {
		c.Stream.hub.charge(size - c.holds.Swap(size))
	}
}

// letGo takes back what was counted. The stream's lock is held.
func (c *Conn) letGo() { c.Stream.hub.charge(-c.holds.Swap(0)) }

// held is what the stream's connection holds. The lock is held.
func (s *Stream) held() int64 {
	if s.conn == nil {
		return 0
	}
	return s.conn.holds.Load()
}
