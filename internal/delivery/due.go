package delivery

import (
	"container/heap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What a writer does when its time has come: heartbeats, ends, and looks again.

// serveDue does what is due by time.
func (w *writer) serveDue() {
	for range perTurn {
		if len(w.due) == 0 || w.due[0].due > w.tick {
			return
		}
		c := heap.Pop(&w.due).(*connection)
		switch at := c.nextDue(); {
		case at == 0, at > w.tick: // put off by what was sent meanwhile
		case c.lookAt != 0 && w.tick >= c.lookAt:
			if !w.takes(c) {
				w.close(c, stream.EndWrite)
				continue
			}
		case c.leaves(w.tick):
			w.serve(c)
		default:
			w.heartbeat(c)
		}
		if !c.closed {
			w.schedule(c)
		}
	}
}

// heartbeat sends a heartbeat.
func (w *writer) heartbeat(c *connection) {
	if c.end != "" {
		return
	}
	c.began = true
	w.counted.heartbeats++
	w.counted.bytes += len(c.settings.Beat)
	c.bytes += len(c.settings.Beat)
	if _, bare := c.socket.(*streamSocket); bare {
		w.send(c, c.settings.Beat)
		return
	}
	w.send(c, c.settings.beatChunk)
}

// schedule makes sure that the connection is looked at when something is due.
func (w *writer) schedule(c *connection) {
	at := c.nextDue()
	switch {
	case at == 0:
	case c.index < 0:
		c.due = at
		heap.Push(&w.due, c)
	case at < c.due: // later ones are seen when it is due
		c.due = at
		heap.Fix(&w.due, c.index)
	}
}

// dueHeap is connections by when something is due.
type dueHeap []*connection

func (h *dueHeap) Len() int { return len(*h) }

func (h *dueHeap) Less(i, j int) bool { return (*h)[i].due < (*h)[j].due }

// Swap implements heap.Interface.
func (h *dueHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	c := x.(*connection)
	c.index = len(*h)
	*h = append(*h, c)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	c.index = -1
	return c
}
