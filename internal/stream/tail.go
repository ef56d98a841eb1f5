package stream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// maxTailBatch is how many blocks a tail takes at a time.
const maxTailBatch = 64

// Missed is the data of a tail's events of type missed: the tail was too
// slow, or came back too late, for the blocks up to a position.
type Missed struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// TailSource is what a tail reads.
type TailSource struct {
	Stream Observed
	Mu     *sync.Mutex // guards buffer and bell
	Buffer *replay.Buffer
	Bell   *Bell
	Over   func() bool // the stream is; the lock is held
	Close  func()      // the tail has been
}

// Watch gives a viewer what it needs to follow the stream.
func (s *Stream) Watch() TailSource {
	return TailSource{
		Stream: s, Mu: s.mu, Buffer: &s.buffer, Bell: &s.bell,
		Over:  func() bool { return s.phase == phaseGone },
		Close: func() {},
	}
}

// Tail is a position in what it reads.
type Tail struct {
	TailSource

	Cursor uint64
}

// NewTail begins before the last n kept blocks, or where the last event ID of
// a tail says.
func NewTail(from TailSource, n int, lastEventID string) *Tail {
	from.Mu.Lock()
	defer from.Mu.Unlock()
	f := from.Buffer
	t := &Tail{TailSource: from, Cursor: f.Newest}
	number, digits, _ := strings.Cut(lastEventID, ".")
	if position, err := strconv.ParseUint(digits, 10, 64); err == nil && position <= f.Newest &&
		number == strconv.FormatUint(from.Stream.Serial(), 10) {
		t.Cursor = position
		return t
	}
	if n > 0 && len(f.Blocks) > 0 {
		t.Cursor = f.Blocks[max(0, len(f.Blocks)-n)].Position - 1
	}
	return t
}

// ID is the last event ID of a viewer who was shown everything up to the
// cursor.
func (t *Tail) ID() string { return fmt.Sprintf("%d.%d", t.Stream.Serial(), t.Cursor) }

// Next returns the blocks after the cursor. If there are none it returns what
// is closed when there may be some, or that the stream is over. missed is not
// nil if something before the blocks is no longer kept.
func (t *Tail) Next() (blocks []*replay.Block, missed *Missed, wake <-chan struct{}, over bool) {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	f := t.Buffer
	if t.Cursor < f.Lost {
		missed = &Missed{From: t.Cursor + 1, To: f.Lost}
		t.Cursor = f.Lost
	}
	rest := f.After(t.Cursor)
	blocks = slices.Clone(rest[:min(len(rest), maxTailBatch)])
	switch {
	case len(blocks) > 0:
		return blocks, missed, nil, false
	case missed != nil:
		return nil, missed, nil, false
	case t.Over():
		return nil, nil, nil, true
	}
	return nil, nil, t.Bell.wait(), false
}
