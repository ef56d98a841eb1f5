package caddysse

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
)

// maxLastEventID is the longest last event ID, in bytes, that a request may
// bring, and that is looked up and sent upstream: what servers take as one
// header field. Composite ids, of a position in each of many topics, have some
// kilobytes. A longer one is treated as unknown: it is told as a gap.
const maxLastEventID = 8 << 10

// maxShownID is how much of an event ID is shown, in logs and gap events.
const maxShownID = 1024

// gatewayIDPrefix begins every event ID that the gateway gives. The ID reads
// sse1.<epoch>.<position>.
const gatewayIDPrefix = "sse1."

// newEpoch names one life of a stream: 128 random bits in hexadecimal, so that
// a gateway ID can be neither guessed nor mistaken for one of another life.
func newEpoch() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// appendGatewayID appends the event ID of the block at position.
func appendGatewayID(dst []byte, epoch string, position uint64) []byte {
	dst = append(dst, gatewayIDPrefix...)
	dst = append(dst, epoch...)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, position, 10)
}

// parseGatewayID splits an event ID that has the shape of the gateway's own.
func parseGatewayID(id string) (epoch string, position uint64, ok bool) {
	rest, ok := strings.CutPrefix(id, gatewayIDPrefix)
	if !ok {
		return "", 0, false
	}
	epoch, digits, ok := strings.Cut(rest, ".")
	if !ok || len(epoch) != 32 {
		return "", 0, false
	}
	if _, err := hex.DecodeString(epoch); err != nil {
		return "", 0, false
	}
	position, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return "", 0, false
	}
	return epoch, position, true
}

// validLastEventID reports whether id may be looked up and sent upstream: at
// most maxLastEventID bytes, without CR, LF and NUL (HTML 9.2.3: an ID with
// one of them cannot have come from an event stream).
func validLastEventID(id string) bool {
	return len(id) <= maxLastEventID && !strings.ContainsAny(id, "\r\n\x00")
}

// sendable reports whether an event ID can go upstream in a header field
// (RFC 9110, 5.5: no control characters but a tab).
func sendable(id string) bool {
	return len(id) <= maxLastEventID && !strings.ContainsFunc(id, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f })
}

// clip shortens an event ID that is too long to be shown.
func clip(id string) string { return id[:min(len(id), maxShownID)] }
