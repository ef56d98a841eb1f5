package main

import (
	"bytes"
	"strings"
)

// An event of the bench is one data line with fields of fixed width, so that reading one costs little:
//
//	data: <sequence> <CLOCK_MONOTONIC, ns> <step> <e, or z for the last one> <filler>
//
// The numbers are hexadecimal. The filler is known: a changed byte shows.
const (
	seqAt   = 0
	timeAt  = seqAt + 8 + 1
	stepAt  = timeAt + 16 + 1
	kindAt  = stepAt + 2 + 1
	fillAt  = kindAt + 1 + 1
	maxSize = 1 << 20

	dataPrefix = "data: "
	minSize    = len(dataPrefix) + fillAt + len("\n\n")
)

var filler = []byte(strings.Repeat("The quick brown fox jumps over the lazy dog; ", maxSize/45+1))

// event is what the fields of one say.
type event struct {
	seq  uint32 // from 1 on, within one run of the origin
	time int64  // when it was published, CLOCK_MONOTONIC in ns
	step int    // of the plan
	last bool   // an end mark: seq is one more than that of the last event
	size int    // of the data
}

// appendEvent appends the event's block. Its size is that of the block with the blank line, without the id.
func appendEvent(b []byte, e event, size int, withID bool) []byte {
	if withID {
		b = append(b, "id: "...)
		b = appendHex(b, uint64(e.seq), 8)
		b = append(b, '\n')
	}
	b = append(b, dataPrefix...)
	b = appendHex(b, uint64(e.seq), 8)
	b = append(b, ' ')
	b = appendHex(b, uint64(max(e.time, 0)), 16)
	b = append(b, ' ')
	b = appendHex(b, uint64(max(e.step, 0)), 2)
	kind := byte('e')
	if e.last {
		kind = 'z'
	}
	b = append(b, ' ', kind, ' ')
	b = append(b, filler[:max(size-minSize, 0)]...)
	return append(b, "\n\n"...)
}

// parseEvent reads the value of a data line. It is false for anything but an event as it was published.
func parseEvent(data []byte) (event, bool) {
	if len(data) < fillAt || data[timeAt-1] != ' ' || data[stepAt-1] != ' ' || data[kindAt-1] != ' ' || data[fillAt-1] != ' ' {
		return event{}, false
	}
	seq, ok1 := parseHex(data[seqAt : seqAt+8])
	at, ok2 := parseHex(data[timeAt : timeAt+16])
	step, ok3 := parseHex(data[stepAt : stepAt+2])
	kind := data[kindAt]
	if !ok1 || !ok2 || !ok3 || kind != 'e' && kind != 'z' {
		return event{}, false
	}
	fill := data[fillAt:]
	if len(fill) > len(filler) || !bytes.Equal(fill, filler[:len(fill)]) {
		return event{}, false
	}
	return event{seq: uint32(seq), time: int64(at), step: int(step), last: kind == 'z', size: len(data)}, true
}

func appendHex(b []byte, v uint64, width int) []byte {
	const digits = "0123456789abcdef"
	for shift := (width - 1) * 4; shift >= 0; shift -= 4 {
		b = append(b, digits[v>>shift&15])
	}
	return b
}

func parseHex(b []byte) (uint64, bool) {
	var v uint64
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}
