package replay

import (
	"bytes"
	"hash/maphash"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// Block is one block of a stream as every subscriber gets it. It is immutable
// once it is in a buffer: all subscribers write the same bytes.
type Block struct {
	Wire  []byte // the lines, the gateway's id line if any, and the blank line
	Lines int    // Wire[:Lines] are the upstream's lines
	Chunk []byte // Wire as a chunk (RFC 9112, 7.1); nil: not made

	Position uint64
	Events   uint64 // how many events the stream has had, this one included
	Ordinal  int    // among the blocks of its connection that are not comment-only
	At       time.Time

	ID          string // the upstream's id, if HasID
	HasID       bool
	Dispatches  bool
	CommentOnly bool
	Told        bool // a gap event of the gateway: the upstream did not send it
	AfterPause  bool // its connection had brought nothing for splicePause

	Hash uint64 // of what Equal compares
}

// idSize is how many bytes of its ID count as memory.
func (k *Block) idSize() int64 { return int64(max(0, len(k.ID)-longID)) }

// Says reports whether a block says something that may be one connection's own,
// which a reconnection time is not.
func (k *Block) Says() bool { return k.Dispatches || k.HasID }

// IsEvent reports whether a block is an event of the upstream, which the gateway's own gap
// events are not: nobody misses one of those.
func (k *Block) IsEvent() bool { return k.Dispatches && !k.Told }

// Equal reports whether the upstream sent the same bytes for two blocks.
func (k *Block) Equal(b *Block) bool {
	return k.Hash == b.Hash && k.HasID == b.HasID && k.ID == b.ID && bytes.Equal(k.Wire[:k.Lines], b.Wire[:b.Lines])
}

// Same reports whether a kept block is what the upstream sends as b.
func (k *Block) Same(b eventstream.Block, lines []byte) bool {
	return k.HasID == b.HasID && k.ID == string(b.ID) && bytes.Equal(k.Wire[:k.Lines], lines)
}

// NewBlock makes the block that subscribers get of b, whose lines for them are
// given, and the id line that the gateway adds, if id is not empty. The bytes are
// built once.
func NewBlock(b eventstream.Block, lines, id []byte, at time.Time) *Block {
	k := &Block{
		Lines:       len(lines),
		At:          at,
		HasID:       b.HasID,
		ID:          string(b.ID),
		Dispatches:  b.Dispatches(),
		CommentOnly: b.CommentOnly(),
		Hash:        HashBlock(lines, b.HasID, string(b.ID)),
	}
	size := len(lines) + 1
	if len(id) > 0 {
		size += len("id: \n") + len(id)
	}
	chunk := AppendChunkSize(make([]byte, 0, maxChunkSize+size+len("\r\n")), size)
	head := len(chunk)
	chunk = append(chunk, lines...)
	if len(id) > 0 {
		chunk = append(append(append(chunk, "id: "...), id...), '\n')
	}
	chunk = append(chunk, '\n')
	k.Wire = chunk[head:len(chunk):len(chunk)]
	chunk = append(chunk, "\r\n"...)
	k.Chunk = chunk
	return k
}

// Restore makes what is not sent of a block that comes from another node: its wire
// bytes and their upstream lines, its flags and ID are given.
func (k *Block) Restore() {
	k.Hash = HashBlock(k.Wire[:k.Lines], k.HasID, k.ID)
	if len(k.Wire) == k.Lines {
		return // see OpenComment
	}
	wire := k.Wire
	chunk := AppendChunk(make([]byte, 0, maxChunkSize+len(wire)+len("\r\n")), wire)
	head := len(chunk) - len("\r\n") - len(wire)
	k.Wire, k.Chunk = chunk[head:head+len(wire):head+len(wire)], chunk
}

// OpenComment takes the blank line away from a block that is one comment: it
// becomes part of the next block, where it says nothing either.
func (k *Block) OpenComment() {
	lines := k.Wire[:k.Lines]
	if bytes.HasPrefix(lines, []byte{':'}) && bytes.IndexByte(lines, '\n') == len(lines)-1 {
		k.Wire, k.Chunk = lines, nil
	}
}

var blockSeed = maphash.MakeSeed()

// HashBlock hashes what Equal compares.
func HashBlock(lines []byte, hasID bool, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(blockSeed)
	_, _ = h.Write(lines)
	if hasID {
		_ = h.WriteByte(0)
		_, _ = h.WriteString(id)
	}
	return h.Sum64()
}

// longID is from where on the bytes of an ID are counted.
const longID = 64
