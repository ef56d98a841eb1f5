package stream

import "time"

// stay is for how long a stream is kept when nobody reads it; see lingering.go. The
// stream's lock guards it.
type stay struct {
	timer      *time.Timer   // ends the stream; nil: somebody is there
	answered   time.Time     // when the stream's first head came
	alone      time.Time     // since when it has had no subscribers, with timer
	earned     time.Duration // of the time without subscribers
	attendedAt time.Time     // since when it has had some
}

// isLingering reports whether the stream is to end by itself.
func (t *stay) isLingering() bool { return t.timer != nil }

// began takes note of the stream's first head.
func (t *stay) began(now time.Time) { t.answered = now }

// lasted is how long the stream has had a head by now.
func (t *stay) lasted(now time.Time) time.Duration { return now.Sub(t.answered) }

// attended begins the time in which the stream has subscribers.
func (t *stay) attended(now time.Time) { t.attendedAt = now }

// restart stops the timer that there is. If there is none the time begins in which the
// stream has no subscribers: it has earned that by the time with some, up to most.
func (t *stay) restart(now time.Time, most time.Duration) {
	if t.timer != nil {
		t.timer.Stop()
		return
	}
	t.alone = now
	t.earned = min(most, t.earned+now.Sub(t.attendedAt))
}

// endWith sets the timer that ends the stream, and isMeant reports whether that is
// still it.
func (t *stay) endWith(timer *time.Timer)      { t.timer = timer }
func (t *stay) isMeant(timer *time.Timer) bool { return t.timer == timer }

// stop takes back that the stream ends by itself; false: it did not. What it has
// earned is used up by the time without subscribers.
func (t *stay) stop(now time.Time) bool {
	if t.timer == nil {
		return false
	}
	t.timer.Stop()
	t.timer = nil
	t.earned = max(0, t.earned-now.Sub(t.alone))
	return true
}

// hasEarned reports whether the stream has earned so much of the time without
// subscribers.
func (t *stay) hasEarned(d time.Duration) bool { return t.earned >= d }

// aloneSince is since when the stream has had no subscribers, if it lingers.
func (t *stay) aloneSince() time.Time { return t.alone }
