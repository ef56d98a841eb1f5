package stream

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"go.uber.org/zap"
)

// What all replay buffers of the process may take together.
//
// Each buffer has limits of its own, but how many there are is for clients to
// say. So the hub counts the bytes that all of them take, with what a block takes
// beside those that clients get. Over the limit one goroutine
// makes room: it ends streams that only linger, those without subscribers for
// longest first; if that does not suffice, the largest buffers lose their oldest
// blocks. It goes below the limit by a margin, so that streams are looked at
// once in so many bytes and not for each block. Under the limit nothing runs.

const (
	// memoryMargin is the part of the limit that is free after room was made:
	// an eighth.
	memoryMargin = 8

	// memoryPause is how long nothing is tried after there was not enough to
	// evict: the newest block of each stream stays.
	memoryPause = 100 * time.Millisecond
)

// charge counts bytes of replay buffers. Any lock may be held.
func (h *Hub) charge(bytes int64) {
	if m := &h.Memory; m.Used.Add(bytes) > m.limit.Load() {
		h.reclaimSoon()
	}
}

// LimitMemory sets what a handler states for all replay buffers; 0: nothing.
func (h *Hub) LimitMemory(inst *Instance, size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	inst.memory = size
	h.setMemoryLocked()
}

// MemoryDiffers reports whether another handler of the same configuration, which
// config stands for, states another value than this one, and what counts then.
// Other configurations come and go with their own.
func (h *Hub) MemoryDiffers(inst *Instance, config any) (limit int64, differs bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	inst.config, limit = config, inst.memory
	for _, i := range h.instances {
		if i.config == config && i.memory > 0 && inst.memory > 0 && i.memory != inst.memory {
			limit, differs = min(limit, i.memory), true
		}
	}
	return limit, differs
}

// MemoryLimit is how much all replay buffers may take, and whether they take more.
func (h *Hub) MemoryLimit() (limit int64, over bool) { return h.Memory.limit.Load(), h.Memory.over() }

// setMemoryLocked makes the smallest stated value the limit.
func (h *Hub) setMemoryLocked() {
	limit := int64(0)
	for _, inst := range h.instances {
		if inst.memory > 0 && (limit == 0 || inst.memory < limit) {
			limit = inst.memory
		}
	}
	h.Memory.limit.Store(cmp.Or(limit, h.resources.defaultMemory()))
	h.reclaimSoon()
}

// reclaimSoon lets a goroutine make room, if it is needed and there is none yet.
// Any lock may be held.
func (h *Hub) reclaimSoon() {
	if h.Memory.over() && h.Memory.reclaiming.CompareAndSwap(false, true) {
		h.running.Go(h.reclaim)
	}
}

// reclaim makes room until the buffers are within the limit.
func (h *Hub) reclaim() {
	for h.Memory.over() {
		if !h.evict(time.Now()) {
			time.Sleep(memoryPause)
		}
	}
	h.Memory.reclaiming.Store(false)
	h.reclaimSoon() // for who came after the last look and before this
}

// evict makes room once, as much as there is to be made. It returns false if
// that was not enough, or nothing.
func (h *Hub) evict(now time.Time) (enough bool) {
	m := &h.Memory
	limit, used := m.limit.Load(), m.Used.Load()
	target := limit - limit/memoryMargin
	held := h.holdings(now)
	streams := endLingering(held, target)
	blocks, enough := evictLargest(held, target, now)
	Counts.Evictions.With(EvictedStream).Add(streams)
	Counts.Evictions.With(EvictedBlock).Add(blocks)
	if len(held) > 0 {
		log := slices.MaxFunc(held, func(a, b holding) int { return cmp.Compare(a.size, b.size) }).stream.Log()
		m.line.Log(func(suppressed int) {
			log.Warn("replay buffers over memory", zap.Int64("memory", limit), zap.Int64("bytes", used),
				zap.Int("streams", streams), zap.Int("blocks", blocks), zap.Int("suppressed", suppressed))
		})
	}
	return enough && streams+blocks > 0
}

// holding is what a stream holds in its replay buffer, in its decoders, and in those of
// its successor, if it has one.
type holding struct {
	stream *Stream
	size   int64
	least  int64     // of that stays; and all but its own buffer's
	alone  time.Time // since when it only lingers; zero: it does not
}

// holdings looks at all streams. What is older than its buffer keeps goes on
// the way: a quiet stream has not looked.
func (h *Hub) holdings(now time.Time) []holding {
	every := h.Every()
	held := make([]holding, 0, len(every))
	for _, s := range every {
		s.mu.Lock()
		s.buffer.Evict(now)
		s.charge()
		more := s.held()
		if sp := s.successor; sp != nil {
			more += sp.held() + sp.buffer.Memory()
		}
		o := holding{stream: s, size: s.buffer.Memory() + more, least: s.buffer.Least() + more}
		if s.lingers() {
			o.alone = s.stay.aloneSince()
		}
		s.mu.Unlock()
		held = append(held, o)
	}
	return held
}

// endLingering ends streams that only linger, the oldest first, until target is
// reached, and returns how many.
func endLingering(held []holding, target int64) (ended int) {
	var lingering []*holding
	excess := -target
	for i := range held {
		excess += held[i].size
		if o := &held[i]; o.size > 0 && !o.alone.IsZero() {
			lingering = append(lingering, o)
		}
	}
	slices.SortFunc(lingering, func(a, b *holding) int { return a.alone.Compare(b.alone) })
	for _, o := range lingering {
		if excess <= 0 {
			break
		}
		if o.stream.expire() {
			excess -= o.size
			o.size, o.least = 0, 0
			ended++
		}
	}
	return ended
}

// evictLargest evicts the oldest blocks of what is the largest buffer, again and
// again, until target is reached: that leaves no buffer over a level. It returns
// how many blocks went, and false if target cannot be reached.
func evictLargest(held []holding, target int64, now time.Time) (blocks int, enough bool) {
	level, enough := levelOf(held, target)
	for _, o := range held {
		if o.size > level {
			blocks += o.stream.evictTo(level, now)
		}
	}
	return blocks, enough
}

// levelOf returns down to which size larger buffers have to be evicted so that
// at most target bytes are left, and false if more than that has to stay.
func levelOf(held []holding, target int64) (level int64, enough bool) {
	kept := func(level int64) (sum int64) {
		for _, o := range held {
			sum += min(o.size, max(o.least, level))
		}
		return sum
	}
	largest := 0
	for _, o := range held {
		largest = max(largest, int(o.size))
	}
	level = int64(sort.Search(largest, func(l int) bool { return kept(int64(l)+1) > target }))
	return level, kept(level) <= target
}
