package delivery

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// theWriters are those of the process; they begin with the first connection
// that is taken over.
var theWriters = sync.OnceValue(func() *writers { return newWriters(runtime.GOMAXPROCS(0)) })

// writers is a set of writers.
type writers struct {
	began  time.Time
	all    []*writer
	poller *poller
	last   atomic.Uint32 // the writer that got the newest connection

	mu    sync.Mutex
	live  int           // connections
	empty chan struct{} // closed when there is none; nil: nobody waits
}

func newWriters(n int) *writers {
	ws := &writers{began: time.Now().Add(-1), all: make([]*writer, n), poller: newPoller()}
	for i := range ws.all {
		ws.all[i] = &writer{set: ws, news: make(chan struct{}, 1)}
		go ws.all[i].run()
	}
	return ws
}

// take gives a connection to a writer.
func (ws *writers) take(c *connection) {
	ws.hold()
	c.writer = ws.writerOf(c)
	c.index = -1
	c.signal(signalNew)
}

// writerOf is the writer that a connection belongs to: one for all streams that go
// over a connection of HTTP/2.
func (ws *writers) writerOf(c *connection) *writer {
	next := func() *writer { return ws.all[int(ws.last.Add(1))%len(ws.all)] }
	if s, ok := c.socket.(*streamSocket); ok {
		return s.over.writerOf(next)
	}
	return next()
}

// hold lets the process wait for something more before it exits. gone ends that.
func (ws *writers) hold() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.live++
}

func (ws *writers) gone() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.live--
	if ws.live == 0 && ws.empty != nil {
		close(ws.empty)
		ws.empty = nil
	}
}

// WaitEmpty waits until there is no connection that was taken over, at most until
// drainedAfterEnd after their responses are to end.
func WaitEmpty(end time.Time) { theWriters().waitEmpty(end.Add(drainedAfterEnd)) }

// waitEmpty waits until there is no connection, at most until then.
func (ws *writers) waitEmpty(then time.Time) {
	ws.mu.Lock()
	if ws.live == 0 {
		ws.mu.Unlock()
		return
	}
	if ws.empty == nil {
		ws.empty = make(chan struct{})
	}
	empty := ws.empty
	ws.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(time.Until(then)):
	}
}

func (ws *writers) moment(t time.Time) moment {
	if t.IsZero() {
		return 0
	}
	return moment(t.Sub(ws.began))
}
