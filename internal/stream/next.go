package stream

import (
	"context"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What a subscriber is given next.

// MaxWrite is how many bytes of blocks go out in one write, unless one
// block is larger. It bounds what a reconnect storm takes from live
// delivery and the memory of a slow client.
const MaxWrite = 64 << 10

// WaitForHead waits until the head of a client may be sent. One that needs a
// splice has none before that has its own, so that what the client causes once
// it is connected reaches it. It returns false if the client has left.
func (sub *Subscriber) WaitForHead(ctx context.Context) bool {
	for {
		wake, until := sub.held(time.Now())
		if wake == nil {
			return true
		}
		var timer <-chan time.Time
		if !until.IsZero() {
			timer = time.After(time.Until(until))
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return false
		}
	}
}

// held returns what is closed when the head of a client may be one that can be
// sent, and when to look again at the latest; nil when it can be.
func (sub *Subscriber) held(now time.Time) (wake <-chan struct{}, until time.Time) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	s := sub.home
	if wait, until := sub.isAhead(now); wait && sub.finish() == "" {
		return s.bell.wait(), until
	}
	if sub.waiting {
		s.admit(sub, now)
	}
	if (sub.finish() == EndAskAgain || sub.finish() == EndPerClient) && now.Before(sub.finishFrom()) {
		return s.bell.wait(), sub.finishFrom()
	}
	if sub.finish() != "" || s.isGone() {
		return nil, time.Time{}
	}
	if sub.waiting {
		if (s.isLive() || !s.shares()) && !sub.released {
			until = sub.lookAgain()
			if !until.IsZero() && !until.After(now) { // something is due with the head
				until = now.Add(seatInterval)
			}
			return s.seats.wait(), until
		}
		if !sub.released {
			sub.release()
		}
		return nil, time.Time{}
	}
	sp := sub.stream
	if !sp.kind.beside || sp.isHeaded() || sp.isGone() {
		return nil, time.Time{}
	}
	return sp.bell.wait(), time.Time{}
}

// Next appends to dst the blocks that the subscriber is to be given now, about
// MaxWrite bytes at most. If there are none it returns what is
// closed when there may be some, or why the response is over. leaveAt is when
// to ask again at the latest; zero: never.
func (sub *Subscriber) Next(dst []*replay.Block, now time.Time) (out []*replay.Block, wake <-chan struct{}, leaveAt time.Time, end EndReason) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sent := sub.Sent
	out, leaveAt, end = sub.advance(dst, now)
	sub.Writing.Begin(now) // until the caller waits
	sub.count(out, sub.Sent-sent)
	sub.hold(out)
	switch {
	case end != "", len(out) > 0:
	case sub.waiting:
		wake = sub.home.seats.wait()
	default:
		wake = sub.stream.bell.wait()
	}
	return out, wake, leaveAt, end
}

// NextOf is next for a connection, by its writer. waits tells that the
// connection has been given everything and will be looked at when there is
// something new.
func (sub *Subscriber) NextOf(c Waiter, dst []*replay.Block, now time.Time) (out []*replay.Block, waits bool, leaveAt time.Time, end EndReason) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sent := sub.Sent
	out, leaveAt, end = sub.advance(dst, now)
	sub.count(out, sub.Sent-sent)
	s := sub.stream
	if end == "" && (len(out) == 0 || sub.upToDate()) {
		waits = true
		s.bell.add(c)
	}
	return out, waits, leaveAt, end
}

// advance is next, less the waiting. The lock is held.
func (sub *Subscriber) advance(dst []*replay.Block, now time.Time) (out []*replay.Block, leaveAt time.Time, end EndReason) {
	sub.Taken, sub.takenAt = 0, 0
	if wait, until := sub.isAhead(now); wait {
		return dst, until, sub.finish()
	}
	if sub.waiting {
		sub.home.admit(sub, now)
	}
	leaves := sub.leaving != nil && !now.Before(sub.leaving.at)
	revoked := leaves && sub.leaving.why == EndRevoked // nothing is for it any more
	if sub.finish() == EndPerClient && !revoked {
		return dst, time.Time{}, sub.finish()
	}
	if leaves {
		if !revoked {
			dst = sub.tellBeforeEnd(dst, now)
		}
		if retry := sub.stream.options.LastRetry(); retry != nil {
			dst = append(dst, &replay.Block{Wire: retry})
		}
		return dst, time.Time{}, sub.leaving.why
	}
	dst, end = sub.read(dst)
	if sub.givePrelude(now) && len(dst) == 0 && end == "" {
		dst, end = sub.read(dst)
	}
	sub.given(false)
	if len(dst) == 0 && end == "" && sub.merge() {
		dst, end = sub.read(dst)
		sub.given(false)
	}
	switch {
	case end != "", len(dst) > 0:
		return dst, sub.lookAt(), end
	case sub.finish() != "" && !now.Before(sub.finishFrom()):
		dst = sub.tellBeforeEnd(dst, now)
		if tail := sub.ending.tail; len(tail) > 0 {
			dst = append(dst, &replay.Block{Wire: tail})
			sub.ending.tail = nil
		}
		return dst, time.Time{}, sub.finish()
	}
	if sub.waiting {
		return dst, sub.lookAgain(), ""
	}
	return dst, sub.lookAt(), ""
}

// read appends what is after the cursor.
func (sub *Subscriber) read(dst []*replay.Block) ([]*replay.Block, EndReason) {
	s := sub.stream
	dst, greeted := sub.readLead(dst)
	size := 0
	if greeted || sub.waiting {
		return dst, ""
	}
	if sub.cursor < s.buffer.Lost {
		if !s.options.LagSkip {
			return dst, endLag
		}
		dst = append(dst, &replay.Block{Wire: sub.skip(gapLag)})
	}
	limit := sub.limit()
	for _, b := range s.buffer.After(sub.cursor) {
		if b.Position > limit || (size > 0 && size+len(b.Wire) > MaxWrite) {
			break
		}
		if sub.finishesBefore(b.Position) {
			break // the stream went on with somebody else
		}
		sub.cursor, sub.events = b.Position, b.Events
		if b.CommentOnly && b.Position <= sub.live {
			continue
		}
		if b.Dispatches {
			sub.sends()
		}
		if sub.Taken++; sub.takenAt == 0 && !b.At.Before(sub.joined()) {
			sub.takenAt = max(1, b.At.Sub(sub.Origin.born))
		}
		dst = append(dst, b)
		size += len(b.Wire)
	}
	return dst, ""
}

// readLead appends what goes out before the blocks, about MaxWrite bytes at most;
// greeted tells that it was blocks.
func (sub *Subscriber) readLead(dst []*replay.Block) (_ []*replay.Block, greeted bool) {
	l := sub.lead
	if l == nil {
		return dst, false
	}
	if len(l.greeted) == 0 {
		sub.lead = nil
		return append(dst, &replay.Block{Wire: l.bytes}), false
	}
	n := 0
	for size := 0; n < len(l.greeted) && (n == 0 || size+len(l.greeted[n].Wire) <= MaxWrite); n++ {
		if l.greeted[n].Dispatches {
			sub.sends()
		}
		size += len(l.greeted[n].Wire)
	}
	dst = append(dst, l.greeted[:n]...)
	sub.Taken += n
	if l.greeted = l.greeted[n:]; len(l.greeted) == 0 && len(l.bytes) == 0 {
		sub.lead = nil
	}
	return dst, true
}

// merge moves a subscriber that has read a merged splice to its end on to the
// stream. It returns false if there is nothing to do.
func (sub *Subscriber) merge() bool {
	sp, s := sub.stream, sub.home
	if !sp.isMerged() || sub.cursor < sp.splice.at {
		return false
	}
	to := sp.splice.to
	sub.stream = s
	sub.cursor, sub.live, sub.events = to, to, sp.splice.events
	sub.tell(sp.splice.gap)
	switch {
	case s.givesIDs():
		sub.prime(string(replay.AppendID(nil, s.epoch, to)))
	case to == s.buffer.Newest:
		sub.prime(s.newestID())
	}
	if s.hasEnded() || s.isGone() {
		s.endFor(sub) // while it was on its way
	}
	sp.release(sub)
	return true
}

// tellBeforeEnd appends the gap event that a subscriber would be told when its splice
// is merged: its response ends before, and when it comes back its ID is a newer one.
func (sub *Subscriber) tellBeforeEnd(dst []*replay.Block, now time.Time) []*replay.Block {
	st := sub.stream.comparing()
	if st == nil {
		return dst
	}
	if gap := st.parent.gapSoFar(sub.stream, now); len(gap) > 0 {
		dst = append(dst, &replay.Block{Wire: gap})
	}
	return dst
}

// sends counts an event that the client is sent.
func (sub *Subscriber) sends() {
	if sub.Sent++; sub.Sent == 1 {
		sub.FirstEvent = max(1, time.Since(sub.joined()))
	}
}

// count counts blocks that are given to the subscriber, and the events in them. The
// lock is held.
func (sub *Subscriber) count(blocks []*replay.Block, events uint64) {
	bytes := uint64(0)
	for _, b := range blocks {
		bytes += uint64(len(b.Wire))
	}
	sub.bytes += bytes
	sub.home.figures.gave(events, bytes)
}

// upToDate reports whether the subscriber can be given nothing until its stream
// has something new. The lock is held.
func (sub *Subscriber) upToDate() bool {
	return sub.stream == sub.home && sub.cursor == sub.stream.buffer.Newest && sub.finish() == "" && sub.lead == nil
}

// LeaveBell lets a connection wait for nothing any more.
func (sub *Subscriber) LeaveBell(c Waiter) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	c.Slot().remove(c)
}

// hold takes note of what is given to the client and is not written yet, as far
// as is known: until the next call. The lock is held.
func (sub *Subscriber) hold(blocks []*replay.Block) {
	sub.unwritten, sub.oldest = sub.Taken, nil
	if sub.Taken > 0 {
		sub.oldest = blocks[len(blocks)-sub.Taken] // others go before those of the stream
	}
}

// HoldBatch is hold for a connection that does not take what the last call gave;
// HeldBatch tells that it has.
func (sub *Subscriber) HoldBatch(blocks []*replay.Block) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sub.hold(blocks)
}

// HeldBatch tells that what HoldBatch told of is written.
func (sub *Subscriber) HeldBatch() {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sub.unwritten, sub.oldest = 0, nil
}
