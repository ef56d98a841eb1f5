package stream

import (
	"testing"
	"time"
	"unsafe"

	"go.uber.org/zap"
)

// clockSet is a moment as it is told when the system's clock has been set by d: the monotonic clock is as it was. (In a
// bubble there is none.)
func clockSet(now time.Time, d time.Duration) time.Time {
	const seconds = 30                                                          // the lowest bit of them in the first word of a Time with a monotonic clock
	*(*uint64)(unsafe.Pointer(&now)) += uint64(int64(d/time.Second)) << seconds //nolint:gosec // G103, G115: there is no other way to make one; a sum that wraps around is right
	return now
}

// steps are how the system's clock is set.
var steps = []time.Duration{0, time.Hour, -time.Hour}

func TestClockSet(t *testing.T) {
	now := time.Now()
	for _, step := range steps {
		set := clockSet(now, step)
		if got := time.Duration(set.UnixNano() - now.UnixNano()); got != step || set.Sub(now) != 0 {
			t.Errorf("set by %v: by %v, and by %v of the monotonic clock", step, got, set.Sub(now))
		}
	}
}

func TestSince(t *testing.T) {
	for _, step := range steps {
		var s Since
		now := time.Now()
		if _, goesOn := s.For(now); goesOn || s.GoesOn() {
			t.Error("it goes on before it has begun")
		}
		s.Begin(now)
		later := clockSet(now.Add(time.Second), step)
		if d, goesOn := s.For(later); d != time.Second || !goesOn || !s.GoesOn() {
			t.Errorf("set by %v: %v, %v", step, d, goesOn)
		}
		if s.again(later, 2*time.Second) || !s.again(later, time.Second) || s.again(later, time.Second) {
			t.Errorf("set by %v: again at another time than after a second", step)
		}
		if s.Stop(); s.GoesOn() {
			t.Error("it goes on after it has stopped")
		}
		if !s.again(now, time.Hour) || s.again(now, time.Hour) {
			t.Error("what has never begun does not begin once")
		}
	}
}

// Who is in time while the system's clock is set is waited for, and who is stuck is not.
func TestBurstGoesByTheMonotonicClock(t *testing.T) {
	for _, step := range steps {
		began := time.Now()
		inBubble(t, nil, func(st *streamTest) {
			r, up := st.start()
			up.event("1")
			s := r.sub.stream
			r.sub.Writing.Begin(began)
			s.mu.Lock()
			inTime := s.makeRoomUntil(s.buffer.Newest, clockSet(began.Add(s.options.BurstPatience), step))
			stuck := s.makeRoomUntil(s.buffer.Newest, clockSet(began.Add(s.options.BurstPatience+1), step))
			r.sub.late, r.sub.awaits = false, nil
			s.mu.Unlock()
			if inTime == nil {
				t.Errorf("set by %v: who is in time is not waited for", step)
			}
			if stuck != nil {
				t.Errorf("set by %v: who is stuck is waited for", step)
			}
			r.sub.Writing.Stop()
		})
	}
}

// What is used is looked at, however the system's clock is set.
func TestPressureGoesByTheMonotonicClock(t *testing.T) {
	for _, step := range steps {
		h, looks := NewHub(), 0
		h.resources.memory = func() (uint64, uint64) { looks++; return 0, 100 }
		now := time.Now()
		h.isShort(zap.NewNop(), now)
		for range 2 {
			now = now.Add(pressureInterval)
			h.isShort(zap.NewNop(), clockSet(now, step))
			h.isShort(zap.NewNop(), clockSet(now, step))
		}
		if looks != 3 {
			t.Errorf("set by %v: %d looks, expected 3", step, looks)
		}
	}
}
