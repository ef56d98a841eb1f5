package eventstream

import (
	"math/big"
	"regexp"
	"strings"
	"time"
)

// decoded is what a stream means: what the decoders are compared by.
type decoded struct {
	blocks      []decodedBlock
	messages    []Message
	lastEventID string
	retry       time.Duration
	hasRetry    bool
	rest        string
}

type decodedBlock struct {
	lines       string
	id          string
	hasID       bool
	typ         string
	data        string
	hasData     bool
	retry       time.Duration
	hasRetry    bool
	lastEventID string // after it
}

var onlyDigits = regexp.MustCompile(`^[0-9]+$`)

// reference decodes a whole stream, slowly and obviously: it is HTML 9.2.6
// sentence by sentence, on bytes, and shares no code with the package.
func reference(stream string) decoded {
	var d decoded

	// "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark
	// (BOM), if any."
	stream = strings.TrimPrefix(stream, "\uFEFF")

	// "… a CRLF character pair, a single LF character not preceded by a CR
	// character, and a single CR character not followed by a LF character
	// being the ways in which a line can end."
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	stream = strings.ReplaceAll(stream, "\r", "\n")
	lines := strings.Split(stream, "\n")
	unfinished := lines[len(lines)-1]
	lines = lines[:len(lines)-1]

	// "… a data buffer, an event type buffer, and a last event ID buffer must
	// be associated with it. They must be initialized to the empty string."
	var dataBuffer strings.Builder
	var eventTypeBuffer, lastEventIDBuffer string

	// What a block is, the standard does not say.
	var block decodedBlock
	var blockLines strings.Builder
	for _, line := range lines {
		// "If the line is empty (a blank line): Dispatch the event."
		if line == "" {
			// "Set the last event ID string of the event source to the value
			// of the last event ID buffer. The buffer does not get reset."
			d.lastEventID = lastEventIDBuffer
			data := dataBuffer.String()
			if blockLines.Len() > 0 {
				block.lines = blockLines.String()
				block.lastEventID = d.lastEventID
				block.typ = eventTypeBuffer
				block.hasData = data != ""
				block.data = strings.TrimSuffix(data, "\n")
				d.blocks = append(d.blocks, block)
				block = decodedBlock{}
				blockLines.Reset()
			}
			// "If the data buffer is an empty string, set the data buffer and
			// the event type buffer to the empty string and return."
			if data == "" {
				eventTypeBuffer = ""
				continue
			}
			// "If the data buffer's last character is a LF character, then
			// remove the last character from the data buffer."
			data = strings.TrimSuffix(data, "\n")
			// "… type attribute to message … If the event type buffer has a
			// value other than the empty string, change the type."
			typ := "message"
			if eventTypeBuffer != "" {
				typ = eventTypeBuffer
			}
			d.messages = append(d.messages, Message{Type: typ, Data: data, LastEventID: d.lastEventID})
			// "Set the data buffer and the event type buffer to the empty string."
			dataBuffer.Reset()
			eventTypeBuffer = ""
			continue
		}
		blockLines.WriteString(line + "\n")

		// "If the line starts with a colon character (:): Ignore the line."
		if strings.HasPrefix(line, ":") {
			// Before the other lines of a block it is one of its own.
			if blockLines.Len() == len(line)+1 {
				d.blocks = append(d.blocks, decodedBlock{lines: line + "\n", lastEventID: d.lastEventID})
				blockLines.Reset()
			}
			continue
		}
		// "Collect the characters on the line before the first colon … after
		// the first colon, and let value be that string. If value starts with
		// a space, remove it from value." / "Otherwise … using the whole line
		// as the field name, and the empty string as the field value."
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")

		switch field {
		case "event":
			eventTypeBuffer = value
		case "data":
			dataBuffer.WriteString(value + "\n")
		case "id":
			if !strings.Contains(value, "\x00") {
				lastEventIDBuffer = value
				block.id, block.hasID = value, true
			}
		case "retry":
			if onlyDigits.MatchString(value) {
				ms, _ := new(big.Int).SetString(value, 10)
				if limit := big.NewInt(MaxRetry.Milliseconds()); ms.Cmp(limit) > 0 {
					ms = limit
				}
				d.retry, d.hasRetry = time.Duration(ms.Int64())*time.Millisecond, true
				block.retry, block.hasRetry = d.retry, true
			}
		}
	}
	// "Once the end of the file is reached, any pending data must be
	// discarded."
	d.rest = blockLines.String() + unfinished
	return d
}
