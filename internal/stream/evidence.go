package stream

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What connections bring is compared here: greetings, and what each gets afterwards.
// sharing.go says what follows from it.

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
