package caddysse

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A tail shows an operator what passes in a stream. It reads the replay buffer
// as a subscriber does, but is none: the stream neither waits for it nor stays
// for it, and does not count it.

const (
	// maxTailText is how many bytes of a block a tail shows.
	maxTailText = 4 << 10

	// maxTailBatch is how many blocks a tail takes at a time.
	maxTailBatch = 64

	// defaultTail and maxTail are how many of the last blocks kept a tail
	// begins with.
	defaultTail = 10
	maxTail     = 1000
)

// Kinds of blocks that a tail shows.
const (
	blockEvent   = "event"   // dispatches
	blockComment = "comment" // is nothing but comments
	blockControl = "control" // only sets an ID or a reconnection time
	blockGap     = "gap"     // is a gap that the gateway told all clients
)

// blockEventData is the data of a tail's events of type block.
type blockEventData struct {
	Position uint64    `json:"position"`
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"`
	Bytes    int       `json:"bytes"`
	Text     string    `json:"text"`
	Clipped  bool      `json:"clipped"`
}

// missedEvent is the data of a tail's events of type missed: the tail was too
// slow, or came back too late, for the blocks up to a position.
type missedEvent struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// tell tells about a block: what the upstream sent.
func (b *block) tell() blockEventData {
	d := blockEventData{Position: b.position, At: b.at, Kind: blockControl, Bytes: b.lines + 1}
	switch {
	case b.told:
		d.Kind = blockGap
	case b.dispatches:
		d.Kind = blockEvent
	case b.commentOnly:
		d.Kind = blockComment
	}
	d.Text = string(b.wire[:min(b.lines, maxTailText)])
	if d.Clipped = b.lines > maxTailText; d.Clipped {
		d.Text = strings.ToValidUTF8(d.Text, "")
	}
	return d
}

// tail is a position in a stream's replay buffer.
type tail struct {
	stream *stream
	cursor uint64
}

// newTail begins before the last n kept blocks, or where the last event ID of
// a tail says.
func newTail(s *stream, n int, lastEventID string) *tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &tail{stream: s, cursor: s.buffer.newest}
	number, digits, _ := strings.Cut(lastEventID, ".")
	if position, err := strconv.ParseUint(digits, 10, 64); err == nil && position <= s.buffer.newest &&
		number == strconv.FormatUint(s.number, 10) {
		t.cursor = position
		return t
	}
	if blocks := s.buffer.blocks; n > 0 && len(blocks) > 0 {
		t.cursor = blocks[max(0, len(blocks)-n)].position - 1
	}
	return t
}

// id is the last event ID of a viewer who was shown everything up to the
// cursor.
func (t *tail) id() string { return fmt.Sprintf("%d.%d", t.stream.number, t.cursor) }

// next returns the blocks after the cursor. If there are none it returns what
// is closed when there may be some, or that the stream is over. missed is not
// nil if something before the blocks is no longer kept.
func (t *tail) next() (blocks []*block, missed *missedEvent, wake <-chan struct{}, over bool) {
	s := t.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.buffer
	if t.cursor < f.lost {
		missed = &missedEvent{From: t.cursor + 1, To: f.lost}
		t.cursor = f.lost
	}
	rest := f.after(t.cursor)
	blocks = slices.Clone(rest[:min(len(rest), maxTailBatch)])
	switch {
	case len(blocks) > 0:
		return blocks, missed, nil, false
	case missed != nil:
		return nil, missed, nil, false
	case s.phase == phaseGone:
		return nil, nil, nil, true
	}
	return nil, nil, s.bell.wait(), false
}

// serveTail answers with a tail.
func serveTail(w http.ResponseWriter, r *http.Request, query adminQuery) error {
	last, err := query.number("last", defaultTail, 0, maxTail)
	if err != nil {
		return err
	}
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	v, err := openView(w, r)
	if err != nil {
		return err
	}
	defer v.close()
	t := newTail(s, last, r.Header.Get("Last-Event-ID"))
	for {
		blocks, missed, wake, over := t.next()
		if wake != nil {
			if !v.wait(wake) {
				return nil
			}
			continue
		}
		if err := t.add(v, blocks, missed, over); err != nil || v.flush() != nil || over || !v.stays() {
			return nil // the viewer is gone, or gets no more
		}
	}
}

// add adds what next has returned.
func (t *tail) add(v *view, blocks []*block, missed *missedEvent, over bool) error {
	if missed != nil {
		if err := v.add("missed", t.id(), missed); err != nil {
			return err
		}
	}
	for _, b := range blocks {
		t.cursor = b.position
		if err := v.add("block", t.id(), b.tell()); err != nil {
			return err
		}
	}
	if over {
		return v.add("gone", t.id(), goneEvent{ID: t.stream.id()})
	}
	return nil
}
