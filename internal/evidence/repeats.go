package evidence

import (
	"hash/maphash"
	"slices"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// repeatState says whether blocks are being dropped that an upstream repeats
// at the beginning of a new connection.
type repeatState int

const (
	repeatAwaited repeatState = iota // no block with an id came yet
	repeatRunning                    // each block so far was a kept one, in order
	repeatBrought                    // or one that the connection before brought, in order; see Brought
	repeatOver
)

// Repeats tells which blocks of a connection its stream has: the upstream sends them
// again. Those are dropped.
type Repeats struct {
	Start   uint64  // the stream's position when the connection began
	ID      string  // with which it was opened
	Brought Brought // of a successor: what the connection before has brought beside it
	With    uint64  // and the block that gave it the ID; see HashWith

	state    repeatState
	repeated uint64 // position of the newest block that was repeated
}

// IsAwaited reports whether it is not known yet whether the connection repeats
// anything.
func (r *Repeats) IsAwaited() bool { return r.state == repeatAwaited }

// Reached takes note that the connection has brought the block at a position, and
// repeats what comes after it.
func (r *Repeats) Reached(position uint64) {
	r.state, r.repeated, r.Brought = repeatRunning, position, nil
}

// Has reports whether a block of a later connection is one that the stream has.
// Blocks count as repeats only while they form a run, from the connection's first
// block with an id, equal in their order to kept blocks, or to those that the
// connection before has brought beside this one. begun tells that the connection has
// brought a block before that is none of them.
func (r *Repeats) Has(f *replay.Buffer, b eventstream.Block, lines []byte, begun bool) bool {
	switch r.state {
	case repeatAwaited:
		if len(b.ID) == 0 {
			return !b.HasID && !b.CommentOnly() && r.Brought.Next(lines) // a successor that is behind
		}
		i := slices.IndexFunc(f.Blocks, func(k *replay.Block) bool { return k.Same(b, lines) })
		if i >= 0 && f.Blocks[i].Position <= r.Start {
			if begun && r.hasUpTo(f, f.Blocks[i].Position) {
				r.state = repeatOver
				break
			}
			r.state, r.repeated = repeatRunning, f.Blocks[i].Position
			return true
		}
		if r.With != 0 && r.With == broughtHash(b.ID, lines) {
			return true // and what comes after it is yet to come
		}
		if i := slices.Index(r.Brought, broughtHash(b.ID, lines)); i >= 0 {
			r.state, r.Brought = repeatBrought, r.Brought[i+1:]
			return true
		}
		r.state = repeatOver
	case repeatBrought:
		if b.CommentOnly() {
			return false
		}
		if r.Brought.Follows(b.ID, lines) {
			return true
		}
		r.state = repeatOver
	case repeatRunning:
		if b.CommentOnly() {
			return false
		}
		rest := f.After(r.repeated)
		i := slices.IndexFunc(rest, func(k *replay.Block) bool { return !k.CommentOnly && !k.Told })
		if i >= 0 && rest[i].Position <= r.Start && rest[i].Same(b, lines) {
			r.repeated = rest[i].Position
			return true
		}
		r.state = repeatOver
	case repeatOver:
	}
	r.Brought = nil
	return false
}

// hasUpTo reports whether the newest blocks of the connection, which have no id,
// are those that came before the position and after the ID that it was asked with:
// that is the ID of several events, and the upstream goes on after the first of them.
// Without an id none of them is known for a repeat. What comes after them has to come
// again, too: else the older ones would have the last word.
func (r *Repeats) hasUpTo(f *replay.Buffer, position uint64) bool {
	asked, ok := FirstWith(f, r.ID, r.Start)
	if !ok {
		return false
	}
	isNone := func(b *replay.Block) bool { return b.CommentOnly || b.Told }
	brought := slices.DeleteFunc(slices.Clone(f.After(r.Start)), isNone)
	kept := slices.DeleteFunc(slices.Clone(f.After(asked)), func(b *replay.Block) bool { return isNone(b) || b.Position >= position })
	rest := len(brought) - len(kept)
	return len(kept) > 0 && rest >= 0 && slices.EqualFunc(brought[rest:], kept, (*replay.Block).Equal)
}

// Renumbered returns a block of earlier connections, one up to the position start,
// that has the id of a block of this one, which is another block: the upstream has
// begun anew. lastID is the ID before; several events may share one.
func Renumbered(f *replay.Buffer, start uint64, lastID string, b eventstream.Block, lines []byte) (other *replay.Block) {
	if len(b.ID) == 0 || string(b.ID) == lastID {
		return nil
	}
	for _, k := range f.Blocks {
		if k.Position > start {
			break
		}
		if k.Same(b, lines) {
			return nil
		}
		if k.HasID && k.ID == string(b.ID) {
			other = k
		}
	}
	return other
}

// FirstWith returns the position after which the upstream goes on when it is asked with
// an ID: that of the first of the newest blocks with it, up to another position. Where
// clients do not see the upstream's ids the buffer does not find it by that.
func FirstWith(f *replay.Buffer, id string, upTo uint64) (position uint64, ok bool) {
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

// maxBrought bounds how many blocks are remembered that are not kept.
const maxBrought = 1 << 16

// broughtSeed is that of the hashes in Brought.
var broughtSeed = maphash.MakeSeed()

// Brought is what a stream has brought since its successor was opened, as hashes. That
// one was asked to go on after an ID: when it takes over, what came since then may have
// left the replay buffer, and is not to be given again.
type Brought []uint64

// BroughtSince returns what a stream has after an ID, to begin with: the upstream
// sends events without ids that came after it again.
func BroughtSince(f *replay.Buffer, id string) (all Brought) {
	position, ok := FirstWith(f, id, f.Newest)
	if id == "" || !ok {
		return nil
	}
	for _, k := range f.After(position) {
		if !k.CommentOnly && !k.Told {
			all = append(all, broughtHash([]byte(k.ID), k.Wire[:k.Lines]))
		}
	}
	return all
}

// HashWith returns what stands for the first block that a stream has with an ID, to be told
// from others when it has left the replay buffer; 0: there is none. It may be brought again
// if the upstream has an older one with the same ID.
func HashWith(f *replay.Buffer, id string) uint64 {
	position, ok := FirstWith(f, id, f.Newest)
	if !ok || id == "" || position == 0 {
		return 0
	}
	k := f.After(position - 1)[0]
	if k.Position != position {
		return 0
	}
	return broughtHash([]byte(k.ID), k.Wire[:k.Lines])
}

// Note remembers a block.
func (l *Brought) Note(b *replay.Block) {
	if len(*l) < maxBrought {
		*l = append(*l, broughtHash([]byte(b.ID), b.Wire[:b.Lines]))
	}
}

// Has reports whether a block with an id is one of them.
func (l *Brought) Has(id, lines []byte) bool { return slices.Contains(*l, broughtHash(id, lines)) }

// Next reports whether the lines of an event without an id are the next one, and goes
// on to the one after it.
func (l *Brought) Next(lines []byte) bool {
	if len(*l) == 0 || (*l)[0] != broughtHash(nil, lines) {
		return false
	}
	*l = (*l)[1:]
	return true
}

// Follows reports whether a block is the next one, and goes on to the one after it. If it
// has an id, others may be before it: the connection before may have brought some twice,
// because it was asked to go on after an ID that several events have.
func (l *Brought) Follows(id, lines []byte) bool {
	i := slices.Index(*l, broughtHash(id, lines))
	if i < 0 || (i > 0 && len(id) == 0) {
		return false
	}
	*l = (*l)[i+1:]
	return true
}

// SkipTo goes on after a block that came while this connection was there: it has not been
// sent again what came before that, and is not going to be.
func (l *Brought) SkipTo(id, lines []byte) {
	if i := slices.Index(*l, broughtHash(id, lines)); i >= 0 {
		*l = (*l)[i+1:]
	}
}

// broughtHash stands for a block in Brought.
func broughtHash(id, lines []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(broughtSeed)
	_, _ = h.Write(lines)
	_ = h.WriteByte(0) // in no id that counts
	_, _ = h.Write(id)
	return h.Sum64()
}
