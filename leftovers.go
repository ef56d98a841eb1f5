package caddysse

import (
	"fmt"
	"time"
)

// What those look at who run whole gateways in their own process: tests. None of
// it is for the gateway itself.

// subscribers counts those of all streams.
func (h *hub) subscribers() (n int) {
	for _, s := range h.every() {
		s.mu.Lock()
		n += len(s.subs)
		s.mu.Unlock()
	}
	return n
}

// joinable counts the subscribers of the streams that may be joined.
func (h *hub) joinable() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.streams {
		for _, s := range v {
			s.mu.Lock()
			n += len(s.subs)
			s.mu.Unlock()
		}
	}
	return n
}

// delivered reports whether all subscribers were given the blocks up to position.
func (h *hub) delivered(position uint64) bool {
	for _, s := range h.every() {
		s.mu.Lock()
		unread := s.buffer.Newest < position || s.makeRoomUntil(position, time.Now()) != nil
		s.mu.Unlock()
		if unread {
			return false
		}
	}
	return true
}

// writesAt reports whether a subscriber is being written to that has been given
// the blocks up to position.
func (h *hub) writesAt(position uint64) bool {
	for _, s := range h.every() {
		s.mu.Lock()
		for sub := range s.subs {
			if sub.cursor == position && sub.writing.Load() != 0 {
				s.mu.Unlock()
				return true
			}
		}
		s.mu.Unlock()
	}
	return false
}

// remembered counts the keys that are marked unshareable, and for how many that
// is still so.
func (h *hub) remembered() (keys, inForce int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, until := range h.unshareable {
		if time.Now().Before(until) {
			inForce++
		}
	}
	return len(h.unshareable), inForce
}

// handlers counts those that are known.
func (h *hub) handlers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.instances)
}

// newestInstance is the handler that came last.
func (h *hub) newestInstance() *instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.instances[len(h.instances)-1]
}

// memoryLimit is how much all replay buffers may take, and whether they take more.
func (h *hub) memoryLimit() (limit int64, over bool) { return h.memory.limit.Load(), h.memory.over() }

// spliceIDs are how the splices are named to operators.
func (h *hub) spliceIDs() (ids []string) {
	for _, s := range h.every() {
		if s.isSplice {
			ids = append(ids, s.id())
		}
	}
	return ids
}

// giveUpSplices makes the splices their clients' own, as if their time were over.
func (h *hub) giveUpSplices() {
	for _, s := range h.every() {
		s.mu.Lock()
		if s.splice != nil {
			s.splice.parent.privatize(s)
		}
		s.mu.Unlock()
	}
}

// fill puts n streams into the hub that have no upstream: for each a request, and
// how many events it has had. They are there until remove.
func (h *hub) fill(n int, of func(i int) (*joinRequest, uint64)) (remove func()) {
	all := make([]*stream, n)
	for i := range all {
		req, events := of(i)
		s := newStream(h, req, nil)
		s.buffer.Events = events
		h.track(s)
		all[i] = s
	}
	return func() {
		for _, s := range all {
			h.untrack(s)
		}
	}
}

// wait waits for all upstream connections to have ended.
func (h *hub) wait() { h.running.Wait() }

// leftovers tells what there is when nothing should be, "" if there is nothing.
func (h *hub) leftovers() string {
	every := h.every()
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes := h.memory.used.Load()
	if len(h.streams) == 0 && len(every) == 0 && len(h.count) == 0 && len(h.detached) == 0 && bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%d keys, %d streams, %d places, %d detached streams, %d bytes that are counted in no replay buffer",
		len(h.streams), len(every), len(h.count), len(h.detached), bytes)
}

// restart forgets that the process was about to exit, and which keys are not
// shared.
func (h *hub) restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = false
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.ending = false
	clear(h.unshareable)
}
