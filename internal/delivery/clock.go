package delivery

import (
	"time"
)

// moment is a point in time, by the monotonic clock: nanoseconds since a clock
// began. 0 is none.
type moment time.Duration

// clock tells moments from a little after it began.
type clock struct{ began time.Time }

func (c clock) moment(t time.Time) moment {
	if t.IsZero() {
		return 0
	}
	return moment(t.Sub(c.began))
}

func (c clock) time(m moment) time.Time { return c.began.Add(time.Duration(m)) }

// sooner is the earlier of two moments, or the one that there is.
func sooner(a, b moment) moment {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// noTimeout stands for no time limit where one must be given.
const noTimeout = 100 * 365 * 24 * time.Hour
