package evidence

import (
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// maxPending bounds how many blocks wait to be seen on the other connection.
const maxPending = 1 << 14

// Pair is a stream and a connection beside it: that of a splice, of a probe, or one
// that is to succeed the stream's own.
type Pair struct {
	Stream, Beside *Track
	*Likeness
	ID     string // the last event ID that the one beside was opened with
	Shared bool   // it is known that the upstream tells both the same
}

// Likeness is how far a connection was compared with the stream that it is beside.
type Likeness struct {
	// Of its newest connection; see Restart.
	brought []pending // not yet seen on the stream
	missed  []pending // by the stream, not yet seen here
	Own     []uint64  // of its greeting: those that the stream did not get
	Unknown bool      // some could not be looked up any more
	Field   string    // in which the heads differ

	Active      time.Time // when either first brought something since it was opened
	GreetedLast time.Time // when the newest block of its greeting came
	Said        uint64    // how many blocks that say something the stream had had when it was opened

	past    bool     // it has brought something from before it was opened; see judge
	live    bool     // and something with an id that came to the stream since
	unread  []uint64 // what would be from before, if the stream was not behind: as long as that does not get it
	Current bool     // the stream had nothing after its ID then, or its client was ahead
	since   []since  // with Current: what the stream has got since, and it has not brought

	steps      int // how many blocks were looked at to find a meeting, since
	attemptsAt time.Time
}

// pending is a block of one connection that is to be seen on another.
type pending struct {
	hash     uint64
	at       time.Time
	greeting bool // it came before the first pause of its connection
	event    bool // and none of those with which the stream's connection was greeted, too
	hasID    bool
	isNew    bool // the stream has not got it since the connection was opened
	past     bool // it is from before that, unless the stream gets it; see judge
}

// since is an event of the stream.
type since struct {
	hash     uint64
	position uint64
	greeting bool // the stream's connection began with it
}

// isLate reports whether a block is looked for later than it should be: one of the
// two was broken meanwhile, or the machine is so busy that the other connection may
// not have been read. Then its absence says nothing.
func (p pending) isLate(now time.Time) bool { return now.Sub(p.at) > TwinWindow+TwinWindow/4 }

// gotNear returns the block with these bytes that was got at about the same time,
// nil if there is none.
func (t *Track) gotNear(p pending) *replay.Block {
	n, k := t.Buffer.Twins(p.hash)
	switch {
	case n == 0:
		return nil
	case k.At.Sub(p.at).Abs() <= TwinWindow:
		return k
	case n == 1, k.At.Before(p.at):
		return nil
	}
	for _, o := range slices.Backward(t.Buffer.Blocks) {
		if p.at.Sub(o.At) > TwinWindow {
			return nil
		}
		if o.Hash == p.hash && o.At.Sub(p.at).Abs() <= TwinWindow {
			return o
		}
	}
	return nil
}

// Restart begins anew with another connection beside the stream.
func (l *Likeness) Restart() {
	l.brought, l.missed, l.unread, l.Own, l.Unknown, l.Field = nil, nil, nil, nil, false, ""
}

// StreamOpened takes note that the stream has another connection.
func (l *Likeness) StreamOpened() { l.missed, l.Active = nil, time.Time{} }

// StreamSucceeded takes note that the stream goes on with a connection that was beside it
// as well. What that was told as the one of the pair was is not from before: the stream is
// about to get it.
func (p Pair) StreamSucceeded() {
	for i := range p.brought {
		if o := &p.brought[i]; o.isNew && slices.Contains(p.Stream.Conn.greeting, o.hash) {
			o.past = false
		}
	}
}

// WentOn takes note that the connection beside went on after its ID.
func (l *Likeness) WentOn() { l.past = true }

// Compared reports whether all that the connection was greeted with was looked for.
func (l *Likeness) Compared() bool { return len(l.brought) == 0 || !l.brought[0].greeting }

// Unseen returns when the oldest block came that was not seen on the stream yet; false
// if there is none, or it was not of the greeting.
func (l *Likeness) Unseen() (at time.Time, ok bool) {
	if len(l.brought) == 0 || !l.brought[0].greeting {
		return time.Time{}, false
	}
	return l.brought[0].at, true
}

// acts takes note that there is something to compare since a moment.
func (l *Likeness) acts(at time.Time) {
	if l.Active.IsZero() {
		l.Active = at
	}
}

func (l *Likeness) addPending(list []pending, p pending) []pending {
	if len(list) >= maxPending {
		l.Unknown = true
		return list
	}
	return append(list, p)
}

// Brings takes note, before it is kept, of a block of the connection beside, which is
// to be seen on the stream.
func (p Pair) Brings(b *replay.Block) {
	p.acts(b.At)
	greeting := !p.Beside.Conn.paused
	p.since = slices.DeleteFunc(p.since, func(k since) bool { return k.hash == b.Hash })
	brought := pending{hash: b.Hash, at: b.At, greeting: greeting, event: b.Dispatches && !p.Stream.Conn.beganWith(b), hasID: b.HasID}
	p.judge(&brought)
	p.brought = p.addPending(p.brought, brought)
	if greeting {
		p.GreetedLast = b.At
	}
}

// StreamBrings takes note, before it is kept, of a block of the stream, which is to be
// seen on the connection beside, unless either may still be being greeted.
func (p Pair) StreamBrings(b *replay.Block) {
	p.acts(b.At)
	p.noteSince(b)
	p.unread = slices.DeleteFunc(p.unread, func(hash uint64) bool { return hash == b.Hash })
	for i := range p.brought {
		if o := &p.brought[i]; o.isNew && o.hash == b.Hash {
			o.isNew, o.past = false, false
			p.live = p.live || b.HasID
		}
	}
	greeted := p.Stream.GreetingTime()
	if b.At.Sub(p.Stream.HeadAt) >= greeted && !p.Beside.HeadAt.IsZero() && b.At.Sub(p.Beside.HeadAt) >= greeted {
		p.missed = p.addPending(p.missed, pending{hash: b.Hash, at: b.At})
	}
}

// noteSince takes note of a block of the stream as one that came after the ID, if the
// stream had nothing after that before. It may be evicted when the two are merged.
func (p Pair) noteSince(b *replay.Block) {
	if p.ID == "" || (!p.Current && b.ID != p.ID) {
		return
	}
	n, _ := p.Beside.Buffer.Twins(b.Hash)
	_, had := p.Stream.Buffer.Find(p.ID)
	had = had || p.Stream.Buffer.LastID == p.ID // several in a row may have one ID
	switch {
	case b.HasID && b.ID == p.ID && !had: // its client was ahead
		p.Current, p.since = true, nil
	case !p.Current, !b.Dispatches, n > 0:
	case len(p.since) >= maxPending:
		p.Current, p.since = false, nil
	default:
		p.since = append(p.since, since{b.Hash, p.Stream.Buffer.Newest + 1, p.Stream.Conn.beganWith(b)})
	}
}

// toldTogether reports whether both were told a block at the same moment, which is not
// when each is greeted.
func (p Pair) toldTogether(b pending) bool {
	_, k := p.Stream.Buffer.Twins(b.hash)
	return p.Stream.Conn != nil && k.At.Sub(b.at).Abs() <= p.Beside.Conn.Began.Sub(p.Stream.Conn.Began).Abs()/2
}

// Compare goes on comparing what both have brought; again is when to look again at the
// latest. It reports whether one of them was told an event that the other one was not.
// Both have a connection. What a probe is not told says nothing.
func (p Pair) Compare(now time.Time, again *time.Time, probe bool) (apart bool) {
	return p.compareBrought(now, again) || p.compareMissed(now, again, probe)
}

func (p Pair) compareBrought(now time.Time, again *time.Time) (apart bool) {
	s := p.Stream
	for len(p.brought) > 0 {
		b := p.brought[0]
		near := s.gotNear(b)
		together := near != nil && p.toldTogether(b)
		if together && len(s.Conn.greeting) > 0 && s.Conn.greeting[0] == b.hash {
			s.ownFirst = 0 // that was no greeting
		}
		past := b.past
		if near == nil && (!b.greeting || !s.Knows(b.hash)) {
			if due := b.at.Add(TwinWindow); !now.After(due) {
				Earliest(again, due.Add(time.Millisecond))
				break
			}
			renewed := s.HeadAt.After(b.at.Add(-MaxSettle))
			behind := s.Full || s.HeldAt.After(b.at) || b.isLate(now)
			missed := renewed || behind
			if past && behind && !renewed {
				p.unread = append(p.unread, b.hash)
			}
			past = past && !missed // the stream may have, or is yet to read it
			switch unsure := missed || !s.Buffer.Reaches(b.at.Add(-TwinWindow)); {
			case unsure && !b.greeting:
			case unsure: // it may have come to the stream too, and be evicted
				p.Unknown = true
			case !b.greeting && p.Beside.WasHeld():
			case !b.greeting:
				return true
			case len(p.Own) >= maxPending:
				p.Unknown = true
			default:
				p.Own = append(p.Own, b.hash)
				if late := b.at.Sub(p.Beside.HeadAt); late <= SlowestGreeting {
					s.firstTime = max(s.firstTime, late)
				}
			}
		}
		p.past = p.past || past
		s.Greets = s.Greets || (b.greeting && !together)
		p.brought = p.brought[1:]
	}
	return false
}

func (p Pair) compareMissed(now time.Time, again *time.Time, probe bool) (apart bool) {
	for len(p.missed) > 0 {
		b := p.missed[0]
		if p.Beside.gotNear(b) == nil {
			if due := b.at.Add(TwinWindow); !now.After(due) {
				Earliest(again, due.Add(time.Millisecond))
				break
			}
			held := p.Beside.WasHeld() || b.isLate(now)
			if !held && !probe && p.Beside.Buffer.Reaches(b.at.Add(-TwinWindow)) {
				return true
			}
		}
		p.missed = p.missed[1:]
	}
	return false
}

// judge looks, as the connection beside brings a block, whether the stream has got it
// since that was opened, and else whether it can only be from before: part of a history
// or of a snapshot, which speaks for the upstream. What each connection is greeted with
// is none, nor an event without an id that the stream has had before (a ping). What the
// stream may have got since then and has evicted says nothing.
func (p Pair) judge(b *pending) {
	began := p.Beside.Conn.Began
	n, k := p.Stream.Buffer.Twins(b.hash)
	switch {
	case n > 0 && b.hasID && !k.At.Before(began):
		p.live = true
	case n > 0:
		b.past = b.event && b.hasID
	case p.Stream.Buffer.Reaches(began):
		b.isNew = true
		b.past = b.event && (b.hasID || !p.Stream.Knows(b.hash))
	}
}

// hasPast reports whether it has brought something from before it was opened; looked
// are those blocks that are not compared yet.
func (p Pair) hasPast(looked []pending) bool {
	return p.past || slices.ContainsFunc(looked, func(b pending) bool { return b.past })
}

// lookedUp returns what the connection beside has brought and is not yet compared, less
// the newest of it, if the stream has not got that: it may be on its way. ahead tells
// that there are events among those.
func (p Pair) lookedUp() (looked []pending, ahead bool) {
	looked = p.brought
	for n := len(looked) - 1; n >= 0 && looked[n].isNew; n-- {
		ahead = ahead || (looked[n].event && looked[n].hasID)
		looked = looked[:n]
	}
	return looked, ahead
}

// MayBeHistory reports whether all that the connection beside has brought may yet be
// what came after its ID, or may be what both are told now.
func (p Pair) MayBeHistory() bool {
	_, ahead := p.lookedUp()
	return (ahead || len(p.unread) > 0) && !p.live
}

// Skips reports whether the connection beside shows, now that it is to be merged at
// position to of the stream, that the upstream did not go on after its ID, of which
// the clients have ids; next is the one that it went on with instead. after is the
// position of the ID in the stream, if that is known.
//
// Nothing that it brought speaks for the upstream; see judge. And the stream has an
// event up to that position, after the ID if that is known, which the connection was
// not sent.
func (p Pair) Skips(to, after uint64, known bool) (next string, skips bool) {
	if len(p.unread) > 0 {
		return "", false // it is not behind any more
	}
	return p.skips(to, after, known, p.brought)
}

// SkipsSoFar is Skips for a connection that is given up before it is merged: what is on
// its way to either says nothing.
func (p Pair) SkipsSoFar(now time.Time, after uint64, known bool) (next string, skips bool) {
	looked, ahead := p.lookedUp()
	to := p.arrived(now)
	if ahead {
		to = p.Stream.Buffer.Newest // that was sent before
	}
	return p.skips(to, after, known, looked)
}

func (p Pair) skips(to, after uint64, known bool, looked []pending) (next string, skips bool) {
	if p.hasPast(looked) {
		return "", false
	}
	greetsWith := p.Stream.Conn.beganWith
	brought := fromUpstream(p.Beside.Buffer)
	i := slices.IndexFunc(brought, func(b *replay.Block) bool { return b.HasID && !greetsWith(b) })
	if i >= 0 {
		next = brought[i].ID
	}
	greeted := slices.ContainsFunc(brought, greetsWith)
	if !known && p.Stream.Buffer.Lost > 0 {
		return next, !p.Current || slices.ContainsFunc(p.since, func(k since) bool { return k.position <= to && (!greeted || !k.greeting) })
	}
	return next, slices.ContainsFunc(fromUpstream(p.Stream.Buffer), func(k *replay.Block) bool {
		switch {
		case k.Position > to, known && k.Position <= after, greeted && greetsWith(k), slices.ContainsFunc(brought, k.Equal):
			return false
		}
		return p.Beside.Buffer.Lost == 0 || (k.HasID && !p.Beside.isLive(k)) // it may have been brought, and be evicted
	})
}

// arrived returns up to which position a stream has nothing that may still be on its
// way to the connection beside: that is older, or that one has brought something after
// it. What comes to a splice that waits for its clients is on its way for as long as
// that takes.
func (p Pair) arrived(now time.Time) (position uint64) {
	held := p.Beside.Full || now.Sub(p.Beside.HeldAt) <= TwinWindow
	for _, k := range slices.Backward(p.Stream.Buffer.Blocks) {
		n := 0
		if k.HasID && k.Dispatches {
			n, _ = p.Beside.Buffer.Twins(k.Hash)
		}
		if n > 0 || !p.Beside.isLive(k) || (!held && now.Sub(k.At) > TwinWindow) {
			return k.Position
		}
	}
	return 0
}

// fromUpstream returns the kept events that the upstream has sent.
func fromUpstream(f *replay.Buffer) []*replay.Block {
	return slices.DeleteFunc(f.Dispatched(), func(b *replay.Block) bool { return b.Told })
}
