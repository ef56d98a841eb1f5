package caddysse

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// How many responses each client has, for max_per_client.

// clientCounts are how many responses clients have, of all configurations: a client
// that stays over a reload counts.
type clientCounts struct {
	mu     sync.Mutex
	counts map[stream.Key]int
}

var theClients = clientCounts{counts: make(map[stream.Key]int)}

// take counts one more, unless there are as many as may be.
func (c *clientCounts) take(client stream.Key, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[client] >= limit {
		return false
	}
	c.counts[client]++
	return true
}

func (c *clientCounts) leave(client stream.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[client]--; c.counts[client] <= 0 {
		delete(c.counts, client)
	}
}

// clientPlace is one of the responses that a client may have. It is free when its
// request was served and its subscriber, whose connection may have been taken over, has
// left. nil: nothing is counted.
type clientPlace struct {
	client stream.Key
	held   atomic.Int32
}

func (p *clientPlace) hold() {
	if p != nil {
		p.held.Add(1)
	}
}

func (p *clientPlace) release() {
	if p != nil && p.held.Add(-1) == 0 {
		theClients.leave(p.client)
	}
}
