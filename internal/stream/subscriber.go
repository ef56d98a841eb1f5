package stream

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// EndReason is why a subscriber's response ends.
type EndReason string

// The reasons, as the metrics and the access log have them.
const (
	EndClient    EndReason = "client"    // the client went away
	EndWrite     EndReason = "write"     // a write to the client failed or made no progress for write_timeout
	EndUpstream  EndReason = "upstream"  // the upstream ended the stream
	endGaveUp    EndReason = "gave_up"   // the upstream could not be reached again
	EndRefused   EndReason = "refused"   // the upstream did not go on with the stream
	EndOversized EndReason = "oversized" // the upstream sends blocks over max_event_size
	endReload    EndReason = "reload"    // the configuration was reloaded
	EndStopping  EndReason = "stopping"  // the process is about to exit
	EndMaxAge    EndReason = "max_age"   // the response is as old as it may be
	endLag       EndReason = "lag"       // the client is behind the replay buffer
	EndBroken    EndReason = "broken"    // the upstream connection broke, and that is not hidden
	EndAdmin     EndReason = "admin"     // an operator ended it, over the admin API
	EndRevoked   EndReason = "revoked"   // the client is not let in any more

	// EndPerClient is no end for the client: it gets an upstream connection
	// of its own, because the upstream gives each one a session.
	EndPerClient EndReason = "per_client"
)

// EndReasons are all reasons for which responses end.
var EndReasons = []string{
	string(EndClient), string(EndWrite), string(EndUpstream), string(endGaveUp), string(EndRefused), string(EndOversized),
	string(endReload), string(EndStopping), string(EndMaxAge), string(endLag), string(EndBroken), string(EndAdmin), string(EndRevoked),
	string(EndPerClient),
}

// Nor are these, which are for who was sent no head yet: its request looks for a
// stream again, or is told that the application does not take a second connection.
const (
	EndAskAgain = "ask_again"
	EndNoSecond = "no_second"
)

// Whole reports whether a response that ends for this reason is complete.
func (e EndReason) Whole() bool {
	return e != EndClient && e != EndWrite && e != EndBroken
}

const (
	// settleTime is how long after a stream's head its connections are left to
	// the handlers that could give each client an upstream connection of its
	// own, as long as the first block may say that it needs one.
	settleTime = 2 * time.Second

	// settleCount is how many clients are waited with for that. Of so many who
	// share a stream that has had no block, it is not expected any more, and
	// goroutines for all of them cost too much. If it comes nevertheless their
	// responses end, and they come back.
	settleCount = 16

	// maxAgeSpread is how much of max_age is taken off at random, so that
	// clients that came together do not leave together.
	maxAgeSpread = 0.2

	// MaxWrite is how many bytes of blocks go out in one write, unless one
	// block is larger. It bounds what a reconnect storm takes from live
	// delivery and the memory of a slow client.
	MaxWrite = 64 << 10
)

// Outcomes of resuming, as in the response header SSE-Resume.
const (
	ResumeLive     = "live"
	ResumeReplayed = "replayed"
	ResumeGap      = "gap"
	ResumeSpliced  = "spliced"

	// ResumePrivate stands in their place, unless that is a gap: a private stream
	// is not resumed by the gateway.
	ResumePrivate = "private"
)

type joinMode int

// Where a newcomer begins: the words of the option join.
const (
	joinAuto     joinMode = iota // as the upstream would serve a newcomer; see splice.go
	JoinLive                     // begin at the newest block
	JoinReplay                   // begin with the last blocks kept
	JoinGreeting                 // first what the stream's own connection was greeted with
)

// Subscriber is one client's response attached to a stream: a cursor into the
// replay buffer, of the stream itself or of a splice of it.
type Subscriber struct {
	// Fixed after attach.
	mu      *sync.Mutex // of origin, home and stream
	Origin  *Stream     // the stream that it joined
	arrival uint64      // order of coming
	joined  time.Time
	Outcome string       // of resuming, for the header SSE-Resume
	id      string       // the last event ID it came with, if that can be looked up
	param   string       // the query parameter that brought it
	gap     *Gap         // with its head; nil: there is none
	answer  *firstAnswer // that it may yet be told of; guarded by mu
	client  Client

	// Guarded by mu.
	home       *Stream // counts it among its subscribers
	stream     *Stream // whose buffer it reads
	own        bool    // its stream's connection is its own, as far as is known; see sharing.go
	waiting    bool    // for a place in a splice, or for a verdict
	released   bool    // was sent its head while it waits
	start      uint64  // the stream's position then
	outage     bool    // the upstream was away then
	pending    []byte  // goes out before anything else
	unprimed   bool    // it was not given the prelude; see preludeAt
	untimed    bool    // nor a reconnection time
	hadRetry   bool    // the upstream had sent one before it came
	greeted    []*replay.Block
	cursor     uint64        // position of the last block given
	events     uint64        // the stream's count of events there
	live       uint64        // comments up to this position are not given
	finish     EndReason     // ends the response when everything was given
	finishAt   uint64        // up to this position
	tail       []byte        // what the upstream sent after its last blank line
	leaveAt    time.Time     // ends the response then; zero: never
	leaveFor   EndReason     // why
	pass       Pass          // nil: it has none
	Sent       uint64        // how many events it was given
	FirstEvent time.Duration // from when it came to the first of them
	bytes      uint64        // and bytes
	counted    uint64        // of the events, those in the stream's tally
	delivery   string        // how its client is written to
	Taken      int           // how many blocks of the stream the last call of next gave
	TakenAt    time.Time     // when the first of them that is no replay was complete; zero: none is
	awaits     *room         // that a stream waits for with it; nil: none does
	late       bool          // is not waited for before it was given everything

	Writing atomic.Int64 // since when it is being written to, in Unix nanoseconds; 0: it is not

	finishFrom time.Time // it does not finish before

	// Given, but as far as is known not written yet.
	unwritten   int       // how many blocks
	unwrittenAt time.Time // when the first of them came
}

// appendPrelude appends the block that a subscriber gets first: the newest
// reconnection time and an ID from which it can resume, if that is not empty.
// It dispatches nothing.
func (s *Stream) appendPrelude(dst []byte, prime string) []byte {
	n := len(dst)
	switch {
	case s.hasRetry:
		dst = eventstream.AppendRetry(dst, s.retry)
	case s.options.RetryMin > 0:
		dst = eventstream.AppendRetry(dst, s.options.randomRetry())
	}
	m := len(dst)
	dst = s.appendPrime(dst, prime)
	if len(dst) == m && m > n && s.options.EmptyBlocks {
		dst = append(dst, '\n')
	}
	return dst
}

// appendPrime appends a block that gives a client an ID to resume from.
func (s *Stream) appendPrime(dst []byte, id string) []byte {
	if id == "" || !s.options.Prime || s.only != nil {
		return dst
	}
	return append(append(append(dst, "id: "...), id...), "\n\n"...)
}

// LastRetry is a reconnection time to send before a response is ended, so that
// clients do not come back together; nil: there is none.
func (o *Options) LastRetry() []byte {
	if o.RetryMin == 0 {
		return nil
	}
	retry := eventstream.AppendRetry(nil, o.randomRetry())
	if o.EmptyBlocks { // clients take it with its line
		retry = append(retry, '\n')
	}
	return retry
}

// randomRetry is a reconnection time of the configured range.
func (o *Options) randomRetry() time.Duration {
	spread := o.RetryMax - o.RetryMin
	return (o.RetryMin + time.Duration(rand.Float64()*float64(spread))).Truncate(time.Millisecond)
}

// RandomAge is how long a response may last; 0: no limit.
func (o *Options) RandomAge() time.Duration {
	return o.MaxAge - time.Duration(rand.Float64()*maxAgeSpread*float64(o.MaxAge))
}

// newestID returns the last event ID of a client that has been given
// everything, "" if it has none. The stream's lock is held.
func (s *Stream) newestID() string {
	switch {
	case s.upstreamIDs, s.isSplice:
		return s.buffer.LastID
	case s.options.IDs == IDsUpstream:
		return "" // the one that there may be is of the client that opened the stream
	}
	return string(replay.AppendID(nil, s.epoch, s.buffer.Newest))
}

// Next appends to dst the blocks that the subscriber is to be given now, about
// MaxWrite bytes at most. If there are none it returns what is
// closed when there may be some, or why the response is over. leaveAt is when
// to ask again at the latest; zero: never.
func (sub *Subscriber) Next(dst []*replay.Block, now time.Time) (out []*replay.Block, wake <-chan struct{}, leaveAt time.Time, end EndReason) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	out, leaveAt, end = sub.advance(dst, now)
	sub.Writing.Store(now.UnixNano()) // until the caller waits
	sub.count(out)
	sub.hold(out)
	switch {
	case end != "", len(out) > 0:
	case sub.waiting:
		wake = sub.home.waitForSeat()
	default:
		wake = sub.stream.bell.wait()
	}
	return out, wake, leaveAt, end
}

// hold takes note of what is given to the client and is not written yet, as far
// as is known: until the next call. The lock is held.
func (sub *Subscriber) hold(blocks []*replay.Block) {
	sub.unwritten = sub.Taken
	if sub.Taken > 0 {
		sub.unwrittenAt = blocks[len(blocks)-sub.Taken].At // others go before those of the stream
	}
}

// HoldBatch is hold for a connection that does not take what the last call gave;
// HeldBatch tells that it has.
func (sub *Subscriber) HoldBatch(blocks []*replay.Block) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.hold(blocks)
}

// HeldBatch tells that what HoldBatch told of is written.
func (sub *Subscriber) HeldBatch() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.unwritten = 0
}

// advance is next, less the waiting. The lock is held.
func (sub *Subscriber) advance(dst []*replay.Block, now time.Time) (out []*replay.Block, leaveAt time.Time, end EndReason) {
	sub.Taken, sub.TakenAt = 0, time.Time{}
	if sub.waiting {
		sub.home.admit(sub, now)
	}
	leaves := !sub.leaveAt.IsZero() && !now.Before(sub.leaveAt)
	revoked := leaves && sub.leaveFor == EndRevoked // nothing is for it any more
	if sub.finish == EndPerClient && !revoked {
		return dst, time.Time{}, sub.finish
	}
	if leaves {
		if !revoked {
			dst = sub.tellBeforeEnd(dst, now)
		}
		if retry := sub.stream.options.LastRetry(); retry != nil {
			dst = append(dst, &replay.Block{Wire: retry})
		}
		return dst, time.Time{}, sub.leaveFor
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
	case sub.finish != "" && !now.Before(sub.finishFrom):
		dst = sub.tellBeforeEnd(dst, now)
		if len(sub.tail) > 0 {
			dst = append(dst, &replay.Block{Wire: sub.tail})
			sub.tail = nil
		}
		return dst, time.Time{}, sub.finish
	}
	if sub.waiting {
		return dst, sub.lookAgain(), ""
	}
	return dst, sub.lookAt(), ""
}

// lookAt is when something is due without anything new in the stream; zero:
// never.
func (sub *Subscriber) lookAt() (at time.Time) {
	for _, due := range []time.Time{sub.leaveAt, sub.preludeAt(), sub.finishFrom} {
		if !due.IsZero() && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	return at
}

// Key is that of the stream that the subscriber came to.
func (sub *Subscriber) Key() Key {
	if sub.Origin == nil {
		return Key{}
	}
	return sub.Origin.Key
}

// NextOf is next for a connection, by its writer. waits tells that the
// connection has been given everything and will be looked at when there is
// something new.
func (sub *Subscriber) NextOf(c Waiter, dst []*replay.Block, now time.Time) (out []*replay.Block, waits bool, leaveAt time.Time, end EndReason) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	out, leaveAt, end = sub.advance(dst, now)
	sub.count(out)
	s := sub.stream
	if end == "" && (len(out) == 0 || sub.upToDate()) {
		waits = true
		s.bell.add(c)
	}
	return out, waits, leaveAt, end
}

// upToDate reports whether the subscriber can be given nothing until its stream
// has something new. The lock is held.
func (sub *Subscriber) upToDate() bool {
	return sub.stream == sub.home && sub.cursor == sub.stream.buffer.Newest && sub.finish == "" && len(sub.pending) == 0
}

// Leaves is when the response is to end; zero: it is not known.
func (sub *Subscriber) Leaves() time.Time {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.leaveAt
}

// LeaveBell lets a connection wait for nothing any more.
func (sub *Subscriber) LeaveBell(c Waiter) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	c.Slot().remove(c)
}

// Settled reports whether nothing but the stream's blocks is to come to the
// subscriber, so that its connection may be taken over; if not, when it is to be
// looked at again, zero: when there is something new.
func (sub *Subscriber) Settled(now time.Time) (ok bool, at time.Time) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	s := sub.stream
	switch {
	case sub.waiting, sub.finish != "", s.Detached:
		return false, time.Time{}
	case s.isSplice:
		return !s.track.HeadAt.IsZero(), time.Time{} // which tells whether it may be shared
	case s.settled, len(s.subs) > settleCount:
		return true, time.Time{}
	}
	at = s.track.HeadAt.Add(settleTime)
	return !now.Before(at), at
}

// preludeAt is when the prelude is due that a client was not given, because the
// first event may have to be the first of all; zero: nothing is due, or not before
// an event. An upstream that hands out sessions does so when its connection opens.
func (sub *Subscriber) preludeAt() time.Time {
	s := sub.stream
	if !sub.unprimed || sub.waiting || s.track.HeadAt.IsZero() {
		return time.Time{}
	}
	return s.track.HeadAt.Add(s.options.primeAfter)
}

// prime gives a client an ID to resume from. Before the stream's first event that
// is left for the prelude.
func (sub *Subscriber) prime(id string) {
	s := sub.stream
	if !s.settled && s.options.primeAfter > 0 {
		sub.unprimed = true
		return
	}
	sub.pending = s.appendPrime(sub.pending, id)
}

// givePrelude gives what a client that came before the first event was not
// given then, if it is due: an ID only if it has no event, which has one.
func (sub *Subscriber) givePrelude(now time.Time) bool {
	s := sub.stream
	at := sub.preludeAt()
	due := !at.IsZero() && !now.Before(at) && sub.cursor == s.buffer.Newest
	if !sub.unprimed || (sub.events == 0 && !due) {
		return false
	}
	sub.unprimed = false
	if s.only != nil {
		return false
	}
	prime := ""
	if sub.events == 0 {
		prime = s.newestID()
	}
	seen := s.hasRetry && !sub.hadRetry
	if !sub.untimed || seen {
		sub.pending = s.appendPrime(sub.pending, prime)
		return true
	}
	sub.untimed = false
	sub.pending = s.appendPrelude(sub.pending, prime)
	return true
}

// sends counts an event that the client is sent.
func (sub *Subscriber) sends() {
	if sub.Sent++; sub.Sent == 1 {
		sub.FirstEvent = max(1, time.Since(sub.joined))
	}
}

// read appends what is after the cursor.
func (sub *Subscriber) read(dst []*replay.Block) ([]*replay.Block, EndReason) {
	s := sub.stream
	size := 0
	if len(sub.pending) > 0 && len(sub.greeted) == 0 {
		dst = append(dst, &replay.Block{Wire: sub.pending})
		sub.pending = nil
	}
	for len(sub.greeted) > 0 && (size == 0 || size+len(sub.greeted[0].Wire) <= MaxWrite) {
		sub.Taken++
		if sub.greeted[0].Dispatches {
			sub.sends()
		}
		dst = append(dst, sub.greeted[0])
		size += len(sub.greeted[0].Wire)
		sub.greeted = sub.greeted[1:]
	}
	if size > 0 || sub.waiting {
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
		if sub.finish != "" && b.Position > sub.finishAt {
			break // the stream went on with somebody else
		}
		sub.cursor, sub.events = b.Position, b.Events
		if b.CommentOnly && b.Position <= sub.live {
			continue
		}
		if b.Dispatches {
			sub.sends()
		}
		if sub.Taken++; sub.TakenAt.IsZero() && !b.At.Before(sub.joined) {
			sub.TakenAt = b.At
		}
		dst = append(dst, b)
		size += len(b.Wire)
	}
	return dst, ""
}

// greeting is what an upstream connection brought before its first pause.
type greeting struct {
	blocks []*replay.Block
	size   int64
	ended  bool
	last   time.Time // of the head or the newest block
}

// greetingPause ends a greeting.
const greetingPause = time.Second

// over reports whether the greeting has ended.
func (g *greeting) over(now time.Time) bool {
	return g.ended || now.Sub(g.last) > greetingPause
}

// add takes a block if it belongs to the greeting. One over limit bytes is no
// greeting; nothing of it is kept.
func (g *greeting) add(b *replay.Block, limit int64) {
	if b.CommentOnly {
		return
	}
	if g.over(b.At) {
		g.ended = true
		return
	}
	g.last = b.At
	g.size += int64(len(b.Wire))
	if g.size > limit {
		g.blocks, g.ended = nil, true
		return
	}
	g.blocks = append(g.blocks, b)
}
