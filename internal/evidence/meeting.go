package evidence

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// When a splice may be merged into its stream: when both are seen to bring the
// same, so that a subscriber can go over from one to the other without losing
// or repeating anything. Whether two blocks are the same broadcast is a matter
// of evidence: their bytes, their ids, their times, their neighbours.

const (
	// maxSteps is how many blocks are looked at, each time that runs are compared
	// for a splice, and after how many in attemptWindow it is left for later: it is
	// done while the reader of the upstream waits.
	attemptWindow = 5 * time.Millisecond
	maxSteps      = 512

	// enoughWitnesses is how many blocks, each of which occurs once in either
	// buffer, show that two connections bring the same.
	enoughWitnesses = 3
)

// Together returns the position of the stream at which the splice is.
func (p Pair) Together(now time.Time, again *time.Time) (position uint64, ok bool) {
	if to, ok := p.Meeting(now, again); ok && p.isUpTo(to, now) {
		return to, true
	}
	if p.Quiet(now, again) && (p.Shared || p.greetedAlike()) {
		return p.Stream.Buffer.Newest, true
	}
	return 0, false
}

// isUpTo reports whether a splice is not behind a stream that is not proven, at a
// position, by more than two connections are that are told the same: what the
// stream has got since is to come to the splice, too.
func (p Pair) isUpTo(position uint64, now time.Time) bool {
	if p.Shared {
		return true
	}
	for _, b := range p.Stream.Buffer.After(position) {
		if b.Says() && !b.Told {
			return now.Sub(b.At) <= p.skew()
		}
	}
	return true
}

// greetedAlike reports whether stream and splice were greeted, and with the same.
func (p Pair) greetedAlike() bool {
	return p.Stream.Conn != nil && p.Stream.Conn.greetedAlike(p.Beside.Conn)
}

// Meeting returns the position of the stream's block that is the splice's
// newest.
func (p Pair) Meeting(now time.Time, again *time.Time) (position uint64, ok bool) {
	b := p.Beside.Buffer.NewestBlock()
	if b == nil || !b.Dispatches {
		return 0, false
	}
	if n, _ := p.Stream.Buffer.Twins(b.Hash); n == 0 {
		return 0, false // nothing else is as fast to tell
	}
	if b.ID != "" {
		return p.meetingByID(b)
	}
	if !p.mayAttempt(now, again) {
		return 0, false
	}
	return p.meetingByRun(now, again)
}

// mayAttempt bounds how much is looked at to find a meeting by comparing runs.
func (l *Likeness) mayAttempt(now time.Time, again *time.Time) bool {
	if now.Sub(l.attemptsAt) >= attemptWindow {
		l.steps, l.attemptsAt = 0, now
	}
	if l.steps < maxSteps {
		return true
	}
	Earliest(again, l.attemptsAt.Add(attemptWindow))
	return false
}

// meetingByID looks for the block with the same id, and the same bytes: a
// snapshot may carry the id of the last change. Old blocks do not count:
// counters that each connection has for itself repeat.
func (p Pair) meetingByID(b *replay.Block) (position uint64, ok bool) {
	n, twin := p.Stream.Buffer.WithID(b.ID)
	if n != 1 || !twin.Equal(b) || !p.near(twin, b) || !p.Beside.isLive(twin) || !p.counts(b) {
		return 0, false
	}
	return twin.Position, true
}

// meetingByRun looks for the run of blocks that ends with the splice's newest.
func (p Pair) meetingByRun(now time.Time, again *time.Time) (position uint64, ok bool) {
	if i, last, ok := p.alignment(); ok {
		k, newest := p.Stream.Buffer.Blocks[i], p.Beside.Buffer.Blocks[last]
		if newest.At.Sub(k.At) <= TwinWindow && p.witnessed(i, last) {
			return k.Position, true
		}
	}
	return p.meetingOfEquals(now, again)
}

// alignment returns which block of the stream is the splice's newest event, last, if
// both bring the same: as far after the newest witness, a block that occurs once on
// either side. Without one there is nothing to be seen.
func (p Pair) alignment() (i, last int, ok bool) {
	theirs, after := p.Beside.Buffer.Blocks, 0
	last = -1
	for j, b := range slices.Backward(theirs) {
		if p.steps++; len(theirs)-j > maxSteps {
			return 0, 0, false
		}
		if !b.Dispatches {
			continue
		}
		if last < 0 {
			last = j
		}
		n, k := p.Stream.Buffer.Twins(b.Hash)
		switch {
		case n == 0, !p.counts(b):
			return 0, 0, false // the stream has not got it yet, or it may be how each begins
		case n == 1 && p.Beside.Buffer.OccursOnce(b):
			i, ok = p.eventsAfter(k, after)
			return i, last, ok
		}
		after++
	}
	return 0, 0, false
}

// eventsAfter returns the index of the event that came to the stream n events after a
// block, for a splice; false if it has not come yet.
func (p Pair) eventsAfter(k *replay.Block, n int) (i int, ok bool) {
	blocks := p.Stream.Buffer.Blocks
	i = len(blocks) - len(p.Stream.Buffer.After(k.Position)) - 1
	for n > 0 {
		p.steps++
		if i++; i == len(blocks) {
			return 0, false
		}
		if blocks[i].Dispatches {
			n--
		}
	}
	return i, true
}

// witnessed reports whether it shows that the splice's block j, to its end, is the
// stream's block i: by three pairs in a row of blocks that occur once on either
// side, or by one that came after a pause on both.
func (p Pair) witnessed(i, j int) bool {
	ours, theirs := p.Stream.Buffer.Blocks, p.Beside.Buffer.Blocks
	n := 0
	for range maxSteps {
		for i >= 0 && !ours[i].Dispatches {
			i--
		}
		for j >= 0 && !theirs[j].Dispatches {
			j--
		}
		if i < 0 || j < 0 || !p.near(ours[i], theirs[j]) || !ours[i].Equal(theirs[j]) {
			return false
		}
		if p.counts(theirs[j]) && p.Stream.Buffer.OccursOnce(ours[i]) && p.Beside.Buffer.OccursOnce(theirs[j]) {
			n++
			if n >= enoughWitnesses || (ours[i].AfterPause && apart(ours[i], theirs[j]) <= 2*MaxSettle && p.Beside.isLive(ours[i]) &&
				(theirs[j].AfterPause || theirs[j].Ordinal == 1)) {
				return true
			}
		}
		i, j = i-1, j-1
	}
	return false
}

// meetingOfEquals is for upstreams whose blocks are all the same, so that only
// their times tell them apart: the newest of both belong together if they came
// at the same time, and nothing came since.
func (p Pair) meetingOfEquals(now time.Time, again *time.Time) (position uint64, ok bool) {
	ours, ok := recentEquals(p.Stream.Buffer, now)
	if !ok {
		return 0, false
	}
	theirs, ok := recentEquals(p.Beside.Buffer, now)
	if !ok {
		return 0, false
	}
	a, b := ours.newest, theirs.newest
	if !a.Equal(b) {
		return 0, false
	}
	interval := b.At.Sub(theirs.oldest.At) / time.Duration(theirs.count-1)
	settle := min(interval/4, MaxSettle)
	if apart(a, b) >= settle {
		return 0, false
	}
	settled := Later(a.At, b.At).Add(settle)
	if now.Before(settled) {
		Earliest(again, settled)
		return 0, false
	}
	return a.Position, true
}

// equals are the newest events of a buffer, all the same.
type equals struct {
	newest, oldest *replay.Block
	count          int
}

// recentEquals returns the events of the last two TwinWindows, at least
// enoughWitnesses, if they are all the same and not too many to be told apart by
// their times.
func recentEquals(f *replay.Buffer, now time.Time) (e equals, ok bool) {
	for _, b := range slices.Backward(f.Blocks) {
		if !b.Dispatches {
			continue
		}
		if e.count >= enoughWitnesses && now.Sub(b.At) > 2*TwinWindow {
			break
		}
		if e.newest == nil {
			e.newest = b
		}
		if !b.Equal(e.newest) || e.count >= maxSteps {
			return e, false
		}
		e.oldest = b
		e.count++
	}
	return e, e.count >= enoughWitnesses
}

// Quiet reports whether a splice has told its greeting, if any, and the stream
// has had nothing since the splice was opened, so that the splice is at the
// stream's newest block.
func (p Pair) Quiet(now time.Time, again *time.Time) bool {
	s, sp := p.Stream, p.Beside
	if sp.Full || s.Full || s.Said != p.Said {
		return false // the next block of the splice is there already, or the stream's
	}
	last := Later(Later(sp.HeadAt, sp.NewestAt), s.HeadAt) // a new connection may still bring what was missed
	last = Later(last, Later(sp.HeldAt, s.HeldAt))         // and so may one that was not read
	pause := Pause
	if p.ID != "" {
		pause = ResumePause
	}
	silent := last.Add(max(pause, s.GreetingTime()))
	if now.Before(silent) {
		Earliest(again, silent)
		return false
	}
	return true
}

// near reports whether two blocks can be the same broadcast. On connections that
// were opened shortly one after the other what each does by itself comes as far
// apart as they were opened.
func (p Pair) near(k, b *replay.Block) bool { return apart(k, b) <= p.skew() }

// counts reports whether a block of a splice can show that both are told the same.
// What came earlier may be how each connection begins, though they begin alike.
func (p Pair) counts(b *replay.Block) bool {
	return p.Shared || !b.At.Before(p.Beside.GreetedAt(p.Stream))
}

// skew is how far apart stream and splice may be told the same.
func (p Pair) skew() time.Duration {
	if p.Shared || p.Stream.Conn == nil || p.Beside.Conn == nil {
		return TwinWindow
	}
	return min(TwinWindow, p.Beside.Conn.Began.Sub(p.Stream.Conn.Began).Abs()/2, p.Beside.HeadAt.Sub(p.Stream.HeadAt).Abs()/2)
}

func apart(a, b *replay.Block) time.Duration { return a.At.Sub(b.At).Abs() }
