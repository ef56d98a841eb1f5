package delivery

import (
	"testing"
	"testing/synctest"
	"time"
)

// A storm is over when nobody has come for a while, not before, and may begin again.
func TestStormIsOverWhenNobodyComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s storm
		for range 2 {
			for range stormSize + 1 {
				s.add()
				time.Sleep(stormOver / stormSize)
			}
			s.expect(t, stormSize+1)
			time.Sleep(stormOver)
			synctest.Wait()
			s.expect(t, 0)
		}
	})
}

// The process has one storm, and tests in fake time have clients, too: none touches the
// timer of another, which would end the process.
func TestStormGoesOnInAnotherTime(t *testing.T) {
	var s storm
	synctest.Test(t, func(*testing.T) {
		for range stormSize {
			s.add()
		}
	})
	s.add()
	s.expect(t, stormSize+1)
}

// expect checks how many clients have come.
func (s *storm) expect(t *testing.T, count int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count != count {
		t.Errorf("%d clients are counted, expected %d", s.count, count)
	}
}
