package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Waiting for those who read.
//
// A stream is read at the upstream's own speed, and no subscriber can slow it.
// But what comes in one piece can turn the replay buffer over before a writer
// has run once, and then clients are cut that would have read it all. So before
// a block that evicts another one the stream looks whether somebody was not
// given that yet, and waits for who keeps up:
//   - for a subscriber whose turn has not come: the gateway's own writers come
//     to it soon;
//   - for a client that is being written to, for BurstPatience. That is for the
//     whole burst and all clients together, and comes back slowly.
//
// Who was waited for in vain is left behind: it is not waited for again before
// it was given everything.
//
// A splice and a detached stream are their clients' own. They wait for as long
// as it takes.

// patienceShare is the part of the time that is given back to the patience: in the
// long run nobody holds a stream up for more than a twentieth of it.
const patienceShare = 20

// left returns what there is of a whole.
func (p *patience) left(whole time.Duration, now time.Time) time.Duration {
	p.spent = max(0, p.spent-now.Sub(p.at)/patienceShare)
	p.at = now
	return max(0, whole-p.spent)
}

// waitForRoom waits until the connection's next block, with these lines, does not
// evict one that a subscriber who keeps up was not given. The stream's lock is
// held, but for the waiting.
func (c *intake) waitForRoom(b eventstream.Block, lines []byte) {
	size := int64(len(lines) + 1)
	if b.Dispatches() && !c.stream.said.showsIDs && c.options.IDs != IDsUpstream {
		size += replay.MaxIDLine // it may be given one
	}
	for s := (*Stream)(nil); s != c.stream; { // which changes when a successor takes over
		s = c.stream
		s.waitForRoom(size, c)
	}
}

func (s *Stream) waitForRoom(size int64, c *intake) {
	evicted := s.buffer.EvictedBy(size)
	if evicted == 0 || (evicted <= s.pace.readTo && !s.kind.beside) {
		return
	}
	began := time.Now()
	for now := began; !s.isGone() && !c.over && !c.deserted; now = time.Now() {
		wait := s.makeRoomUntil(s.buffer.EvictedBy(size), now)
		if wait == nil {
			break
		}
		s.pace.room, s.track.Full = wait, true
		limit := s.patienceFor(wait, began, now)
		s.mu.Unlock()
		late := !wait.within(limit)
		s.mu.Lock()
		s.pace.room = nil
		if wait.writes {
			s.pace.patience.spent += time.Since(now)
		}
		if late && (wait.writes || time.Since(began) >= s.options.TurnPatience) {
			s.leaveBehind(wait)
		}
	}
	if s.track.Full {
		s.track.Full = false
		s.heldUp(time.Now())
	}
}

// noLimit stands for no time limit where one must be given.
const noLimit = 100 * 365 * 24 * time.Hour

// patienceFor returns for how long a stream that began to wait at a time may
// wait for those who are left now. Then it looks again: a write to somebody whose
// turn has come may have begun.
func (s *Stream) patienceFor(wait *room, began, now time.Time) time.Duration {
	switch {
	case s.kind.waits:
		return noLimit
	case wait.writes:
		return s.pace.patience.left(s.options.BurstPatience, now)
	}
	return min(s.options.BurstPatience, s.options.TurnPatience-now.Sub(began))
}

// within waits, and reports whether there was room in time.
func (r *room) within(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.free:
		return true
	case <-timer.C:
		return false
	}
}

// heldUp takes note that the stream itself did not read until now: that was no
// pause of the upstream.
func (s *Stream) heldUp(now time.Time) {
	s.track.HeldUp(now)
	s.greeting.last = now
}

// makeRoomUntil looks who is to be waited for before the blocks up to position
// may be evicted; nil: nobody is.
func (s *Stream) makeRoomUntil(position uint64, now time.Time) *room {
	wait := &room{stream: s, until: position, free: make(chan struct{})}
	s.pace.readTo = s.buffer.Newest
	for sub := range s.subscribers() {
		at, reads := s.positionOf(sub)
		if !reads || sub.late {
			continue
		}
		since, writing := sub.Writing.For(now)
		if at < position && writing && !s.kind.waits && since > s.options.BurstPatience {
			sub.late = true // it is stuck, or takes its time
			continue
		}
		s.pace.readTo = min(s.pace.readTo, at)
		if at < position {
			sub.awaits = wait
			wait.left++
			wait.writes = wait.writes || writing
		}
	}
	if wait.left == 0 && (!s.waitsToSucceed() || position == 0) {
		return nil
	}
	return wait
}

// waitsToSucceed reports whether a successor is not read while its buffer is full: all
// that came after its ID is to be given. What it brings else is only compared: if it
// was not read, that would be given after the switch, though the old connection had
// brought it.
func (s *Stream) waitsToSucceed() bool { return s.succeeds() && s.conn.resumed }

// positionOf returns up to which position a subscriber was given the stream;
// false: it does not read it.
func (s *Stream) positionOf(sub *Subscriber) (position uint64, reads bool) {
	switch sp := sub.stream; {
	case sp == s:
		position, reads = sub.cursor, !sub.waiting && !sub.barred()
	case sp.isMerged() && sub.home == s:
		position, reads = sp.splice.to, true // where it is going to go on
	}
	if sub.finish() != "" && position >= sub.ending.at {
		reads = false // it needs no more
	}
	return position, reads
}

// leaveBehind gives those up who were waited for in vain: if clients are being
// written to these, else all of them.
func (s *Stream) leaveBehind(wait *room) {
	for sub := range s.subscribers() {
		if sub.awaits == wait {
			sub.awaits = nil
			sub.late = !wait.writes || sub.Writing.GoesOn()
		}
	}
}

// given lets a stream go on that waits for a subscriber, if that was given what
// it has to be given, or has left.
func (sub *Subscriber) given(left bool) {
	if wait := sub.awaits; wait != nil {
		if at, reads := wait.stream.positionOf(sub); left || !reads || at >= wait.until {
			sub.awaits = nil
			if wait.left--; wait.left == 0 {
				wait.stream.makeRoom()
			}
		}
	}
	if sub.late && sub.cursor == sub.stream.buffer.Newest {
		sub.late = false
	}
}

// makeRoom lets a stream look again whether it can take the next block, if that
// waits.
func (s *Stream) makeRoom() {
	if s.pace.room != nil {
		close(s.pace.room.free)
		s.pace.room = nil
	}
}
