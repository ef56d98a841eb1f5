package main

import (
	"bytes"
	"strings"
	"testing"
)

// seen is a sink that notes what it is given.
type seen struct {
	events []event
	bad    int
	other  int
}

func (s *seen) deliver(e event, ok bool) {
	if !ok {
		s.bad++
		return
	}
	s.events = append(s.events, e)
}

func (s *seen) foreign() { s.other++ }

func TestEventRoundTrip(t *testing.T) {
	for _, size := range []int{minSize, 200, 10 << 10} {
		want := event{seq: 0xfedcba98, time: 1<<62 + 12345, step: 199, size: size - len(dataPrefix) - 2}
		block := appendEvent(nil, want, size, false)
		if len(block) != size {
			t.Errorf("a block of %d bytes has %d", size, len(block))
		}
		got, ok := parseEvent(block[len(dataPrefix) : len(block)-2])
		if !ok || got != want {
			t.Errorf("size %d: got %+v, %t, want %+v", size, got, ok, want)
		}
	}
	if b := appendEvent(nil, event{seq: 7}, 100, true); !bytes.HasPrefix(b, []byte("id: 00000007\ndata: ")) {
		t.Errorf("with an id: %q", b)
	}
}

// TestParseEventCorrupt changes each byte of an event in turn. What is left as an event differs from what was sent: a
// number has another value.
func TestParseEventCorrupt(t *testing.T) {
	sent := event{seq: 1, time: 2, step: 3, size: 192}
	block := appendEvent(nil, sent, 200, false)
	data := block[len(dataPrefix) : len(block)-2]
	for i := range data {
		changed := bytes.Clone(data)
		changed[i]++
		if got, ok := parseEvent(changed); ok && got == sent {
			t.Errorf("byte %d changed, and the event is the same", i)
		} else if ok && i >= kindAt {
			t.Errorf("byte %d of the filler changed, and nothing shows", i)
		}
	}
	if _, ok := parseEvent(data[:fillAt-1]); ok {
		t.Error("a piece of an event is taken for one")
	}
}

// TestScannerSplits feeds a stream in two pieces, cut everywhere, and byte by byte.
func TestScannerSplits(t *testing.T) {
	var stream []byte
	stream = append(stream, ": hello\n\nretry: 100\n\nid: x\n\n"...)
	stream = appendEvent(stream, event{seq: 1, time: 10}, 80, false)
	stream = append(stream, "event: message\n"...)
	stream = appendEvent(stream, event{seq: 2, time: 20, step: 1}, 90, true)
	stream = append(stream, "event: gap\ndata: {}\n\n"...)
	stream = append(stream, "data: nonsense\n\n"...)
	stream = append(stream, bytes.ReplaceAll(appendEvent(nil, event{seq: 3, last: true}, 80, false), []byte("\n"), []byte("\r\n"))...)
	stream = append(stream, "data: not ended"...)

	check := func(name string, s *seen) {
		t.Helper()
		if len(s.events) != 3 || s.events[0].seq != 1 || s.events[1].step != 1 || !s.events[2].last || s.bad != 1 || s.other != 1 {
			t.Fatalf("%s: %+v", name, s)
		}
	}
	for i := range stream {
		var sc scanner
		s := new(seen)
		sc.feed(stream[:i], s)
		sc.feed(stream[i:], s)
		check("in two pieces", s)
	}
	var sc scanner
	s := new(seen)
	for i := range stream {
		sc.feed(stream[i:i+1], s)
	}
	check("byte by byte", s)
}

func TestScannerTwoDataLines(t *testing.T) {
	line := appendEvent(nil, event{seq: 1}, 80, false)
	var sc scanner
	s := new(seen)
	sc.feed(append(line[:len(line)-1:len(line)-1], line...), s)
	if len(s.events) != 0 || s.bad != 1 {
		t.Errorf("two events that were run into one: %+v", s)
	}
}

// readBody takes the chunked coding off pieces of a body.
func readBody(d *body, pieces ...string) (string, error) {
	var text strings.Builder
	for _, p := range pieces {
		for b := []byte(p); len(b) > 0; {
			piece, rest, err := d.next(b)
			if err != nil {
				return text.String(), err
			}
			text.Write(piece)
			b = rest
		}
	}
	return text.String(), nil
}

func TestBodySplits(t *testing.T) {
	const coded = "5\r\nhello\r\n1A;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0002 \r\n\r\n\r\n0\r\nTrailer: x\r\n\r\n"
	const want = "helloabcdefghijklmnopqrstuvwxyz\r\n"
	for i := range coded {
		for j := i; j <= len(coded); j++ {
			var d body
			if got, err := readBody(&d, coded[:i], coded[i:j], coded[j:]); err != nil || got != want || d.state != bodyEnd {
				t.Fatalf("cut at %d and %d: %q, %v, state %d", i, j, got, err, d.state)
			}
		}
	}
}

func TestBodyBroken(t *testing.T) {
	for _, coded := range []string{"\r\n", "x\r\n", "1\r\nab\r\n", "1\r\na5\r\n", "fffffffffffffffff\r\n", "0\r\n\r\nmore"} {
		var d body
		if got, err := readBody(&d, coded); err == nil {
			t.Errorf("%q is taken for %q", coded, got)
		}
	}
	d := body{state: bodyPlain}
	if got, err := readBody(&d, "a\r\n", "b"); err != nil || got != "a\r\nb" {
		t.Errorf("without a coding: %q, %v", got, err)
	}
}

func TestHeadSplits(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n"
	for i := range text {
		var h head
		var d body
		var got strings.Builder
		done := false
		for _, p := range []string{text[:i], text[i:]} {
			rest := []byte(p)
			if !done {
				var err error
				if done, rest, err = h.feed(rest, &d); err != nil {
					t.Fatalf("cut at %d: %v", i, err)
				}
			}
			if done {
				piece, err := readBody(&d, string(rest))
				if err != nil {
					t.Fatalf("cut at %d: %v", i, err)
				}
				got.WriteString(piece)
			}
		}
		if !done || got.String() != "hello" {
			t.Fatalf("cut at %d: %t, %q", i, done, got.String())
		}
	}
}

func TestHeadRefused(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 503 Busy\r\nContent-Type: text/event-stream\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
		strings.Repeat("x", maxHead+1),
	} {
		var h head
		if done, _, err := h.feed([]byte(text), new(body)); done || err == nil {
			t.Errorf("%.40q is taken for an event stream", text)
		}
	}
}
