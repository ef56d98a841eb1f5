package delivery

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// cuttable is a ResponseWriter of which a write deadline in the past is the end.
type cuttable struct {
	http.ResponseWriter
	cut time.Time
}

func (c *cuttable) SetWriteDeadline(time.Time) error {
	c.cut = time.Now()
	return nil
}

// watchWrite watches a write that takes very long, and returns after how long it was
// cut; taken is what the client has acknowledged at a time since the write began.
func watchWrite(timeout time.Duration, taken func(since time.Duration) int64, leaves func() time.Time) time.Duration {
	began := time.Now()
	w := new(cuttable)
	s := newWriteWatch(http.NewResponseController(w), nil, timeout)
	s.acks = func() (acks, bool) {
		n := taken(time.Since(began))
		return acks{taken: n, waiting: 1<<40 - n}, true
	}
	s.endBy(leaves)
	s.begin()
	time.Sleep(time.Hour)
	s.done()
	s.close()
	return w.cut.Sub(began)
}

func neverLeaves() time.Time { return time.Time{} }

// A client that takes something is not cut before write_timeout has passed since then.
func TestWriteIsCutAfterTimeoutWithoutProgress(t *testing.T) {
	const timeout = 4 * time.Second
	for last := time.Duration(0); last < 3*timeout; last += timeout / 20 {
		synctest.Test(t, func(t *testing.T) {
			cut := watchWrite(timeout, func(since time.Duration) int64 { return int64(min(since, last)) }, neverLeaves)
			if still := cut - last; still < timeout || still > timeout*(looksPerTimeout+1)/looksPerTimeout {
				t.Errorf("the client took something until %v after the write began, and was cut %v later", last, still)
			}
		})
	}
}

// Time in which the process was held up is not the client's.
func TestWriteIsNotCutForTheGatewaysPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout, pause = 4 * time.Second, time.Minute
		paused := false
		cut := watchWrite(timeout, func(time.Duration) int64 { return 0 }, func() time.Time {
			if !paused {
				paused = true
				time.Sleep(pause)
			}
			return time.Time{}
		})
		if cut < pause+timeout*(looksPerTimeout-1)/looksPerTimeout {
			t.Errorf("cut after %v, of which %v were a pause", cut, pause)
		}
	})
}
