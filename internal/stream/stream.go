package stream

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Source opens upstream connections for a stream, with a request of a client
// that is entitled to it and the handlers of one configuration.
type Source interface {
	upstreams.Source

	// Renew runs the request through the server of another configuration, and
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

	// spawn does something in a goroutine that is waited for.
	spawn(do func())

	// charge counts bytes of replay buffers. Any lock may be held.
	charge(bytes int64)

	// addLingering and removeLingering take note of a stream that lingers; endYoung ends
	// those that are too many, with no lock held.
	addLingering(s *Stream)
	removeLingering(s *Stream)
	endYoung()
}

// Cluster is the other nodes, as a hub sees them.
type Cluster interface {
	// Name names the stream of a request to other nodes: the same on all that would make
	// the same stream of it, and on no others. It is called with no lock held.
	Name(parts []Part, options *Options) string

	// Run is called in a goroutine of its own, with no lock held, in place of opening the
	// upstream connection of a shared stream: when the stream is opened, and again when it
	// is opened again after its end; the call before may not have returned by then. ctx is
	// done when the stream has ended or is gone. Run sees to it that the stream gets a head,
	// from another node (Member.Follow) or from its upstream (Member.Connect).
	Run(ctx context.Context, m *Member)
}

// Member is a stream that nodes may share, as the cluster sees it; see follow.go. Its
// methods take locks of the stream and of the hub.
type Member struct {
	Name string // see Cluster.Name

	stream  *Stream
	cluster Cluster

	// Guarded by the stream's lock.
	end        context.CancelFunc // of Run; nil: it does not run
	opens      string             // the last event ID that its first connection is to be opened with
	following  bool               // its blocks come from another node
	foreign    bool               // so did the newest of its epoch
	followers  bool               // other nodes follow
	others     bool               // others have asked for it, or had it, too
	connection uint64             // the number of its upstream connection there
	nodes      NodesInfo
	asked      map[*Subscriber]string // last event IDs of those who wait for the first head; nil: there was one
}

// Stream is one shared sequence of blocks: the upstream connection that it
// comes from, the replay buffer, and the subscribers that read it.
//
// One goroutine, upstreams.Run's, owns the upstream connection and is the only one that
// appends blocks. Subscribers are read positions; none can slow the stream.
type Stream struct {
	identity

	logger atomic.Pointer[zap.Logger] // of the owner's configuration
	lines  streamLines
	closed atomic.Bool // takes no more subscribers
	mixed  atomic.Bool // has had subscribers of more than one holder

	ownership

	// Guarded by mu.
	life
	contents
	audience
	stay   stay
	member *Member // nil: there are no other nodes, or they have nothing to do with it
	link
	company
	figures figures
}

// identity is fixed after construction. A splice has most of its stream's.
type identity struct {
	hub                  keeper
	facts                *facts // of all streams
	kind                 *kind
	number               uint64    // of the process's streams; names it to operators
	born                 time.Time // when it began
	Key                  Key
	place                string
	path                 string        // what its key has in common with others of the same path
	parts                []partHash    // what its key is made of
	shownHost, shownPath string        // of the request that opened it, as received, for operators
	epoch                string        // changes with the locks of the hub and the stream held
	past                 []Past        // earlier epochs, likewise
	openID               string        // the client's last event ID that it was opened with
	IDParam              string        // the query parameter that brought it, if not the header field
	holder               Holder        // of the request that opened it
	headTime             time.Duration // how long others than its first client wait for its head
	ready                chan struct{} // closed when head, refused or stopped is set
	mu                   *sync.Mutex   // a splice has that of its stream
}

// ownership is guarded by the hub's lock.
type ownership struct {
	owner     *Instance
	adoptable bool // the owner was alone at its place
}

// audience is who reads the stream, or waits for it.
type audience struct {
	bell     Bell // rung when there is something new
	subs     map[*Subscriber]struct{}
	arrivals uint64
	only     *Subscriber // an exclusive stream's; see makeExclusive
	draining bool        // ends with its last subscriber
	seats    seats
	pace     pace
}

// isExclusive reports whether the stream is one subscriber's, and ends with it.
func (a *audience) isExclusive() bool { return a.only != nil }

// endsWithClients reports whether the stream does not stay without subscribers.
func (a *audience) endsWithClients() bool { return a.isExclusive() || a.draining }

// newAudience is nobody yet.
func newAudience() audience { return audience{subs: make(map[*Subscriber]struct{})} }

func (a *audience) addSubscriber(sub *Subscriber)      { a.subs[sub] = struct{}{} }
func (a *audience) dropSubscriber(sub *Subscriber)     { delete(a.subs, sub) }
func (a *audience) hasSubscribers() bool               { return len(a.subs) > 0 }
func (a *audience) countSubscribers() int              { return len(a.subs) }
func (a *audience) subscribers() iter.Seq[*Subscriber] { return maps.Keys(a.subs) }

// readers are those who are there now: they may go while somebody looks at each.
func (a *audience) readers() []*Subscriber { return slices.Collect(a.subscribers()) }

// link is how the stream comes: one upstream connection after the other.
type link struct {
	source    Source // of the next connection
	cancel    context.CancelFunc
	hurry     chan struct{} // tells run not to wait until the next attempt
	conn      *intake       // the newest
	fresh     bool          // the connection was opened without an ID and has not brought a block
	attempts  attempts
	said      said
	late      lateAnswers
	successor *Stream          // of the connection; see reload.go
	brought   evidence.Brought // since its connection was opened
	asksWith  uint64           // the block with the ID that it was asked with; see evidence.HashWith
}

// company is what there is beside the stream's connection, and what it has shown.
type company struct {
	track    evidence.Track // what its connections have brought, to be compared
	sharing  proof
	splices  map[*Stream]struct{}
	closing  int          // splices that are over, whose connections are not closed yet: they have their places
	splice   *spliceState // not nil: this is a splice of another stream
	left     *spliceState // not nil: it was one, and it is yet to show whether the upstream went on; see decide
	open     []*Stream    // those that were its splices, and are yet to show that
	spliced  bool         // a splice of it had a head
	learned  learned
	openings time.Time // up to when splices without an ID were opened, one in each spliceInterval
}

// newStream makes a stream for a request.
func newStream(hub keeper, facts *facts, req *Request) *Stream {
	s := &Stream{
		identity: identity{
			hub:       hub,
			facts:     facts,
			kind:      sharedKind,
			number:    NextNumber(),
			born:      time.Now(),
			Key:       req.Key,
			place:     req.Instance.Place,
			path:      req.digest.path,
			parts:     req.digest.parts,
			shownHost: req.digest.host,
			shownPath: req.digest.shown,
			epoch:     replay.NewEpoch(),
			holder:    req.Holder,
			headTime:  max(OpeningPatience, req.headTime),
			ready:     make(chan struct{}),
			mu:        new(sync.Mutex),
		},
		ownership: ownership{owner: req.Instance},
		life:      life{options: req.Options},
		audience:  newAudience(),
		link:      link{source: req.Source(true), hurry: make(chan struct{}, 1)},
		company:   company{splices: make(map[*Stream]struct{})},
	}
	s.setLogger(req.Logger)
	s.buffer.Limits = req.Options.Buffer
	s.track.Buffer = &s.buffer
	return s
}

// newSplice makes a splice of the stream with a last event ID.
func (s *Stream) newSplice(id, param string) *Stream {
	now := time.Now()
	sp := &Stream{
		identity: s.identity,
		life:     life{options: s.options, phase: phaseBroken, head: s.head},
		audience: newAudience(),
		link:     link{source: s.source, hurry: make(chan struct{}, 1), said: s.said.beside(id)},
		company:  company{splice: &spliceState{parent: s, opened: now, since: now, Likeness: evidence.Likeness{Said: s.track.Said}}},
	}
	sp.kind, sp.number, sp.born, sp.openID, sp.IDParam = spliceKind, NextNumber(), now, id, param
	sp.holder = Holder{} // of its stream that is asked
	sp.buffer.Limits = s.buffer.Limits
	sp.track.Buffer = &sp.buffer
	sp.setLogger(s.Log())
	return sp
}

// IsDetached reports whether the stream is a detached one.
func (s *Stream) IsDetached() bool { return s.kind.answer }

// close lets nobody join the stream any more.
func (s *Stream) close() { s.closed.Store(true) }

func (s *Stream) isClosed() bool { return s.closed.Load() }

// givesIDs reports whether the gateway gives the events IDs: the upstream gives none.
func (s *Stream) givesIDs() bool {
	return s.kind.ids && !s.said.showsIDs && s.options.IDs != IDsUpstream
}

// ID names the stream to operators, as nothing else in the process.
func (s *Stream) ID() string { return s.Key.String() + "-" + strconv.FormatUint(s.number, 10) }

// Serial grows from stream to stream of the process.
func (s *Stream) Serial() uint64 { return s.number }

// hadEpoch reports whether the stream has given IDs of an epoch.
func (i *identity) hadEpoch(epoch string) bool {
	return i.epoch == epoch || slices.ContainsFunc(i.past, func(p Past) bool { return p.Epoch == epoch })
}

// standsFor reports whether an ID of the gateway is one of the stream's, of this epoch
// or an earlier one, as far as its position can be told from that of others.
func (i *identity) standsFor(epoch string, position uint64) bool {
	if epoch == i.epoch {
		return true
	}
	for _, p := range i.past {
		if p.Epoch == epoch {
			return position <= p.Until
		}
	}
	return false
}

// endWait lets those go on who wait for the head: it is known what the stream is.
func (i *identity) endWait() { close(i.ready) }

// isJoinedBy takes note of a holder whose request joins the stream.
func (s *Stream) isJoinedBy(holder Holder) {
	if holder != s.holder {
		s.mixed.Store(true)
	}
}

// isOnlyOf reports whether nobody but a holder has asked for the stream.
func (s *Stream) isOnlyOf(holder Holder) bool { return s.holder == holder && !s.mixed.Load() }

// Log is where what happens to the stream is told.
func (s *Stream) Log() *zap.Logger { return s.logger.Load() }

// setLogger sets the logger of a new owner's configuration.
func (s *Stream) setLogger(logger *zap.Logger) {
	if s.kind.beside {
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

// wakeLocked wakes all who wait for something new.
func (s *Stream) wakeLocked() { s.bell.Ring() }

// Renewal is what is to be found out after a reload: which handler of the new
// configuration takes a stream over.
type Renewal struct {
	Key Key // of the stream

	// What the handler left that was reached; without a source none was.
	Instance *Instance
	Options  *Options
	Source   Source
	Logger   *zap.Logger
}

// Pass is what a subscriber was let in with, for who looks whether that still holds.
type Pass interface {
	// Left tells that the response is over. It may be called again.
	Left()

	// Renew runs the client's request through a server, as Source.Renew does.
	Renew(server any, q *Renewal) bool
}

// intake is the stream's side of one upstream connection: it takes what that brings.
type intake struct {
	source  upstreams.Source
	giveUp  context.CancelCauseFunc // ends the connection
	late    *time.Timer             // does so unless the head has come; nil: nothing does
	options *Options
	partial atomic.Int64 // bytes that are counted for the block that has not come to its end; see holds.go
	coding  atomic.Int64 // and for the decoder of a content coding
	asked   bool         // to go on after an ID
	openID  string       // that ID
	mends   bool         // follows one that broke

	// Guarded by mu, the lock of stream.
	mu       *sync.Mutex
	stream   *Stream // that of a successor becomes the stream that it goes on with
	over     bool    // the stream goes on with another connection
	ended    bool
	headed   bool             // it is that of an event stream
	deserted bool             // the stream went on though its handlers have not returned
	resumed  bool             // it is taken to go on after the ID: see gave
	first    bool             // of the stream
	blocks   int              // how many it has had that are not comment-only
	repeats  evidence.Repeats // of blocks that the stream has: those are dropped
	beside   beside           // of a successor that was not asked to go on
	dropped  int              // how many were
	answer   evidence.Answer  // of its first ids
	held     []heldBlock

	seen evidence.Connection // of it, to be compared with others
}

// heldBlock is a block that a successor has brought, and its lines for the
// subscribers.
type heldBlock struct {
	block    eventstream.Block
	lines    []byte
	hash     uint64
	isBeside bool // its stream had its own connection then
}

// beside is what a stream's connection and its successor, which was not asked to go on,
// have brought since that was opened, each what the other one has not. Both are told the
// same, but one may be behind the other by seconds: it is slower, or the machine is busy
// and has not read it. So no times are compared. What one of them alone is told, before
// something that both are, does not count.
//
// The zero value has nothing.
type beside struct {
	old   []uint64    // hashes of what the stream's connection has brought
	ahead []heldBlock // what the successor has
	size  int64       // bytes of their lines
	met   bool        // both have brought a block
	apart bool        // the stream's connection has brought one after one of these that it has not
}

// spliceState is what a splice has more than other streams. The lock of the
// stream guards it.
type spliceState struct {
	parent   *Stream
	opened   time.Time
	since    time.Time // when it began to have time to be merged
	succeeds bool      // has no subscribers: it is to be the stream's own; see reload.go
	probe    bool      // has none: it is compared with others; see sharing.go
	proves   bool      // a probe that shows whether the stream's new connection is shared
	timer    *time.Timer

	connects bool // its connection is not closed
	closes   bool // it is over, and has its place until that is closed

	evidence.Likeness
	hurried bool // a probe was opened beside it

	// Of a successor that was asked to go on after an ID; see leavesOut.
	passed bool   // the stream has got an event with another ID since
	begins string // and this one has brought such events: the ID of the first
	met    bool   // the stream has got one of them

	// A merged splice is over for its subscribers at position at; they go on
	// in the parent after position to.
	merged bool
	at, to uint64
	events uint64 // the stream's count of events at to

	answer   *firstAnswer // to the ID; see late.go
	decideBy time.Time    // when its clients are told at the latest, to whom it was left
	skipped  bool         // it is told that the upstream did not go on after the ID
	gap      []byte       // the event that tells so at the merge; nil: nothing is told then
}

// proof is what a stream knows of whether its upstream tells all connections
// the same. The stream's lock guards it.
type proof struct {
	proven   bool // what its connection brings may be given to all who share its key
	snapshot bool // greetings differ over time, not by connection

	// While it is not proven: what came up to barrier was, once; what came after
	// that is given to those subscribers only that have it as their own.
	barrier uint64
	before  uint64          // up to here are blocks of connections that are over, and were not proven
	asked   bool            // a probe is to prove it again
	once    bool            // it was proven, with this connection or one before
	renewed bool            // the newest connection's head says something else than that of the one before
	shown   *upstreams.Head // the newest head that was proven to be for all; nil: the stream's own

	trial  *trial
	trials int
	after  time.Time // not before that is there another trial
}

// trial is two connections opened at the same moment, to be compared.
type trial struct{ x, y *Stream }

// learned is what splices have shown of an upstream connection. It is forgotten
// when the connection is renewed.
type learned struct {
	unmerged int // splices in a row that could not be merged
}

// lateAnswers are those of connections that were opened with an ID before it was known
// whether the upstream counts; see late.go. The stream's lock guards them.
type lateAnswers struct {
	opening *firstAnswer   // to the ID that the stream was opened with
	open    []*firstAnswer // that are not judged yet
}

// firstAnswer is what an upstream connection brought that was opened with the last event
// ID of clients, a number, before it was known whether the upstream counts. The
// stream's lock guards it.
type firstAnswer struct {
	id     string
	asked  uint64
	of     *Stream   // that the clients read: the stream, or a splice that is not merged yet
	begun  bool      // the first ID has come
	first  uint64    // it is this one
	at     time.Time // when it came
	judged bool
	gap    bool // the upstream did not go on after the ID
}

// pace is whom a stream waits for; see room.go. The stream's lock guards it.
type pace struct {
	room     *room  // that the next block waits for; nil: it does not
	readTo   uint64 // up to here all who are waited for were given the blocks, or further
	patience patience
}

// readFrom takes note of a subscriber that reads on after a position.
func (p *pace) readFrom(position uint64) { p.readTo = min(p.readTo, position) }

// room is what a stream that waits for its readers waits for. The stream's lock
// guards it.
type room struct {
	stream *Stream
	until  uint64        // all blocks up to this position are to be given to
	left   int           // so many subscribers yet
	writes bool          // some of them are being written to
	free   chan struct{} // closed when it is done
}

// patience is how long a stream may still wait for clients.
type patience struct {
	spent time.Duration
	at    time.Time // as of then
}

// current returns the stream that the connection is one of.
func (c *intake) current() *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream
}

// skip takes note that the splice's clients are told of the gap.
func (st *spliceState) skip() {
	st.skipped = true
	if st.answer != nil {
		st.answer.judged = true
	}
}

// isHeaded reports whether the newest connection has its head.
func (c *company) isHeaded() bool { return !c.track.HeadAt.IsZero() }

// isProbe reports whether this is a splice without subscribers: it is only compared.
func (c *company) isProbe() bool { return c.splice != nil && c.splice.probe }

// isMerged reports whether this is a splice whose subscribers go on in its stream.
func (c *company) isMerged() bool { return c.splice != nil && c.splice.merged }

// succeeds reports whether s is the successor of a stream's connection. The
// lock is held.
func (s *Stream) succeeds() bool { return s.splice != nil && s.splice.succeeds }

// comparing is the state of a splice that is compared with its stream; nil: it is none.
func (s *Stream) comparing() *spliceState { return cmp.Or(s.splice, s.left) }

// dropIndex ends the index of what is kept if nothing is compared with it.
func (s *Stream) dropIndex() {
	if len(s.splices) == 0 && len(s.open) == 0 && s.successor == nil {
		s.buffer.ForgetIndex()
	}
}

// isFollowed reports whether other nodes follow the stream.
func (s *Stream) isFollowed() bool { return s.member != nil && s.member.followers }

// follows reports whether the stream comes from another node.
func (s *Stream) follows() bool { return s.member != nil && s.member.following }

// root is the stream that a splice is one of.
func (s *Stream) root() *Stream {
	if s.splice != nil {
		return s.splice.parent
	}
	return s
}

// gave reports whether the upstream has sent an id on this stream. Else the last
// event ID is one that a client has brought: the upstream may not even know it, and
// nobody else is given it. The lock is held.
func (s *Stream) gave() bool {
	return s.said.gaveID || (s.splice != nil && s.splice.parent.said.gaveID)
}

// endFor has a subscriber end as the stream did, when it was given everything.
func (s *Stream) endFor(sub *Subscriber) {
	sub.finishAt(s.buffer.Newest, cmp.Or(s.over.why, EndBroken)).tail = s.over.tail
}

// setConn makes a connection the stream's newest. The lock is held.
func (s *Stream) setConn(c *intake) { s.conn, s.track.Conn = c, &c.seen }

// hurryUp lets the next attempt be made at once.
func (s *Stream) hurryUp() {
	s.attempts.hurry()
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// dropHurry forgets that the next attempt is to be made at once.
func (s *Stream) dropHurry() {
	select {
	case <-s.hurry:
	default:
	}
}

// throttles are the stream's log lines that are throttled. Clients open splices
// at will, each with another last event ID: those have theirs together.
func (s *Stream) throttles() *streamLines {
	if s.kind.beside {
		return &s.options.Lines.splices
	}
	return &s.lines
}
