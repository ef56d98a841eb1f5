package delivery

import (
	"sync"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// inbox is what a writer is to look at: whole lists of connections from a stream's
// bell, and single ones that have news of their own.
type inbox struct {
	news chan struct{}

	mu      sync.Mutex
	lists   [][]stream.Waiter
	singles []stream.Waiter

	room []stream.Waiter // an empty list; for the writer's goroutine only
}

// Wake implements stream.Waker: it hands a list of connections over.
func (in *inbox) Wake(list []stream.Waiter) {
	in.mu.Lock()
	in.lists = append(in.lists, list)
	in.mu.Unlock()
	in.rouse()
}

// Spare implements stream.Waker: it returns an empty list, with room if there is
// one.
func (in *inbox) Spare() []stream.Waiter {
	list := in.room
	in.room = nil
	return list
}

// lookAtOne hands one connection over.
func (in *inbox) lookAtOne(c stream.Waiter) {
	in.mu.Lock()
	in.singles = append(in.singles, c)
	in.mu.Unlock()
	in.rouse()
}

// rouse wakes the writer.
func (in *inbox) rouse() {
	select {
	case in.news <- struct{}{}:
	default: // it has been
	}
}
