package stream

import (
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What operators see of a stream: the figures, and the interface that shared and
// private streams have in common.

// Observed is what operators see and act on: a stream of the hub, or a private
// stream.
type Observed interface {
	// id names it to operators, as nothing else in the process; serial is the
	// number in that.
	ID() string
	Serial() uint64

	// sample and inspect look at it; false if it is none that is shown. The lag,
	// for which a stream looks at each subscriber, is only in the sample.
	Sample(now time.Time) (Sample, bool)
	Inspect() (Info, bool)
	Glance() (Glance, bool)
	SampleSubscribers(now time.Time) []SubscriberSample

	// watch is what a tail reads.
	Watch() TailSource

	// DrainTime is the time of the option drain; LetGo ends the responses of
	// its subscribers within another one, and returns how many there are.
	DrainTime() time.Duration
	LetGo(window time.Duration) (subscribers int)
}

// TailSource is what a tail reads: a replay buffer, or what passes in a stream that
// has none.
type TailSource struct {
	mu     *sync.Mutex // guards buffer and bell
	buffer *replay.Buffer
	bell   *Bell
	over   func() bool // the stream is; the lock is held
	close  func()      // the tail has been
}

// Info is what is told of a stream.
type Info struct {
	ID             string       `json:"id"`
	Kind           string       `json:"kind"`
	Stream         string       `json:"stream"`
	Epoch          string       `json:"epoch"`
	Listen         string       `json:"listen"`
	Handler        string       `json:"handler"`
	Host           string       `json:"host"`
	Path           string       `json:"path"`
	SeparatedBy    []string     `json:"separated_by"`
	BeganAt        time.Time    `json:"began_at"`
	Private        *PrivateInfo `json:"private"`
	Draining       bool         `json:"draining"`
	Subscribers    int          `json:"subscribers"`
	Splices        int          `json:"splices"`
	EventsReceived uint64       `json:"events_received"`
	BytesReceived  int64        `json:"bytes_received"`
	EventsSent     uint64       `json:"events_sent"`
	BytesSent      uint64       `json:"bytes_sent"`
	FirstEvent     float64      `json:"first_event_seconds"`
	Lag            LagInfo      `json:"lag"`
	Upstream       UpstreamInfo `json:"upstream"`
	Buffer         BufferInfo   `json:"buffer"`
	LastIDs        LastIDs      `json:"last_ids"`
	Nodes          *NodesInfo   `json:"nodes"` // nil: other nodes have nothing to do with it
}

// LagInfo is how far a subscriber is behind the newest block; of a stream, how
// far the last one is.
type LagInfo struct {
	Blocks  uint64  `json:"blocks"`
	Seconds float64 `json:"seconds"`
}

// UpstreamInfo is what is told of a stream's upstream connection.
type UpstreamInfo struct {
	State       string     `json:"state"`
	Since       time.Time  `json:"since"`
	Connections int        `json:"connections"`
	Reconnects  int        `json:"reconnects"`
	Attempts    int        `json:"attempts"`
	LastError   *ErrorInfo `json:"last_error"`
}

// ErrorInfo is what an upstream connection failed of.
type ErrorInfo struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// BufferInfo is what is told of a replay buffer.
type BufferInfo struct {
	Blocks    int        `json:"blocks"`
	Bytes     int64      `json:"bytes"`
	Oldest    *time.Time `json:"oldest"`
	Newest    uint64     `json:"newest"`
	Lost      uint64     `json:"lost"`
	MaxBlocks int        `json:"max_blocks"`
	MaxBytes  int64      `json:"max_bytes"`
	MaxAge    float64    `json:"max_age_seconds"`
}

// LastIDs are the newest event IDs of a stream.
type LastIDs struct {
	Upstream string `json:"upstream"`
	Gateway  string `json:"gateway"`
}

// SubscriberSample is what was seen of a subscriber.
type SubscriberSample struct {
	Client   Client
	Delivery string
	Joined   time.Time
	Outcome  string
	Spliced  bool
	Lag      LagInfo
	Events   uint64
	Bytes    uint64
}

// Sample is what changes of a stream, for sorting and for rates.
type Sample struct {
	Of          Observed
	Number      uint64
	Kind        string
	Key         Key    // of a private stream it says nothing
	Place       string // of its handler
	Host        string
	Path        string
	Private     bool
	Connections int // upstream connections, those of splices too
	Subscribers int
	Received    uint64 // events
	Sent        uint64
	Bytes       uint64 // sent
	Reconnects  int
	State       string
	Lost        bool // an upstream connection that was open
	Lag         LagInfo
	Role        NodeRole // of this node; "": others have nothing to do with the stream

	// Of the last second; see internal/admin.
	ReceivedRate float64
	SentRate     float64
}

// Glance is what changes of a stream and costs little to look at, however many
// subscribers it has.
type Glance struct {
	Number      uint64
	Subscribers int
	Received    uint64 // events
	Sent        uint64
}
