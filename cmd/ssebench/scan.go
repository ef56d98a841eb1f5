package main

import (
	"bytes"
	"errors"
	"fmt"
)

var (
	errHead  = errors.New("response head too large")
	errChunk = errors.New("chunked coding broken")
)

// sink is given what a subscriber's event stream has, block by block.
type sink interface {
	// deliver is called for a block with data. ok is false when it is no event of the origin's, or not as published.
	deliver(e event, ok bool)
	// foreign is called for a block of another event type: a heartbeat or gap event of a gateway.
	foreign()
}

// scanner reads an event stream given to it in pieces. It keeps bytes of its own only for a line that a piece cut.
type scanner struct {
	part  []byte
	event event
	data  int // data lines of the block
	typed bool
	bad   bool

	keepID bool
	id     []byte // with keepID: the last one
}

// feed reads the next piece of the stream.
func (s *scanner) feed(b []byte, to sink) {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n')
		if n < 0 {
			s.part = append(s.part, b...)
			return
		}
		line := b[:n]
		if len(s.part) > 0 {
			s.part = append(s.part, line...)
			line = s.part
		}
		s.line(line, to)
		s.part = s.part[:0]
		b = b[n+1:]
	}
	if len(s.part) == 0 {
		s.part = nil
	}
}

func (s *scanner) line(line []byte, to sink) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	switch {
	case len(line) == 0:
		s.dispatch(to)
	case line[0] == ':':
	case bytes.HasPrefix(line, []byte("data:")):
		value := line[len("data:"):]
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		e, ok := parseEvent(value)
		s.data++
		s.event = e
		s.bad = s.bad || !ok || s.data > 1
	case bytes.HasPrefix(line, []byte("event:")):
		value := bytes.TrimPrefix(line[len("event:"):], []byte(" "))
		s.typed = len(value) > 0 && string(value) != "message"
	case s.keepID && bytes.HasPrefix(line, []byte("id:")):
		s.id = append(s.id[:0], bytes.TrimPrefix(line[len("id:"):], []byte(" "))...)
	}
}

func (s *scanner) dispatch(to sink) {
	switch {
	case s.typed:
		to.foreign()
	case s.data > 0:
		to.deliver(s.event, !s.bad)
	}
	s.data, s.typed, s.bad = 0, false, false
}

// body takes the chunked coding off. The zero value reads a chunk's size.
type body struct {
	left  uint64 // of the chunk
	state bodyState
	any   bool // a digit of the size was read
}

type bodyState byte

const (
	bodySize bodyState = iota
	bodyExtension
	bodyData
	bodyDataEnd
	bodyTrailer
	bodyTrailerLine
	bodyEnd
	bodyPlain // not chunked: ends with the connection
)

// next returns the first piece of the body that b has, and what follows it in b.
func (d *body) next(b []byte) (piece, rest []byte, err error) {
	for len(b) > 0 {
		switch d.state {
		case bodyPlain:
			return b, nil, nil
		case bodyData:
			n := min(d.left, uint64(len(b)))
			d.left -= n
			if d.left == 0 {
				d.state = bodyDataEnd
			}
			return b[:n], b[n:], nil
		case bodyEnd:
			return nil, nil, errChunk
		}
		c := b[0]
		b = b[1:]
		if err := d.step(c); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// step reads one byte of what stands around the data.
func (d *body) step(c byte) error {
	switch d.state {
	case bodySize:
		switch {
		case '0' <= c && c <= '9':
			d.left, d.any = d.left<<4|uint64(c-'0'), true
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			d.left, d.any = d.left<<4|uint64(c|0x20-'a'+10), true
		case c == '\n' && d.any:
			d.endSize()
		case c == '\r' && d.any:
		case (c == ';' || c == ' ') && d.any:
			d.state = bodyExtension
		default:
			return errChunk
		}
		if d.left > 1<<40 {
			return errChunk
		}
	case bodyExtension:
		if c == '\n' {
			d.endSize()
		}
	case bodyDataEnd:
		switch c {
		case '\r':
		case '\n':
			d.state = bodySize
		default:
			return errChunk
		}
	case bodyTrailer: // at the start of a line
		switch c {
		case '\r':
		case '\n':
			d.state = bodyEnd
		default:
			d.state = bodyTrailerLine
		}
	case bodyTrailerLine:
		if c == '\n' {
			d.state = bodyTrailer
		}
	}
	return nil
}

func (d *body) endSize() {
	d.any = false
	d.state = bodyData
	if d.left == 0 {
		d.state = bodyTrailer
	}
}

const maxHead = 64 << 10

// head collects a response's head.
type head struct{ part []byte }

// feed returns whether the head is complete, and what follows it in b. The body is set up for what the head says.
func (h *head) feed(b []byte, d *body) (done bool, rest []byte, err error) {
	from := max(len(h.part)-3, 0)
	h.part = append(h.part, b...)
	n := bytes.Index(h.part[from:], []byte("\r\n\r\n"))
	if n < 0 {
		if len(h.part) > maxHead {
			return false, nil, errHead
		}
		return false, nil, nil
	}
	end := from + n + 4
	text := bytes.ToLower(h.part[:end])
	rest = b[len(b)-(len(h.part)-end):]
	line, fields, _ := bytes.Cut(text, []byte("\r\n"))
	h.part = nil
	if !bytes.HasPrefix(line, []byte("http/1.1 200")) && !bytes.HasPrefix(line, []byte("http/1.0 200")) {
		return false, nil, fmt.Errorf("answer %q", line)
	}
	if !bytes.Contains(fields, []byte("text/event-stream")) {
		return false, nil, errors.New("no event stream in the answer")
	}
	d.state = bodyPlain
	for field := range bytes.SplitSeq(fields, []byte("\r\n")) {
		if value, ok := bytes.CutPrefix(field, []byte("transfer-encoding:")); ok && bytes.Contains(value, []byte("chunked")) {
			d.state = bodySize
		}
	}
	return true, rest, nil
}
