package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Options are the handler's settings that a stream follows; see Handler.
type Options struct {
	Buffer         replay.Limits
	Linger         time.Duration
	Vouched        bool // the operator says that the upstream tells all connections of a key the same
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

// leastLinger is how long a stream stays whose client has left at once.
const leastLinger = time.Second

// defaultMaxEventSize bounds one block of the upstream.
const defaultMaxEventSize = 16 << 20

// primeAfter is how long after the head of an upstream connection its
// clients are sent nothing before its first event: some clients of the older
// MCP transport take any block for the event of type endpoint, which comes as
// soon as there is a session. Who is cut meanwhile has no ID to resume from.
const primeAfter = 5 * time.Second

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
		Lines:         new(HandlerLines),
	}
}
