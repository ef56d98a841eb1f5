package stream

import (
	"fmt"
	"time"
)

// What those look at who run whole gateways in their own process: tests. None of
// it is for the gateway itself.

// Subscribers counts those of all streams.
func (h *Hub) Subscribers() (n int) {
	for _, s := range h.Every() {
		s.mu.Lock()
		n += s.countSubscribers()
		s.mu.Unlock()
	}
	return n
}

// Joinable counts the subscribers of the streams that may be joined.
func (h *Hub) Joinable() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.streams {
		for _, s := range v {
			s.mu.Lock()
			n += s.countSubscribers()
			s.mu.Unlock()
		}
	}
	return n
}

// Delivered reports whether all subscribers were given the blocks up to position.
func (h *Hub) Delivered(position uint64) bool {
	for _, s := range h.Every() {
		s.mu.Lock()
		unread := s.buffer.Newest < position || s.makeRoomUntil(position, time.Now()) != nil
		s.mu.Unlock()
		if unread {
			return false
		}
	}
	return true
}

// WritesAt reports whether a subscriber is being written to that has been given
// the blocks up to position.
func (h *Hub) WritesAt(position uint64) bool {
	for _, s := range h.Every() {
		s.mu.Lock()
		for sub := range s.subscribers() {
			if sub.cursor == position && sub.Writing.GoesOn() {
				s.mu.Unlock()
				return true
			}
		}
		s.mu.Unlock()
	}
	return false
}

// PlannedEnd is when, and why, a response is to end.
type PlannedEnd struct {
	At  time.Time
	Why EndReason
}

// LeaveNow ends all responses now, and tells when they were to end.
func (h *Hub) LeaveNow() (planned []PlannedEnd) {
	for _, s := range h.Every() {
		s.mu.Lock()
		for sub := range s.subscribers() {
			end := leaving{}
			if sub.leaving != nil {
				end = *sub.leaving
			}
			planned = append(planned, PlannedEnd{end.at, end.why})
			sub.leaving = &leaving{time.Now(), end.why}
		}
		s.wakeLocked()
		s.mu.Unlock()
	}
	return planned
}

// Remembered counts the keys that are marked unshareable, and for how many that
// is still so.
func (h *Hub) Remembered() (keys, inForce int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, why := range h.unshareable {
		if time.Now().Before(why.Until) {
			inForce++
		}
	}
	return len(h.unshareable), inForce
}

// Handlers counts those that are known.
func (h *Hub) Handlers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.instances)
}

// NewestInstance is the handler that came last.
func (h *Hub) NewestInstance() *Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.instances[len(h.instances)-1]
}

// SpliceIDs are how the splices are named to operators.
func (h *Hub) SpliceIDs() (ids []string) {
	for _, s := range h.Every() {
		if s.kind.beside {
			ids = append(ids, s.ID())
		}
	}
	return ids
}

// GiveUpSplices makes the splices their clients' own, as if their time were over.
func (h *Hub) GiveUpSplices() {
	for _, s := range h.Every() {
		s.mu.Lock()
		if s.splice != nil {
			s.splice.parent.privatize(s)
		}
		s.mu.Unlock()
	}
}

// Fill puts n streams into the hub that have no upstream: for each a request, and
// how many events it has had. They are there until remove.
func (h *Hub) Fill(n int, of func(i int) (*Request, uint64)) (remove func()) {
	all := make([]*Stream, n)
	for i := range all {
		req, events := of(i)
		req.prepare(nil)
		s := h.openedBy(req, nil)
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

// Wait waits for all upstream connections to have ended.
func (h *Hub) Wait() { h.running.Wait() }

// Leftovers tells what there is when nothing should be, "" if there is nothing.
func (h *Hub) Leftovers() string {
	every := h.Every()
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes := h.Memory.Used.Load()
	if len(h.streams) == 0 && len(every) == 0 && len(h.count) == 0 && len(h.detached) == 0 && bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%d keys, %d streams, %d places, %d detached streams, %d bytes that are counted in no replay buffer",
		len(h.streams), len(every), len(h.count), len(h.detached), bytes)
}

// Restart forgets that the process was about to exit, and which keys are not
// shared.
func (h *Hub) Restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = false
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.ending = false
	clear(h.unshareable)
}

// Viewers is how many look.
func (p *Passing) Viewers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tails
}
