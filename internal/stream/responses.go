package stream

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// ResponsesLog is what is known of the events of a detached answer of that API. The
// stream's lock guards it; that of another stream is nil.
type ResponsesLog struct {
	id      string
	Entries []responsesEntry // ascending
	data    []byte
}

// responsesEntry says where an event is in the buffer.
type responsesEntry struct {
	number   int64
	position uint64
}

// newResponsesLog returns one for a stream of which the key's parts are given; nil if
// its path is not that of the API.
func newResponsesLog(parts []Part) *ResponsesLog {
	for _, part := range parts {
		if part.Name == "path" && strings.HasSuffix(strings.TrimSuffix(part.Value, "/"), "/responses") {
			return new(ResponsesLog)
		}
	}
	return nil
}

// Add takes note of an event that has come into a buffer, which is its newest block.
func (l *ResponsesLog) Add(b eventstream.Block, buffer *replay.Buffer) {
	if l == nil || !b.Dispatches() {
		return
	}
	l.data = b.AppendData(l.data[:0])
	e := ParseResponsesEvent(l.data)
	if e.Response != nil && l.id == "" {
		l.id = e.Response.ID
	}
	if e.Sequence == nil || (len(l.Entries) > 0 && *e.Sequence <= l.Entries[len(l.Entries)-1].number) {
		return
	}
	if len(l.Entries) > 0 && len(l.Entries) == cap(l.Entries) { // of those that are not kept nothing is to be known
		gone, _ := slices.BinarySearchFunc(l.Entries, buffer.Lost, func(e responsesEntry, lost uint64) int {
			return cmp.Compare(e.position, lost)
		})
		l.Entries = slices.Delete(l.Entries, 0, gone)
	}
	l.Entries = append(l.Entries, responsesEntry{*e.Sequence, buffer.Newest})
}

// After returns the position of the event with a number; negative: that before the
// first. false: what comes after it is not kept, or it has not come.
func (l *ResponsesLog) After(id string, number int64, buffer *replay.Buffer) (position uint64, ok bool) {
	if l == nil || l.id != id {
		return 0, false
	}
	if number >= 0 {
		i, found := slices.BinarySearchFunc(l.Entries, number, func(e responsesEntry, number int64) int {
			return cmp.Compare(e.number, number)
		})
		if !found {
			return 0, false
		}
		position = l.Entries[i].position
	}
	return position, position >= buffer.Lost
}

// ResponsesEvent is what is looked at of an event of that API.
type ResponsesEvent struct {
	Sequence *int64 `json:"sequence_number"`
	Response *struct {
		ID         string `json:"id"`
		Background bool   `json:"background"`
	} `json:"response"`
}

// ParseResponsesEvent reads the data of an event. One that is none of that API has
// nothing.
func ParseResponsesEvent(data []byte) (e ResponsesEvent) {
	if json.Unmarshal(data, &e) != nil {
		return ResponsesEvent{}
	}
	return e
}
