package admin

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// A tail shows an operator what passes in a stream. It reads the replay buffer
// as a subscriber does, but is none: the stream neither waits for it nor stays
// for it, and does not count it. A private stream has no replay buffer: it keeps
// blocks for its tails while there are some.

const (
	// maxTailText is how many bytes of a block a tail shows.
	maxTailText = 4 << 10

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

// BlockEvent is the data of a tail's events of type block.
type BlockEvent struct {
	Position uint64    `json:"position"`
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"`
	Bytes    int       `json:"bytes"`
	Text     string    `json:"text"`
	Clipped  bool      `json:"clipped"`
}

// tellBlock tells about a block: what the upstream sent.
func tellBlock(b *replay.Block) BlockEvent {
	d := BlockEvent{Position: b.Position, At: b.At, Kind: blockControl, Bytes: b.Lines + 1}
	switch {
	case b.Told:
		d.Kind = blockGap
	case b.Dispatches:
		d.Kind = blockEvent
	case b.CommentOnly:
		d.Kind = blockComment
	}
	d.Text = string(b.Wire[:min(b.Lines, maxTailText)])
	if d.Clipped = b.Lines > maxTailText; d.Clipped {
		d.Text = strings.ToValidUTF8(d.Text, "")
	}
	return d
}

// serveTail answers with a tail.
func serveTail(w http.ResponseWriter, r *http.Request, query params) error {
	last, err := query.number("last", defaultTail, 0, maxTail)
	if err != nil {
		return err
	}
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	// Before the head is sent: who has that is shown all that comes from then on.
	t := stream.NewTail(s, last, r.Header.Get("Last-Event-ID"))
	defer t.Close()
	v, err := openView(w, r)
	if err != nil {
		return err
	}
	defer v.close()
	for {
		blocks, missed, wake, over := t.Next()
		if wake != nil {
			if !v.wait(wake) {
				return nil
			}
			continue
		}
		err := addBlocks(v, t, blocks, missed)
		if err == nil && over {
			err = v.add("gone", t.IDAt(t.Position()), GoneEvent{ID: s.ID()})
		}
		if err != nil || v.flush() != nil || over || !v.stays() {
			return nil // the viewer is gone, or gets no more
		}
	}
}

// addBlocks adds what Next has returned.
func addBlocks(v *view, t *stream.Tail, blocks []*replay.Block, missed *stream.Missed) error {
	if missed != nil {
		if err := v.add("missed", t.IDAt(missed.To), missed); err != nil {
			return err
		}
	}
	for _, b := range blocks {
		if err := v.add("block", t.IDAt(b.Position), tellBlock(b)); err != nil {
			return err
		}
	}
	return nil
}
