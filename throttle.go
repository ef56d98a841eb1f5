package caddysse

import (
	"sync"
	"time"
)

// throttleInterval is the shortest time between two log lines of a throttle.
const throttleInterval = time.Second

// throttle keeps a log line that clients or upstreams can cause at will from
// flooding the log. The first one is written at once. Of those within the
// interval after a line the newest is written when it is over, and tells how
// many others were suppressed: none goes uncounted. The zero value is ready to
// use.
type throttle struct {
	mu         sync.Mutex
	pausing    bool                 // a line was written within the interval
	held       func(suppressed int) // writes the newest line since
	suppressed int                  // how many others there were
}

// log writes a line, now or later. write must not take a lock that is held at a
// call of log.
func (t *throttle) log(write func(suppressed int)) {
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

func (t *throttle) pause() {
	t.pausing = true
	time.AfterFunc(throttleInterval, t.resume)
}

// resume ends a pause; if a line was held back, with that line and another pause.
func (t *throttle) resume() {
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

// throttles are the stream's log lines that are throttled. Clients open splices
// at will, each with another last event ID: those have theirs together.
func (s *stream) throttles() *streamLines {
	if s.isSplice {
		return &s.options.lines.splices
	}
	return &s.lines
}

// streamLines are the throttled log lines of a stream: those that its upstream
// can cause.
type streamLines struct {
	final     throttle // the upstream connection is not opened again
	lost      throttle
	recovered throttle
	possible  throttle // gaps
	anew      throttle
	repeated  throttle
}

// handlerLines are the throttled log lines of a handler: those that clients can
// cause, who choose which stream they come to.
type handlerLines struct {
	splices     streamLines
	gap         throttle
	skipped     throttle
	ended       throttle
	perClient   throttle
	notMerged   throttle
	turnedAway  throttle
	brokeOff    throttle
	oversized   throttle
	notDetached throttle
}
