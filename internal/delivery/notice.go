package delivery

import "sync"

// Notice tells whoever serves a client, its request's goroutine or a writer, that the
// response is to end: to ring for one subscriber would wake all of its stream. The zero
// value was not given.
type Notice struct {
	mu   sync.Mutex
	over chan struct{} // closed by Give; nil: it was not given, and no goroutine waits for it
	conn *connection   // nil: the request's goroutine serves it
}

// wasGiven is in place of a channel for which nobody waits.
var wasGiven = func() chan struct{} {
	over := make(chan struct{})
	close(over)
	return over
}()

// Give tells it. When the response ends was told to the subscriber before.
func (n *Notice) Give() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil { // else its first look sees it
		n.conn.signal(signalLeave)
	}
	if n.over != nil && n.over != wasGiven {
		close(n.over)
	}
	n.over = wasGiven
}

// takenBy tells that a writer serves the client from now on: no goroutine waits any more.
func (n *Notice) takenBy(c *connection) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conn = c
	if n.over != wasGiven {
		n.over = nil
	}
}

// given is closed when the notice was given.
func (n *Notice) given() <-chan struct{} {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over == nil {
		n.over = make(chan struct{})
	}
	return n.over
}
