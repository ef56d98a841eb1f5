package caddysse

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// privateView is what operators see of a private stream. The lock of writing is
// not needed for it, because a client that is stuck holds that.
type privateView struct {
	// Fixed after construction.
	number uint64
	born   time.Time
	client stream.Client

	events   atomic.Uint64
	first    atomic.Int64 // from the request to the first event; 0: there was none
	received atomic.Int64 // bytes
	given    atomic.Int64 // bytes to the client
	waiting  atomic.Int64 // how many blocks are being written; part of one counts as one
	since    stream.Since

	passing stream.Passing // what tails are shown

	mu       sync.Mutex  // guards what follows
	leave    *time.Timer // ends the stream from this side; nil: nothing does
	leaveAt  time.Time
	leaveFor stream.EndReason
	over     bool
}

// privateCount counts blocks that have become whole.
type privateCount struct{ blocks, events int }

// add counts a block.
func (c *privateCount) add(b eventstream.Block) {
	c.blocks++
	if b.Dispatches() {
		c.events++
	}
}

// sending notes that bytes are being written to the client, with which blocks
// become whole; sent that they were, and how many bytes the client was given in
// all.
func (v *privateView) sending(c privateCount, bytes int, first time.Duration) {
	v.events.Add(number.As[uint64](c.events))
	v.received.Add(int64(bytes))
	v.first.Store(int64(first))
	v.waiting.Store(int64(max(1, c.blocks)))
	v.since.Begin(time.Now())
}

func (v *privateView) sent(bytes int) {
	v.given.Store(int64(bytes))
	v.since.Stop()
}

// lag is how far the client is behind: there is no buffer, so it is what is
// being written.
func (v *privateView) lag(now time.Time) stream.LagInfo {
	since, writing := v.since.For(now)
	if !writing {
		return stream.LagInfo{}
	}
	return stream.LagInfo{
		Blocks:  number.As[uint64](v.waiting.Load()),
		Seconds: max(0, since.Seconds()),
	}
}

// close ends the view: the stream is over.
func (v *privateView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	if v.leave != nil {
		v.leave.Stop()
	}
	v.passing.End()
}
