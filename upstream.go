package caddysse

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

type idsMode int

const (
	idsAuto     idsMode = iota // the gateway gives ids until the upstream does
	idsUpstream                // the gateway gives none
	idsGateway                 // the gateway replaces the upstream's
)

// endpointType is the event type with which an upstream of the older MCP
// transport hands each connection a session of its own.
const endpointType = "endpoint"

// upstreamConn is the stream's side of one upstream connection. Its methods
// are for the goroutine that runs the connection.
type upstreamConn struct {
	source  source
	cancel  context.CancelCauseFunc // gives it up
	began   time.Time
	options *streamOptions
	decoder eventstream.Decoder
	asked   bool   // to go on after an ID
	openID  string // that ID
	mends   bool   // follows one that broke

	// Guarded by mu, the lock of stream.
	mu       *sync.Mutex
	stream   *stream // that of a successor becomes the stream that it goes on with
	over     bool    // the stream goes on with another connection
	ended    bool
	headed   bool   // it is that of an event stream
	deserted bool   // the stream went on though its handlers have not returned
	resumed  bool   // it is taken to go on after the ID: see gave
	first    bool   // of the stream
	start    uint64 // the stream's position when it began
	blocks   int    // how many it has had that are not comment-only
	dropping repeatState
	repeated uint64 // position of the newest block that it repeated
	dropped  int    // how many repeated blocks were dropped
	ids      int    // how many ids it has brought, repeated ones apart
	before   uint64 // the last ID before it, if its first one is below that; see continuity.go
	held     []heldBlock
	brought  []uint64 // of a successor: what the connection before brought meanwhile; see repeats.go

	// What the upstream greeted it with: hashes of blocks, and when the first and
	// the last of them came.
	greeted                []uint64
	greetedAt, greetedLast time.Time

	greeting              []uint64  // the hashes of the blocks before its first pause
	hello                 bool      // one of them is an event
	paused                bool      // that pause was there
	firstBlock, lastBlock time.Time // when the first and the newest block came that says something
}

// opening reports whether the stream waits for this connection's head to give
// it to its subscribers.
func (c *upstreamConn) opening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stream
	return (s.head == nil || s.reopening) && !s.refused && !s.stopped
}

// reconnects reports whether the stream had a connection before this one.
func (c *upstreamConn) reconnects() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first || c.stream.succeeds()
}

// current returns the stream that the connection is one of.
func (c *upstreamConn) current() *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream
}

// opened gives the head to the stream: the connection is that of an event
// stream. If it is not shareable, those who have it stay and nobody joins.
func (c *upstreamConn) opened(h *head, shareable bool) {
	s := c.stream // nobody changes it before
	if !shareable {
		s.unshareable(c.first)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.deserted || s.stopped || s.phase == phaseGone {
		return
	}
	c.headed = true
	s.slowestHead = max(s.slowestHead, time.Since(c.began))
	opening := s.head == nil
	s.answer.headed()
	s.reopening = false
	c.resumed = c.asked && s.gave()
	now := time.Now()
	s.backoff.reached(now)
	s.head = h
	s.phase = phaseLive
	s.greeting.last = now
	s.headAt, s.begun = s.greeting.last, false
	s.learned = learned{}
	if st := s.splice; st != nil {
		st.likeness = likeness{}
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
		sp.splice.missed = nil
		sp.splice.since, sp.splice.active = s.headAt, time.Time{}
	}
	s.trySplices(s.headAt)
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
func (c *upstreamConn) logRecovered() {
	s := c.stream
	missed, id := missedUnknown, ""
	if c.resumed {
		missed, id = missedRequested, shownID(s.lastUpstreamID)
	}
	after, attempts, subscribers := time.Since(s.lostAt), s.backoff.attempts, len(s.subs)
	s.throttles().recovered.Log(func(suppressed int) {
		s.log().Info("upstream recovered", zap.Duration("after", after), zap.Int("attempts", attempts),
			zap.Bool("resumed", c.resumed), zap.String("missed", missed), zap.String("last_event_id", id),
			zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
}

// keep makes the stream known, if it was not before its head, or tells why it
// cannot be.
func (c *upstreamConn) keep() error {
	if !c.stream.detached {
		return nil
	}
	return c.stream.hub.keepDetached(c.stream)
}

// refused tells the stream that its first answer is not an event stream to
// share. Who waited for it goes upstream on its own, at once. failed tells that
// another attempt may have another answer.
func (c *upstreamConn) refused(failed bool) { c.stream.refuse(failed) }

// tellGap tells all subscribers that blocks may be missing here. The stream's
// lock is held.
func (c *upstreamConn) tellGap() {
	s := c.stream
	s.throttles().possible.Log(func(suppressed int) {
		s.log().Warn("possible gap: reconnected to an upstream that gives no event IDs",
			zap.Int("suppressed", suppressed))
	})
	theCounts.gaps.With(gapUpstream).Inc()
	c.appendGap(s.gapEvent(gapUpstream, s.newestID(), -1))
}

// appendGap appends a gap event, if it is not empty. The stream's lock is held.
func (c *upstreamConn) appendGap(wire []byte) {
	s := c.stream
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
func (c *upstreamConn) Write(p []byte) (int, error) {
	theCounts.bytes.Add(len(p))
	if err := c.decoder.Write(p, c.block); err != nil {
		return 0, err
	}
	return len(p), nil
}

// errStreamOver ends an upstream connection that its stream has no use for any
// more.
var errStreamOver = errors.New("the stream is over")

// block takes a block from the decoder into the stream.
func (c *upstreamConn) block(b eventstream.Block) error {
	if string(b.Type) == endpointType && b.Dispatches() && c.beginsStream() && !c.current().makeExclusive() {
		return errors.New("the one client of the stream has left")
	}
	lines := b.Lines
	if b.HasID && c.options.ids == idsGateway {
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
func (c *upstreamConn) beginsStream() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stream
	if c.over || c.deserted || s.detached || s.succeeds() || s.settled {
		return false
	}
	return s.splice == nil || !s.splice.parent.settled
}

// take takes a block whose lines for the subscribers are given. The stream's
// lock is held.
func (c *upstreamConn) take(b eventstream.Block, lines []byte) error {
	s := c.stream
	if c.over || c.deserted || s.phase == phaseGone {
		return errStreamOver // merged, say: nothing may come after that point
	}
	if !b.CommentOnly() {
		c.greet(lines, time.Now())
	}
	if !c.first && !s.succeeds() && c.isRepeat(b, lines) {
		c.dropped++
		return nil
	}
	continues := c.goesOn(b)
	c.checkContinuity(b)
	if c.over || s.phase == phaseGone {
		return errStreamOver // while there was no room
	}
	s.backoff.heard()
	if b.Dispatches() {
		s.backoff.reset()
		s.answer.events(1)
		s.oversized = 0
	}
	if b.HasID {
		s.lastUpstreamID = string(b.ID)
	}
	if len(b.ID) > 0 {
		s.gaveID = true
		s.upstreamIDs = s.upstreamIDs || c.options.ids != idsGateway
	}
	if b.HasRetry {
		s.backoff.base = b.Retry
		s.retry, s.hasRetry = b.Retry, true
	}
	if s.succeeds() {
		c.hold(b, lines)
	} else {
		theCounts.blocks.Inc()
		if b.Dispatches() || b.HasID {
			s.proveAgain(c, continues)
		}
	}
	c.append(c.wireBlock(lines, b))
	s.responses.add(b, &s.buffer)
	return nil
}

// wireBlock makes the block that subscribers get. The stream's lock is held.
func (c *upstreamConn) wireBlock(lines []byte, b eventstream.Block) *replay.Block {
	s := c.stream
	var id []byte
	if b.Dispatches() && !s.upstreamIDs && c.options.ids != idsUpstream && s.only == nil && !s.isSplice {
		id = replay.AppendID(make([]byte, 0, 64), s.epoch, s.buffer.Newest+1)
	}
	blk := replay.NewBlock(b, lines, id, time.Now())
	if !c.options.emptyBlocks {
		blk.OpenComment()
	}
	return blk
}

// append adds a block to the stream and wakes its subscribers. The stream's
// lock is held.
func (c *upstreamConn) append(b *replay.Block) {
	s := c.stream
	if !b.CommentOnly && !b.Told {
		c.blocks++
		b.Ordinal = c.blocks
		s.settled = s.settled || b.Dispatches
		if b.Says() {
			c.greets(b)
			s.noteBlock(b)
			s.brings(b)
		}
		s.noteBrought(b)
	}
	s.received += int64(b.Lines) + 1
	s.buffer.Append(b)
	s.charge()
	if b.HasID && c.options.ids != idsGateway {
		s.buffer.SetLastID(b.ID, b.Position)
	}
	if s.options.join == joinGreeting {
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
func (s *stream) makeExclusive() bool {
	s.hub.remove(s)
	s.hub.markUnshareable(s.key, unshareableForever)
	s.hub.facts.noteOwn(s.key, s.path, ownEvent)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.phase == phaseGone:
	case s.splice != nil && s.splice.probe:
		s.splice.parent.perConnection(ownGreeting)
		return true
	case s.splice != nil:
		s.splice.parent.privatize(s)
	}
	s.sharing.trial = nil
	for sp := range s.splices { // each of them has its own, too
		s.leaveToFirst(sp)
	}
	s.onlyFirst(endPerClient)
	s.dropSuccessor()
	subscribers := len(s.subs)
	s.options.lines.perClient.Log(func(suppressed int) {
		s.log().Info("upstream opens a session for each connection: path is not shared",
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
func (s *stream) onlyFirst(others endReason) {
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
func resultOf(ctx context.Context, end ending) string {
	switch {
	case end.events && end.clean:
		return resultClean
	case ctx.Err() != nil:
		return resultCancelled
	case errors.Is(end.err, errStalled), errors.Is(end.err, errNoAnswer):
		return resultStalled
	case errors.Is(end.err, eventstream.ErrBlockTooLarge):
		return resultOversized
	case end.events:
		return resultBroken
	case end.answered:
		return resultRefused
	}
	return resultFailed
}

// How an upstream connection ended, as a label.
const (
	resultClean     = "clean"     // as HTTP says
	resultBroken    = "broken"    // reset, or an unexpected end
	resultStalled   = "stalled"   // upstream_timeout, or an attempt that took too long
	resultOversized = "oversized" // a block over max_event_size
	resultRefused   = "refused"   // the answer was no event stream
	resultFailed    = "failed"    // there was no answer
	resultCancelled = "cancelled" // by the gateway: nobody needs it any more
)
