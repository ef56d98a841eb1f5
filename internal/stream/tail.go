package stream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

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

// Watch gives a viewer what it needs to follow the stream.
func (s *Stream) Watch() TailSource {
	return TailSource{
		mu: s.mu, buffer: &s.buffer, bell: &s.bell,
		over:  func() bool { return s.isGone() },
		close: func() {},
	}
}

// Tail is a position in what passes in a stream.
type Tail struct {
	source TailSource
	serial uint64 // of the stream
	cursor uint64
}

// NewTail begins before the last n kept blocks of a stream, or where the last event
// ID of a tail says. Close must be called in the end.
func NewTail(o Observed, n int, lastEventID string) *Tail {
	t := &Tail{source: o.Watch(), serial: o.Serial()}
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	f := t.source.buffer
	t.cursor = f.Newest
	number, digits, _ := strings.Cut(lastEventID, ".")
	if position, err := strconv.ParseUint(digits, 10, 64); err == nil && position <= f.Newest &&
		number == strconv.FormatUint(t.serial, 10) {
		t.cursor = position
		return t
	}
	if n > 0 && len(f.Blocks) > 0 {
		t.cursor = f.Blocks[max(0, len(f.Blocks)-n)].Position - 1
	}
	return t
}

// Close ends the tail.
func (t *Tail) Close() { t.source.close() }

// Position is that of the newest block that the viewer was given, or will never be.
func (t *Tail) Position() uint64 { return t.cursor }

// IDAt is the last event ID of a viewer who was shown everything up to a position.
func (t *Tail) IDAt(position uint64) string { return fmt.Sprintf("%d.%d", t.serial, position) }

// Next returns the blocks that come next. If there are none it returns what is
// closed when there may be some, or that the stream is over. missed is not nil if
// something before the blocks is no longer kept.
func (t *Tail) Next() (blocks []*replay.Block, missed *Missed, wake <-chan struct{}, over bool) {
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	f := t.source.buffer
	if t.cursor < f.Lost {
		missed = &Missed{From: t.cursor + 1, To: f.Lost}
		t.cursor = f.Lost
	}
	rest := f.After(t.cursor)
	blocks = slices.Clone(rest[:min(len(rest), maxTailBatch)])
	switch {
	case len(blocks) > 0:
		t.cursor = blocks[len(blocks)-1].Position
		return blocks, missed, nil, false
	case missed != nil:
		return nil, missed, nil, false
	case t.source.over():
		return nil, nil, nil, true
	}
	return nil, nil, t.source.bell.wait(), false
}
