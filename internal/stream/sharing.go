package stream

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Sharing is earned.
//
// Many applications tell each connection something of its own: a connection id
// with which the client then asks for what only it may see. Nothing in the
// request says so. So unless the operator vouches for it, nobody is given what a
// stream's connection brings but the client that opened it, until a second
// connection was seen to bring the same: the stream is proven then. The second
// connection is that of the stream's second client, a splice, however early that
// client comes. Who comes third waits for the verdict.
//
// What a connection brings before its first pause, and the fields of its head,
// is its greeting. If two connections that were opened at the same moment are
// greeted differently, each is told its own, whatever they have in common later.
// If an older one was greeted differently, that may have been a snapshot of a
// state that has changed since: then two connections are compared that are
// opened at the same moment, one or both of them probes, which have no clients.

const (
	// proofDelay is how long after the head of a stream its second client's
	// connection is opened. What each of two connections does so long after it
	// was opened comes at different moments, what is sent to both at the same.
	proofDelay = 250 * time.Millisecond

	// sameMoment is how far apart two connections may be opened that are to be
	// greeted the same. Nothing may have come between the two.
	sameMoment = time.Second

	// slowestGreeting is how late a first block may come and be a greeting. One
	// that comes later is taken for the first that there was to be told.
	slowestGreeting = 10 * time.Second

	// maxGreeting is how many blocks of a greeting are remembered.
	maxGreeting = 256

	// maxPending bounds how many blocks wait to be seen on the other connection.
	maxPending = 1 << 14

	// trialPause is how long after a trial that failed, because something came
	// between, there is another one. It is doubled maxTrials times.
	trialPause = time.Second
	maxTrials  = 3
)

// responseFields are the header fields of responses that say nothing of what is
// told, and may differ from one to the next. Those that are of requests too are
// in insignificantHeaders.
var responseFields = fieldSet(
	"Age", "Alt-Svc", "Content-Security-Policy", "Content-Security-Policy-Report-Only", "Date", "ETag", "Expires",
	"Last-Modified", "NEL", "Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy", "Ratelimit-Remaining", "Ratelimit-Reset",
	"Report-To", "Reporting-Endpoints", "Retry-After", "Server", "Server-Timing", "Set-Cookie", "X-Runtime",
	"X-Process-Time", "X-Response-Time", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
	"X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset",
	"CF-Cache-Status", "X-Cache", "X-Cache-Hits", "X-Served-By", "X-Timer", "X-Varnish", "X-Amz-Cf-Id", "X-Amz-Cf-Pop",
	"X-Amz-Request-Id", "X-Amz-Id-2", "Apigw-Requestid", "X-Amz-Apigw-Id", "X-Amzn-Requestid", "X-Azure-Ref", "X-Msedge-Ref",
	"X-Ms-Request-Id", "X-Vercel-Id", "X-Envoy-Upstream-Service-Time", "X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency",
	"X-Kong-Request-Id", "X-Debug-Token", "X-Debug-Token-Link", "X-Trace-Id", "X-Correlation-Id", "X-Transaction-Id",
	"Request-Id", "X-Fastly-Request-Id", "Fly-Request-Id",
)

// fieldSet is a set of header field names.
func fieldSet(names ...string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[http.CanonicalHeaderKey(name)] = struct{}{}
	}
	return set
}

// differingField returns the name of a field in which two heads differ, unless
// it is known to be of one response; "" if there is none.
func differingField(a, b *Head, insignificant func(name string) bool) string {
	if a == nil || b == nil {
		return ""
	}
	for _, pair := range [][2]http.Header{{a.Header, b.Header}, {b.Header, a.Header}} {
		for name, values := range pair[0] {
			if _, known := responseFields[name]; known || (insignificant != nil && insignificant(name)) {
				continue
			}
			if !slices.Equal(values, pair[1][name]) {
				return name
			}
		}
	}
	return ""
}

// proof is what a stream knows of whether its upstream tells all connections
// the same. The stream's lock guards it.
type proof struct {
	proven   bool // what its connection brings may be given to all who share its key
	snapshot bool // greetings differ over time, not by connection

	// While it is not proven: what came up to barrier was, once; what came after
	// that is given to those subscribers only that have it as their own.
	barrier uint64
	asked   bool // a probe is to prove it again

	trial  *trial
	trials int
	after  time.Time // not before that is there another trial
}

// trial is two connections opened at the same moment, to be compared.
type trial struct{ x, y *Stream }

// pendingBlock is a block of one connection that is to be seen on another.
type pendingBlock struct {
	hash     uint64
	at       time.Time
	greeting bool // it came before the first pause of its connection
	event    bool // and none of those with which the stream's connection was greeted, too
	hasID    bool
}

// isLate reports whether a block is looked for later than it should be: one of the
// two was broken meanwhile, or the machine is so busy that the other connection may
// not have been read. Then its absence says nothing.
func (p pendingBlock) isLate(now time.Time) bool { return now.Sub(p.at) > twinWindow+twinWindow/4 }

// likeness is how far a splice was compared with its stream.
type likeness struct {
	brought []pendingBlock // by the splice, not yet seen on the stream
	missed  []pendingBlock // by the stream, not yet seen on the splice
	own     []uint64       // of the splice's greeting: those that the stream did not get
	unknown bool           // some could not be looked up any more
	field   string         // in which their heads differ
}

// shares reports whether what the stream's connection brings may be given to all
// who share its key. The lock is held.
func (s *Stream) shares() bool { return s.options.Vouched || s.sharing.proven }

// isShared is shares for who does not hold the lock.
func (s *Stream) isShared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shares()
}

// isSharedSplice reports whether a splice has several clients that nobody vouches
// for: a break of its connection is not hidden from them, since the next one may
// greet it with something of its own. The lock is held.
func (s *Stream) isSharedSplice() bool {
	return s.splice != nil && s.compares() && len(s.subs) > 1
}

// compares reports whether connections of the stream are compared: nobody
// vouches for them.
func (s *Stream) compares() bool { return !s.options.Vouched && !s.Detached }

// barred reports whether the subscriber may not be given what comes next: it is
// another's as far as is known.
func (sub *Subscriber) barred() bool {
	s := sub.stream
	return !sub.own && !s.isSplice && !s.Detached && s.only == nil && !s.shares()
}

// limit is the position up to which the subscriber may read its stream.
func (sub *Subscriber) limit() uint64 {
	if sub.barred() {
		return sub.stream.sharing.barrier
	}
	return sub.stream.buffer.Newest
}

// prove takes note that two connections were told the same. The lock is held.
func (s *Stream) prove() {
	if s.options.Vouched {
		return
	}
	s.noteShared()
	if s.sharing.proven {
		return
	}
	s.sharing.proven, s.sharing.asked = true, false
	s.endTrial()
	for sp := range s.splices {
		if sp.splice.probe {
			s.endProbe(sp)
		}
	}
	s.wakeWaiting()
	s.wakeLocked()
}

// noteShared makes it known to the key's later streams. The lock is held.
func (s *Stream) noteShared() {
	if s.head == nil || s.closed.Load() {
		return
	}
	s.hub.facts.noteShared(s.Key, sharedFact{snapshot: s.sharing.snapshot, greets: s.greets})
}

// unprove takes note that the stream has a new connection, which may greet it
// with something of its own: one subscriber is given that, the others when
// another connection was told the same. The lock is held.
func (s *Stream) unprove() {
	if !s.compares() {
		return
	}
	s.hub.facts.forget(s.Key)
	for sp := range s.splices {
		s.unshareSplice(sp)
	}
	s.sharing.snapshot, s.sharing.trials = false, 0 // of the application as it was
	if !s.sharing.proven {
		return
	}
	s.sharing.proven, s.sharing.asked, s.sharing.barrier = false, false, s.buffer.Newest
	var sole *Subscriber
	for sub := range s.subs {
		sub.own = false
		if sub.stream == s && !sub.waiting && sub.finish == "" && (sole == nil || sub.arrival < sole.arrival) {
			sole = sub
		}
	}
	if sole != nil {
		sole.own = true
	}
}

// unshareSplice leaves a splice that is shared to the first of its clients: it may
// be greeted with something of its own. The others wait, or come back if they
// were given something.
func (s *Stream) unshareSplice(sp *Stream) {
	readers := sp.readers()
	if len(readers) < 2 {
		return
	}
	first := slices.MinFunc(readers, func(a, b *Subscriber) int { return cmp.Compare(a.arrival, b.arrival) })
	for _, sub := range readers {
		switch {
		case sub == first:
		case sp.said == 0 && sub.Sent == 0:
			delete(sp.subs, sub)
			sub.stream, sub.waiting = s, true
			sub.cursor, sub.events, sub.live = s.buffer.Newest, s.buffer.Events, s.buffer.Newest
			if !sp.headAt.IsZero() {
				sub.release() // it has its head: what comes until it has a connection, it misses
			}
		default:
			sub.finish, sub.finishAt = EndBroken, sub.cursor
		}
	}
	sp.wakeLocked()
}

// proveAgain looks whether the first block of a new connection shows that the
// stream goes on as before; else it opens a probe, if anybody waits for that. The
// lock is held.
func (s *Stream) proveAgain(c *Conn, continues bool) {
	if s.sharing.proven || s.sharing.barrier == 0 || s.sharing.asked || s.only != nil || !s.compares() {
		return
	}
	if continues || (c.blocks == 0 && time.Since(s.headAt) >= s.greetingTime()) {
		s.prove() // it was greeted with nothing, or asked to go on and has
		return
	}
	for sub := range s.subs {
		if sub.stream == s && sub.barred() && (!sub.waiting || sub.released) {
			s.askForProof()
			return
		}
	}
}

// askForProof opens a probe that is to show whether the stream's new connection
// is shared, unless there is one.
func (s *Stream) askForProof() {
	if s.sharing.barrier == 0 || s.sharing.asked || s.phase != phaseLive || s.source.Retired() {
		return
	}
	s.sharing.asked = true
	s.openProbe(s.lastSentID(), "").splice.proves = true
}

// greetsAsBefore reports whether all that a later connection was greeted with is
// what the stream has got before.
func (s *Stream) greetsAsBefore(c *Conn) bool {
	return !slices.ContainsFunc(c.greeting, func(hash uint64) bool { return !s.knows(hash) })
}

// goesOn reports whether a block shows that a later connection goes on where the
// last one was lost: after the ID that it was asked to go on after, or after
// blocks that it has repeated.
func (c *Conn) goesOn(b eventstream.Block) bool {
	if c.dropped > 0 {
		return true
	}
	n, ok := Number(string(b.ID))
	q := &c.Stream.sequence
	return ok && c.resumed && c.ids == 0 && c.blocks == 0 && q.counts() && n == q.last+1
}

// greetingTime is how long after its head a connection is given to be greeted.
func (s *Stream) greetingTime() time.Duration {
	r := s.root()
	return max(splicePause, 2*r.firstTime, 2*r.ownFirst)
}

// root is the stream that a splice is one of.
func (s *Stream) root() *Stream {
	if s.splice != nil {
		return s.splice.parent
	}
	return s
}

// greets takes note of a block of a connection, for who compares it with others.
func (c *Conn) greets(b *replay.Block) {
	s := c.Stream
	if s.splice == nil && !s.compares() {
		return
	}
	switch {
	case c.paused, !c.lastBlock.IsZero() && b.At.Sub(later(c.lastBlock, s.heldAt)) >= splicePause:
		c.paused = true
	case len(c.greeting) < maxGreeting:
		c.greeting = append(c.greeting, b.Hash)
		c.hello = c.hello || b.Dispatches
	}
	if c.firstBlock.IsZero() {
		c.firstBlock = b.At
	}
	b.AfterPause = b.At.Sub(later(later(c.lastBlock, s.headAt), s.heldAt)) >= splicePause
	c.lastBlock = b.At
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// brings takes note, before it is kept, of a block of a stream or a splice that
// is to be seen on the other. The lock is held.
func (s *Stream) brings(b *replay.Block) {
	if st := s.splice; st != nil {
		if st.succeeds {
			return
		}
		st.acts(b.At)
		st.brought = addPending(st.brought, pendingBlock{
			hash: b.Hash, at: b.At, greeting: !s.conn.paused, event: b.Dispatches && !st.parent.greetsWith(b), hasID: b.HasID,
		}, &st.unknown)
		if !s.conn.paused {
			st.greetedLast = b.At
		}
		return
	}
	greeted := b.At.Sub(s.headAt) >= s.greetingTime()
	for sp := range s.splices {
		sp.splice.acts(b.At)
		sp.splice.current = sp.splice.current || (b.HasID && b.ID == sp.openID) // its client was ahead
		if greeted && !sp.headAt.IsZero() && b.At.Sub(sp.headAt) >= s.greetingTime() {
			sp.splice.missed = addPending(sp.splice.missed, pendingBlock{hash: b.Hash, at: b.At}, &sp.splice.unknown)
		}
	}
}

// acts takes note that there is something to compare since a moment.
func (st *spliceState) acts(at time.Time) {
	if st.active.IsZero() {
		st.active = at
	}
}

// due is when a splice has had its time to be merged; zero: not before there is
// something to compare.
func (st *spliceState) due() time.Time {
	o := st.parent.options
	switch {
	case st.parent.shares():
		return st.since.Add(o.SpliceTimeout)
	case st.active.IsZero():
		return time.Time{}
	}
	return st.active.Add(o.SpliceTimeout)
}

func addPending(list []pendingBlock, p pendingBlock, overflow *bool) []pendingBlock {
	if len(list) >= maxPending {
		*overflow = true
		return list
	}
	return append(list, p)
}

// knows reports whether the stream has got the bytes of a block that a splice
// was greeted with, at any time.
func (s *Stream) knows(hash uint64) bool {
	n, _ := s.buffer.Twins(hash)
	return n > 0 || (s.conn != nil && slices.Contains(s.conn.greeting, hash))
}

// gotNear returns the block with these bytes that was got at about the same time,
// nil if there is none.
func (s *Stream) gotNear(p pendingBlock) *replay.Block {
	n, k := s.buffer.Twins(p.hash)
	switch {
	case n == 0:
		return nil
	case k.At.Sub(p.at).Abs() <= twinWindow:
		return k
	case n == 1, k.At.Before(p.at):
		return nil
	}
	for _, o := range slices.Backward(s.buffer.Blocks) {
		if p.at.Sub(o.At) > twinWindow {
			return nil
		}
		if o.Hash == p.hash && o.At.Sub(p.at).Abs() <= twinWindow {
			return o
		}
	}
	return nil
}

// toldTogether reports whether stream and splice were told a block at the same
// moment, which is not when each is greeted.
func (s *Stream) toldTogether(sp *Stream, p pendingBlock) bool {
	_, k := s.buffer.Twins(p.hash)
	return s.conn != nil && k.At.Sub(p.at).Abs() <= sp.conn.began.Sub(s.conn.began).Abs()/2
}

// compareSplice goes on comparing what a stream and a splice have brought. It
// returns why each is told its own, "" if nothing shows that. The lock is held.
func (s *Stream) compareSplice(sp *Stream, now time.Time, again *time.Time) ownReason {
	st := sp.splice
	if s.conn != nil && st.field == "" {
		st.field = differingField(s.head, sp.head, s.options.Insignificant)
	}
	for len(st.brought) > 0 {
		p := st.brought[0]
		near := s.gotNear(p)
		together := near != nil && s.toldTogether(sp, p)
		if together && len(s.conn.greeting) > 0 && s.conn.greeting[0] == p.hash {
			s.ownFirst = 0 // that was no greeting
		}
		past := s.isPast(sp, p, near)
		if near == nil && (!p.greeting || !s.knows(p.hash)) {
			if due := p.at.Add(twinWindow); !now.After(due) {
				earliest(again, due.Add(time.Millisecond))
				break
			}
			unsure := s.heldAt.After(p.at) || s.headAt.After(p.at.Add(-maxSettle)) || !s.buffer.Reaches(p.at.Add(-twinWindow))
			switch unsure = unsure || p.isLate(now); {
			case unsure && !p.greeting:
				past = false // the stream may have missed it
			case unsure: // it may have come to the stream too, and be evicted
				st.unknown, past = true, past && s.buffer.Reaches(p.at.Add(-twinWindow))
			case !p.greeting:
				return ownEvent
			case len(st.own) >= maxPending:
				st.unknown = true
			default:
				st.own = append(st.own, p.hash)
				if late := p.at.Sub(sp.headAt); late <= slowestGreeting {
					s.firstTime = max(s.firstTime, late)
				}
			}
		}
		st.past = st.past || past
		s.greets = s.greets || (p.greeting && !together)
		st.brought = st.brought[1:]
	}
	for len(st.missed) > 0 {
		p := st.missed[0]
		if sp.gotNear(p) == nil {
			if due := p.at.Add(twinWindow); !now.After(due) {
				earliest(again, due.Add(time.Millisecond))
				break
			}
			held := sp.full || sp.heldAt.After(p.at) || p.isLate(now)
			if !held && s.phase == phaseLive && sp.buffer.Reaches(p.at.Add(-twinWindow)) && !sp.splice.probe {
				return ownEvent
			}
		}
		st.missed = st.missed[1:]
	}
	return ""
}

// compared reports whether all that a splice was greeted with was looked for.
func (st *spliceState) compared() bool {
	return len(st.brought) == 0 || !st.brought[0].greeting
}

// greetedAt is when a connection has had its time to be greeted; zero: it has no
// head yet.
func (s *Stream) greetedAt() time.Time {
	if s.headAt.IsZero() {
		return time.Time{}
	}
	return s.headAt.Add(s.greetingTime())
}

// greetedAsAll reports whether a splice is known to have been greeted with what
// everybody is greeted with. It opens probes if it takes others to tell. The lock
// is held.
func (s *Stream) greetedAsAll(sp *Stream, now time.Time, again *time.Time) bool {
	st := sp.splice
	if !s.compares() || s.sharing.snapshot {
		return true
	}
	s.hurryTrial(sp, now, again)
	at := sp.greetedAt()
	switch {
	case at.IsZero():
		return false
	case now.Before(at):
		earliest(again, at)
		return false
	case !st.compared():
		return false
	case st.unknown: // others may tell
	case len(st.own) == 0 && st.field == "":
		s.dropTrialOf(sp)
		return true
	}
	if s.sharing.trial == nil {
		s.tryAnew(sp, now, again)
	}
	return false
}

// perConnection leaves each connection to its own client, for a reason, and lets
// newcomers have connections of their own. The lock is held.
func (s *Stream) perConnection(why ownReason) {
	s.hub.facts.noteOwn(s.Key, s.path, why)
	private := Private{Reason: PrivatePerConnection, Detail: string(why)}
	s.isPrivateFor(private)
	s.closed.Store(true)
	subscribers := len(s.subs)
	s.options.Lines.perClient.Log(func(suppressed int) {
		s.Log().Info("upstream sends each connection something different: path is not shared (override with join live or share public)",
			zap.String("reason", string(why)), zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
	s.dropSuccessor()
	s.sharing.trial = nil
	for sp := range s.splices {
		s.leaveToFirst(sp, private)
	}
	for sub := range s.subs {
		if sub.own && (s.only == nil || sub.arrival > s.only.arrival) {
			s.only = sub
		}
	}
	for sub := range s.subs {
		switch {
		case sub == s.only, sub.finish != "":
		case sub.events > 0 && sub.Sent > 0:
			sub.finish, sub.finishAt = EndBroken, sub.cursor // it comes back
		default:
			sub.finish, sub.finishAt = EndPerClient, sub.cursor
		}
	}
	if s.only == nil {
		s.endLocked()
	}
	s.wakeWaiting()
	s.wakeLocked()
	s.hub.running.Go(func() { // it needs the hub's lock, which comes first
		s.hub.remove(s)
		s.mu.Lock()
		forget := s.phase == phaseGone && len(s.subs) == 0
		s.mu.Unlock()
		if forget {
			s.hub.untrack(s)
		}
	})
}

// leaveToFirst leaves a splice to the first of its clients, or ends it if it is
// a probe.
func (s *Stream) leaveToFirst(sp *Stream, why Private) {
	if sp.splice.probe {
		s.endProbe(sp)
		return
	}
	sp.isPrivateFor(why)
	s.privatize(sp)
	first := slices.MinFunc(sp.readers(), func(a, b *Subscriber) int { return cmp.Compare(a.arrival, b.arrival) })
	for sub := range sp.subs {
		if sub != first {
			sub.finish, sub.finishAt = EndBroken, sub.cursor
			if sub.Sent == 0 {
				sub.finish = EndPerClient
			}
		}
	}
}

// readers are the subscribers of a stream or splice.
func (s *Stream) readers() []*Subscriber {
	list := make([]*Subscriber, 0, len(s.subs))
	for sub := range s.subs {
		list = append(list, sub)
	}
	return list
}

// endBarred ends the responses of those who may not be given what comes: they
// come back, and begin another stream.
func (s *Stream) endBarred() {
	s.closed.Store(true)
	for sub := range s.subs {
		if sub.stream == s && sub.barred() && (!sub.waiting || sub.released) && sub.finish == "" {
			sub.finish, sub.finishAt = EndBroken, sub.cursor
		}
	}
	s.wakeLocked()
}
