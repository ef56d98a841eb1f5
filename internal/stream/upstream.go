package stream

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// IDsMode is whose ids clients get: the option ids.
type IDsMode int

// The words of the option ids.
const (
	IDsAuto     IDsMode = iota // the gateway gives ids until the upstream does
	IDsUpstream                // the gateway gives none
	IDsGateway                 // the gateway replaces the upstream's
)

// endpointType is the event type with which an upstream of the older MCP
// transport hands each connection a session of its own.
const endpointType = "endpoint"

// Conn is the stream's side of one upstream connection. Its methods
// are for the goroutine that runs the connection.
type Conn struct {
	source  Source
	Cancel  context.CancelCauseFunc // gives it up
	Options *Options
	decoder eventstream.Decoder
	Asked   bool    // to go on after an ID
	openID  string  // that ID
	Private Private // why its answer is not shared: set before Opened or Refused
	mends   bool    // follows one that broke

	// Guarded by mu, the lock of stream.
	mu       *sync.Mutex
	Stream   *Stream // that of a successor becomes the stream that it goes on with
	over     bool    // the stream goes on with another connection
	ended    bool
	headed   bool             // it is that of an event stream
	deserted bool             // the stream went on though its handlers have not returned
	resumed  bool             // it is taken to go on after the ID: see gave
	first    bool             // of the stream
	blocks   int              // how many it has had that are not comment-only
	repeats  evidence.Repeats // of blocks that the stream has: those are dropped
	dropped  int              // how many were
	answer   evidence.Answer  // of its first ids
	held     []heldBlock

	seen evidence.Connection // of it, to be compared with others
}

// Opening reports whether the stream waits for this connection's head to give
// it to its subscribers.
func (c *Conn) Opening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.Stream
	return (s.head == nil || s.reopening) && !s.refused && !s.stopped
}

// Reconnects reports whether the stream had a connection before this one.
func (c *Conn) Reconnects() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first || c.Stream.succeeds()
}

// Current returns the stream that the connection is one of.
func (c *Conn) Current() *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Stream
}

// Opened gives the head to the stream: the connection is that of an event
// stream. If it is not shareable, those who have it stay and nobody joins.
func (c *Conn) Opened(h *Head, shareable bool) {
	s := c.Stream // nobody changes it before
	if !shareable {
		s.unshareable(c.first, c.Private)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.deserted || s.stopped || s.phase == phaseGone {
		return
	}
	c.headed = true
	s.slowestHead = max(s.slowestHead, time.Since(c.seen.Began))
	opening := s.head == nil
	s.answer.Headed()
	if s.Detached && opening {
		Counts.Private.With(string(s.why.Reason)).Inc()
	}
	s.reopening = false
	c.resumed = c.Asked && s.gave()
	now := time.Now()
	s.backoff.reached(now)
	s.head = h
	s.phase = phaseLive
	s.greeting.last = now
	s.track.Opened(now)
	s.learned = learned{}
	if st := s.splice; st != nil {
		st.Restart()
		st.parent.spliced = st.parent.spliced || !st.probe
		if c.first {
			for sub := range s.subs {
				st.parent.tellMissed(sub)
			}
		}
	} else if !opening {
		s.unprove()
	}
	for sp := range s.splices {
		sp.splice.since = now
		sp.splice.StreamOpened()
	}
	s.trySplices(s.track.HeadAt)
	s.joinReleased()
	s.wakeWaiting()
	s.wakeLocked() // for those whose head waits for this one; see held
	if opening {
		close(s.ready)
	}
	if c.mends && !s.succeeds() {
		c.logRecovered()
		s.reconnects++
		if !c.resumed {
			c.tellGap() // what the upstream sent meanwhile, nobody knows
		}
	}
	s.lostAt = time.Time{}
	if !s.isSplice {
		s.openSuccessor() // there was a reload while it was being opened
	}
}

// What was missed while the upstream was lost, in the log.
const (
	missedRequested = "requested" // the upstream was asked for what came after the last ID
	missedUnknown   = "unknown"
)

// logRecovered logs that the upstream was reached again. The stream's lock is
// held.
func (c *Conn) logRecovered() {
	s := c.Stream
	missed, id := missedUnknown, ""
	if c.resumed {
		missed, id = missedRequested, shownID(s.lastUpstreamID)
	}
	after, attempts, subscribers := time.Since(s.lostAt), s.backoff.attempts, len(s.subs)
	s.throttles().recovered.Log(func(suppressed int) {
		s.Log().Info("upstream recovered", zap.Duration("after", after), zap.Int("attempts", attempts),
			zap.Bool("resumed", c.resumed), zap.String("missed", missed), zap.String("last_event_id", id),
			zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
}

// Keep makes the stream known, if it was not before its head, or tells why it
// cannot be.
func (c *Conn) Keep() error {
	if !c.Stream.Detached {
		return nil
	}
	return c.Stream.hub.keepDetached(c.Stream)
}

// Refused tells the stream that its first answer is not an event stream to
// share. Who waited for it goes upstream on its own, at once. failed tells that
// another attempt may have another answer.
func (c *Conn) Refused(failed bool) { c.Stream.refuse(failed, c.Private) }

// TellGap tells all subscribers that blocks may be missing here. The stream's
// lock is held.
func (c *Conn) tellGap() {
	s := c.Stream
	s.throttles().possible.Log(func(suppressed int) {
		s.Log().Warn("possible gap: reconnected to an upstream that gives no event IDs",
			zap.Int("suppressed", suppressed))
	})
	Counts.Gaps.With(GapUpstream).Inc()
	c.appendGap(s.gapEvent(GapUpstream, s.newestID(), -1))
}

// appendGap appends a gap event, if it is not empty. The stream's lock is held.
func (c *Conn) appendGap(wire []byte) {
	s := c.Stream
	if len(wire) == 0 {
		return
	}
	wire = wire[:len(wire)-1] // the blank line comes after the id
	if s.isSplice {
		c.waitForRoom(int64(len(wire) + 1))
	}
	if s.phase == phaseGone {
		return
	}
	b := c.wireBlock(wire, eventstream.Block{Lines: wire, HasData: true})
	b.Told = true
	c.append(b)
}

// Write takes bytes of the upstream's body.
func (c *Conn) Write(p []byte) (int, error) {
	Counts.Bytes.Add(len(p))
	if err := c.decoder.Write(p, c.block); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ErrStreamOver ends an upstream connection that its stream has no use for any
// more.
var ErrStreamOver = errors.New("the stream is over")

// block takes a block from the decoder into the stream.
func (c *Conn) block(b eventstream.Block) error {
	if string(b.Type) == endpointType && b.Dispatches() && c.beginsStream() && !c.Current().makeExclusive() {
		return errors.New("the one client of the stream has left")
	}
	lines := b.Lines
	if b.HasID && c.Options.IDs == IDsGateway {
		lines = withoutIDs(lines)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitForRoom(int64(len(lines) + 1))
	return c.take(b, lines)
}

// beginsStream reports whether the next event is the first one that the upstream
// tells any client of the stream, on whichever connection: blocks that are none
// do not count. A splice begins with its own, as long as its stream has had none.
func (c *Conn) beginsStream() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.Stream
	if c.over || c.deserted || s.Detached || s.succeeds() || s.settled {
		return false
	}
	return s.splice == nil || !s.splice.parent.settled
}

// take takes a block whose lines for the subscribers are given. The stream's
// lock is held.
func (c *Conn) take(b eventstream.Block, lines []byte) error {
	s := c.Stream
	if c.over || c.deserted || s.phase == phaseGone {
		return ErrStreamOver // merged, say: nothing may come after that point
	}
	if !b.CommentOnly() {
		c.seen.NoteLines(lines, time.Now())
	}
	if !c.first && !s.succeeds() {
		if c.repeats.Has(&s.buffer, b, lines, c.blocks > 0) {
			c.dropped++
			return nil
		}
		c.checkRenumbered(b, lines)
	}
	continues := c.goesOn(b)
	c.checkContinuity(b)
	if c.over || s.phase == phaseGone {
		return ErrStreamOver // while there was no room
	}
	s.backoff.heard()
	if b.Dispatches() {
		s.backoff.reset()
		s.answer.Events(1)
		s.oversized = 0
	}
	if b.HasID {
		s.lastUpstreamID = string(b.ID)
	}
	if len(b.ID) > 0 {
		s.gaveID = true
		s.upstreamIDs = s.upstreamIDs || c.Options.IDs != IDsGateway
	}
	if b.HasRetry {
		s.backoff.base = b.Retry
		s.retry, s.hasRetry = b.Retry, true
	}
	if s.succeeds() {
		c.hold(b, lines)
	} else {
		Counts.Blocks.Inc()
		if b.Dispatches() || b.HasID {
			s.proveAgain(c, continues)
		}
	}
	c.append(c.wireBlock(lines, b))
	s.responses.Add(b, &s.buffer)
	return nil
}

// wireBlock makes the block that subscribers get. The stream's lock is held.
func (c *Conn) wireBlock(lines []byte, b eventstream.Block) *replay.Block {
	s := c.Stream
	var id []byte
	if b.Dispatches() && !s.upstreamIDs && c.Options.IDs != IDsUpstream && s.only == nil && !s.isSplice {
		id = replay.AppendID(make([]byte, 0, 64), s.epoch, s.buffer.Newest+1)
	}
	blk := replay.NewBlock(b, lines, id, time.Now())
	if !c.Options.EmptyBlocks {
		blk.OpenComment()
	}
	return blk
}

// append adds a block to the stream and wakes its subscribers. The stream's
// lock is held.
func (c *Conn) append(b *replay.Block) {
	s := c.Stream
	if !b.CommentOnly && !b.Told {
		c.blocks++
		b.Ordinal = c.blocks
		s.settled = s.settled || b.Dispatches
		if b.Says() {
			if s.splice != nil || s.compares() {
				c.seen.Note(b, &s.track)
			}
			s.track.Note(b, s.splice == nil)
			s.fresh = false
			s.brings(b)
		}
		if sp := s.successor; sp != nil && sp.openID != "" {
			s.brought.Note(b)
		}
	}
	s.received += int64(b.Lines) + 1
	s.buffer.Append(b)
	s.charge()
	if b.HasID && c.Options.IDs != IDsGateway {
		s.buffer.SetLastID(b.ID, b.Position)
	}
	if s.options.Join == JoinGreeting {
		s.greeting.add(b, s.buffer.Limits.Size)
	}
	s.trySplices(b.At)
	s.offerSeats(b.At)
	s.wakeLocked()
}

// withoutIDs returns the lines of a block less its id fields.
func withoutIDs(lines []byte) []byte {
	kept := make([]byte, 0, len(lines))
	for line := range bytes.Lines(lines) {
		if name, _, _ := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'}); string(name) != "id" {
			kept = append(kept, line...)
		}
	}
	return kept
}

// makeExclusive leaves the stream to its first subscriber, because the
// upstream gives each connection a session of its own. The others get
// connections of their own. It returns false if there is no subscriber.
func (s *Stream) makeExclusive() bool {
	s.hub.remove(s)
	why := Private{Reason: PrivateEndpoint}
	s.hub.markUnshareable(s.Key, unshareableForever, why)
	s.facts.noteOwn(s.Key, s.path, ownSession)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.phase == phaseGone:
	case s.splice != nil && s.splice.probe:
		s.splice.parent.perConnection(ownGreeting)
		return true
	case s.splice != nil:
		s.isPrivateFor(why)
		s.splice.parent.privatize(s)
	}
	s.isPrivateFor(why)
	s.sharing.trial = nil
	for sp := range s.splices { // each of them has its own, too
		s.leaveToFirst(sp, why)
	}
	s.onlyFirst(EndPerClient)
	s.dropSuccessor()
	subscribers := len(s.subs)
	s.options.Lines.perClient.Log(func(suppressed int) {
		s.Log().Info("upstream opens a session for each connection: path is not shared",
			zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
	if s.only == nil {
		s.endLocked()
		s.hub.untrack(s)
		return false
	}
	s.wakeLocked()
	return true
}

// onlyFirst leaves a stream to its first subscriber; the others get upstream
// connections of their own.
func (s *Stream) onlyFirst(others EndReason) {
	for sub := range s.subs {
		if s.only == nil || sub.arrival < s.only.arrival {
			s.only = sub
		}
	}
	for sub := range s.subs {
		if sub != s.only {
			sub.finish, sub.finishAt = others, s.buffer.Newest
		}
	}
	s.wakeLocked()
}

// resultOf tells how an upstream connection ended, as a label. ctx is that of
// the stream's interest in it.
func resultOf(ctx context.Context, end Ending) string {
	switch {
	case end.Events && end.Clean:
		return ResultClean
	case ctx.Err() != nil:
		return ResultCancelled
	case errors.Is(end.Err, ErrStalled), errors.Is(end.Err, errNoAnswer):
		return ResultStalled
	case errors.Is(end.Err, eventstream.ErrBlockTooLarge):
		return ResultOversized
	case end.Events:
		return ResultBroken
	case end.Answered:
		return ResultRefused
	}
	return ResultFailed
}

// How an upstream connection ended, as a label.
const (
	ResultClean     = "clean"     // as HTTP says
	ResultBroken    = "broken"    // reset, or an unexpected end
	ResultStalled   = "stalled"   // upstream_timeout, or an attempt that took too long
	ResultOversized = "oversized" // a block over max_event_size
	ResultRefused   = "refused"   // the answer was no event stream
	ResultFailed    = "failed"    // there was no answer
	ResultCancelled = "cancelled" // by the gateway: nobody needs it any more
)
