package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// contents is what the stream has, to be given.
type contents struct {
	buffer    replay.Buffer
	charged   int64 // of the buffer's bytes, those in the hub's count
	greeting  greeting
	settled   bool          // has had an event: it is not the first one's alone
	answer    *AnswerClock  // of a detached stream; guarded by mu
	responses *ResponsesLog // of one that may be of the Responses API; see detach_responses.go
}

// greeting is what an upstream connection brought before its first pause.
type greeting struct {
	blocks []*replay.Block
	size   int64
	ended  bool
	last   time.Time // of the head or the newest block
}

// greetingPause ends a greeting.
const greetingPause = time.Second

// over reports whether the greeting has ended.
func (g *greeting) over(now time.Time) bool {
	return g.ended || now.Sub(g.last) > greetingPause
}

// add takes a block if it belongs to the greeting. One over limit bytes is no
// greeting; nothing of it is kept.
func (g *greeting) add(b *replay.Block, limit int64) {
	if b.CommentOnly {
		return
	}
	if g.over(b.At) {
		g.ended = true
		return
	}
	g.last = b.At
	g.size += int64(len(b.Wire))
	if g.size > limit {
		g.blocks, g.ended = nil, true
		return
	}
	g.blocks = append(g.blocks, b)
}
