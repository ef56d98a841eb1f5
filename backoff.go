package caddysse

import "time"

const (
	// defaultReconnectionTime is the base of the reconnection delay while the
	// upstream has not sent a retry of its own.
	defaultReconnectionTime = time.Second

	// maxReconnectDelay bounds the delay between two attempts to reconnect.
	maxReconnectDelay = 30 * time.Second

	// defaultGiveUp is how long a broken stream keeps trying before its
	// subscribers are drained.
	defaultGiveUp = time.Minute
)

// backoff computes the delays between attempts to reach an upstream again:
// exponential from the upstream's reconnection time, with full jitter. It is a
// plain value; time and chance are passed in.
type backoff struct {
	base     time.Duration // the upstream's reconnection time; 0: defaultReconnectionTime
	attempts int           // since the last event
	since    time.Time     // the first failure since the last event; zero: none
}

// next returns how long to wait before the next attempt, and false when the
// attempts since the last event have lasted longer than giveUp. retryAfter is
// what the upstream asked for (RFC 9110, 10.2.3), 0 if nothing; random returns
// a number in [0, 1).
func (b *backoff) next(now time.Time, giveUp, retryAfter time.Duration, random func() float64) (time.Duration, bool) {
	if b.since.IsZero() {
		b.since = now
	}
	if now.Sub(b.since) >= giveUp {
		return 0, false
	}
	base := b.base
	if base <= 0 {
		base = defaultReconnectionTime
	}
	limit := min(base, maxReconnectDelay)
	for range b.attempts {
		if limit >= maxReconnectDelay/2 {
			limit = maxReconnectDelay
			break
		}
		limit *= 2
	}
	b.attempts++
	delay := time.Duration(random() * float64(limit))
	return max(delay, min(retryAfter, maxReconnectDelay)), true
}

// reached takes note that the upstream answered: how long attempts may last is
// counted anew when it is lost again. The delays are not forgotten: an upstream
// that breaks as soon as it is reached is not to be hurried.
func (b *backoff) reached() { b.since = time.Time{} }

// reset forgets the failures: the upstream sent an event.
func (b *backoff) reset() {
	b.attempts = 0
	b.since = time.Time{}
}
