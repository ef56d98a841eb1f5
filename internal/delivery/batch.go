package delivery

import (
	"slices"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// batch is blocks that go out together, as one chunk. Those who are at the same
// point of a stream are sent the same bytes.
type batch struct {
	blocks []*replay.Block
	chunk  []byte
	size   int
	lent   bool // a connection has not been sent all of it
}

func (b *batch) of(blocks []*replay.Block) (chunk []byte, size int) {
	if slices.Equal(b.blocks, blocks) {
		return b.chunk, b.size
	}
	b.blocks = append(b.blocks[:0], blocks...)
	if b.lent || cap(b.chunk) > 2*stream.MaxWrite {
		b.chunk, b.lent = nil, false
	}
	b.size = 0
	for _, blk := range blocks {
		b.size += len(blk.Wire)
	}
	b.chunk = b.chunk[:0]
	if b.size > 0 { // without data it would be the last chunk
		b.chunk = replay.AppendChunkSize(b.chunk, b.size)
		for _, blk := range blocks {
			b.chunk = append(b.chunk, blk.Wire...)
		}
		b.chunk = append(b.chunk, "\r\n"...)
	}
	return b.chunk, b.size
}

// writtenBatch is blocks that go out together, for the metrics and the access log.
type writtenBatch struct {
	blocks int
	bytes  int    // without transfer coding
	at     moment // when the first of them was complete; 0: they are a replay
}
