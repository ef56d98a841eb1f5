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
	clock

	all    []*writer
	poller *poller
	last   atomic.Uint32 // the writer that got the newest connection
	live   live
}

func newWriters(n int) *writers {
	ws := &writers{clock: clock{time.Now().Add(-1)}, all: make([]*writer, n), poller: newPoller()}
	for i := range ws.all {
		ws.all[i] = newWriter(ws.clock, &ws.live)
		go ws.all[i].run()
	}
	return ws
}

// take gives a connection to a writer. at is where its home is, if it has one.
func (ws *writers) take(c *connection, at *home) {
	ws.live.hold()
	var w *writer
	if at == nil {
		w = ws.next()
	} else {
		at.once.Do(func() { at.writer = ws.next() })
		w = at.writer
	}
	c.inbox = &w.inbox
	c.index = -1
	c.signal(signalNew)
}

// next is the writer whose turn it is to get a connection.
func (ws *writers) next() *writer { return ws.all[int(ws.last.Add(1))%len(ws.all)] }

// home is the writer that several connections belong to: all streams that go over
// a connection of HTTP/2.
type home struct {
	once   sync.Once
	writer *writer
}

// WaitEmpty waits until there is no connection that was taken over, at most until
// drainedAfterEnd after their responses are to end.
func WaitEmpty(end time.Time) { theWriters().live.wait(end.Add(drainedAfterEnd)) }
