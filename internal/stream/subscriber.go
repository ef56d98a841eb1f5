package stream

import (
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

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
)

// Subscriber is one client's response attached to a stream: a cursor into the
// replay buffer, of the stream itself or of a splice of it. There may be very many:
// what few have, or for a moment only, is behind a pointer.
//
// The lock of Origin, which home and stream have too, guards what is not fixed.
type Subscriber struct {
	comer

	own      bool // its stream's connection is its own, as far as is known; see sharing.go
	late     bool // is not waited for before it was given everything; see room.go
	delivery Way  // how its client is written to

	untold
	place
	waits

	awaits   *room       // that a stream waits for with it; nil: none does
	resuming *resumption // nil: it came without an ID, and its outcome is live
	lead     *lead       // nil: nothing goes out first
	ending   *ending     // nil: the response does not end yet
	leaving  *leaving    // nil: nor at a moment that is known
	pass     Pass        // nil: it has none

	batch
	share
}

// comer is who came, and where to. It is fixed after attach.
type comer struct {
	Origin  *Stream       // the stream that it joined
	arrival uint64        // order of coming
	cameAt  time.Duration // since Origin was born
	client  Client
}

// untold is what a subscriber was not given that came before the first event.
type untold struct {
	unprimed bool // the prelude; see preludeAt
	untimed  bool // nor a reconnection time
	hadRetry bool // the upstream had sent one before it came
}

// place is where a subscriber reads.
type place struct {
	home   *Stream // counts it among its subscribers
	stream *Stream // whose buffer it reads
	cursor uint64  // position of the last block given
	events uint64  // the stream's count of events there
	live   uint64  // comments up to this position are not given
}

// waits is what a subscriber waits for, which has no place yet, or has its head only.
type waits struct {
	start    uint64 // the stream's position when it was released
	released bool   // was sent its head while it waits
	outage   bool   // the upstream was away then
	waiting  bool   // for a place in a splice, or for a verdict
}

// batch is what the last call of Next gave, and what is not written of it, as far as is
// known.
type batch struct {
	Taken     int           // how many blocks of the stream it gave
	takenAt   time.Duration // when the first of them that is no replay was complete, since Origin was born; 0: none is
	unwritten int           // how many blocks
	oldest    *replay.Block // the first of them
	Writing   Since         // it is being written to
}

// share is what a subscriber was given, for operators.
type share struct {
	Sent       uint64        // how many events
	FirstEvent time.Duration // from when it came to the first of them
	bytes      uint64        // how many bytes
}

// Way is how a client is written to.
type Way uint8

// Ways; zero: it is not known yet.
const (
	ByHandler    Way = iota + 1 // in the goroutine of its request
	ByConnection                // by a writer
)

// String is the way as in the option delivery.
func (w Way) String() string { return [...]string{"", "handler", "connection"}[w] }

// Key is that of the stream that the subscriber came to.
func (sub *Subscriber) Key() Key {
	if sub.Origin == nil {
		return Key{}
	}
	return sub.Origin.Key
}

// joined is when the subscriber came.
func (sub *Subscriber) joined() time.Time { return sub.Origin.born.Add(sub.cameAt) }

// TakenAt is when the first of the blocks that the last call of Next gave, and that is
// no replay, was complete; zero: none is.
func (sub *Subscriber) TakenAt() time.Time {
	if sub.takenAt == 0 {
		return time.Time{}
	}
	return sub.Origin.born.Add(sub.takenAt)
}

// Leaves is when the response is to end; zero: it is not known.
func (sub *Subscriber) Leaves() time.Time {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	return sub.leaveAt()
}

// Settled reports whether nothing but the stream's blocks is to come to the
// subscriber, so that its connection may be taken over; if not, when it is to be
// looked at again, zero: when there is something new.
func (sub *Subscriber) Settled(now time.Time) (ok bool, at time.Time) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	s := sub.stream
	switch {
	case sub.waiting, sub.finish() != "", s.kind.answer:
		return false, time.Time{}
	case s.kind.beside:
		return s.isHeaded(), time.Time{} // which tells whether it may be shared
	case s.settled, s.countSubscribers() > settleCount:
		return true, time.Time{}
	}
	at = s.track.HeadAt.Add(settleTime)
	return !now.Before(at), at
}

// What few subscribers have, or for a moment only, follows. The stream's lock guards it.

// resumption is how a subscriber goes on where it was.
type resumption struct {
	id      string       // the last event ID it came with, if that can be looked up
	param   string       // the query parameter that brought it
	outcome string       // for the header SSE-Resume
	gap     *Gap         // with its head; nil: there is none
	answer  *firstAnswer // that it may yet be told of; nil: there is none

	ahead      string    // its ID, if that was of an event that the node did not have
	aheadUntil time.Time // until then it waits for it; zero: it does not, or not any more
}

// resumption is that of the subscriber, which has one from now on.
func (sub *Subscriber) resumption() *resumption {
	if sub.resuming == nil {
		sub.resuming = &resumption{outcome: ResumeLive}
	}
	return sub.resuming
}

// Outcome is that of resuming, for the header SSE-Resume.
func (sub *Subscriber) Outcome() string {
	if sub.Origin == nil {
		return ""
	}
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	return sub.outcome()
}

func (sub *Subscriber) outcome() string {
	if sub.resuming == nil {
		return ResumeLive
	}
	return sub.resuming.outcome
}

// id is the last event ID that the subscriber came with, if that can be looked up.
func (sub *Subscriber) id() string {
	if sub.resuming == nil {
		return ""
	}
	return sub.resuming.id
}

// param is the query parameter that brought an ID; "": none did.
func (sub *Subscriber) param() string {
	if sub.resuming == nil {
		return ""
	}
	return sub.resuming.param
}

// awaitsAnswer tells that the subscriber is to be told what an answer shows; nil: it
// is not any more.
func (sub *Subscriber) awaitsAnswer(a *firstAnswer) {
	if a != nil || sub.resuming != nil {
		sub.resumption().answer = a
	}
}

// isToldOf reports whether it is.
func (sub *Subscriber) isToldOf(a *firstAnswer) bool {
	return sub.resuming != nil && sub.resuming.answer == a
}

// lead is what goes out before a stream's blocks.
type lead struct {
	greeted []*replay.Block
	bytes   []byte // after those
}

// isGreeted has blocks go out first.
func (sub *Subscriber) isGreeted(blocks []*replay.Block) {
	if len(blocks) > 0 {
		sub.lead = &lead{greeted: blocks}
	}
}

// tellFirst has bytes go out before those that do already.
func (sub *Subscriber) tellFirst(p []byte) {
	if sub.lead == nil {
		sub.tell(p)
		return
	}
	sub.lead.bytes = append(slices.Clip(p), sub.lead.bytes...)
}

// tell has bytes go out before the blocks, after what does already.
func (sub *Subscriber) tell(p []byte) {
	if len(p) == 0 {
		return
	}
	if sub.lead == nil {
		sub.lead = new(lead)
	}
	sub.lead.bytes = append(slices.Clip(sub.lead.bytes), p...)
}

// ending is how a response ends when everything was given.
type ending struct {
	why  EndReason
	at   uint64    // up to this position
	from time.Time // not before
	tail []byte    // what the upstream sent after its last blank line
}

// finish is why the response ends when everything was given; "": it does not.
func (sub *Subscriber) finish() EndReason {
	if sub.ending == nil {
		return ""
	}
	return sub.ending.why
}

// finishFor has it end for a reason.
func (sub *Subscriber) finishFor(why EndReason) *ending {
	if sub.ending == nil {
		sub.ending = new(ending)
	}
	sub.ending.why = why
	return sub.ending
}

// finishAt has it end for a reason at a position.
func (sub *Subscriber) finishAt(position uint64, why EndReason) *ending {
	e := sub.finishFor(why)
	e.at = position
	return e
}

// finishFrom is before when it does not end; zero: it may.
func (sub *Subscriber) finishFrom() time.Time {
	if sub.ending == nil {
		return time.Time{}
	}
	return sub.ending.from
}

// finishesBefore reports whether it ends before a position is given.
func (sub *Subscriber) finishesBefore(position uint64) bool {
	return sub.finish() != "" && position > sub.ending.at
}

// leaving is how a response ends at a moment.
type leaving struct {
	at  time.Time
	why EndReason
}

// leaveAt is when it ends; zero: that is not known.
func (sub *Subscriber) leaveAt() time.Time {
	if sub.leaving == nil {
		return time.Time{}
	}
	return sub.leaving.at
}

// leaveBy has it end at a moment, unless it ends before.
func (sub *Subscriber) leaveBy(at time.Time, why EndReason) {
	if sub.leaving == nil || at.Before(sub.leaving.at) {
		sub.leaving = &leaving{at, why}
	}
}

// Request is what a request brings to join a stream.
type Request struct {
	Key         Key
	Parts       []Part // what the key is made of
	Instance    *Instance
	LastEventID string
	headTime    time.Duration // how long others are to wait for the head, if it opens a stream
	IDParam     string        // the query parameter that brought it, if not the header field
	Options     *Options
	Client      Client
	Holder      Holder  // whose the request is; zero: that is not known
	Private     Private // why the stream is to be its client's alone, where it is; see OpenDetached

	// source returns what opens upstream connections for this request. It is
	// called only if the request opens a stream or brings a newer
	// configuration to it. waits tells that the request is to be given the
	// first answer if that is not a stream to share.
	Source func(waits bool) Source

	// Prepare makes all of that whose work grows with the request; nil: there is none.
	// It is called before source, with no lock held; the locks of the hub and of the
	// stream are when source is.
	Prepare func()

	digest *digest

	Logger *zap.Logger
}

// digest is what is made of a request that is to open a stream, or to bring a newer
// configuration to one. Its work grows with the request, so none of it is done under a
// lock, and none for those who only join.
type digest struct {
	name        string // to other nodes
	path        string
	parts       []partHash
	host, shown string
}

// errUnprepared tells that a request is to be made ready, with no lock held, and to be
// looked at again.
var errUnprepared = errors.New("the request is not made ready to open a stream")
