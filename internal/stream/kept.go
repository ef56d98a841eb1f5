package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What is kept of a stream: its replay buffer, which counts as memory, and for how long
// when nobody reads it.

// charge counts what has changed in the stream's replay buffer. The lock is
// held.
func (s *Stream) charge() {
	d := s.buffer.Memory() - s.charged
	if d == 0 {
		return // as much was evicted as came
	}
	s.charged += d
	s.hub.charge(d)
}

// freeBuffer lets go of all blocks of a stream that nobody is to read any more.
// The lock is held.
func (s *Stream) freeBuffer() {
	s.buffer = replay.Buffer{Limits: s.buffer.Limits}
	s.greeting = greeting{}
	s.charge()
}

// EvictTo evicts the stream's oldest blocks until they take at most size bytes,
// and returns how many.
func (s *Stream) evictTo(size int64, now time.Time) (blocks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.buffer.Blocks)
	if sp := s.successor; sp != nil {
		size -= sp.buffer.Memory()
	}
	s.buffer.EvictTo(size, now)
	if s.options.Join != JoinGreeting {
		s.greeting = greeting{ended: true} // would keep what was evicted
	}
	s.charge()
	return before - len(s.buffer.Blocks)
}

// lingerMoment is how long the only client of a stream without an event has to be there
// for the stream to stay without it. EventSource comes back after 1 s or more.
const lingerMoment = time.Second

// lingers reports whether the stream is only kept for those who may come back. A
// detached stream that has not ended is not: somebody has asked for the whole
// answer. The lock is held.
func (s *Stream) lingers() bool {
	return s.stay.isLingering() && !s.hasSubscribers() && !s.isFollowed() && (!s.kind.answer || s.hasEnded())
}

// lingerTime is how long the stream stays when its last subscriber leaves now; 0: it
// ends. Lingering is earned, by an event or an ID, by a second client, or by the time that its
// client was there: else who asks and leaves, again and again, would have the
// gateway keep many connections for the work of one. A moment earns nothing: an
// EventSource that is cut then would come back too late for it, and has nothing to go
// on after.
func (s *Stream) lingerTime() time.Duration {
	if !s.kind.answer {
		if s.arrivals > 1 || s.track.Said > 0 {
			return s.options.Linger
		}
		if stayed := s.stay.lasted(time.Now()); stayed >= lingerMoment {
			return min(s.options.Linger, stayed)
		}
		return 0
	}
	if !s.hasEnded() {
		return s.options.Linger
	}
	newest := s.track.HeadAt
	if s.track.NewestAt.After(newest) {
		newest = s.track.NewestAt
	}
	return max(0, time.Until(newest.Add(s.buffer.Limits.Age)))
}

// isYoung reports whether the stream has not earned all of its time without
// subscribers. The lock is held.
func (s *Stream) isYoung() bool { return !s.kind.answer && !s.stay.hasEarned(s.options.Linger) }

// attended begins the time in which the stream has subscribers. The lock is held.
func (s *Stream) attended(now time.Time) {
	if !s.hasSubscribers() {
		s.stay.attended(now)
	}
}
