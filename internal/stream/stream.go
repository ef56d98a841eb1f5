package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// phase is what a stream is doing.
type phase int

const (
	phaseOpening phase = iota // its first upstream connection has no head yet
	phaseLive                 // connected
	phaseBroken               // the connection was lost; trying again
	phaseEnded                // the upstream ended it; kept for a while for those who come back
	phaseGone                 // over: nobody can join
)

// Head is what the subscribers of a stream get before the first block. It is
// immutable.
type Head struct {
	Header http.Header     // the upstream's, less what is not for subscribers
	Added  map[string]bool // fields that the upstream's values are added to, not put in place of
}

// Source opens upstream connections for a stream, with a request of a client
// that is entitled to it and the handlers of one configuration.
type Source interface {
	// open runs one upstream connection until its end: it feeds conn, and
	// returns how it ended. It returns soon after ctx is done.
	Open(ctx context.Context, lastEventID string, conn *Conn) Ending

	// retired reports whether the configuration was cleaned up, so that no
	// new connection may be opened with it.
	Retired() bool

	// renew runs the request through the server of another configuration, and
	// reports whether that led to the stream that q is for; see reload.go.
	Renew(server any, q *Renewal) bool
}

// keeper is what a stream asks of the hub. The hub's lock comes before a stream's:
// the methods that take it are not for who holds that of a stream.
type keeper interface {
	// remove takes a stream out, so that nobody joins it any more; forget drops the last
	// reference to one that is over and has no subscribers. Both take the hub's lock, as
	// does locked while something is done.
	remove(s *Stream)
	forget(s *Stream)
	locked(do func())
	removeLocked(s *Stream) // remove for who holds the hub's lock

	// track takes note of a stream that has, or is about to have, subscribers.
	track(s *Stream)
	untrack(s *Stream)

	// markUnshareable sends requests with a key upstream on their own, for d; keeps
	// reports whether there is a stream with it; keepDetached makes a detached stream
	// known that has its head, or tells why it cannot be. They take the hub's lock.
	markUnshareable(key Key, d time.Duration, why Private)
	keeps(key Key) bool
	keepDetached(s *Stream) error

	// connect runs a stream's upstream connections, and spawn anything, in a goroutine
	// that is waited for.
	connect(ctx context.Context, s *Stream, cancel context.CancelFunc, src Source, lastEventID string)
	spawn(do func())

	// charge counts bytes of replay buffers. Any lock may be held.
	charge(bytes int64)

	// addLingering and removeLingering take note of a stream that lingers; endYoung ends
	// those that are too many, with no lock held.
	addLingering(s *Stream)
	removeLingering(s *Stream)
	endYoung()
}

// Stream is one shared sequence of blocks: the upstream connection that it
// comes from, the replay buffer, and the subscribers that read it.
//
// One goroutine, run, owns the upstream connection and is the only one that
// appends blocks. Subscribers are read positions; none can slow the stream.
type Stream struct {
	// Fixed after construction.
	hub                  keeper
	facts                *facts    // of all streams
	number               uint64    // of the process's streams; names it to operators
	born                 time.Time // when it began
	Key                  Key
	place                string
	path                 string     // what its key has in common with others of the same path
	parts                []partHash // what its key is made of
	shownHost, shownPath string     // of the request that opened it, as received, for operators
	epoch                string
	openID               string // the client's last event ID that it was opened with
	IDParam              string // the query parameter that brought it, if not the header field
	isSplice             bool
	Detached             bool          // see detach.go
	answer               *AnswerClock  // of a detached stream; guarded by mu
	responses            *ResponsesLog // of one that may be of the Responses API; see detach_responses.go
	holder               Holder        // of the request that opened it
	headTime             time.Duration // how long others than its first client wait for its head
	hurry                chan struct{} // tells run not to wait until the next attempt

	logger atomic.Pointer[zap.Logger] // of the owner's configuration
	lines  streamLines

	// Guarded by hub.mu.
	owner     *Instance
	adoptable bool // the owner was alone at its place

	closed atomic.Bool // takes no more subscribers
	mixed  atomic.Bool // has had subscribers of more than one holder

	ready chan struct{} // closed when head, refused or stopped is set

	mu       *sync.Mutex // a splice has that of its stream
	options  *Options
	source   Source // of the next connection
	phase    phase
	head     *Head
	refused  bool // the first answer was not an event stream to share
	stopped  bool // drained before there was an answer
	buffer   replay.Buffer
	greeting greeting
	retry    time.Duration // the newest from the upstream
	hasRetry bool
	bell     Bell // rung when there is something new
	subs     map[*Subscriber]struct{}
	arrivals uint64
	only     *Subscriber // an exclusive stream's; see makeExclusive
	draining bool        // ends with its last subscriber
	private  bool        // was a splice: breaks are not hidden

	settled    bool           // has had an event: it is not the first one's alone
	fresh      bool           // the connection was opened without an ID and has not brought a block
	track      evidence.Track // what its connections have brought, to be compared
	over       EndReason      // why it ended, with phaseEnded and phaseGone
	overTail   []byte
	splices    map[*Stream]struct{}
	splice     *spliceState // not nil: this is a splice of another stream
	learned    learned
	sharing    proof
	spliced    bool          // a splice of it had a head
	openings   time.Time     // up to when splices without an ID were opened, one in each spliceInterval
	fellAt     time.Time     // when the newest client that had waited went upstream on its own
	seats      chan struct{} // closed and dropped when those who wait for a splice shall look again
	seatsAt    time.Time
	room       *room  // that the next block waits for; nil: it does not
	readTo     uint64 // up to here all who are waited for were given the blocks, or further
	patience   patience
	failed     bool // an attempt to connect did
	cancel     context.CancelFunc
	linger     *time.Timer
	alone      time.Time     // since when it has had no subscribers, with linger
	earned     time.Duration // of the time without subscribers; see lingering.go
	attendedAt time.Time     // since when it has had some
	charged    int64         // of the buffer's bytes, those in the hub's count

	conn           *Conn            // the newest
	reopening      bool             // it had ended, and the upstream has not answered since; see reopen.go
	successor      *Stream          // of the connection; see reload.go
	brought        evidence.Brought // since its connection was opened
	renewing       bool             // the handlers of the new configuration are being looked for
	gaveID         bool             // the upstream has sent an id
	upstreamIDs    bool             // and the clients see it: the gateway adds none
	numbers        evidence.Numbers // of the upstream's ids
	opening        *firstAnswer     // to the ID that it was opened with; see late.go
	answers        []*firstAnswer   // that are not judged yet
	lastUpstreamID string           // with which a reconnect resumes
	backoff        backoff
	slowestHead    time.Duration // the longest that a connection took to its head
	connections    int
	oversized      int       // blocks over max_event_size in a row
	broke          bool      // the last connection did, or none came about
	lostAt         time.Time // when the upstream was lost that is to be reached again; zero: it was not

	// For operators only; see inspect.go.
	why         Private   // it is its client's alone; see private.go
	given       tally     // to subscribers
	received    int64     // bytes of blocks from the upstream
	reconnects  int       // how often a lost connection was opened again
	endedAt     time.Time // when the newest connection that had a head did
	lastError   string    // what the newest connection that failed did of
	lastErrorAt time.Time
}

// Log is where what happens to the stream is told.
func (s *Stream) Log() *zap.Logger { return s.logger.Load() }

// setLogger sets the logger of a new owner's configuration.
func (s *Stream) setLogger(logger *zap.Logger) {
	if s.isSplice {
		logger = logger.With(zap.Bool("splice", true))
	} else {
		logger = logger.With(zap.Stringer("stream", s.Key), zap.String("epoch", s.epoch[:8]),
			zap.String("host", s.shownHost), zap.String("path", s.shownPath))
	}
	s.logger.Store(logger)
}

// DrainTime is the time of the option drain.
func (s *Stream) DrainTime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.options.Drain
}

// newStream makes a stream for a request; the first to attach opens it. A head is given
// when it follows a stream that ended, for a client that was in that.
func newStream(h *Hub, req *Request, head *Head) *Stream {
	s := &Stream{
		hub:     h,
		facts:   &h.facts,
		number:  NextNumber(),
		born:    time.Now(),
		Key:     req.Key,
		place:   req.Instance.Place,
		path:    pathOf(req.Parts),
		parts:   hashParts(req.Parts),
		epoch:   replay.NewEpoch(),
		owner:   req.Instance,
		ready:   make(chan struct{}),
		hurry:   make(chan struct{}, 1),
		options: req.Options,
		mu:      new(sync.Mutex),
		source:  req.Source(true),
		head:    head,
		splices: make(map[*Stream]struct{}),
		subs:    make(map[*Subscriber]struct{}),

		headTime: max(OpeningPatience, req.headTime),
	}
	s.holder = req.Holder
	s.shownHost, s.shownPath = shownOf(req.Parts)
	s.setLogger(req.Logger)
	s.buffer.Limits = req.Options.Buffer
	s.track.Buffer = &s.buffer
	if fact, ok := s.facts.sharedBy(req.Key); ok && s.compares() {
		s.sharing.proven, s.sharing.snapshot, s.track.Greets = true, fact.snapshot, fact.greets
	}
	if head != nil {
		close(s.ready)
		s.phase = phaseBroken
		s.reopening = true
	}
	if id := req.LastEventID; id != "" && replay.ValidID(id) && replay.Sendable(id) && !s.ownID(id) {
		s.openID = id
		s.lastUpstreamID = id
		s.buffer.SetLastID(id, 0)
		s.opening = s.expect(id, s)
	}
	s.fresh = s.openID == ""
	return s
}

// ownID reports whether id looks like one that a gateway gave. Such an ID is
// never sent upstream, unless the upstream gives all ids.
func (s *Stream) ownID(id string) bool {
	_, _, ok := replay.ParseID(id)
	return ok && s.options.IDs != IDsUpstream
}

// startLocked opens the stream's upstream connection.
func (s *Stream) startLocked(lastEventID string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	src := s.source // not that of who comes before run does
	s.hub.connect(ctx, s, cancel, src, lastEventID)
}

// errNewLife is returned by attach when the stream has ended and the request
// cannot go on in it: it begins a new one.
var errNewLife = errors.New("the stream has ended")

// errGone is returned by attach when the stream is over, and about to be removed
// from the hub by who ended it.
var errGone = errors.New("the stream is over")

// attach adds a subscriber and finds where it begins, in one step. The hub's
// lock is held.
func (s *Stream) attach(req *Request) (*Subscriber, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseGone {
		return nil, errGone
	}
	if limit := req.Options.MaxSubscribers; limit > 0 && len(s.subs) >= limit {
		return nil, ErrTooManySubscribers
	}
	now := time.Now()
	s.buffer.Evict(now)
	s.charge()
	if s.phase == phaseEnded && !s.Detached {
		if _, _, ok := s.trusted(nil, req.LastEventID); !ok && (!s.shares() || !s.ofThisLife(req.LastEventID)) {
			return nil, errNewLife
		}
	}
	newer := req.Instance.sequence > s.owner.sequence
	if !s.Detached && (newer || (s.source.Retired() && !req.Instance.Retired.Load())) {
		s.ownedBy(req.Instance, req.Options, req.Source(false), req.Logger)
		if s.phase == phaseBroken || (s.isStale() && !s.renewing) {
			s.useSource()
		}
	}
	s.stopLinger()
	s.attended(now)
	s.arrivals++
	sub := &Subscriber{
		param: req.IDParam, client: req.Client, mu: s.mu, Origin: s, home: s, stream: s, arrival: s.arrivals, joined: now,
	}
	if age := s.options.RandomAge(); age > 0 {
		sub.leaveAt, sub.leaveFor = now.Add(age), EndMaxAge
	}
	if s.arrivals == 1 {
		sub.own = true
	}
	s.subs[sub] = struct{}{}
	if req.Holder != s.holder {
		s.mixed.Store(true)
	}
	s.resume(sub, req.LastEventID)
	if s.phase == phaseEnded && s.Detached {
		sub.finish, sub.finishAt, sub.tail = s.over, s.buffer.Newest, s.overTail
	} else if s.phase == phaseEnded {
		// Who comes back after the end goes on where it was, and with it the
		// stream.
		s.reopen(req, now)
	}
	if s.cancel == nil {
		s.startLocked(s.openID)
	}
	return sub, nil
}

// Leave removes a subscriber. The last one leaving starts the linger time.
func (sub *Subscriber) Leave() {
	sub.mu.Lock()
	s := sub.home
	if sub.stream != s {
		sub.stream.release(sub)
	}
	delete(s.subs, sub)
	sub.given(true)
	forget := false
	if len(s.subs) == 0 {
		switch {
		case s.phase == phaseGone:
			s.freeBuffer()
			forget = true
		case s.only != nil, s.draining, s.head == nil:
			s.endLocked()
			forget = true
		default:
			s.lingerLocked()
		}
	}
	if s.only == sub && !forget {
		s.endLocked()
	}
	pass := sub.pass
	s.mu.Unlock()
	if pass != nil {
		pass.Left()
	}
	if forget {
		s.hub.forget(s)
	}
	s.hub.endYoung()
}

// lingerLocked ends the stream after the linger time, unless somebody comes.
func (s *Stream) lingerLocked() {
	if s.linger != nil {
		s.linger.Stop()
	} else {
		s.leftAlone(time.Now())
	}
	var timer *time.Timer
	timer = time.AfterFunc(s.lingerTime(), func() {
		s.hub.locked(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.linger == timer && len(s.subs) == 0 {
				s.expireLocked()
			}
		})
	})
	s.linger = timer
	if s.lingers() {
		s.hub.addLingering(s)
	}
}

// stopLinger takes back that the stream ends by itself. The lock is held.
func (s *Stream) stopLinger() {
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
		s.earned = max(0, s.earned-time.Since(s.alone))
		s.hub.removeLingering(s)
	}
}

// expireLocked ends a stream that has no subscribers. The hub's lock is held too.
func (s *Stream) expireLocked() {
	s.endLocked()
	s.hub.removeLocked(s)
	s.hub.untrack(s)
}

// endLocked ends the stream for good and frees what it holds.
func (s *Stream) endLocked() {
	s.phase = phaseGone
	s.stopLinger()
	if s.cancel != nil {
		s.cancel()
	}
	s.dropSuccessor()
	s.leaveSplices()
	for sub := range s.subs {
		switch {
		case !sub.waiting || sub.finish != "":
		case sub.released:
			sub.finish, sub.finishAt = EndBroken, sub.cursor
		default:
			sub.finish = EndAskAgain // it was sent nothing
		}
	}
	if len(s.subs) == 0 {
		s.freeBuffer()
	}
	s.wakeLocked()
	s.makeRoom()
}

// retire makes room for a stream's next life and returns its head. The hub's
// lock is held.
func (s *Stream) retire() *Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked()
	if len(s.subs) == 0 {
		s.hub.untrack(s)
	}
	return s.head
}

// keptHead is the head of a stream that has ended.
func (s *Stream) keptHead() *Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// drain ends all subscribers' responses, each at a random moment within
// window, and with the last of them the stream.
func (s *Stream) drain(window time.Duration, reason EndReason) {
	s.hub.remove(s)
	s.mu.Lock()
	now := time.Now()
	for sub := range s.subs {
		at := now.Add(randomUpTo(window))
		if s.Detached {
			at = now.Add(window) // it may come to its end
		}
		if sub.leaveAt.IsZero() || at.Before(sub.leaveAt) {
			sub.leaveAt, sub.leaveFor = at, reason
		}
	}
	s.draining = true
	forget := len(s.subs) == 0
	opening := s.head == nil && !s.refused && !s.stopped
	if opening {
		s.stopped = true
		close(s.ready)
	}
	for sp := range s.splices {
		sp.wakeLocked()
	}
	s.wakeWaiting()
	if (forget && s.phase != phaseGone) || opening { // the connection of one that was refused is its client's
		s.endLocked()
	}
	s.wakeLocked()
	s.mu.Unlock()
	if forget {
		s.hub.forget(s)
	}
}

// randomUpTo is a random time up to d.
func randomUpTo(d time.Duration) time.Duration { return time.Duration(rand.Float64() * float64(d)) }

// finishLocked lets all subscribers go as soon as they were given everything
// that is in the buffer.
func (s *Stream) finishLocked(reason EndReason) {
	s.over = reason
	back := s.comesBack()
	for sub := range s.subs {
		if sub.finish == "" && sub.stream == s {
			sub.finish, sub.finishAt = reason, s.buffer.Newest
			sub.pending = s.appendPrime(sub.pending, back)
			if sub.waiting && !sub.released {
				sub.finish = EndAskAgain // it was sent nothing
			}
		}
	}
	s.wakeLocked()
	s.wakeWaiting()
}

// wakeLocked wakes all who wait for something new.
func (s *Stream) wakeLocked() { s.bell.Ring() }

// wakeWaiting wakes those who wait for a place in a splice.
func (s *Stream) wakeWaiting() {
	if s.seats != nil {
		close(s.seats)
		s.seats = nil
	}
}

// verdict returns, after ready, the head to give to subscribers, or why there
// is none: ErrUnshareable or ErrStopping.
func (s *Stream) verdict() (*Head, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return nil, ErrStopping
	case s.refused:
		return nil, s.why.asError()
	}
	return s.head, nil
}
