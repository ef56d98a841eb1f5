// Package evidence tells whether two upstream connections bring the same: what a
// connection is greeted with, whether both get an event at the same moment, at which
// of its blocks a stream is where another connection is, and whether a connection
// goes on after the one before. It is pure: what both have brought, and when, goes in,
// a verdict comes out. What follows from it is for the stream.
//
// It has no lock: the stream's guards all of it.
package evidence

import (
	"hash/maphash"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

const (
	// TwinWindow is how far apart two connections may bring the same
	// broadcast.
	TwinWindow = time.Second

	// Pause ends what an upstream sends to greet a connection.
	Pause = time.Second

	// ResumePause ends what an upstream sends to a connection that goes on
	// after an ID: a history may come in batches.
	ResumePause = 5 * time.Second

	// MaxSettle is how long both connections must have been quiet for equal
	// blocks to be told apart by their time.
	MaxSettle = 50 * time.Millisecond

	// SlowestGreeting is how late a first block may come and be a greeting. One
	// that comes later is taken for the first that there was to be told.
	SlowestGreeting = 10 * time.Second

	// maxGreeting is how many blocks of a greeting are remembered.
	maxGreeting = 256

	// maxBurst bounds how many blocks count as what came with the first one.
	maxBurst = 64
)

// Track is what the connections of a stream have brought, one after the other, or
// those of a splice. The buffer is the stream's own.
type Track struct {
	Buffer *replay.Buffer
	Conn   *Connection // the newest; nil: there was none

	HeadAt   time.Time // when the head of the newest connection came; zero: it has none
	NewestAt time.Time // when the newest block came that says something, or could be read again
	HeldAt   time.Time // when the reader last went on that had waited for room
	Full     bool      // the next block waits for room
	Said     uint64    // how many blocks it has had that say something
	Greets   bool      // connections beside it were told something that it was not told at that time

	begun     bool          // the connection has brought a block that says something
	ownFirst  time.Duration // from its head to that block, unless that was no greeting
	firstTime time.Duration // the longest from a head to the first block of a connection beside it
}

// Opened takes note that a connection has its head.
func (t *Track) Opened(now time.Time) { t.HeadAt, t.begun = now, false }

// GoOn takes note that the stream goes on with a connection that has brought
// something before.
func (t *Track) GoOn(with *Track) { t.HeadAt, t.begun = with.HeadAt, true }

// HeldUp takes note that the stream itself did not read until now: that was no pause
// of the upstream.
func (t *Track) HeldUp(now time.Time) {
	t.HeldAt = now
	if !t.NewestAt.IsZero() {
		t.NewestAt = now
	}
}

// WasHeld reports whether the track's connection has ever been read later than it could
// be, because its clients held it up. What it brings since was told at a time that
// nobody knows, and the pauses in it may be the gateway's: that it differs from what
// another one brings at the same time says nothing.
func (t *Track) WasHeld() bool { return t.Full || !t.HeldAt.IsZero() }

// Note takes note of a block that says something and is about to be kept. ownGreeting
// tells that the first one counts for how long a greeting takes.
func (t *Track) Note(b *replay.Block, ownGreeting bool) {
	if !t.begun {
		t.begun = true
		if first := b.At.Sub(t.HeadAt); ownGreeting && first <= SlowestGreeting {
			t.ownFirst = first
		}
	}
	t.NewestAt = b.At
	t.Said++
}

// GreetingTime is how long after its head a connection of the stream, or beside it,
// is given to be greeted.
func (t *Track) GreetingTime() time.Duration { return max(Pause, 2*t.firstTime, 2*t.ownFirst) }

// GreetedAt is when the newest connection has had its time to be greeted, which is that
// of the stream; zero: it has no head yet.
func (t *Track) GreetedAt(stream *Track) time.Time {
	if t.HeadAt.IsZero() {
		return time.Time{}
	}
	return t.HeadAt.Add(stream.GreetingTime())
}

// Knows reports whether the stream has got the bytes of a block, at any time.
func (t *Track) Knows(hash uint64) bool {
	n, _ := t.Buffer.Twins(hash)
	return n > 0 || (t.Conn != nil && slices.Contains(t.Conn.greeting, hash))
}

// GreetsAsBefore reports whether all that a later connection was greeted with is what
// the stream has got before.
func (t *Track) GreetsAsBefore(c *Connection) bool {
	return !slices.ContainsFunc(c.greeting, func(hash uint64) bool { return !t.Knows(hash) })
}

// isLive reports whether a block of a stream came after the track's connection had its
// head: only such a block can have been told to both. An older one is part of what the
// upstream greets with, and more of that may follow.
func (t *Track) isLive(k *replay.Block) bool { return t.HeadAt.Sub(k.At) <= MaxSettle }

// Connection is what is remembered of one upstream connection to be compared with
// others. The greeting is what it has brought before its first pause; the burst only
// what came at once with its first block.
type Connection struct {
	Began time.Time // when it was opened

	greeting []uint64  // hashes of blocks
	hello    bool      // one of them is an event
	paused   bool      // the greeting is over
	newest   time.Time // when the newest block came that says something

	burst                []uint64 // hashes of lines
	burstBegan, burstEnd time.Time
}

// Note takes note of a block that says something, and is about to be kept in the track
// of its stream.
func (c *Connection) Note(b *replay.Block, of *Track) {
	switch {
	case c.paused, !c.newest.IsZero() && b.At.Sub(Later(c.newest, of.HeldAt)) >= Pause:
		c.paused = true
	case len(c.greeting) < maxGreeting:
		c.greeting = append(c.greeting, b.Hash)
		c.hello = c.hello || b.Dispatches
	}
	b.AfterPause = b.At.Sub(Later(Later(c.newest, of.HeadAt), of.HeldAt)) >= Pause
	c.newest = b.At
}

var linesSeed = maphash.MakeSeed()

// NoteLines takes note of the lines of a block that is not comment-only, repeated ones
// too.
func (c *Connection) NoteLines(lines []byte, now time.Time) {
	switch n := len(c.burst); {
	case n == 0:
		c.burstBegan, c.burstEnd = now, now
	case n == maxBurst, now.Sub(c.burstEnd) > MaxSettle, now.Sub(c.burstBegan) > Pause:
		return
	}
	c.burstEnd = now
	c.burst = append(c.burst, maphash.Bytes(linesSeed, lines))
}

// beganWith reports whether a block was in the connection's burst.
func (c *Connection) beganWith(b *replay.Block) bool {
	return slices.Contains(c.burst, maphash.Bytes(linesSeed, b.Wire[:b.Lines]))
}

// greetedAlike reports whether two connections were greeted, and with the same.
func (c *Connection) greetedAlike(o *Connection) bool {
	return c.hello && len(c.greeting) < maxGreeting && slices.Equal(c.greeting, o.greeting)
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Earliest makes *at the earlier of two times.
func Earliest(at *time.Time, other time.Time) {
	if other.Before(*at) {
		*at = other
	}
}
