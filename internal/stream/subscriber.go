package stream

import (
	"errors"
	"sync"
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
// replay buffer, of the stream itself or of a splice of it.
type Subscriber struct {
	// Fixed after attach.
	mu      *sync.Mutex // of origin, home and stream
	Origin  *Stream     // the stream that it joined
	arrival uint64      // order of coming
	joined  time.Time
	Outcome string // of resuming, for the header SSE-Resume
	id      string // the last event ID it came with, if that can be looked up
	param   string // the query parameter that brought it
	gap     *Gap   // with its head; nil: there is none
	client  Client

	// Where it reads. Guarded by mu, as all that follows.
	home   *Stream // counts it among its subscribers
	stream *Stream // whose buffer it reads
	cursor uint64  // position of the last block given
	events uint64  // the stream's count of events there
	live   uint64  // comments up to this position are not given
	own    bool    // its stream's connection is its own, as far as is known; see sharing.go

	// What it waits for.
	waiting  bool         // for a place in a splice, or for a verdict
	released bool         // was sent its head while it waits
	outage   bool         // the upstream was away then
	start    uint64       // the stream's position then
	answer   *firstAnswer // that it may yet be told of

	// What goes out before the blocks.
	pending  []byte // goes out before anything else
	greeted  []*replay.Block
	unprimed bool // it was not given the prelude; see preludeAt
	untimed  bool // nor a reconnection time
	hadRetry bool // the upstream had sent one before it came

	// How its response ends.
	finish     EndReason // ends the response when everything was given
	finishAt   uint64    // up to this position
	finishFrom time.Time // it does not finish before
	tail       []byte    // what the upstream sent after its last blank line
	leaveAt    time.Time // ends the response then; zero: never
	leaveFor   EndReason // why
	pass       Pass      // nil: it has none

	// What the last call of Next gave, and what is not written of it, as far as is known.
	Taken       int       // how many blocks of the stream the last call of next gave
	TakenAt     time.Time // when the first of them that is no replay was complete; zero: none is
	unwritten   int       // how many blocks
	unwrittenAt time.Time // when the first of them came
	Writing     Since     // it is being written to

	// Whether a stream waits for it; see room.go.
	awaits *room // that a stream waits for with it; nil: none does
	late   bool  // is not waited for before it was given everything

	// What it was given, for operators.
	Sent       uint64        // how many events it was given
	FirstEvent time.Duration // from when it came to the first of them
	bytes      uint64        // how many bytes
	counted    uint64        // of the events, those in the stream's tally
	delivery   string        // how its client is written to
}

// Key is that of the stream that the subscriber came to.
func (sub *Subscriber) Key() Key {
	if sub.Origin == nil {
		return Key{}
	}
	return sub.Origin.Key
}

// Leaves is when the response is to end; zero: it is not known.
func (sub *Subscriber) Leaves() time.Time {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.leaveAt
}

// Settled reports whether nothing but the stream's blocks is to come to the
// subscriber, so that its connection may be taken over; if not, when it is to be
// looked at again, zero: when there is something new.
func (sub *Subscriber) Settled(now time.Time) (ok bool, at time.Time) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	s := sub.stream
	switch {
	case sub.waiting, sub.finish != "", s.kind.answer:
		return false, time.Time{}
	case s.kind.beside:
		return !s.track.HeadAt.IsZero(), time.Time{} // which tells whether it may be shared
	case s.settled, len(s.subs) > settleCount:
		return true, time.Time{}
	}
	at = s.track.HeadAt.Add(settleTime)
	return !now.Before(at), at
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
