package eventstream

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Event is what AppendEvent writes.
type Event struct {
	// Type is the event type. Empty: no event field, which means "message".
	Type string

	// Data is the event's data. Each LF, CR or CRLF in it is a line break; the
	// reader gets LF for all of them. Without data the event still dispatches,
	// with empty data.
	Data string

	// ID is the event's ID. Empty: no id field, unless HasID is set; then an
	// empty one, which resets the client's last event ID.
	ID    string
	HasID bool

	// Retry is the reconnection time. 0 or less: no retry field (see AppendRetry for a
	// reconnection time of 0).
	Retry time.Duration
}

// AppendEvent appends e to dst as one block with its blank line. If type or ID
// has a CR, LF or NUL, it returns dst as it was and an error that wraps
// [ErrInvalidField].
func AppendEvent(dst []byte, e Event) ([]byte, error) {
	if err := checkValue("event type", e.Type); err != nil {
		return dst, err
	}
	if err := checkValue("id", e.ID); err != nil {
		return dst, err
	}
	if e.ID != "" || e.HasID {
		dst = appendField(dst, "id", e.ID)
	}
	if e.Type != "" {
		dst = appendField(dst, "event", e.Type)
	}
	if e.Retry > 0 {
		dst = AppendRetry(dst, e.Retry)
	}
	dst = appendData(dst, e.Data)
	return append(dst, '\n'), nil
}

// AppendID appends the line of an id field, without a blank line: alone in a
// block it sets the client's last event ID and dispatches nothing. If id has a
// CR, LF or NUL, it returns dst as it was and an error that wraps
// [ErrInvalidField].
func AppendID(dst []byte, id string) ([]byte, error) {
	if err := checkValue("id", id); err != nil {
		return dst, err
	}
	return appendField(dst, "id", id), nil
}

// AppendRetry appends the line of a retry field, without a blank line. The time
// is written in milliseconds, rounded up; at least 0, at most [MaxRetry].
func AppendRetry(dst []byte, d time.Duration) []byte {
	d = min(max(d, 0), MaxRetry)
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, int64((d+time.Millisecond-1)/time.Millisecond), 10)
	return append(dst, '\n')
}

// AppendComment appends a block of one comment, with its blank line: some
// clients split on blank lines and would keep on collecting comments without
// one. If text has a CR, LF or NUL, it returns dst as it was and an error that
// wraps [ErrInvalidField].
func AppendComment(dst []byte, text string) ([]byte, error) {
	if err := checkValue("comment", text); err != nil {
		return dst, err
	}
	dst = appendField(dst, "", text)
	return append(dst, '\n'), nil
}

// appendData writes a data field for each line of data, of which there is
// always at least one.
func appendData(dst []byte, data string) []byte {
	// Without a CR, which is searched for once, the lines are searched for LF
	// only: that is several times as fast as searching for either.
	next := strings.IndexByte
	if strings.IndexByte(data, '\r') >= 0 {
		next = func(s string, _ byte) int { return strings.IndexAny(s, "\r\n") }
	}
	for {
		i := next(data, '\n')
		if i < 0 {
			return appendField(dst, "data", data)
		}
		dst = appendField(dst, "data", data[:i])
		if strings.HasPrefix(data[i:], "\r\n") {
			i++
		}
		data = data[i+1:]
	}
}

// appendField writes one line. The space keeps one that the value begins with:
// the reader removes the first (HTML 9.2.6).
func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':')
	if value != "" {
		dst = append(dst, ' ')
		dst = append(dst, value...)
	}
	return append(dst, '\n')
}

func checkValue(what, value string) error {
	if strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("writing %s: %w", what, ErrInvalidField)
	}
	return nil
}
