package stream

import (
	"hash/maphash"
	"slices"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// repeatState says whether blocks are being dropped that an upstream repeats
// at the beginning of a new connection.
type repeatState int

const (
	repeatAwaited repeatState = iota // no block with an id came yet
	repeatRunning                    // each block so far was a kept one, in order
	repeatBrought                    // or one that the connection before brought; see brought
	repeatOver
)

// maxBrought bounds how many blocks are remembered that are not kept.
const maxBrought = 1 << 16

// broughtSeed is that of the hashes in brought.
var broughtSeed = maphash.MakeSeed()

// broughtHash stands for a block in brought.
func broughtHash(id, lines []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(broughtSeed)
	_, _ = h.Write(lines)
	_ = h.WriteByte(0) // in no id that counts
	_, _ = h.Write(id)
	return h.Sum64()
}

// noteBrought remembers a block of a stream that has a successor. That one was
// asked to go on after an ID: when it takes over, what came since then may have
// left the replay buffer, and is not to be given again. The stream's lock is held.
func (s *Stream) noteBrought(b *replay.Block) {
	if sp := s.successor; sp != nil && sp.openID != "" && len(s.brought) < maxBrought {
		s.brought = append(s.brought, broughtHash([]byte(b.ID), b.Wire[:b.Lines]))
	}
}

// broughtSince returns what the stream has after an ID, to begin with: the upstream
// sends events without ids that came after it again.
func (s *Stream) broughtSince(id string) (hashes []uint64) {
	position, ok := s.firstWith(id, s.buffer.Newest)
	if id == "" || !ok {
		return nil
	}
	for _, k := range s.buffer.After(position) {
		if !k.CommentOnly && !k.Told {
			hashes = append(hashes, broughtHash([]byte(k.ID), k.Wire[:k.Lines]))
		}
	}
	return hashes
}

// broughtNext reports whether a block without an id is the next one that the connection
// before has brought after the ID that this one was asked with.
func (c *Conn) broughtNext(h heldBlock) bool {
	if h.block.HasID || h.block.CommentOnly() || len(c.brought) == 0 || c.brought[0] != broughtHash(nil, h.lines) {
		return false
	}
	c.brought = c.brought[1:]
	return true
}

// isRepeat reports whether a block of a later connection is one that the
// stream has. Blocks count as repeats only while they form a run, from the
// connection's first block with an id, equal in their order to kept blocks, or to
// those that the connection before has brought beside this one. The stream's lock
// is held.
func (c *Conn) isRepeat(b eventstream.Block, lines []byte) bool {
	s := c.Stream
	switch c.dropping {
	case repeatAwaited:
		if len(b.ID) == 0 {
			return false
		}
		i := slices.IndexFunc(s.buffer.Blocks, func(k *replay.Block) bool { return k.Same(b, lines) })
		if i >= 0 && s.buffer.Blocks[i].Position <= c.start {
			if c.repeatsUpTo(s.buffer.Blocks[i].Position) {
				c.dropping = repeatOver
				break
			}
			c.dropping = repeatRunning
			c.repeated = s.buffer.Blocks[i].Position
			return true
		}
		if i := slices.Index(c.brought, broughtHash(b.ID, lines)); i >= 0 {
			c.dropping, c.brought = repeatBrought, c.brought[i+1:]
			return true
		}
		c.dropping = repeatOver
	case repeatBrought:
		if b.CommentOnly() {
			return false
		}
		if len(c.brought) > 0 && c.brought[0] == broughtHash(b.ID, lines) {
			c.brought = c.brought[1:]
			return true
		}
		c.dropping = repeatOver
	case repeatRunning:
		if b.CommentOnly() {
			return false
		}
		rest := s.buffer.After(c.repeated)
		i := slices.IndexFunc(rest, func(k *replay.Block) bool { return !k.CommentOnly })
		if i >= 0 && rest[i].Position <= c.start && rest[i].Same(b, lines) {
			c.repeated = rest[i].Position
			return true
		}
		c.dropping = repeatOver
	case repeatOver:
	}
	c.brought = nil
	c.checkRenumbered(b, lines)
	return false
}

// repeatsUpTo reports whether the newest blocks of the connection, which have no id,
// are those that came before the position and after the ID that it was asked with:
// that is the ID of several events, and the upstream goes on after the first of them.
// Without an id none of them is known for a repeat. What comes after them has to come
// again, too: else the older ones would have the last word.
func (c *Conn) repeatsUpTo(position uint64) bool {
	f := &c.Stream.buffer
	asked, ok := c.Stream.firstWith(c.openID, c.start)
	if !ok || c.blocks == 0 {
		return false
	}
	isNone := func(b *replay.Block) bool { return b.CommentOnly || b.Told }
	brought := slices.DeleteFunc(slices.Clone(f.After(c.start)), isNone)
	kept := slices.DeleteFunc(slices.Clone(f.After(asked)), func(b *replay.Block) bool { return isNone(b) || b.Position >= position })
	rest := len(brought) - len(kept)
	return len(kept) > 0 && rest >= 0 && slices.EqualFunc(brought[rest:], kept, (*replay.Block).Equal)
}

// firstWith returns the position after which the upstream goes on when it is asked with
// an ID: that of the first of the newest blocks with it, up to another position. Where
// clients do not see the upstream's ids the buffer does not find it by that.
func (s *Stream) firstWith(id string, upTo uint64) (position uint64, ok bool) {
	f := &s.buffer
	if position, ok = f.Find(id); ok {
		return position, true
	}
	for _, k := range slices.Backward(f.Blocks) {
		switch {
		case k.Position > upTo, !k.HasID:
		case k.ID == id:
			position, ok = k.Position, true
		case ok:
			return position, true
		}
	}
	return position, ok
}

// checkRenumbered makes blocks of earlier connections unreachable by id when
// the upstream gives one of their ids to another block: it has begun anew.
func (c *Conn) checkRenumbered(b eventstream.Block, lines []byte) {
	s := c.Stream
	if len(b.ID) == 0 || string(b.ID) == s.lastUpstreamID {
		return // several events may share an ID: this one goes on with the last
	}
	var other *replay.Block // with that id
	for _, k := range s.buffer.Blocks {
		if k.Position > c.start {
			break
		}
		if k.Same(b, lines) {
			return
		}
		if k.HasID && k.ID == string(b.ID) {
			other = k
		}
	}
	if other == nil {
		return
	}
	s.throttles().anew.Log(func(suppressed int) {
		s.Log().Warn("possible gap: upstream reused event IDs (did its counter restart?)",
			zap.String("id", shownID(other.ID)), zap.Int("suppressed", suppressed))
	})
	s.buffer.ForgetIDs(c.start)
}
