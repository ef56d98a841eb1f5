package logs

import (
	"sync"
	"time"
)

// Interval is the shortest time between two log lines of a throttle.
const Interval = time.Second

// Throttle keeps a log line that clients or upstreams can cause at will from
// flooding the log. The first one is written at once. Of those within the
// interval after a line the newest is written when it is over, and tells how
// many others were suppressed: none goes uncounted. The zero value is ready to
// use.
type Throttle struct {
	mu         sync.Mutex
	pausing    bool                 // a line was written within the interval
	held       func(suppressed int) // writes the newest line since
	suppressed int                  // how many others there were
}

// Log writes a line, now or later. write must not take a lock that is held at a
// call of log.
func (t *Throttle) Log(write func(suppressed int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.pausing {
		t.pause()
		write(0)
		return
	}
	if t.held != nil {
		t.suppressed++
	}
	t.held = write
}

func (t *Throttle) pause() {
	t.pausing = true
	time.AfterFunc(Interval, t.resume)
}

// resume ends a pause; if a line was held back, with that line and another pause.
func (t *Throttle) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pausing = false
	if t.held == nil {
		return
	}
	write, suppressed := t.held, t.suppressed
	t.held, t.suppressed = nil, 0
	t.pause()
	write(suppressed)
}
