package stream

import "sync/atomic"

// What a connection holds beside the replay buffer: the block that has not come to its
// end, which may be as large as max_event_size, and what a content coding needs. It
// counts in memory, and cannot be evicted.

// smallHold is from when on that counts: each connection has some of it.
const smallHold = 64 << 10

// Partial counts how many bytes are kept of a block that has not come to its end.
func (c *intake) Partial(bytes int64) { c.count(&c.partial, bytes) }

// Coding counts how many bytes the decoder of a content coding keeps. It may run beside
// Take: who decodes is not who gives it what there is.
func (c *intake) Coding(bytes int64) { c.count(&c.coding, bytes) }

// count counts one of the things that the connection holds.
func (c *intake) count(held *atomic.Int64, size int64) {
	if size < smallHold {
		size = 0
	}
	if size == held.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && !c.deserted {
		c.stream.hub.charge(size - held.Swap(size))
	}
}

// holds is what is counted.
func (c *intake) holds() int64 { return c.partial.Load() + c.coding.Load() }

// letGo takes back what was counted. The stream's lock is held.
func (c *intake) letGo() { c.stream.hub.charge(-c.partial.Swap(0) - c.coding.Swap(0)) }

// held is what the stream's connection holds. The lock is held.
func (s *Stream) held() int64 {
	if s.conn == nil {
		return 0
	}
	return s.conn.holds()
}
