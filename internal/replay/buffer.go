package replay

import (
	"hash/maphash"
	"math"
	"slices"
	"sort"
	"time"
)

// BlockOverhead is about what a block takes beside its bytes: the block, its
// places in the buffer, its ID if that is not long.
const BlockOverhead = 256

// Limits bounds a replay buffer.
type Limits struct {
	Events int
	Size   int64
	Age    time.Duration
}

// Buffer is a replay buffer: the last blocks of a stream, by position. The
// stream's lock guards it.
//
// Positions grow by one with each block and are never reused. The blocks kept
// are those after lost, less comment-only blocks, which go first: so a cursor
// at position p has missed something if, and only if, p < lost.
type Buffer struct {
	Limits Limits

	Blocks      []*Block // ascending positions
	Size        int64    // the sum of their wire bytes
	ids         int64    // that of their long ids, which are kept beside
	comments    int      // how many of them are comment-only
	commentSize int64    // and the sum of their wire bytes

	Newest uint64 // position of the newest block; 0: there was none yet
	Events uint64 // how many events there were
	Lost   uint64 // position of the newest evicted block that was not comment-only

	// A run is a sequence of blocks after which a client has the same last
	// event ID, because only the first of them sets it.
	index  *blockIndex       // nil: nobody compares with what is kept
	runs   []idRun           // ascending starts, none before lost
	byID   map[string]uint64 // the start of the newest run with that ID
	LastID string            // what a client at the newest block has, if the upstream gave it

	Forgotten uint64 // blocks up to here are not found by the upstream's ids
}

type idRun struct {
	id    string
	start uint64
}

// Append adds b as the newest block and evicts what is over the limits. It
// sets the block's position and count.
func (f *Buffer) Append(b *Block) {
	f.Newest++
	b.Position = f.Newest
	if b.IsEvent() {
		f.Events++
	}
	b.Events = f.Events
	if b.CommentOnly {
		f.comments++
		f.commentSize += int64(len(b.Wire))
	}
	f.Size += int64(len(b.Wire))
	f.ids += b.idSize()
	f.Blocks = append(f.Blocks, b)
	f.index.add(b)
	f.Evict(b.At)
}

// Place appends a block with the position and the count of events that it has in
// another buffer, which this one is a copy of.
func (f *Buffer) Place(b *Block) {
	f.Newest, f.Events = b.Position-1, b.Events
	if b.IsEvent() {
		f.Events--
	}
	f.Append(b)
}

// BeginsRun reports whether a client at position is found by the ID that it has there.
func (f *Buffer) BeginsRun(position uint64) (id string, ok bool) {
	i := sort.Search(len(f.runs), func(i int) bool { return f.runs[i].start >= position })
	if i == len(f.runs) || f.runs[i].start != position {
		return "", false
	}
	return f.runs[i].id, true
}

// HasLastID notes that clients have an ID by which they are not found.
func (f *Buffer) HasLastID(id string) {
	if len(id) > MaxID {
		id = ""
	}
	f.LastID = id
}

// SetLastID notes that clients at position have the last event ID id from here
// on. An empty id is one that cannot be resumed from; so is one that no request
// can bring.
func (f *Buffer) SetLastID(id string, position uint64) {
	if len(id) > MaxID {
		id = ""
	}
	if id == f.LastID {
		return
	}
	f.LastID = id
	if id == "" {
		return
	}
	if f.byID == nil {
		f.byID = make(map[string]uint64)
	}
	f.byID[id] = position
	f.runs = append(f.runs, idRun{id: id, start: position})
}

// ForgetIDs makes the blocks up to position unreachable by upstream ids: the
// upstream has begun to give the same ids anew.
func (f *Buffer) ForgetIDs(position uint64) {
	f.Forgotten = max(f.Forgotten, position)
	for len(f.runs) > 0 && f.runs[0].start <= position {
		f.dropRun()
	}
	if len(f.runs) == 0 {
		f.LastID = "" // the next block with that ID begins a run of its own
	}
}

// dropRun forgets the oldest run.
func (f *Buffer) dropRun() {
	if run := f.runs[0]; f.byID[run.id] == run.start {
		delete(f.byID, run.id)
	}
	f.runs = f.runs[1:]
}

// Evict drops comment-only blocks while there is too much, then the oldest
// blocks, and those older than the age limit. The newest block always stays. No
// comment takes the place of another block.
func (f *Buffer) Evict(now time.Time) { f.EvictTo(math.MaxInt64, now) }

// EvictTo is evict for a buffer that may take so much memory at most.
func (f *Buffer) EvictTo(memory int64, now time.Time) {
	if f.comments > 0 && (f.full() || f.Memory() > memory) {
		f.dropComments()
	}
	for len(f.Blocks) > 1 && (f.crowded(memory) || now.Sub(f.Blocks[0].At) > f.Limits.Age) {
		f.evictFirst()
	}
	f.dropRuns()
}

// DropTo evicts all blocks up to a position, which was given to somebody.
func (f *Buffer) DropTo(position uint64) {
	for len(f.Blocks) > 0 && f.Blocks[0].Position <= position {
		f.evictFirst()
	}
	f.Lost = max(f.Lost, position)
	f.dropRuns()
}

func (f *Buffer) evictFirst() {
	old := f.Blocks[0]
	f.Blocks[0] = nil
	f.Blocks = f.Blocks[1:]
	f.Size -= int64(len(old.Wire))
	f.ids -= old.idSize()
	f.index.remove(old)
	if old.CommentOnly {
		f.comments--
		f.commentSize -= int64(len(old.Wire))
	} else {
		f.Lost = old.Position
	}
}

// dropRuns drops those that begin with what is not kept any more.
func (f *Buffer) dropRuns() {
	for len(f.runs) > 0 && f.runs[0].start < f.Lost {
		f.dropRun()
	}
}

// Memory returns about how many bytes of memory the buffer takes.
func (f *Buffer) Memory() int64 { return f.Size + f.ids + BlockOverhead*int64(len(f.Blocks)) }

func (f *Buffer) full() bool {
	return len(f.Blocks) > f.Limits.Events || f.Size > f.Limits.Size
}

// crowded reports whether there is too much, comments apart; a block alone never
// is.
func (f *Buffer) crowded(memory int64) bool {
	n, size := len(f.Blocks)-f.comments, f.Size-f.commentSize
	return n > 1 && (n > f.Limits.Events || size > f.Limits.Size || size+f.ids+BlockOverhead*int64(n) > memory)
}

// Least is how much memory the buffer takes however small the limits are: for the
// newest block, and if that is comment-only for the newest one that is not.
func (f *Buffer) Least() (memory int64) {
	if n := len(f.Blocks); n > 0 && f.Blocks[n-1].CommentOnly {
		memory = int64(len(f.Blocks[n-1].Wire)) + BlockOverhead
	}
	if b := f.NewestBlock(); b != nil {
		memory += int64(len(b.Wire)) + b.idSize() + BlockOverhead
	}
	return memory
}

// EvictedBy returns the position up to which the next block, of size bytes,
// evicts, 0 if it evicts nothing.
func (f *Buffer) EvictedBy(size int64) (position uint64) {
	n := len(f.Blocks) + 1
	size += f.Size
	for _, b := range f.Blocks {
		if n <= f.Limits.Events && size <= f.Limits.Size {
			break
		}
		position = b.Position
		n--
		size -= int64(len(b.Wire))
	}
	return position
}

// dropComments evicts all comment-only blocks but the newest block.
func (f *Buffer) dropComments() {
	last := len(f.Blocks) - 1
	kept := f.Blocks[:0]
	for i, b := range f.Blocks {
		if b.CommentOnly && i != last {
			f.Size -= int64(len(b.Wire))
			f.ids -= b.idSize()
			f.comments--
			f.commentSize -= int64(len(b.Wire))
			continue
		}
		kept = append(kept, b)
	}
	clear(f.Blocks[len(kept):])
	f.Blocks = kept
}

// After returns the kept blocks that come after position.
func (f *Buffer) After(position uint64) []*Block {
	if position >= f.Newest || len(f.Blocks) == 0 {
		return nil
	}
	first := f.Blocks[0].Position
	if position < first {
		return f.Blocks
	}
	// Without evicted comments the positions have no holes.
	if i := position + 1 - first; i < uint64(len(f.Blocks)) && f.Blocks[i].Position == position+1 {
		return f.Blocks[i:]
	}
	return f.Blocks[sort.Search(len(f.Blocks), func(i int) bool { return f.Blocks[i].Position > position }):]
}

// Find returns where a client with the last event ID id, given by the
// upstream, goes on: after the first block of the newest run with that ID, so
// that it gets at least all that it has not seen. It returns false if the ID
// is unknown or something after it is lost.
func (f *Buffer) Find(id string) (position uint64, ok bool) {
	position, ok = f.byID[id]
	return position, ok && position >= f.Lost
}

// EventsAfter returns how many events came after position, and false if that
// is not known because blocks there were evicted.
func (f *Buffer) EventsAfter(position uint64) (n uint64, ok bool) {
	if f.Events == f.Newest {
		return f.Newest - min(position, f.Newest), true // every block was an event
	}
	if position < f.Lost {
		return 0, false
	}
	rest := f.After(position)
	i := slices.IndexFunc(rest, (*Block).IsEvent)
	if i < 0 {
		return 0, true
	}
	return f.Events - rest[i].Events + 1, true
}

// NewestBlock returns the newest kept block that is not comment-only, nil if
// there is none.
func (f *Buffer) NewestBlock() *Block {
	for _, b := range slices.Backward(f.Blocks) {
		if !b.CommentOnly {
			return b
		}
	}
	return nil
}

// Dispatched returns the kept blocks that are events.
func (f *Buffer) Dispatched() []*Block {
	events := make([]*Block, 0, len(f.Blocks))
	for _, b := range f.Blocks {
		if b.Dispatches {
			events = append(events, b)
		}
	}
	return events
}

// Tail returns the position before the last n kept events; n < 0 means all of
// the kept blocks.
func (f *Buffer) Tail(n int) uint64 {
	if n < 0 {
		return f.Lost
	}
	for i := len(f.Blocks) - 1; i >= 0 && n > 0; i-- {
		if f.Blocks[i].Dispatches {
			n--
		}
		if n == 0 {
			return f.Blocks[i].Position - 1
		}
	}
	if n > 0 {
		return f.Lost
	}
	return f.Newest
}

// Indexed begins to keep an index of what is in the buffer.
func (f *Buffer) Indexed() {
	if f.index != nil {
		return
	}
	f.index = &blockIndex{byHash: make(map[uint64]indexEntry), byID: make(map[uint64]indexEntry)}
	for _, b := range f.Blocks {
		f.index.add(b)
	}
}

// ForgetIndex ends that.
func (f *Buffer) ForgetIndex() { f.index = nil }

// Twins returns how many kept blocks have the bytes of a hash, and the newest.
func (f *Buffer) Twins(hash uint64) (count int, newest *Block) {
	if f.index == nil {
		return 0, nil
	}
	e := f.index.byHash[hash]
	return e.count, e.newest
}

// WithID returns how many kept blocks have an id of the upstream, and the newest.
func (f *Buffer) WithID(id string) (count int, newest *Block) {
	if f.index == nil {
		return 0, nil
	}
	e := f.index.byID[maphash.String(blockSeed, id)]
	return e.count, e.newest
}

// Reaches reports whether all that came since a moment is kept.
func (f *Buffer) Reaches(since time.Time) bool {
	if f.Lost == 0 {
		return true
	}
	for _, b := range f.Blocks {
		if !b.CommentOnly {
			return b.At.Before(since)
		}
	}
	return false
}

// OccursOnce reports whether one block only of those kept has the bytes of b.
func (f *Buffer) OccursOnce(b *Block) bool {
	n, _ := f.Twins(b.Hash)
	return n == 1
}
