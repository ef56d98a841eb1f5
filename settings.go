package caddysse

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// streamOptions are the handler's settings that a stream follows; see Handler.
type streamOptions struct {
	buffer         replay.Limits
	linger         time.Duration
	vouched        bool // the operator says that the upstream tells all connections of a key the same
	join           joinMode
	joinReplay     int // with joinReplay: how many events; negative: all
	ids            idsMode
	gapEvent       string
	prime          bool
	emptyBlocks    bool
	primeAfter     time.Duration // how long who comes before the first block waits for a prelude
	lagSkip        bool
	maxEventSize   int
	maxStreams     int
	maxSubscribers int
	maxAge         time.Duration
	spliceLimit    int
	spliceTimeout  time.Duration
	retryMin       time.Duration
	retryMax       time.Duration
	reconnect      reconnectMode
	timeout        time.Duration // upstream_timeout; 0: none
	giveUp         time.Duration
	drain          time.Duration
	lines          *handlerLines

	// insignificant tells header fields that say nothing of what is told.
	insignificant func(name string) bool
}

// defaultLinger is well above the 3 to 5 s after which EventSource
// reconnects.
const defaultLinger = 30 * time.Second

// leastLinger is how long a stream stays whose client has left at once.
const leastLinger = time.Second

// defaultMaxEventSize bounds one block of the upstream.
const defaultMaxEventSize = 16 << 20

// primeAfter is how long after the head of an upstream connection its
// clients are sent nothing before its first event: some clients of the older
// MCP transport take any block for the event of type endpoint, which comes as
// soon as there is a session. Who is cut meanwhile has no ID to resume from.
const primeAfter = 5 * time.Second

// defaultDrain is the time over which clients' responses end when the
// process stops.
const defaultDrain = 3 * time.Second

// defaultOptions are the settings of streams without any option, but for those of
// the replay buffer.
func defaultOptions() *streamOptions {
	return &streamOptions{
		linger:        defaultLinger,
		joinReplay:    -1,
		prime:         true,
		emptyBlocks:   true,
		primeAfter:    primeAfter,
		maxEventSize:  defaultMaxEventSize,
		giveUp:        defaultGiveUp,
		drain:         defaultDrain,
		spliceLimit:   defaultSpliceLimit,
		spliceTimeout: defaultSpliceTimeout,
		lines:         new(handlerLines),
	}
}
