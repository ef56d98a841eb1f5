package stream

import (
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// A gap is told: to the client, in the log and in the metrics.

// GapEvent makes a gap event; nil if there is no gap_event. It has no id: the
// client's last event ID stays.
func (s *Stream) gapEvent(reason, id string, missed int64) []byte {
	return Gap{reason, id, missed}.Event(s.options.GapEvent)
}

// logGap counts and logs that a client was told of a gap. The stream's lock is
// held.
func (s *Stream) logGap(gap Gap) { gap.Tell(s.options.Lines, s.Log) }

// logSkipped counts and logs that the upstream did not go on after an ID.
func (s *Stream) logSkipped(after, next string, missed int64) {
	Counts.Gaps.With(GapUpstream).Inc()
	s.options.Lines.skipped.Log(func(suppressed int) {
		s.Log().Warn("possible gap: upstream did not continue after the last event ID",
			zap.String("last_event_id", shownID(after)), zap.String("id", shownID(next)),
			zap.Int64("missed", missed), zap.Int("suppressed", suppressed))
	})
}

// gapReason tells why an ID cannot be resumed from.
func (s *Stream) gapReason(id string) string {
	epoch, position, ok := replay.ParseID(id)
	switch {
	case ok && !s.standsFor(epoch, position):
		return GapEpoch
	case ok && position == nowhere:
		return GapUpstream
	}
	return GapEvicted
}

// missed returns how many events a client with the gateway's own ID id is not
// going to get, -1 if that is not known.
func (s *Stream) missed(id string) int64 {
	epoch, position, ok := replay.ParseID(id)
	if !ok || !s.standsFor(epoch, position) || position > s.buffer.Newest {
		return -1
	}
	n, ok := s.buffer.EventsAfter(position)
	if !ok {
		return -1
	}
	return number.As[int64](n)
}

// TellGap counts and logs the gap that the subscriber is told of with its head,
// if there is one.
func (sub *Subscriber) TellGap() {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	if r := sub.resuming; r != nil && r.gap != nil {
		sub.Origin.logGap(*r.gap)
		r.gap = nil
	}
}

// skip moves a subscriber that is behind the oldest kept block there, and returns
// what it is told.
func (sub *Subscriber) skip(reason string) (gapEvent []byte) {
	s := sub.stream
	f := &s.buffer
	missed := int64(-1)
	if rest := f.After(f.Lost); len(rest) > 0 {
		before := rest[0].Events
		if rest[0].IsEvent() {
			before--
		}
		missed = number.As[int64](before - sub.events)
	}
	id := ""
	if s.givesIDs() {
		id = string(replay.AppendID(nil, s.epoch, sub.cursor))
	}
	sub.cursor = f.Lost
	s.recount(sub)
	s.logGap(Gap{reason, id, missed})
	return s.gapEvent(reason, id, missed)
}
