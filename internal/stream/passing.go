package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What the tails of a stream without a replay buffer may be behind, before they miss
// something.
const (
	PassingBlocks = 256
	passingSize   = 1 << 20
)

// Passing shows tails the blocks of a stream that has no replay buffer: those that
// have passed since the first of them began to look. Nobody looks: nothing is kept.
type Passing struct {
	kept atomic.Pointer[passed] // nil: nobody looks

	mu    sync.Mutex // guards what follows, and is taken before the lock of kept
	tails int
	over  bool
	shown uint64 // position of the newest block that was shown to tails that have gone
}

// passed is what tails read.
type passed struct {
	mu     sync.Mutex
	buffer replay.Buffer
	bell   Bell
	over   bool
}

// Add shows a block to the tails. Only one call at a time.
func (p *Passing) Add(b eventstream.Block) {
	k := p.kept.Load()
	if k == nil {
		return
	}
	wire := append(append(make([]byte, 0, len(b.Lines)+1), b.Lines...), '\n')
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buffer.Append(&replay.Block{
		Wire: wire, Lines: len(b.Lines), At: time.Now(), Dispatches: b.Dispatches(), CommentOnly: b.CommentOnly(),
	})
	k.bell.Ring()
}

// End tells the tails that the stream is over.
func (p *Passing) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if k := p.kept.Load(); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.over = true
		k.bell.Ring()
	}
}

// Watch begins to keep blocks for a viewer, for so long at most.
func (p *Passing) Watch(age time.Duration) TailSource {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kept.Load()
	if k == nil {
		k = &passed{over: p.over}
		k.buffer.Newest, k.buffer.Lost = p.shown, p.shown
		k.buffer.Limits = replay.Limits{Events: PassingBlocks, Size: passingSize, Age: age}
		p.kept.Store(k)
	}
	p.tails++
	return TailSource{
		mu: &k.mu, buffer: &k.buffer, bell: &k.bell,
		over:  func() bool { return k.over },
		close: p.leave,
	}
}

// leave lets a viewer go. The last one takes what is kept along.
func (p *Passing) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tails--; p.tails > 0 {
		return
	}
	k := p.kept.Swap(nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	p.shown = k.buffer.Newest
}
