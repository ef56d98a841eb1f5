package caddysse

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

type idsMode int

const (
	idsAuto     idsMode = iota // the gateway gives ids until the upstream does
	idsUpstream                // the gateway gives none
	idsGateway                 // the gateway replaces the upstream's
)

// reconnectMode is which ends of an upstream connection are hidden.
type reconnectMode int

const (
	reconnectBroken    reconnectMode = iota // all but those as HTTP says
	reconnectAlways                         // all
	reconnectResumable                      // as reconnectBroken, if the upstream gives ids
	reconnectNever
)

// endpointType is the event type with which an upstream of the older MCP
// transport hands each connection a session of its own.
const endpointType = "endpoint"

// statusCancelled is what reverse_proxy says for the upstream when a connection
// to it is given up on this side: also when a reload has closed its transport.
const statusCancelled = 499

// ending is how an upstream connection ended.
type ending struct {
	events     bool          // its head was that of an event stream
	clean      bool          // its body ended as HTTP says
	status     int           // of the answer; 0: there was none
	retryAfter time.Duration // what the answer asked for
	tail       []byte        // with a clean end: what came after the last blank line
	err        error         // what went wrong, if known
}

// retriable reports whether another attempt may succeed: there was no answer,
// or one that says so (RFC 9110, 15.5.9, 15.6; RFC 6585, 4; RFC 8470, 5.2).
func (e ending) retriable() bool {
	switch {
	case e.events:
		return true
	case e.status == http.StatusRequestTimeout, e.status == http.StatusTooEarly, e.status == http.StatusTooManyRequests:
		return true
	case e.status == statusCancelled:
		return true
	}
	return e.status == 0 || e.status >= http.StatusInternalServerError
}

// upstreamConn is the stream's side of one upstream connection. Its methods
// are for the goroutine that runs the connection.
type upstreamConn struct {
	source  source
	options *streamOptions
	decoder eventstream.Decoder
	resumed bool // asked to go on after an ID
	mends   bool // follows one that broke

	// Guarded by mu, the lock of stream.
	mu       *sync.Mutex
	stream   *stream // that of a successor becomes the stream that it goes on with
	over     bool    // the stream goes on with another connection
	ended    bool
	first    bool   // of the stream
	start    uint64 // the stream's position when it began
	blocks   int    // how many it has had that are not comment-only
	dropping repeatState
	repeated uint64 // position of the newest block that it repeated
	dropped  int    // how many repeated blocks were dropped
	held     []heldBlock
}

// opening reports whether the stream waits for this connection's head to give
// it to its subscribers.
func (c *upstreamConn) opening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stream
	return s.head == nil && !s.refused && !s.stopped
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
	if c.over || s.stopped || s.phase == phaseGone {
		return
	}
	opening := s.head == nil
	s.backoff.reached()
	s.head, s.sent = h, c.source
	s.phase = phaseLive
	s.greeting.last = time.Now()
	s.headAt, s.begun = s.greeting.last, false
	s.learned = learned{}
	s.trySplices(s.headAt)
	s.wakeWaiting()
	s.wakeLocked() // for those whose head waits for this one; see held
	if opening {
		close(s.ready)
	}
	if c.mends && !s.succeeds() {
		s.log().Info("upstream recovered", zap.Bool("resumed", c.resumed))
		if !c.resumed {
			c.tellGap() // what the upstream sent meanwhile, nobody knows
		}
	}
	if !s.isSplice {
		s.openSuccessor() // there was a reload while it was being opened
	}
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
// share. Who waited for it goes upstream on its own, at once.
func (c *upstreamConn) refused() { c.stream.refuse() }

// tellGap tells all subscribers that blocks may be missing here. The stream's
// lock is held.
func (c *upstreamConn) tellGap() {
	s := c.stream
	s.log().Warn("possible gap: the upstream connection was renewed and the upstream gives no ids to go on from")
	theMetrics.gaps.WithLabelValues(gapUpstream).Inc()
	wire := s.gapEvent(gapUpstream, s.newestID(), -1)
	if len(wire) == 0 {
		return
	}
	wire = wire[:len(wire)-1] // the blank line comes after the id
	if s.isSplice {
		s.waitForRoom(int64(len(wire) + 1))
	}
	if s.phase == phaseGone {
		return
	}
	b := c.wireBlock(wire, eventstream.Block{Lines: wire, HasData: true})
	b.told = true
	c.append(b)
}

// Write takes bytes of the upstream's body.
func (c *upstreamConn) Write(p []byte) (int, error) {
	theMetrics.bytes[in].Add(float64(len(p)))
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
	if string(b.Type) == endpointType {
		if s := c.current(); c.isFirst() && !s.isSplice && !s.detached && !s.makeExclusive() {
			return errors.New("the one client of the stream has left")
		}
	}
	lines := b.Lines
	if b.HasID && c.options.ids == idsGateway {
		lines = withoutIDs(lines)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream.isSplice || c.stream.detached {
		c.stream.waitForRoom(int64(len(lines) + 1))
	}
	return c.take(b, lines)
}

// isFirst reports whether the next block is the first one of a stream.
func (c *upstreamConn) isFirst() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first && c.blocks == 0
}

// take takes a block whose lines for the subscribers are given. The stream's
// lock is held.
func (c *upstreamConn) take(b eventstream.Block, lines []byte) error {
	s := c.stream
	if c.over || s.phase == phaseGone {
		return errStreamOver // merged, say: nothing may come after that point
	}
	if !c.first && !s.succeeds() && c.isRepeat(b, lines) {
		c.dropped++
		return nil
	}
	if b.Dispatches() {
		s.backoff.reset()
		s.oversized = 0
	}
	if b.HasID {
		s.lastUpstreamID = string(b.ID)
	}
	if len(b.ID) > 0 && c.options.ids == idsAuto {
		s.upstreamIDs = true
	}
	if b.HasRetry {
		s.backoff.base = b.Retry
		s.retry, s.hasRetry = b.Retry, true
	}
	if s.succeeds() {
		c.hold(b, lines)
	} else {
		theMetrics.blocks[in].Inc()
	}
	c.append(c.wireBlock(lines, b))
	return nil
}

// wireBlock makes the block that subscribers get. The stream's lock is held.
func (c *upstreamConn) wireBlock(lines []byte, b eventstream.Block) *block {
	s := c.stream
	blk := &block{
		lines:       len(lines),
		at:          time.Now(),
		hasID:       b.HasID,
		id:          string(b.ID),
		dispatches:  b.Dispatches(),
		commentOnly: b.CommentOnly(),
	}
	var id []byte
	if blk.dispatches && !s.upstreamIDs && c.options.ids != idsUpstream && s.only == nil && !s.isSplice {
		id = appendGatewayID(make([]byte, 0, 64), s.epoch, s.buffer.newest+1)
	}
	size := len(lines) + 1
	if len(id) > 0 {
		size += len("id: \n") + len(id)
	}
	blk.wire = append(make([]byte, 0, size), lines...)
	if len(id) > 0 {
		blk.wire = append(append(append(blk.wire, "id: "...), id...), '\n')
	}
	blk.wire = append(blk.wire, '\n')
	return blk
}

// append adds a block to the stream and wakes its subscribers. The stream's
// lock is held.
func (c *upstreamConn) append(b *block) {
	s := c.stream
	if !b.commentOnly && !b.told {
		c.blocks++
		b.ordinal = c.blocks
		s.noteBlock(b)
	}
	s.buffer.append(b)
	if b.hasID && c.options.ids != idsGateway {
		s.buffer.setLastID(b.id, b.position)
	}
	s.greeting.add(b, s.buffer.limits.size)
	s.trySplices(b.at)
	s.offerSeats(b.at)
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

// repeatState says whether blocks are being dropped that an upstream repeats
// at the beginning of a new connection.
type repeatState int

const (
	repeatAwaited repeatState = iota // no block with an id came yet
	repeatRunning                    // each block so far was a kept one, in order
	repeatOver
)

// isRepeat reports whether a block of a later connection is one that the
// stream has. Blocks count as repeats only while they form a run, from the
// connection's first block with an id, equal to kept blocks in their order. The
// stream's lock is held.
func (c *upstreamConn) isRepeat(b eventstream.Block, lines []byte) bool {
	s := c.stream
	switch c.dropping {
	case repeatAwaited:
		if len(b.ID) == 0 {
			return false
		}
		i := slices.IndexFunc(s.buffer.blocks, func(k *block) bool { return k.same(b, lines) })
		if i >= 0 && s.buffer.blocks[i].position <= c.start {
			c.dropping = repeatRunning
			c.repeated = s.buffer.blocks[i].position
			return true
		}
		c.dropping = repeatOver
	case repeatRunning:
		if b.CommentOnly() {
			return false
		}
		rest := s.buffer.after(c.repeated)
		i := slices.IndexFunc(rest, func(k *block) bool { return !k.commentOnly })
		if i >= 0 && rest[i].position <= c.start && rest[i].same(b, lines) {
			c.repeated = rest[i].position
			return true
		}
		c.dropping = repeatOver
	}
	c.checkRenumbered(b, lines)
	return false
}

// checkRenumbered makes blocks of earlier connections unreachable by id when
// the upstream gives one of their ids to another block: it has begun anew.
func (c *upstreamConn) checkRenumbered(b eventstream.Block, lines []byte) {
	s := c.stream
	if len(b.ID) == 0 {
		return
	}
	for _, k := range s.buffer.blocks {
		if k.position > c.start {
			return
		}
		if k.hasID && k.id == string(b.ID) && !k.same(b, lines) {
			s.log().Warn("possible gap: the upstream gives ids anew that it gave to other events before",
				zap.String("id", clip(k.id)))
			s.buffer.forgetIDs(c.start)
			return
		}
	}
}

// same reports whether a kept block is what the upstream sends as b.
func (k *block) same(b eventstream.Block, lines []byte) bool {
	return k.hasID == b.HasID && k.id == string(b.ID) && bytes.Equal(k.wire[:k.lines], lines)
}

// makeExclusive leaves the stream to its first subscriber, because the
// upstream gives each connection a session of its own. The others get
// connections of their own. It returns false if there is no subscriber.
func (s *stream) makeExclusive() bool {
	s.hub.remove(s)
	s.hub.markUnshareable(s.key, unshareableForever)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onlyFirst(endPerClient)
	s.dropSuccessor()
	s.log().Info("the upstream gives each connection a session of its own: this path is not shared",
		zap.Int("subscribers", len(s.subs)))
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
			sub.finish, sub.finishAt = others, s.buffer.newest
		}
	}
	s.wakeLocked()
}

// run owns an upstream connection of the stream: it opens it, reads it at the
// upstream's own speed, and opens it again when it breaks. It returns when the
// stream is over, or goes on with a connection of another goroutine.
func (s *stream) run(ctx context.Context, cancel context.CancelFunc, src source, lastEventID string) {
	defer cancel()
	for {
		conn, end := s.connect(ctx, src, lastEventID)
		if ctx.Err() != nil {
			return
		}
		s = conn.current() // a successor has become the stream
		delay, again := s.after(conn, end)
		if !again {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-s.hurry:
		case <-time.After(delay):
		}
		src, lastEventID = s.nextConnection()
		if src.retired() { // those of the new configuration are being looked for
			select {
			case <-ctx.Done():
				return
			case <-s.hurry:
			case <-time.After(defaultGiveUp):
			}
			if src, lastEventID = s.nextConnection(); src.retired() {
				s.lapse()
				return
			}
		}
	}
}

// lapse ends what the new configuration has no handlers for.
func (s *stream) lapse() {
	s.mu.Lock()
	if s.succeeds() {
		defer s.mu.Unlock()
		if parent := s.splice.parent; parent.successor == s {
			parent.dropSuccessor()
		}
		return
	}
	s.mu.Unlock()
	s.log().Error("upstream lost, and no handler of the new configuration was found")
	s.finish(endReload, nil)
}

// nextConnection tells how to open the upstream connection again.
func (s *stream) nextConnection() (src source, lastEventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.succeeds() {
		return s.source, s.splice.parent.lastUpstreamID
	}
	s.useParentsSource()
	return s.source, s.lastUpstreamID
}

// useParentsSource makes a splice connect with the newest handlers. The lock is
// held.
func (s *stream) useParentsSource() {
	if s.splice != nil {
		s.source = s.splice.parent.source
	}
}

// connect runs one upstream connection to its end.
func (s *stream) connect(ctx context.Context, src source, lastEventID string) (conn *upstreamConn, end ending) {
	s.mu.Lock()
	conn = &upstreamConn{
		source:  src,
		mu:      s.mu,
		stream:  s,
		options: s.options,
		first:   s.connections == 0,
		resumed: lastEventID != "",
		mends:   s.broke,
		start:   s.buffer.newest,
	}
	conn.decoder.MaxBlockSize = conn.options.maxEventSize
	if !sendable(lastEventID) {
		lastEventID, conn.resumed = "", false
	}
	s.fresh = lastEventID == ""
	s.connections++
	s.conn = conn
	s.mu.Unlock()

	end = src.open(ctx, lastEventID, conn)
	theMetrics.connections.WithLabelValues(resultOf(ctx, end)).Inc()
	if end.events && end.clean {
		end.tail = conn.decoder.Rest()
	}
	s.mu.Lock()
	conn.ended = true
	if conn.dropped > 0 {
		conn.stream.log().Info("upstream repeated events after the reconnect", zap.Int("dropped", conn.dropped))
	}
	s.mu.Unlock()
	return conn, end
}

// What follows the end of an upstream connection.
type outcome int

const (
	tryAgain   outcome = iota
	passedOn           // the upstream's clean end is the subscribers'
	broken             // the break is not hidden from them
	oversized          // it sends blocks over max_event_size
	refused            // it does not go on with the stream
	waitsForIt         // for the handlers of a new configuration
	succeeded          // another connection has taken over
)

// judge decides what follows the end of a connection of a stream that has a
// head. The stream's lock is held.
func (s *stream) judge(end ending) outcome {
	if end.events {
		s.broke = !end.clean || s.options.reconnect == reconnectAlways
	}
	if errors.Is(end.err, eventstream.ErrBlockTooLarge) {
		s.oversized++
	}
	s.useParentsSource()
	exclusive := s.only != nil || s.private || s.detached
	resumable := s.lastUpstreamID != "" && sendable(s.lastUpstreamID)
	switch mode := s.options.reconnect; {
	case end.events && (!end.clean || resumable) && s.replaced():
		return succeeded
	case end.events && end.clean && (exclusive || mode != reconnectAlways):
		return passedOn
	case exclusive, end.events && (mode == reconnectNever || (mode == reconnectResumable && !resumable)):
		return broken
	case s.oversized > 1:
		return oversized
	case !end.retriable():
		return refused
	case s.source.retired():
		return waitsForIt
	}
	return tryAgain
}

// after decides what follows the end of an upstream connection: whether to try
// again, and when.
func (s *stream) after(conn *upstreamConn, end ending) (delay time.Duration, again bool) {
	s.mu.Lock()
	switch {
	case conn.over, s.phase == phaseGone:
		s.mu.Unlock()
		return 0, false
	case s.head == nil:
		s.mu.Unlock()
		s.refuse()
		return 0, false
	case s.succeeds():
		defer s.mu.Unlock()
		return s.successorEnded(end)
	}
	log := s.log().With(zap.Int("status", end.status), zap.NamedError("reason", end.err))
	verdict, options := s.judge(end), s.options
	switch verdict {
	case succeeded:
		log.Info("upstream lost after a reload")
		s.mu.Unlock()
		return 0, false
	case tryAgain:
		delay, again = s.backoff.next(time.Now(), options.giveUp, end.retryAfter, rand.Float64)
	case waitsForIt:
		again = true
	case passedOn, broken, oversized, refused:
	}
	if conn.source.retired() && !s.source.retired() {
		delay = 0 // it was the reload's doing
	}
	if again {
		defer s.mu.Unlock()
		s.phase = phaseBroken
		s.fresh = s.lastUpstreamID == ""
		s.failed = true
		s.dropHurry()
		s.wakeWaiting()
		s.wakeLocked()
		if verdict == tryAgain {
			log.Warn("upstream lost: trying again", zap.Duration("in", delay), zap.Int("attempt", s.backoff.attempts))
		} else {
			log.Warn("upstream lost after a reload: waiting for the handlers of the new configuration")
		}
		return delay, true
	}
	s.mu.Unlock()
	switch verdict {
	case passedOn:
		s.finish(endUpstream, end.tail)
		if options.reconnect == reconnectNever {
			s.leave(endUpstream) // who comes next is to see the upstream's own answer
		}
	case broken:
		log.Warn("upstream lost")
		if s.detached {
			s.finish(endBroken, nil) // its client may be yet to come
		} else {
			s.leave(endBroken)
		}
	case oversized:
		log.Error("upstream sends blocks over max_event_size")
		s.leave(endOversized)
	case refused:
		log.Warn("upstream does not go on with the stream")
		// Who comes now is to see the upstream's own answer.
		s.hub.markUnshareable(s.key, unshareableTime)
		s.leave(endRefused)
	case tryAgain, waitsForIt, succeeded:
		log.Error("upstream lost: giving up", zap.Duration("after", options.giveUp))
		s.leave(endGaveUp)
	}
	return 0, false
}

// refuse ends a stream whose first answer is not an event stream to share.
func (s *stream) refuse() {
	s.hub.remove(s)
	if !s.detached {
		s.hub.markUnshareable(s.key, unshareableTime)
	}
	s.mu.Lock()
	if s.refused || s.stopped {
		s.mu.Unlock()
		return
	}
	s.refused = true
	s.phase = phaseGone
	forget := len(s.subs) == 0
	s.mu.Unlock()
	close(s.ready)
	if forget {
		s.hub.forget(s)
	}
}

// finish lets the subscribers go when they were given everything. The stream
// is kept for the linger time: who comes back goes on in it.
func (s *stream) finish(reason endReason, tail []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseGone {
		return
	}
	if len(tail) > 0 {
		tail = slices.Clone(tail)
		s.overTail = tail
		for sub := range s.subs {
			if sub.stream == s {
				sub.tail = tail
			}
		}
	}
	s.phase = phaseEnded
	s.dropSuccessor()
	if s.detached {
		s.source, s.sent = nil, nil // with the client's credentials
	}
	s.finishLocked(reason)
	if s.only != nil || s.draining || s.splice != nil {
		s.endLocked()
	} else if len(s.subs) == 0 {
		s.lingerLocked()
	}
}

// leave ends the stream for all subscribers, when they were given everything.
func (s *stream) leave(reason endReason) {
	s.hub.remove(s)
	s.mu.Lock()
	s.finishLocked(reason)
	s.endLocked()
	forget := len(s.subs) == 0
	s.mu.Unlock()
	if forget {
		s.hub.forget(s)
	}
}
