package stream

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What a client is told that cannot be given all that it missed: never in
// silence.

// Reasons of a gap, as in the gap event's data.
const (
	GapEvicted  = "evicted"  // the blocks are no longer in the replay buffer
	GapEpoch    = "epoch"    // the ID is of another life of the stream
	gapLag      = "lag"      // the client was too slow
	GapUpstream = "upstream" // the upstream connection was lost meanwhile
)

// TellGap counts and logs the gap that the subscriber is told of with its head,
// if there is one.
func (sub *Subscriber) TellGap() {
	gap := sub.gap
	if gap == nil {
		return
	}
	sub.gap = nil
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.Origin.logGap(*gap)
}

// Gap is a gap that a client is told of.
type Gap struct {
	Reason string
	After  string // the event ID
	Missed int64  // how many events; -1: that is not known
}

// gapReason tells why an ID cannot be resumed from.
func (s *Stream) gapReason(id string) string {
	epoch, position, ok := replay.ParseID(id)
	switch {
	case ok && epoch != s.epoch:
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
	if !ok || epoch != s.epoch || position > s.buffer.Newest {
		return -1
	}
	n, ok := s.buffer.EventsAfter(position)
	if !ok {
		return -1
	}
	return number.As[int64](n)
}

// logGap counts and logs that a client was told of a gap. The stream's lock is
// held.
func (s *Stream) logGap(gap Gap) { gap.Tell(s.options.Lines, s.Log) }

// Tell counts and logs that a client was told of a gap.
func (gap Gap) Tell(lines *HandlerLines, log func() *zap.Logger) {
	Counts.Gaps.With(gap.Reason).Inc()
	lines.gap.Log(func(suppressed int) {
		log().Info("client missed events", zap.String("reason", gap.Reason), zap.String("last_event_id", shownID(gap.After)),
			zap.Int64("missed", gap.Missed), zap.Int("suppressed", suppressed))
	})
}

// shownID is an ID as it may be shown: one of a gateway, which proves that its
// owner was a client of the stream, with the epoch shortened.
func shownID(id string) string {
	if epoch, position, ok := replay.ParseID(id); ok {
		return replay.IDPrefix + epoch[:8] + "…." + strconv.FormatUint(position, 10)
	}
	return replay.Clip(id)
}

// GapEvent makes a gap event; nil if there is no gap_event. It has no id: the
// client's last event ID stays.
func (s *Stream) gapEvent(reason, id string, missed int64) []byte {
	return Gap{reason, id, missed}.Event(s.options.GapEvent)
}

// Event makes a gap event of a type; nil if that is empty.
func (gap Gap) Event(eventType string) []byte {
	if eventType == "" {
		return nil
	}
	data := struct {
		Reason      string `json:"reason"`
		LastEventID string `json:"last_event_id"`
		Missed      *int64 `json:"missed"`
	}{Reason: gap.Reason, LastEventID: strings.ToValidUTF8(replay.Clip(gap.After), "\uFFFD")}
	if gap.Missed >= 0 {
		data.Missed = &gap.Missed
	}
	text, err := json.Marshal(data)
	if err != nil {
		return nil // cannot happen: strings and a number
	}
	out, err := eventstream.AppendEvent(nil, eventstream.Event{Type: eventType, Data: string(text)})
	if err != nil {
		return nil // cannot happen: the type was validated, JSON has no line ends
	}
	return out
}

// skip moves a subscriber that is behind the oldest kept block there, and returns
// what it is told.
func (sub *Subscriber) skip(reason string) (gapEvent []byte) {
	s := sub.stream
	f := &s.buffer
	missed := int64(-1)
	if rest := f.After(f.Lost); len(rest) > 0 {
		before := rest[0].Events
		if rest[0].Dispatches {
			before--
		}
		missed = number.As[int64](before - sub.events)
	}
	id := ""
	if !s.upstreamIDs && s.options.IDs != IDsUpstream && !s.isSplice {
		id = string(replay.AppendID(nil, s.epoch, sub.cursor))
	}
	sub.cursor = f.Lost
	s.recount(sub)
	s.logGap(Gap{reason, id, missed})
	return s.gapEvent(reason, id, missed)
}
