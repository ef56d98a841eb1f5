package stream

import (
	"sync/atomic"
	"time"
)

// Since is the moment since when something goes on, for all goroutines. The zero value: nothing does. It goes by the
// monotonic clock: the system's may be set, forward and back, while a stream lasts.
type Since struct{ at atomic.Int64 } // nanoseconds after theBeginning

// theBeginning is a moment before all others.
var theBeginning = time.Now().Add(-1)

// Begin takes note that it begins now.
func (s *Since) Begin(now time.Time) { s.at.Store(int64(now.Sub(theBeginning))) }

// Stop takes note that it does not go on any more.
func (s *Since) Stop() { s.at.Store(0) }

// GoesOn reports whether it does.
func (s *Since) GoesOn() bool { return s.at.Load() != 0 }

// For is for how long it has gone on; false: it does not.
func (s *Since) For(now time.Time) (d time.Duration, goesOn bool) {
	at := s.at.Load()
	if at == 0 {
		return 0, false
	}
	return now.Sub(theBeginning) - time.Duration(at), true
}

// again reports whether it has not begun within a time, and lets it begin now: for one of those who ask at once.
func (s *Since) again(now time.Time, within time.Duration) bool {
	at := s.at.Load()
	next := int64(now.Sub(theBeginning))
	return (at == 0 || next-at >= int64(within)) && s.at.CompareAndSwap(at, next)
}
