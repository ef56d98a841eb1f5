package stream

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

// Gap is a gap that a client is told of.
type Gap struct {
	Reason string
	After  string // the event ID
	Missed int64  // how many events; -1: that is not known
}

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
