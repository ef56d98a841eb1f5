package delivery

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// stormSize clients who come one after the other make a storm, which is
	// over when none came for stormOver.
	stormSize = 1000
	stormOver = 2 * time.Second
)

// storm gives memory back to the system after many clients have come at once:
// what their requests leave behind, up to 40 KB each, the runtime would keep for
// minutes.
type storm struct {
	mu    sync.Mutex
	count int       // since memory was last given back
	last  time.Time // when the newest client came
	waits bool      // a timer runs until the storm may be over
}

// theStorm is the process's.
var theStorm storm

// Came takes note of a client that was sent the head of a stream.
func Came() { theStorm.add() }

// add takes note of a client. The timer that runs is left alone: it may be one of a
// test in fake time, and another test must not touch it.
func (s *storm) add() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.last = time.Now()
	if s.count >= stormSize && !s.waits {
		s.waits = true
		time.AfterFunc(stormOver, s.end)
	}
}

// end gives memory back, unless clients still come.
func (s *storm) end() {
	s.mu.Lock()
	rest := stormOver - time.Since(s.last)
	s.waits = rest > 0
	if s.waits {
		time.AfterFunc(rest, s.end)
		s.mu.Unlock()
		return
	}
	s.count = 0
	s.mu.Unlock()
	debug.FreeOSMemory()
}
