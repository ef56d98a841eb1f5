package delivery

import (
	"sync"
	"sync/atomic"
)

// Notice tells whoever serves a client, its request's goroutine or a writer, that the
// response is to end: to ring for one subscriber would wake all of its stream.
type Notice struct {
	over chan struct{} // closed by Give
	once sync.Once
	conn atomic.Pointer[connection] // nil: the request's goroutine serves it
}

// NewNotice makes a notice that was not given.
func NewNotice() *Notice { return &Notice{over: make(chan struct{})} }

// Give tells it. When the response ends was told to the subscriber before.
func (n *Notice) Give() {
	if c := n.conn.Load(); c != nil { // else its first look sees it
		c.signal(signalLeave)
	}
	n.once.Do(func() { close(n.over) })
}

// takenBy tells that a writer serves the client from now on.
func (n *Notice) takenBy(c *connection) {
	if n != nil {
		n.conn.Store(c)
	}
}

// given is closed when the notice was given.
func (n *Notice) given() <-chan struct{} {
	if n == nil {
		return nil
	}
	return n.over
}
