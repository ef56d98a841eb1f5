package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Excerpt is a part of a stream as it is given to another node: only what may be given
// to every client with its key, and no cookies. Blocks are never changed.
type Excerpt struct {
	Epoch string
	Past  []Past          // earlier ones, the oldest first
	Head  *upstreams.Head // without cookies
	Live  bool            // it is connected to its upstream
	Fresh bool            // who comes now is told all that the upstream tells a newcomer

	After  uint64        // the blocks follow this position, and none is missing between
	Events uint64        // how many events there were up to there
	Blocks []CopiedBlock // ascending positions
	Whole  bool          // there was nothing after them

	OldestID  string // of the upstream, that a client has at After; with the oldest excerpt that there is
	Forgotten uint64 // the upstream's ids are not looked up up to here

	Said *Said // nil: the blocks do not reach up to the newest one

	Connection    uint64    // tells its upstream connections apart
	Began, Headed time.Time // when that was opened, and had its head
}

// Said is what the upstream has said up to a block, for more than one event.
type Said struct {
	Retry    time.Duration
	HasRetry bool
	LastID   string // with which it is asked to go on
	GaveID   bool
	ShowsIDs bool
	Known    string // the upstream's last event ID that clients have there
}

// Past is an earlier epoch: its IDs stand for positions up to one.
type Past struct {
	Epoch string
	Until uint64
}

// CopiedBlock is a block on its way to another node.
type CopiedBlock struct {
	*replay.Block
	BeginsRun bool // it can be found by its ID; see replay.Buffer.SetLastID
}

// End returns the position of the last block.
func (e *Excerpt) End() uint64 {
	if n := len(e.Blocks); n > 0 {
		return e.Blocks[n-1].Position
	}
	return e.After
}

// maxPast bounds how many earlier epochs an ID may be of.
const maxPast = 8
