package stream

import (
	"errors"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

const (
	// AttemptTime bounds how long an upstream that was lost may take to answer:
	// then another attempt is made. One of several backends may be frozen, a
	// network may swallow what it is sent. One that took longer before, because
	// it sends its head with its first event, has twice that time.
	AttemptTime = 30 * time.Second

	// leastAttemptTime is what an attempt has, however little of give_up is left.
	leastAttemptTime = time.Second
)

// attempts is how a stream's upstream was reached until now, and lost. The stream's
// lock guards it.
type attempts struct {
	backoff     backoff
	connections int           // how many there were
	slowestHead time.Duration // the longest that one took to its head
	oversized   int           // blocks over max_event_size in a row
	broke       bool          // the last connection did, or none came about
	lostAt      time.Time     // when the upstream was lost that is to be reached again; zero: it was not
}

// count is how many attempts there were since the upstream was lost.
func (a *attempts) count() int { return a.backoff.attempts }

// limit is how long the next connection may take until its head comes.
func (a *attempts) limit(now time.Time, giveUp time.Duration) time.Duration {
	return min(max(AttemptTime, 2*a.slowestHead), max(leastAttemptTime, a.backoff.left(now, giveUp)))
}

// answered takes note of a head, which has taken so long.
func (a *attempts) answered(took time.Duration, now time.Time) {
	a.slowestHead = max(a.slowestHead, took)
	a.backoff.reached(now)
}

// away is for how long the upstream was lost that is reached again.
func (a *attempts) away() time.Duration { return time.Since(a.lostAt) }

// isReached takes note that the upstream is not lost any more.
func (a *attempts) isReached() { a.lostAt = time.Time{} }

// heard takes note of a block of the upstream.
func (a *attempts) heard(isEvent bool) {
	a.backoff.heard()
	if isEvent {
		a.backoff.reset()
		a.oversized = 0
	}
}

// wait sets the upstream's reconnection time.
func (a *attempts) wait(retry time.Duration) { a.backoff.base = retry }

// hurry forgets the failures: the next attempt is made at once.
func (a *attempts) hurry() { a.backoff.reset() }

// ended takes note of how a connection has; resumes tells that a clean end is to be
// hidden, too.
func (a *attempts) ended(end upstreams.Ending, resumes bool) {
	if end.Events {
		a.broke = !end.Clean || resumes
	}
	if errors.Is(end.Err, eventstream.ErrBlockTooLarge) {
		a.oversized++
	}
}

// areOversized reports whether one block over max_event_size came after the other.
func (a *attempts) areOversized() bool { return a.oversized > 1 }

// lasted takes note of how long a connection did.
func (a *attempts) lasted(d time.Duration) { a.backoff.lasted(d) }

// lost takes note that the upstream was, unless it is so already.
func (a *attempts) lost(now time.Time) {
	if a.lostAt.IsZero() {
		a.lostAt = now
	}
}

// next returns how long to wait before the next attempt, and false when the upstream
// was away for giveUp.
func (a *attempts) next(now time.Time, giveUp, retryAfter time.Duration) (time.Duration, bool) {
	return a.backoff.next(now, giveUp, retryAfter, random)
}

// begin begins anew: somebody has asked for an upstream again that had ended the
// stream. Nobody knows what it sent meanwhile.
func (a *attempts) begin(now time.Time) {
	a.broke, a.lostAt = true, now
	a.backoff.begin()
}

// replaced takes note that a connection that is there goes on for one that was lost.
func (a *attempts) replaced(now time.Time) {
	a.broke, a.lostAt = false, time.Time{}
	a.backoff.reached(now)
}
