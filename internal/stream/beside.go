package stream

import (
	"slices"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
)

// maxBeside bounds how many blocks of a connection are remembered that another one is
// yet to bring. It is how far one may be behind the other.
const maxBeside = 1 << 12

// What a stream's connection and its successor bring beside each other.

// bringsOld takes note of a block of the stream's connection.
func (a *beside) bringsOld(hash uint64) {
	if i := slices.IndexFunc(a.ahead, func(h heldBlock) bool { return h.hash == hash }); i >= 0 {
		a.met = true
		a.forget(i + 1)
		return
	}
	a.apart = a.apart || len(a.ahead) > 0
	if len(a.old) == maxBeside {
		a.old = slices.Clone(a.old[maxBeside/2:])
	}
	a.old = append(a.old, hash)
}

// bringsNew takes note of a block of the successor. It holds it, unless the stream's
// connection has brought it: up to limit bytes, of which the oldest are forgotten.
func (a *beside) bringsNew(h heldBlock, limit int64) {
	if i := slices.Index(a.old, h.hash); i >= 0 {
		a.met, a.old = true, a.old[i+1:]
		return
	}
	h.lines = slices.Clone(h.lines)
	a.ahead, a.size = append(a.ahead, h), a.size+int64(len(h.lines))
	for len(a.ahead) > maxBeside || (a.size > limit && len(a.ahead) > 1) {
		a.forget(len(a.ahead) / 2)
	}
}

// forget forgets the oldest blocks of the successor.
func (a *beside) forget(n int) {
	for _, h := range a.ahead[:n] {
		a.size -= int64(len(h.lines))
	}
	a.ahead = slices.Clone(a.ahead[n:])
}

// isAhead reports whether the successor has brought an event that the stream has never
// had: the stream's connection may be behind.
func (a *beside) isAhead(t *evidence.Track) bool {
	return slices.ContainsFunc(a.ahead, func(h heldBlock) bool { return h.block.Dispatches() && !t.Knows(h.hash) })
}

// rest returns what the stream is to get of the successor's that it has not got when that
// takes over: nothing that came beside other blocks of the stream's connection, if no
// block came on both. They are told different things, then.
func (a *beside) rest() []heldBlock {
	if a.met || !a.apart {
		return a.ahead
	}
	return slices.DeleteFunc(a.ahead, func(h heldBlock) bool { return h.isBeside })
}

// repeats reports whether a block of the successor, which has taken over, is one that the
// connection before has brought: it is behind. The first event that is not ends that.
func (a *beside) repeats(hash uint64, isEvent bool) bool {
	i := slices.Index(a.old, hash)
	switch {
	case i >= 0:
		a.old = a.old[i+1:]
	case isEvent:
		a.old = nil
	}
	return i >= 0
}
