package caddysse

import (
	"io"
	"net/http"
)

// maxLookedAt is how much of a request's body is looked at for what the client
// asks for.
const maxLookedAt = 64 << 10

// askingBody is a request body that is looked at as it is read, and passed on as
// it comes. When it was read to its end and asks for an event stream, whole is
// called.
type askingBody struct {
	io.ReadCloser
	whole  func()
	asked  bool  // whatever the body says
	left   int64 // bytes that are to come; negative: not known
	looked int
	member streamMember
}

func newAskingBody(r *http.Request, asked bool, whole func()) io.ReadCloser {
	return &askingBody{ReadCloser: r.Body, whole: whole, asked: asked, left: r.ContentLength}
}

func (b *askingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if look := min(n, maxLookedAt-b.looked); look > 0 && !b.asked {
		b.looked += look
		b.member.look(p[:look])
	}
	known := b.left > 0
	b.left -= int64(n)
	if b.whole != nil && (err == io.EOF || (known && b.left == 0)) {
		if b.asked || b.member.isTrue {
			b.whole()
		}
		b.whole = nil
	}
	return n, err
}

// streamMember looks for the member "stream" of the JSON object that begins with
// what it is given, piece by piece. It keeps a few bytes, however the text is
// nested; what is no JSON is of no harm. A name that is written with escapes is
// not found.
type streamMember struct {
	isTrue bool // the newest of that name is true

	over    bool // nothing more is looked at
	depth   int  // of objects and arrays
	text    bool // within a string
	escaped bool // after a backslash in one
	name    bool // the next string, or this one, is a name of the object
	here    bool // the value is that of the member
	matched int  // how much of what is looked for has come; negative: it is not that
}

const (
	streamName = "stream"
	trueValue  = "true"
)

func (m *streamMember) look(p []byte) {
	for len(p) > 0 && !m.over {
		if m.text && !m.name && !m.escaped {
			p = p[untilMark(p):] // most of a conversation
			if len(p) == 0 {
				return
			}
		}
		if c := p[0]; m.text {
			m.inText(c)
		} else {
			m.between(c)
		}
		p = p[1:]
	}
}

// untilMark is how many bytes of a string come before one that means something.
func untilMark(p []byte) int {
	for i, c := range p {
		if c == '"' || c == '\\' {
			return i
		}
	}
	return len(p)
}

// match compares the next byte with what is looked for.
func (m *streamMember) match(c byte, text string) {
	if m.matched >= 0 && m.matched < len(text) && text[m.matched] == c {
		m.matched++
	} else {
		m.matched = -1
	}
}

// inText takes a byte of a string.
func (m *streamMember) inText(c byte) {
	switch {
	case m.escaped:
		m.escaped = false
	case c == '\\':
		m.escaped, m.matched = true, -1
	case c == '"':
		m.text = false
		if m.name {
			m.name, m.here = false, m.matched == len(streamName)
			m.matched = 0
		}
	case m.name:
		m.match(c, streamName)
	}
}

// between takes a byte that is not of a string.
func (m *streamMember) between(c byte) {
	switch c {
	case ' ', '\t', '\r', '\n', ':':
		return
	case '"':
		m.text = true
		m.matched = 0
		if !m.name {
			m.matched = -1 // a value that is a string
		}
		return
	case ',', '}', ']':
		m.endValue()
	}
	switch {
	case c == '{' || c == '[':
		if m.depth++; m.depth == 1 {
			m.over, m.name = c == '[', true
		} else if m.depth == 2 {
			m.name, m.matched = false, -1
		}
	case m.depth == 0:
		m.over = true // no object
	case c == '}' || c == ']':
		m.depth--
		m.over = m.depth == 0
	case m.depth > 1:
	case c == ',':
		m.name, m.here = true, false
	default:
		m.match(c, trueValue)
	}
}

// endValue takes note of the member's value.
func (m *streamMember) endValue() {
	if m.depth == 1 && m.here {
		m.isTrue = m.matched == len(trueValue)
	}
}
