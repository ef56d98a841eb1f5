package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A stream and the connections beside it are compared by internal/evidence: what is
// given to it, and what it says.

// pair is the stream and a connection beside it, to be compared. The lock is held.
func (s *Stream) pair(sp *Stream) evidence.Pair {
	return evidence.Pair{Stream: &s.track, Beside: &sp.track, Likeness: &sp.comparing().Likeness, ID: sp.openID, Shared: s.shares()}
}

// brings takes note, before it is kept, of a block of a stream or a splice that
// is to be seen on the other. The lock is held.
func (s *Stream) brings(b *replay.Block) {
	if st := s.comparing(); st != nil {
		if !st.succeeds {
			st.parent.pair(s).Brings(b)
		}
		return
	}
	for sp := range s.splices {
		s.pair(sp).StreamBrings(b)
	}
	for _, sp := range s.open {
		s.pair(sp).StreamBrings(b)
	}
}

// compareSplice goes on comparing what a stream and a splice have brought. It
// returns why each is told its own, "" if nothing shows that. The lock is held.
func (s *Stream) compareSplice(sp *Stream, now time.Time, again *time.Time) ownReason {
	st := sp.splice
	if (s.conn != nil || s.follows()) && st.Field == "" {
		st.Field = differingField(s.head, sp.head, s.options.Insignificant)
	}
	if s.pair(sp).Compare(now, again, st.probe) {
		return ownEvent
	}
	return ""
}

// differingField returns the name of a field in which two heads differ, unless
// it is known to be of one response; "" if there is none.
func differingField(a, b *upstreams.Head, insignificant func(name string) bool) string {
	if a == nil || b == nil {
		return ""
	}
	return evidence.DifferingField(a.Header, b.Header, insignificant)
}

// greetingTime is how long after its head a connection is given to be greeted.
func (s *Stream) greetingTime() time.Duration {
	return s.root().track.GreetingTime()
}

// greetedAt is when a connection has had its time to be greeted; zero: it has no
// head yet.
func (s *Stream) greetedAt() time.Time { return s.track.GreetedAt(&s.root().track) }

// due is when a splice has had its time to be merged; zero: not before there is
// something to compare.
func (st *spliceState) due() time.Time {
	o := st.parent.options
	switch {
	case st.parent.shares():
		return st.since.Add(o.SpliceTimeout)
	case st.Active.IsZero():
		return time.Time{}
	}
	return st.Active.Add(o.SpliceTimeout)
}
