package caddysse

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

// missedEvent is the data of a tail's events of type missed: the tail was too
// slow, or came back too late, for the blocks up to a position.
type missedEvent struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// tailSource is what a tail reads.
type tailSource struct {
	stream observed
	mu     *sync.Mutex // guards buffer and bell
	buffer *replay.Buffer
	bell   *bell
	over   func() bool // the stream is; the lock is held
	close  func()      // the tail has been
}

func (s *stream) watch() tailSource {
	return tailSource{
		stream: s, mu: s.mu, buffer: &s.buffer, bell: &s.bell,
		over:  func() bool { return s.phase == phaseGone },
		close: func() {},
	}
}

// tail is a position in what it reads.
type tail struct {
	tailSource

	cursor uint64
}

// newTail begins before the last n kept blocks, or where the last event ID of
// a tail says.
func newTail(from tailSource, n int, lastEventID string) *tail {
	from.mu.Lock()
	defer from.mu.Unlock()
	f := from.buffer
	t := &tail{tailSource: from, cursor: f.Newest}
	number, digits, _ := strings.Cut(lastEventID, ".")
	if position, err := strconv.ParseUint(digits, 10, 64); err == nil && position <= f.Newest &&
		number == strconv.FormatUint(from.stream.serial(), 10) {
		t.cursor = position
		return t
	}
	if n > 0 && len(f.Blocks) > 0 {
		t.cursor = f.Blocks[max(0, len(f.Blocks)-n)].Position - 1
	}
	return t
}

// id is the last event ID of a viewer who was shown everything up to the
// cursor.
func (t *tail) id() string { return fmt.Sprintf("%d.%d", t.stream.serial(), t.cursor) }

// next returns the blocks after the cursor. If there are none it returns what
// is closed when there may be some, or that the stream is over. missed is not
// nil if something before the blocks is no longer kept.
func (t *tail) next() (blocks []*replay.Block, missed *missedEvent, wake <-chan struct{}, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.buffer
	if t.cursor < f.Lost {
		missed = &missedEvent{From: t.cursor + 1, To: f.Lost}
		t.cursor = f.Lost
	}
	rest := f.After(t.cursor)
	blocks = slices.Clone(rest[:min(len(rest), maxTailBatch)])
	switch {
	case len(blocks) > 0:
		return blocks, missed, nil, false
	case missed != nil:
		return nil, missed, nil, false
	case t.over():
		return nil, nil, nil, true
	}
	return nil, nil, t.bell.wait(), false
}
