package h2

import (
	"encoding/binary"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// Types of frames (RFC 9113, 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRST          = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

// Flags of frames.
const (
	flagAck        = 0x1 // of SETTINGS and PING
	flagEndStream  = 0x1 // of DATA and HEADERS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
)

// Error codes (RFC 9113, 7).
const (
	codeNo          = 0x0
	codeProtocol    = 0x1
	codeInternal    = 0x2
	codeFlowControl = 0x3
)

const (
	// Preface is what a client begins with (RFC 9113, 3.4).
	Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	headerLen = 9

	// maxPayload is what each client takes in a frame (SETTINGS_MAX_FRAME_SIZE).
	maxPayload = 16 << 10

	initialWindow = 1<<16 - 1
	maxWindow     = 1<<31 - 1

	settingInitialWindow = 0x4
	settingLen           = 6
	windowUpdateLen      = 4
	pingLen              = 8
)

// header is that of a frame.
type header struct {
	length int
	kind   byte
	flags  byte
	stream uint32
}

func (h header) has(flag byte) bool { return h.flags&flag != 0 }

// parseHeader takes the first bytes of a frame.
func parseHeader(b []byte) header {
	return header{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

func appendHeader(dst []byte, h header) []byte {
	dst = append(dst, number.As[byte](h.length>>16), number.As[byte](h.length>>8), number.As[byte](h.length), h.kind, h.flags) // its 24 bits
	return binary.BigEndian.AppendUint32(dst, h.stream)
}

// appendWord appends a frame whose payload is a number: WINDOW_UPDATE, RST_STREAM.
func appendWord(dst []byte, kind byte, stream, word uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(dst, header{length: 4, kind: kind, stream: stream}), word)
}

// word is the number that a frame has as payload, without its reserved bit.
func word(b []byte) int64 { return int64(binary.BigEndian.Uint32(b) & maxWindow) }
