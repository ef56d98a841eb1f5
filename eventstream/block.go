package eventstream

import (
	"bytes"
	"iter"
	"slices"
	"time"
)

// MaxRetry is the longest reconnection time that is told apart: 2^31-1
// milliseconds (24.8 days), the longest delay that a browser's timers take.
// Longer ones are read and written as this, so that sums and doublings of a
// reconnection time do not overflow.
const MaxRetry = (1<<31 - 1) * time.Millisecond

// Block is a run of lines that was ended by a blank line, and what its fields
// say (HTML 9.2.6); or one line, a comment that came before such a run. Its slices share memory with the decoder or with its input
// and are valid only until the function that got the block returns.
type Block struct {
	// Lines are the block's lines in the order in which they came: fields,
	// unknown fields and comments, each ended by exactly one LF. The blank
	// line is not among them, nor is a byte order mark at the stream's start.
	Lines []byte

	// ID is the value of the last id field, those with a NUL in their value
	// not counted. An ID that is there but empty resets the client's last
	// event ID.
	ID    []byte
	HasID bool

	// Type is the value of the last event field. Empty means "message".
	Type []byte

	// HasData is whether there is a data field, with or without a value.
	HasData bool

	// Retry is the reconnection time of the last retry field whose value is
	// ASCII digits only and at least one; at most MaxRetry.
	Retry    time.Duration
	HasRetry bool
}

// Dispatches reports whether the block is an event, that is, whether
// EventSource fires for it: it has a data field. (HTML 9.2.6 asks for a data
// buffer that is not empty; each data field appends at least an LF to it.)
func (b Block) Dispatches() bool { return b.HasData }

// CommentOnly reports whether the block changes nothing at a client that
// follows the standard: it has no data, no valid id and no valid retry. Such a
// block has comments, unknown fields, ignored values, or a type without data.
func (b Block) CommentOnly() bool { return !b.HasData && !b.HasID && !b.HasRetry }

// AppendData appends the event's data to dst: the values of the data fields,
// joined by LF.
func (b Block) AppendData(dst []byte) []byte {
	joined := false
	for name, value := range Fields(b.Lines) {
		if string(name) != "data" {
			continue
		}
		if joined {
			dst = append(dst, '\n')
		}
		dst = append(dst, value...)
		joined = true
	}
	return dst
}

// Fields yields name and value of each line of a block (HTML 9.2.6): what is
// before the first colon, and what is after it, less one leading space. A line
// without a colon is a name with an empty value. A comment's name is empty and
// its value is the comment's text. The lines must end in LF, but the last one
// need not; blank lines are passed over.
func Fields(lines []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for len(lines) > 0 {
			var line []byte
			line, lines = cut(lines, '\n')
			if len(line) > 0 && !yield(cutField(line)) {
				return
			}
		}
	}
}

func cutField(line []byte) (name, value []byte) {
	name, value = cut(line, ':')
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	return name, value
}

// cut is bytes.Cut for a separator of one byte.
func cut(s []byte, sep byte) (before, after []byte) {
	i := bytes.IndexByte(s, sep)
	if i < 0 {
		return s, nil
	}
	return s[:i], s[i+1:]
}

// parse reads the fields of lines (HTML 9.2.6, "process the field").
func parse(lines []byte) Block {
	b := Block{Lines: lines}
	for len(lines) > 0 {
		var line []byte
		line, lines = cut(lines, '\n')
		name, value := cutField(line)
		switch string(name) {
		case "data":
			b.HasData = true
		case "event":
			b.Type = slices.Clip(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				b.ID, b.HasID = slices.Clip(value), true
			}
		case "retry":
			if d, ok := parseRetry(value); ok {
				b.Retry, b.HasRetry = d, true
			}
		}
	}
	return b
}

// parseRetry reads a reconnection time. The standard's "consists of only ASCII
// digits" is taken to exclude the empty value, which is no number.
func parseRetry(value []byte) (d time.Duration, ok bool) {
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		d = min(d*10+time.Duration(c-'0')*time.Millisecond, MaxRetry)
	}
	return d, len(value) > 0
}
