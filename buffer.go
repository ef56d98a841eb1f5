package caddysse

import (
	"math"
	"slices"
	"sort"
	"time"
)

const (
	// defaultBufferEvents is how many blocks a replay buffer keeps. What a
	// buffer costs is its bytes: with blockOverhead each, so many blocks take as
	// much again as the default size.
	defaultBufferEvents = 16384

	// defaultBufferSize is how many bytes a replay buffer keeps.
	defaultBufferSize = 4 << 20

	// blockOverhead is about what a block takes beside its bytes: the block, its
	// places in the buffer, its ID if that is not long.
	blockOverhead = 256

	// longID is from where on the bytes of an ID are counted.
	longID = 64

	// defaultBufferAge is how long a replay buffer keeps a block: longer than
	// a laptop's nap between two meetings or a phone's in a tunnel.
	defaultBufferAge = 5 * time.Minute
)

// block is one block of a stream as every subscriber gets it. It is immutable
// once it is in a buffer: all subscribers write the same bytes.
type block struct {
	wire  []byte // the lines, the gateway's id line if any, and the blank line
	lines int    // wire[:lines] are the upstream's lines
	chunk []byte // wire as a chunk (RFC 9112, 7.1); nil: not made

	position uint64
	events   uint64 // how many events the stream has had, this one included
	ordinal  int    // among the blocks of its connection that are not comment-only
	at       time.Time

	id          string // the upstream's id, if hasID
	hasID       bool
	dispatches  bool
	commentOnly bool
	told        bool // a gap event of the gateway: the upstream did not send it
	afterPause  bool // its connection had brought nothing for splicePause

	hash uint64 // of what equal compares
}

// idSize is how many bytes of its ID count as memory.
func (b *block) idSize() int64 { return int64(max(0, len(b.id)-longID)) }

// bufferLimits bounds a replay buffer; see Handler.Buffer.
type bufferLimits struct {
	events int
	size   int64
	age    time.Duration
}

// buffer is a replay buffer: the last blocks of a stream, by position. The
// stream's lock guards it.
//
// Positions grow by one with each block and are never reused. The blocks kept
// are those after lost, less comment-only blocks, which go first: so a cursor
// at position p has missed something if, and only if, p < lost.
type buffer struct {
	limits bufferLimits

	blocks      []*block // ascending positions
	size        int64    // the sum of their wire bytes
	ids         int64    // that of their long ids, which are kept beside
	comments    int      // how many of them are comment-only
	commentSize int64    // and the sum of their wire bytes

	newest uint64 // position of the newest block; 0: there was none yet
	events uint64 // how many events there were
	lost   uint64 // position of the newest evicted block that was not comment-only

	// A run is a sequence of blocks after which a client has the same last
	// event ID, because only the first of them sets it.
	index  *blockIndex       // nil: nobody compares with what is kept
	runs   []idRun           // ascending starts, none before lost
	byID   map[string]uint64 // the start of the newest run with that ID
	lastID string            // what a client at the newest block has, if the upstream gave it
}

type idRun struct {
	id    string
	start uint64
}

// append adds b as the newest block and evicts what is over the limits. It
// sets the block's position and count.
func (f *buffer) append(b *block) {
	f.newest++
	b.position = f.newest
	if b.dispatches {
		f.events++
	}
	b.events = f.events
	if b.commentOnly {
		f.comments++
		f.commentSize += int64(len(b.wire))
	}
	f.size += int64(len(b.wire))
	f.ids += b.idSize()
	f.blocks = append(f.blocks, b)
	f.index.add(b)
	f.evict(b.at)
}

// setLastID notes that clients at position have the last event ID id from here
// on. An empty id is one that cannot be resumed from; so is one that no request
// can bring.
func (f *buffer) setLastID(id string, position uint64) {
	if len(id) > maxLastEventID {
		id = ""
	}
	if id == f.lastID {
		return
	}
	f.lastID = id
	if id == "" {
		return
	}
	if f.byID == nil {
		f.byID = make(map[string]uint64)
	}
	f.byID[id] = position
	f.runs = append(f.runs, idRun{id: id, start: position})
}

// forgetIDs makes the blocks up to position unreachable by upstream ids: the
// upstream has begun to give the same ids anew.
func (f *buffer) forgetIDs(position uint64) {
	for len(f.runs) > 0 && f.runs[0].start <= position {
		f.dropRun()
	}
	if len(f.runs) == 0 {
		f.lastID = "" // the next block with that ID begins a run of its own
	}
}

// dropRun forgets the oldest run.
func (f *buffer) dropRun() {
	if run := f.runs[0]; f.byID[run.id] == run.start {
		delete(f.byID, run.id)
	}
	f.runs = f.runs[1:]
}

// evict drops comment-only blocks while there is too much, then the oldest
// blocks, and those older than the age limit. The newest block always stays. No
// comment takes the place of another block.
func (f *buffer) evict(now time.Time) { f.evictTo(math.MaxInt64, now) }

// evictTo is evict for a buffer that may take so much memory at most.
func (f *buffer) evictTo(memory int64, now time.Time) {
	if f.comments > 0 && (f.full() || f.memory() > memory) {
		f.dropComments()
	}
	for len(f.blocks) > 1 && (f.crowded(memory) || now.Sub(f.blocks[0].at) > f.limits.age) {
		old := f.blocks[0]
		f.blocks[0] = nil
		f.blocks = f.blocks[1:]
		f.size -= int64(len(old.wire))
		f.ids -= old.idSize()
		f.index.remove(old)
		if old.commentOnly {
			f.comments--
			f.commentSize -= int64(len(old.wire))
		} else {
			f.lost = old.position
		}
	}
	for len(f.runs) > 0 && f.runs[0].start < f.lost {
		f.dropRun()
	}
}

// memory returns about how many bytes of memory the buffer takes.
func (f *buffer) memory() int64 { return f.size + f.ids + blockOverhead*int64(len(f.blocks)) }

func (f *buffer) full() bool {
	return len(f.blocks) > f.limits.events || f.size > f.limits.size
}

// crowded reports whether there is too much, comments apart; a block alone never
// is.
func (f *buffer) crowded(memory int64) bool {
	n, size := len(f.blocks)-f.comments, f.size-f.commentSize
	return n > 1 && (n > f.limits.events || size > f.limits.size || size+f.ids+blockOverhead*int64(n) > memory)
}

// least is how much memory the buffer takes however small the limits are: for the
// newest block, and if that is comment-only for the newest one that is not.
func (f *buffer) least() (memory int64) {
	if n := len(f.blocks); n > 0 && f.blocks[n-1].commentOnly {
		memory = int64(len(f.blocks[n-1].wire)) + blockOverhead
	}
	if b := f.newestBlock(); b != nil {
		memory += int64(len(b.wire)) + b.idSize() + blockOverhead
	}
	return memory
}

// evictedBy returns the position up to which the next block, of size bytes,
// evicts, 0 if it evicts nothing.
func (f *buffer) evictedBy(size int64) (position uint64) {
	n := len(f.blocks) + 1
	size += f.size
	for _, b := range f.blocks {
		if n <= f.limits.events && size <= f.limits.size {
			break
		}
		position = b.position
		n--
		size -= int64(len(b.wire))
	}
	return position
}

// dropComments evicts all comment-only blocks but the newest block.
func (f *buffer) dropComments() {
	last := len(f.blocks) - 1
	kept := f.blocks[:0]
	for i, b := range f.blocks {
		if b.commentOnly && i != last {
			f.size -= int64(len(b.wire))
			f.ids -= b.idSize()
			f.comments--
			f.commentSize -= int64(len(b.wire))
			continue
		}
		kept = append(kept, b)
	}
	clear(f.blocks[len(kept):])
	f.blocks = kept
}

// after returns the kept blocks that come after position.
func (f *buffer) after(position uint64) []*block {
	if position >= f.newest || len(f.blocks) == 0 {
		return nil
	}
	first := f.blocks[0].position
	if position < first {
		return f.blocks
	}
	// Without evicted comments the positions have no holes.
	if i := position + 1 - first; i < uint64(len(f.blocks)) && f.blocks[i].position == position+1 {
		return f.blocks[i:]
	}
	return f.blocks[sort.Search(len(f.blocks), func(i int) bool { return f.blocks[i].position > position }):]
}

// find returns where a client with the last event ID id, given by the
// upstream, goes on: after the first block of the newest run with that ID, so
// that it gets at least all that it has not seen. It returns false if the ID
// is unknown or something after it is lost.
func (f *buffer) find(id string) (position uint64, ok bool) {
	position, ok = f.byID[id]
	return position, ok && position >= f.lost
}

// eventsAfter returns how many events came after position, and false if that
// is not known because blocks there were evicted.
func (f *buffer) eventsAfter(position uint64) (n uint64, ok bool) {
	if f.events == f.newest {
		return f.newest - min(position, f.newest), true // every block was an event
	}
	if position < f.lost {
		return 0, false
	}
	rest := f.after(position)
	i := slices.IndexFunc(rest, func(b *block) bool { return b.dispatches })
	if i < 0 {
		return 0, true
	}
	return f.events - rest[i].events + 1, true
}

// newestBlock returns the newest kept block that is not comment-only, nil if
// there is none.
func (f *buffer) newestBlock() *block {
	for _, b := range slices.Backward(f.blocks) {
		if !b.commentOnly {
			return b
		}
	}
	return nil
}

// dispatched returns the kept blocks that are events.
func (f *buffer) dispatched() []*block {
	events := make([]*block, 0, len(f.blocks))
	for _, b := range f.blocks {
		if b.dispatches {
			events = append(events, b)
		}
	}
	return events
}

// tail returns the position before the last n kept events; n < 0 means all of
// the kept blocks.
func (f *buffer) tail(n int) uint64 {
	if n < 0 {
		return f.lost
	}
	for i := len(f.blocks) - 1; i >= 0 && n > 0; i-- {
		if f.blocks[i].dispatches {
			n--
		}
		if n == 0 {
			return f.blocks[i].position - 1
		}
	}
	if n > 0 {
		return f.lost
	}
	return f.newest
}
