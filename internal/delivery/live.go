package delivery

import (
	"sync"
	"time"
)

// drainedAfterEnd is how long the process waits, at its exit, for connections to
// which the end of their response cannot be written.
const drainedAfterEnd = time.Second

// live counts what the process waits for before it exits.
type live struct {
	mu    sync.Mutex
	n     int           // connections, and what is still written of them
	empty chan struct{} // closed when there is none; nil: nobody waits
}

// hold lets the process wait for something more before it exits. gone ends that.
func (l *live) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
}

func (l *live) gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
	if l.n == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

// wait waits until there is nothing more, at most until then.
func (l *live) wait(then time.Time) {
	l.mu.Lock()
	if l.n == 0 {
		l.mu.Unlock()
		return
	}
	if l.empty == nil {
		l.empty = make(chan struct{})
	}
	empty := l.empty
	l.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(time.Until(then)):
	}
}
