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
	count int         // since memory was last given back
	over  *time.Timer // nil: there was none yet
}

// theStorm is the process's.
var theStorm storm

// Came takes note of a client that was sent the head of a stream.
func Came() { theStorm.add() }

// add takes note of a client.
func (s *storm) add() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	switch {
	case s.count < stormSize:
	case s.over == nil:
		s.over = time.AfterFunc(stormOver, s.end)
	default:
		s.over.Reset(stormOver)
	}
}

func (s *storm) end() {
	s.mu.Lock()
	s.count = 0
	s.mu.Unlock()
	debug.FreeOSMemory()
}
