package stream

import (
	"math/rand/v2"
	"time"
)

// random is chance, from 0 to 1. A test with a seed has its own.
var random = rand.Float64

const (
	// defaultReconnectionTime is the base of the reconnection delay while the
	// upstream has not sent a retry of its own.
	defaultReconnectionTime = time.Second

	// minReconnectDelay is the least delay before the gateway reconnects. An
	// upstream says with retry: 1 that its clients may come back at once; it does
	// not ask for a thousand requests a second of one that is not slowed down by
	// a network.
	minReconnectDelay = 250 * time.Millisecond

	// maxReconnectDelay bounds the delay between two attempts to reconnect,
	// unless the upstream's reconnection time is longer.
	maxReconnectDelay = 30 * time.Second

	// maxReconnectionTime bounds what is taken for a reconnection time.
	maxReconnectionTime = 24 * time.Hour

	// defaultGiveUp is how long a broken stream keeps trying before its
	// subscribers are drained: longer than what an application is away for when
	// it is deployed, fails over or is restored. Until then no client notices.
	// It costs one attempt in half a minute for each stream.
	defaultGiveUp = time.Hour
)

// backoff computes the delays between attempts to reach an upstream again:
// exponential, with jitter, and never below the upstream's reconnection time
// (HTML 9.2.3). It is a plain value; time and chance are passed in.
type backoff struct {
	base     time.Duration // the upstream's reconnection time; 0: defaultReconnectionTime
	attempts int           // since the last event, or since a connection that lasted
	delay    time.Duration // before the newest attempt
	lost     time.Time     // when the upstream was lost that is not reached yet; zero: it is
	away     time.Duration // how long it was lost before that, since its last block
}

// next returns how long to wait before the next attempt, and false when the
// upstream was away for GiveUp since its last block. RetryAfter is what the
// upstream asked for (RFC 9110, 10.2.3), 0 if nothing; random returns a number
// in [0, 1).
func (b *backoff) next(now time.Time, giveUp, retryAfter time.Duration, random func() float64) (time.Duration, bool) {
	if b.lost.IsZero() {
		b.lost = now
	}
	if b.left(now, giveUp) == 0 {
		return 0, false
	}
	least, limit := minReconnectDelay, defaultReconnectionTime
	if b.base > 0 {
		least = max(minReconnectDelay, min(b.base, maxReconnectionTime))
		limit = 2 * least
	}
	for i := 0; i < b.attempts && limit < maxReconnectDelay; i++ {
		limit *= 2
	}
	limit = max(least, min(limit, maxReconnectDelay))
	b.attempts++
	b.delay = least + time.Duration(random()*float64(limit-least))
	b.delay = max(b.delay, min(retryAfter, maxReconnectDelay))
	return b.delay, true
}

// left returns how much of GiveUp is left.
func (b *backoff) left(now time.Time, giveUp time.Duration) time.Duration {
	away := b.away
	if !b.lost.IsZero() {
		away += now.Sub(b.lost)
	}
	return max(0, giveUp-away)
}

// reached takes note that the upstream answered. Neither the delays are
// forgotten nor how long it was away: an upstream that breaks as soon as it is
// reached is not to be hurried, and not to be tried for ever.
func (b *backoff) reached(now time.Time) {
	if !b.lost.IsZero() {
		b.away += now.Sub(b.lost)
		b.lost = time.Time{}
	}
}

// lasted takes note of how long a connection did. One that outlived the delay
// before it was no failure: something on the way cuts it when nothing is said.
func (b *backoff) lasted(d time.Duration) {
	if d > b.delay {
		b.attempts = 0
	}
}

// heard takes note of a block of the upstream, which may be a comment.
func (b *backoff) heard() { b.away = 0 }

// begin counts give_up anew: somebody has asked for the upstream again.
func (b *backoff) begin() { b.lost, b.away = time.Time{}, 0 }

// reset forgets the failures: the upstream sent an event.
func (b *backoff) reset() {
	b.attempts = 0
	b.lost, b.away = time.Time{}, 0
}
