package caddysse

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What a client is told that cannot be given all that it missed: never in
// silence.

// Reasons of a gap, as in the gap event's data.
const (
	gapEvicted  = "evicted"  // the blocks are no longer in the replay buffer
	gapEpoch    = "epoch"    // the ID is of another life of the stream
	gapLag      = "lag"      // the client was too slow
	gapUpstream = "upstream" // the upstream connection was lost meanwhile
)

// tellGap counts and logs the gap that the subscriber is told of with its head,
// if there is one.
func (sub *subscriber) tellGap() {
	gap := sub.gap
	if gap == nil {
		return
	}
	sub.gap = nil
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.origin.logGap(*gap)
}

// gapNote is a gap that a client is told of.
type gapNote struct {
	reason string
	after  string // the event ID
	missed int64  // how many events; -1: that is not known
}

// gapReason tells why an ID cannot be resumed from.
func (s *stream) gapReason(id string) string {
	epoch, position, ok := replay.ParseID(id)
	switch {
	case ok && epoch != s.epoch:
		return gapEpoch
	case ok && position == nowhere:
		return gapUpstream
	}
	return gapEvicted
}

// missed returns how many events a client with the gateway's own ID id is not
// going to get, -1 if that is not known.
func (s *stream) missed(id string) int64 {
	epoch, position, ok := replay.ParseID(id)
	if !ok || epoch != s.epoch || position > s.buffer.Newest {
		return -1
	}
	n, ok := s.buffer.EventsAfter(position)
	if !ok {
		return -1
	}
	return int64(n) //nolint:gosec // a count of events since the process began
}

// logGap counts and logs that a client was told of a gap. The stream's lock is
// held.
func (s *stream) logGap(gap gapNote) { gap.tell(s.options.lines, s.log) }

// tell counts and logs that a client was told of a gap.
func (gap gapNote) tell(lines *handlerLines, log func() *zap.Logger) {
	theCounts.gaps.With(gap.reason).Inc()
	lines.gap.Log(func(suppressed int) {
		log().Info("client missed events", zap.String("reason", gap.reason), zap.String("last_event_id", shownID(gap.after)),
			zap.Int64("missed", gap.missed), zap.Int("suppressed", suppressed))
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

// gapEvent makes a gap event; nil if there is no gap_event. It has no id: the
// client's last event ID stays.
func (s *stream) gapEvent(reason, id string, missed int64) []byte {
	return gapNote{reason, id, missed}.event(s.options.gapEvent)
}

// event makes a gap event of a type; nil if that is empty.
func (gap gapNote) event(eventType string) []byte {
	if eventType == "" {
		return nil
	}
	data := struct {
		Reason      string `json:"reason"`
		LastEventID string `json:"last_event_id"`
		Missed      *int64 `json:"missed"`
	}{Reason: gap.reason, LastEventID: strings.ToValidUTF8(replay.Clip(gap.after), "\uFFFD")}
	if gap.missed >= 0 {
		data.Missed = &gap.missed
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

// skip moves a subscriber that is behind the oldest kept block there, and
// tells it.
func (sub *subscriber) skip(dst []*replay.Block) []*replay.Block {
	s := sub.stream
	f := &s.buffer
	missed := int64(-1)
	if rest := f.After(f.Lost); len(rest) > 0 {
		before := rest[0].Events
		if rest[0].Dispatches {
			before--
		}
		missed = int64(before - sub.events) //nolint:gosec // a count of events since the process began
	}
	id := ""
	if !s.upstreamIDs && s.options.ids != idsUpstream && !s.isSplice {
		id = string(replay.AppendID(nil, s.epoch, sub.cursor))
	}
	sub.cursor = f.Lost
	s.logGap(gapNote{gapLag, id, missed})
	return append(dst, &replay.Block{Wire: s.gapEvent(gapLag, id, missed)})
}
