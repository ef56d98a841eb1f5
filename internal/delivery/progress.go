package delivery

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// write_timeout is for a write without progress. Progress is what the client
// acknowledges, where the system tells that. Room in the socket is a poor
// measure: the system's buffer is large, and there is no room before a third of
// it is free, so that a client that reads slowly and steadily looks stuck.
//
// The option TCP_USER_TIMEOUT of Linux is none either: while a client's window
// is closed it counts from the first time that it was, also if the window was
// open in between.

// looksPerTimeout is how often, in write_timeout, it is looked whether there
// was progress: so much later than the option says a client is cut at most. Of a
// write it is looks that count, not time: while the process is held up nobody
// writes.
const looksPerTimeout = 4

// writeWatch ends the response of a client to which a write makes no progress.
type writeWatch struct {
	rc      *http.ResponseController
	timeout time.Duration
	acks    ackTeller // nil: nobody tells
	timer   *time.Timer

	mu      sync.Mutex
	leaves  func() time.Time // when the response is to end; zero: it is not known yet
	writing bool
	still   int   // looks since the newest progress
	looked  bool  // in this write
	seen    int64 // bytes acknowledged when it was looked
	enough  int64 // more than these have nothing to do with this write
	over    bool  // rc must not be used any more
	ended   bool
}

func newWriteWatch(rc *http.ResponseController, conn net.Conn, timeout time.Duration) *writeWatch {
	s := &writeWatch{rc: rc, timeout: timeout, acks: acksOf(conn), leaves: func() time.Time { return time.Time{} }}
	s.timer = time.AfterFunc(noTimeout, s.look)
	return s
}

// begin begins to watch a write, and done ends that.
func (s *writeWatch) begin() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing, s.still, s.looked = true, 0, false
	s.timer.Reset(s.timeout / looksPerTimeout)
}

func (s *writeWatch) done() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	s.timer.Stop()
}

// look looks whether the write has made progress.
func (s *writeWatch) look() {
	overdue := s.isOverdue()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || !s.writing {
		return
	}
	if s.still++; s.progressed() {
		s.still = 0
	}
	if overdue || s.still == looksPerTimeout {
		s.ended = true
		_ = Contained(func() error { return s.rc.SetWriteDeadline(time.Unix(1, 0)) }) // a timer's
		return
	}
	s.timer.Reset(s.timeout / looksPerTimeout)
}

// progressed reports whether the client has acknowledged something since the
// last look that the write had to wait for. Over HTTP/2 the connection may make
// progress and the stream none: what comes after all that was on its way before
// the write is for others. What was acknowledged before the first look is not
// known, so there may have been some.
func (s *writeWatch) progressed() bool {
	if s.acks == nil {
		return false
	}
	switch a, known := s.acks(); {
	case !known:
		return false
	case !s.looked:
		s.looked, s.seen, s.enough = true, a.taken, a.taken+a.waiting
		return true
	case a.taken == s.seen || s.seen >= s.enough:
		return false
	default:
		s.seen = a.taken
		return true
	}
}

// isOverdue reports whether the response was to end so long ago that the rest of
// an event is not waited for.
func (s *writeWatch) isOverdue() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	leaves := s.leaves
	s.mu.Unlock()
	by, grace := leaves(), s.timeout // which needs other locks
	if stream.Process.IsStopping() {
		grace = min(grace, drainedAfterEnd)
	}
	return !by.IsZero() && time.Since(by) >= grace
}

// endBy tells when the response is to end. Then write_timeout is for all that is
// still to be written, and when the process exits drainedAfterEnd.
func (s *writeWatch) endBy(leaves func() time.Time) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaves = leaves
}

// hasEnded reports whether the watch has ended the response.
func (s *writeWatch) hasEnded() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *writeWatch) close() {
	if s == nil {
		return
	}
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// lookout notices that a client is gone which takes nothing of what was written
// without waiting: a heartbeat fits into a socket whose peer has vanished.
type lookout struct {
	acks    ackTeller
	timeout time.Duration
	at      time.Time // when to look; zero: nothing was written since all was acknowledged
	seen    int64     // bytes acknowledged at the last look
	since   time.Time // of the newest progress; zero: there was no look
}

// wrote takes note that something was written.
func (l *lookout) wrote(now time.Time) {
	if l.timeout > 0 && l.at.IsZero() {
		l.at = now.Add(l.timeout / 2)
	}
}

// look returns how long it is until it is to look again, and false if the client
// has taken nothing for as long as it may.
func (l *lookout) look(now time.Time) (wait time.Duration, ok bool) {
	switch {
	case l.at.IsZero():
		return noTimeout, true
	case now.Before(l.at):
		return l.at.Sub(now), true
	}
	a, known := l.acks()
	switch {
	case !known || a.waiting == 0:
		l.at, l.since = time.Time{}, time.Time{}
		return noTimeout, true
	case l.since.IsZero() || a.taken != l.seen:
		l.seen, l.since = a.taken, now
	case now.Sub(l.since) >= l.timeout:
		return 0, false
	}
	wait = l.timeout / looksPerTimeout
	l.at = now.Add(wait)
	return wait, true
}
