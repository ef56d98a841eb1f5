package stream

import (
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Options are the handler's settings that a stream follows; see Handler.
type Options struct {
	Buffer         replay.Limits
	Linger         time.Duration
	Keys           string // all that the operator says about keys: nodes where that is another do not have the same streams
	Vouched        bool   // the operator says that the upstream tells all connections of a key the same
	Join           joinMode
	JoinReplay     int // with JoinReplay: how many events; negative: all
	IDs            IDsMode
	GapEvent       string
	Prime          bool
	EmptyBlocks    bool
	primeAfter     time.Duration // how long who comes before the first block waits for a prelude
	LagSkip        bool
	MaxEventSize   int
	MaxStreams     int
	MaxSubscribers int
	MaxAge         time.Duration
	SpliceLimit    int
	SpliceTimeout  time.Duration
	BurstPatience  time.Duration // see room.go
	TurnPatience   time.Duration
	RetryMin       time.Duration
	RetryMax       time.Duration
	Reconnect      reconnectMode
	Timeout        time.Duration // upstream_timeout; 0: none
	GiveUp         time.Duration
	Drain          time.Duration
	Lines          *HandlerLines

	// Crowded is told of paths whose streams have one subscriber each; nil: nobody
	// is. Meant tells which parts of a key are meant to keep clients apart. The
	// hub's lock is held.
	Crowded func(c Crowd)
	Meant   func(part string) bool

	// insignificant tells header fields that say nothing of what is told.
	Insignificant func(name string) bool
}

// DefaultLinger is well above the 3 to 5 s after which EventSource
// reconnects.
const DefaultLinger = 30 * time.Second

// defaultMaxEventSize bounds one block of the upstream: it is what a replay buffer
// holds by default. While a block comes it is held once more, so that 20 streams whose
// upstream sends nothing but such blocks take less than 200 MB.
const defaultMaxEventSize = 4 << 20

// DefaultMaxPrivateEvent is that of a private stream. Nothing of it is kept, and answers
// of models have whole pictures in one event.
const DefaultMaxPrivateEvent = 16 << 20

// primeAfter is how long after the head of an upstream connection its
// clients are sent nothing before its first event: some clients of the older
// MCP transport take any block for the event of type endpoint, which comes as
// soon as there is a session. Who is cut meanwhile has no ID to resume from.
const primeAfter = 5 * time.Second

// How long a stream waits for those who read; see room.go.
const (
	// DefaultBurstPatience is how long, in all, a stream waits in a burst for
	// clients that are being written to: some round trips, and so little that
	// others do not notice.
	DefaultBurstPatience = 100 * time.Millisecond

	// DefaultTurnPatience is how long a stream waits for subscribers whose turn
	// has not come: longer than the writers take on a machine that is overloaded.
	DefaultTurnPatience = 2 * time.Second
)

// DefaultDrain is the time over which clients' responses end when the
// process stops.
const DefaultDrain = 3 * time.Second

// Defaults are the settings of streams without any option, but for those of
// the replay buffer.
func Defaults() *Options {
	return &Options{
		Linger:        DefaultLinger,
		JoinReplay:    -1,
		Prime:         true,
		EmptyBlocks:   true,
		primeAfter:    primeAfter,
		MaxEventSize:  defaultMaxEventSize,
		GiveUp:        defaultGiveUp,
		Drain:         DefaultDrain,
		SpliceLimit:   defaultSpliceLimit,
		SpliceTimeout: defaultSpliceTimeout,
		BurstPatience: DefaultBurstPatience,
		TurnPatience:  DefaultTurnPatience,
		Lines:         new(HandlerLines),
	}
}

type joinMode int

// Where a newcomer begins: the words of the option join.
const (
	joinAuto     joinMode = iota // as the upstream would serve a newcomer; see splice.go
	JoinLive                     // begin at the newest block
	JoinReplay                   // begin with the last blocks kept
	JoinGreeting                 // first what the stream's own connection was greeted with
)

// IDsMode is whose ids clients get: the option ids.
type IDsMode int

// The words of the option ids.
const (
	IDsAuto     IDsMode = iota // the gateway gives ids until the upstream does
	IDsUpstream                // the gateway gives none
	IDsGateway                 // the gateway replaces the upstream's
)

// reconnectMode is which ends of an upstream connection are hidden.
type reconnectMode int

// The words of the option reconnect.
const (
	reconnectBroken    reconnectMode = iota // all but those as HTTP says
	ReconnectAlways                         // all
	ReconnectResumable                      // as reconnectBroken, if the upstream gives ids
	ReconnectNever
)

const (
	// defaultSpliceLimit is how many splices of one stream may run at once.
	defaultSpliceLimit = 8

	// defaultSpliceTimeout is how long a splice may take to be merged, and how
	// long a client waits for a place in one.
	defaultSpliceTimeout = 30 * time.Second
)

// maxAgeSpread is how much of max_age is taken off at random, so that
// clients that came together do not leave together.
const maxAgeSpread = 0.2

// randomRetry is a reconnection time of the configured range.
func (o *Options) randomRetry() time.Duration {
	spread := o.RetryMax - o.RetryMin
	return (o.RetryMin + time.Duration(random()*float64(spread))).Truncate(time.Millisecond)
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

// RandomAge is how long a response may last; 0: no limit.
func (o *Options) RandomAge() time.Duration {
	return o.MaxAge - time.Duration(random()*maxAgeSpread*float64(o.MaxAge))
}

// Detached are the settings of streams that go on without a client for d. Who
// has missed something of such a stream gets all that is kept.
func (o *Options) Detached(d time.Duration) *Options {
	options := *o
	options.IDs = IDsGateway
	options.Linger = d
	options.Join, options.JoinReplay = JoinReplay, -1
	options.Reconnect = reconnectBroken // an answer is never asked for again
	options.primeAfter = 0              // its client may be cut before the first event
	return &options
}

// Crowd is a path whose streams have one subscriber each.
type Crowd struct {
	Place   string // host and path
	Streams int
	Apart   []string // what keeps them apart, and is neither meant to nor says who the user is
	Unique  []string // of that, what had another value in each
	Remedy  string
}

// Instance is one provisioned handler.
type Instance struct {
	Place    string        // listen addresses of the server, and the handler's name
	server   any           // tells configurations apart
	sequence uint64        // grows with each configuration
	Retired  atomic.Bool   // its configuration was cleaned up
	Requests atomic.Uint64 // that have come to it
	Answers  atomic.Uint64 // of those, answered with event streams
	config   any           // of which it is; guarded by hub.mu
	memory   int64         // what it states for all replay buffers, 0: nothing; guarded by hub.mu
	crowded  bool          // its configuration has or had another one of the same place; guarded by hub.mu
}

// aloneLocked reports whether no other handler of the same configuration has the
// same place. The hub's lock is held.
func (i *Instance) aloneLocked() bool { return !i.crowded }
