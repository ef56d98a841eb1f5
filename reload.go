package caddysse

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Moving streams to a new configuration.
//
// A reload leaves streams and their subscribers as they are. But the handlers
// behind sse of the old configuration are to be let go, and those of the new
// one may lead to another upstream. They are only known to a request that
// passes through the new configuration. So the request that opened a stream is
// run through it again, up to the sse handler that it reaches.
//
// With these handlers a second upstream connection is opened, the successor.
// It is a splice without subscribers: when it is seen to be at the same point
// as the stream, or after a short time at the latest, the stream goes on with
// it, and the connection of the old configuration is closed.

const (
	// renewalInterval and maxRenewalSpread: so long after each other streams
	// are moved after a reload, and so long that takes at most.
	renewalInterval  = 5 * time.Millisecond
	maxRenewalSpread = 5 * time.Second

	// renewalTimeout bounds how long the handlers before sse may take with a
	// request that is run again.
	renewalTimeout = 10 * time.Second

	// overlap is how long a successor that goes on after an ID has to meet the
	// stream. Without, the stream goes on after that ID.
	overlap = time.Second

	// meetingTime is how long one without an ID has. Without, the stream goes
	// on with it after a gap that is told.
	meetingTime = 4 * time.Second
)

// renewal is what a request that is run again finds out. It is in the context
// of that request.
type renewal struct {
	key      streamKey
	received *http.Request
	idParam  string // the query parameter in which the upstream is given the last event ID

	// What the sse handler left that was reached.
	instance *instance
	options  *streamOptions
	source   source
	logger   *zap.Logger
}

// renewalCtxKey is the context key of a *renewal.
type renewalCtxKey struct{}

// retire takes note that a handler's configuration is gone, and moves its
// streams to the one that there is now.
func (h *hub) retire(inst *instance) {
	h.mu.Lock()
	inst.retired.Store(true)
	h.instances = slices.DeleteFunc(h.instances, func(i *instance) bool { return i == inst })
	h.setMemoryLocked()
	stopping := h.stopping
	h.mu.Unlock()
	if stopping {
		return
	}
	var stale []*stream
	for _, s := range h.every() {
		if s.becomesStale() {
			stale = append(stale, s)
		}
	}
	if len(stale) == 0 {
		return
	}
	pause := min(renewalInterval, maxRenewalSpread/time.Duration(len(stale)))
	h.running.Go(func() {
		for _, s := range stale {
			h.running.Go(func() { h.renew(s) })
			time.Sleep(pause)
		}
	})
}

// renewLate moves a stream that a request has opened which was on its way when
// its configuration went.
func (h *hub) renewLate(s *stream) {
	if s.becomesStale() {
		h.running.Go(func() { h.renew(s) })
	}
}

// becomesStale reports whether a stream has to be moved, and nobody is at it.
func (s *stream) becomesStale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isSplice || s.detached || s.only != nil || s.draining || s.renewing || s.phase == phaseGone {
		return false
	}
	s.renewing = s.isStale()
	return s.renewing
}

func (s *stream) isStale() bool {
	return s.source.retired() || (s.conn != nil && !s.conn.ended && s.conn.source.retired())
}

// renew moves a stream to the newest configuration. If no handler there is
// reached by the request that opened it, its subscribers are drained.
func (h *hub) renew(s *stream) {
	var refused any // the server that did
	for {
		s.mu.Lock()
		src := s.source
		if s.phase == phaseGone || s.draining || !src.retired() {
			s.renewing = false
			s.useSource()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		q := &renewal{key: s.key}
		server := h.newestServer(s.place)
		if server == nil || server == refused {
			break
		}
		if src.renew(server, q) {
			h.adopt(s, q)
		} else {
			refused = server // but there may be a newer one by now, or a client
		}
	}
	s.log().Warn("no sse handler of the new configuration takes the stream over: disconnecting its clients")
	s.drain(s.drainTime(), endReload)
}

// newestServer returns the server of the newest configuration that has a
// handler of a place, nil if there is none.
func (h *hub) newestServer(place string) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, inst := range slices.Backward(h.instances) {
		if inst.place == place && (h.serves == nil || h.serves(inst.server)) {
			return inst.server
		}
	}
	return nil
}

// serves reports whether a server is one of Caddy's running configuration: that
// of one that is being loaded has no handlers yet, and may never have them.
func serves(server any) bool {
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		return false
	}
	for _, s := range app.(*caddyhttp.App).Servers {
		if s == server {
			return true
		}
	}
	return false
}

// adopt makes the handler that a renewal has found the owner of a stream.
func (h *hub) adopt(s *stream, q *renewal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.source.retired() {
		return // a client has brought it
	}
	if !h.entitledLocked(s, q.instance) {
		// Its place is not its own: requests that reach the new handler may
		// have reached another one before, with other events.
		s.closed.Store(true)
	}
	s.ownedBy(q.instance, q.options, q.source, q.logger)
}

// ownedBy makes a handler the owner of a stream. The locks of the hub and of the
// stream are held.
func (s *stream) ownedBy(inst *instance, options *streamOptions, src source, logger *zap.Logger) {
	s.owner = inst
	s.adoptable = s.hub.aloneLocked(inst)
	s.options = options
	s.buffer.Limits = options.buffer
	s.source = src
	s.setLogger(logger)
	s.wakeWaiting() // no splice is opened with retired handlers
}

// useSource makes a stream connect with the source that it was given. The lock is held.
func (s *stream) useSource() {
	for sp := range s.splices {
		if sp.phase == phaseBroken {
			sp.hurryUp()
		}
	}
	switch s.phase {
	case phaseBroken:
		s.hurryUp()
	case phaseLive:
		s.openSuccessor()
	case phaseOpening, phaseEnded, phaseGone:
		// The first looks when it has its head, the second opens the next
		// connection with the new source anyway.
	}
}

// hurryUp lets the next attempt be made at once.
func (s *stream) hurryUp() {
	s.backoff.reset()
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// dropHurry forgets that the next attempt is to be made at once.
func (s *stream) dropHurry() {
	select {
	case <-s.hurry:
	default:
	}
}

// succeeds reports whether s is the successor of a stream's connection. The
// lock is held.
func (s *stream) succeeds() bool { return s.splice != nil && s.splice.succeeds }

// openSuccessor opens an upstream connection with the newest handlers beside
// the stream's own, unless there is one. The lock is held.
func (s *stream) openSuccessor() {
	if sp := s.successor; sp != nil && sp.source == s.source && sp.phase != phaseGone {
		return // another handler of the same configuration was cleaned up
	}
	s.dropSuccessor()
	if s.conn == nil || !s.conn.source.retired() || s.source.retired() || s.only != nil || s.draining {
		return
	}
	id := s.lastUpstreamID
	if !replay.Sendable(id) {
		id = ""
	}
	s.buffer.Indexed()
	sp := s.newSplice(id, "")
	sp.splice.succeeds = true
	sp.buffer.Indexed()
	s.successor, s.brought = sp, nil
	sp.splice.timer = time.AfterFunc(math.MaxInt64, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.successor == sp {
			s.trySuccessor(time.Now())
		}
	})
	sp.startLocked(id)
}

// dropSuccessor gives up the connection that was to succeed the stream's.
func (s *stream) dropSuccessor() {
	sp := s.successor
	if sp == nil {
		return
	}
	s.successor, s.brought = nil, nil
	s.dropIndex()
	sp.splice.timer.Stop()
	sp.endLocked()
}

// heldBlock is a block that a successor has brought, and its lines for the
// subscribers.
type heldBlock struct {
	block eventstream.Block
	lines []byte
	at    time.Time
}

// hold keeps a block until it is decided what becomes of it.
func (c *upstreamConn) hold(b eventstream.Block, lines []byte) {
	b.Lines, b.ID, b.Type = nil, slices.Clone(b.ID), slices.Clone(b.Type) // only its fields are looked at
	c.held = append(c.held, heldBlock{block: b, lines: slices.Clone(lines), at: time.Now()})
}

// trySuccessor lets the successor take over if it is at the same point as the
// stream, or has had its time. The lock is held.
func (s *stream) trySuccessor(now time.Time) {
	sp := s.successor
	if sp.phase != phaseLive || sp.conn.ended {
		return
	}
	if s.phase == phaseBroken {
		s.takeOver(sp)
		return
	}
	if s.phase != phaseLive {
		return
	}
	resumed := sp.conn.resumed
	again := sp.headAt.Add(meetingTime)
	if resumed {
		again = sp.headAt.Add(overlap)
	}
	due := again
	if to, ok := s.meeting(sp, now, &again); ok {
		s.takeOverAt(sp, to)
		return
	}
	if !resumed && s.quiet(sp, now, &again) {
		s.takeOverAt(sp, s.buffer.Newest)
		return
	}
	if sp.full || !now.Before(due) {
		s.takeOver(sp)
		return
	}
	sp.splice.timer.Reset(again.Sub(now))
}

// replaced lets the successor take over from a connection that has ended, if
// it can. The lock is held.
func (s *stream) replaced() bool {
	sp := s.successor
	if sp == nil {
		return false
	}
	if sp.phase != phaseLive || sp.conn.ended {
		s.dropSuccessor() // there is to be one attempt at a time
		return false
	}
	s.takeOver(sp)
	return true
}

// takeOverAt lets the stream go on with its successor, which has brought the
// block at position to last.
func (s *stream) takeOverAt(sp *stream, to uint64) {
	same := s.greetsAsBefore(sp.conn)
	c := s.succeed(sp)
	if !same {
		s.unprove()
	}
	c.dropping, c.repeated = repeatRunning, to
	c.held, c.brought = nil, nil
}

// takeOver lets the stream go on with its successor as with a connection that
// was opened after the last one broke: after the ID that it was asked with, or from
// now on. What it has brought until now beside the old one is not given twice.
func (s *stream) takeOver(sp *stream) {
	lostAt := s.lostAt
	same := s.greetsAsBefore(sp.conn)
	c := s.succeed(sp)
	if !same {
		s.unprove()
	}
	held := c.held
	c.held, c.blocks = nil, 0
	if !c.resumed {
		c.tellGap()
		held = slices.DeleteFunc(held, func(h heldBlock) bool { return lostAt.IsZero() || h.at.Before(lostAt) })
		s.keepState(sp)
	}
	seen := uint64(0)
	for _, h := range held {
		if c.dropping == repeatAwaited && s.broughtToo(h, &seen, c.start) {
			c.dropped++
			continue
		}
		if c.take(h.block, h.lines) != nil {
			return
		}
	}
}

// keepState takes over what the blocks of a successor have set that are not given.
func (s *stream) keepState(sp *stream) {
	if sp.gaveID && sp.lastUpstreamID != sp.openID {
		s.lastUpstreamID = sp.lastUpstreamID
	}
	if sp.hasRetry {
		s.retry, s.hasRetry, s.backoff.base = sp.retry, true, sp.retry
	}
}

// broughtToo reports whether the old connection, up to position to, brought a block
// without an id that its successor holds, after the position *seen.
func (s *stream) broughtToo(h heldBlock, seen *uint64, to uint64) bool {
	if h.block.HasID || h.block.CommentOnly() {
		return false
	}
	b := &replay.Block{Wire: h.lines, Lines: len(h.lines), At: h.at, Hash: replay.HashBlock(h.lines, false, "")}
	for _, k := range s.buffer.After(*seen) {
		if k.Position <= to && apart(k, b) <= twinWindow && k.Equal(b) {
			*seen = k.Position
			return true
		}
	}
	return false
}

// succeed makes the connection of a successor the stream's.
func (s *stream) succeed(sp *stream) *upstreamConn {
	c, old := sp.conn, s.conn
	c.brought = s.brought
	s.successor, s.brought = nil, nil
	s.dropIndex()
	sp.splice.timer.Stop()
	sp.phase = phaseGone
	sp.freeBuffer()

	old.over = true
	s.cancel()
	s.cancel = sp.cancel
	s.conn = c
	c.stream, c.first, c.start = s, false, s.buffer.Newest
	s.phase = phaseLive
	s.head = sp.head
	s.headAt, s.begun, s.fresh = sp.headAt, true, false
	s.gaveID = s.gaveID || sp.gaveID
	s.upstreamIDs = s.upstreamIDs || sp.upstreamIDs
	s.learned = learned{}
	s.broke, s.lostAt = false, time.Time{}
	s.backoff.reached(time.Now())
	s.dropHurry()
	s.log().Info("upstream connection moved to the new configuration", zap.Bool("resumed", c.resumed))
	sp.makeRoom()
	s.makeRoom() // for the old connection, which finds that it is over
	s.wakeWaiting()
	s.wakeLocked()
	return c
}

// successorEnded decides what follows the end of a successor's connection: the
// stream has its own, so there is time. The lock is held.
func (s *stream) successorEnded(end ending) (delay time.Duration, again bool) {
	parent := s.splice.parent
	log := s.log().With(zap.Int("status", end.status), zap.NamedError("reason", end.cause()))
	switch {
	case s.source.retired():
		parent.dropSuccessor()
		return 0, false
	case !end.retriable():
		log.Warn("upstream of the new configuration does not continue the stream")
		parent.dropSuccessor()
		s.hub.running.Go(func() { // it needs the hub's lock, which comes first
			s.hub.remove(parent)
			s.hub.markUnshareable(parent.key, unshareableTime)
			parent.leave(endRefused)
		})
		return 0, false
	}
	s.phase = phaseBroken
	s.headAt, s.newestAt = time.Time{}, time.Time{}
	s.freeBuffer()
	s.buffer.Indexed()
	s.splice.opened = time.Now()
	delay, _ = s.backoff.next(s.splice.opened, math.MaxInt64, end.retryAfter, rand.Float64)
	log.Warn("upstream of the new configuration cannot be reached: trying again", zap.Duration("in", delay))
	return delay, true
}

// renew runs the request again through a server, up to the sse handler that it
// reaches. It reports whether one took it for the same stream.
func (u *upstreamRequest) renew(server any, q *renewal) bool {
	s, ok := server.(*caddyhttp.Server)
	if !ok || u.received == nil {
		return false
	}
	q.received, q.idParam = u.received, u.idParam
	ctx, cancel := context.WithTimeout(context.WithValue(u.received.Context(), renewalCtxKey{}, q), renewalTimeout)
	defer cancel()
	r := u.received.Clone(ctx)
	err := runNext(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return through(s, w, r)
	}), &discardWriter{header: make(http.Header), cancel: cancel}, r)
	if _, panicked := errors.AsType[panicError](err); panicked {
		u.handler.logger.Error("request that was run again after a reload failed", zap.NamedError("reason", err))
		return false
	}
	return q.source != nil
}

// through runs a request through a server's handlers as the server does, less the
// access log and the answer to an error: nobody has made this request.
func through(s *caddyhttp.Server, w http.ResponseWriter, r *http.Request) error {
	if !plainNames(s, r.Header) {
		s.ServeHTTP(w, r)
		return nil
	}
	if s.StrictSNIHost != nil && *s.StrictSNIHost && r.TLS != nil {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !strings.EqualFold(r.TLS.ServerName, host) {
			return caddyhttp.Error(http.StatusMisdirectedRequest, errors.New("the host is not the TLS server name"))
		}
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s)
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	return s.Routes.Compile(nothing).ServeHTTP(w, r)
}

// plainNames reports whether there are no header fields that the server drops because
// handlers could take them for others: it has rules of its own for that.
func plainNames(s *caddyhttp.Server, header http.Header) bool {
	if len(s.ExpectedUnderscoreHeaders) > 0 || len(s.ExpectedDotHeaders) > 0 {
		return false
	}
	for name := range header {
		if strings.ContainsAny(name, "_.") {
			return false
		}
	}
	return true
}

// takeRenewal leaves what a request that is run again came for, if it leads to
// the same stream here.
func (h *Handler) takeRenewal(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, q *renewal) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if !h.mayJoin(r) || theHub.keyHash(h.policy.parts(r, h.instance.place)) != q.key {
		return
	}
	u := h.newUpstreamRequest(w, r, next)
	u.received, u.idParam = q.received, q.idParam
	q.instance, q.options, q.source, q.logger = h.instance, h.options, u, h.logger
}

// discardWriter is the ResponseWriter of a request that is run again. Who answers it
// is not what was looked for.
type discardWriter struct {
	header http.Header
	cancel context.CancelFunc
}

func (d *discardWriter) Header() http.Header { return d.header }
func (d *discardWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // early hints of a forward_auth are no answer
		d.cancel()
	}
}
func (d *discardWriter) Write([]byte) (int, error) {
	d.cancel()
	return 0, errStreamOver
}
