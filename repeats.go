package caddysse

import (
	"bytes"
	"slices"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// repeatState says whether blocks are being dropped that an upstream repeats
// at the beginning of a new connection.
type repeatState int

const (
	repeatAwaited repeatState = iota // no block with an id came yet
	repeatRunning                    // each block so far was a kept one, in order
	repeatOver
)

// isRepeat reports whether a block of a later connection is one that the
// stream has. Blocks count as repeats only while they form a run, from the
// connection's first block with an id, equal to kept blocks in their order. The
// stream's lock is held.
func (c *upstreamConn) isRepeat(b eventstream.Block, lines []byte) bool {
	s := c.stream
	switch c.dropping {
	case repeatAwaited:
		if len(b.ID) == 0 {
			return false
		}
		i := slices.IndexFunc(s.buffer.blocks, func(k *block) bool { return k.same(b, lines) })
		if i >= 0 && s.buffer.blocks[i].position <= c.start {
			c.dropping = repeatRunning
			c.repeated = s.buffer.blocks[i].position
			return true
		}
		c.dropping = repeatOver
	case repeatRunning:
		if b.CommentOnly() {
			return false
		}
		rest := s.buffer.after(c.repeated)
		i := slices.IndexFunc(rest, func(k *block) bool { return !k.commentOnly })
		if i >= 0 && rest[i].position <= c.start && rest[i].same(b, lines) {
			c.repeated = rest[i].position
			return true
		}
		c.dropping = repeatOver
	}
	c.checkRenumbered(b, lines)
	return false
}

// checkRenumbered makes blocks of earlier connections unreachable by id when
// the upstream gives one of their ids to another block: it has begun anew.
func (c *upstreamConn) checkRenumbered(b eventstream.Block, lines []byte) {
	s := c.stream
	if len(b.ID) == 0 || string(b.ID) == s.lastUpstreamID {
		return // several events may share an ID: this one goes on with the last
	}
	for _, k := range s.buffer.blocks {
		if k.position > c.start {
			return
		}
		if k.hasID && k.id == string(b.ID) && !k.same(b, lines) {
			id := shownID(k.id)
			s.lines.anew.log(func(suppressed int) {
				s.log().Warn("possible gap: the upstream gives ids anew that it gave to other events before",
					zap.String("id", id), zap.Int("suppressed", suppressed))
			})
			s.buffer.forgetIDs(c.start)
			return
		}
	}
}

// same reports whether a kept block is what the upstream sends as b.
func (k *block) same(b eventstream.Block, lines []byte) bool {
	return k.hasID == b.HasID && k.id == string(b.ID) && bytes.Equal(k.wire[:k.lines], lines)
}
