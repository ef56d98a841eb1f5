package replay

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
)

// MaxID is the longest last event ID, in bytes, that a request may
// bring, and that is looked up and sent upstream: what servers take as one
// header field. Composite ids, of a position in each of many topics, have some
// kilobytes. A longer one is treated as unknown: it is told as a gap.
const MaxID = 8 << 10

// MaxShownID is how much of an event ID is shown, in logs and gap events.
const MaxShownID = 1024

// IDPrefix begins every event ID that the gateway gives. The ID reads
// sse1.<epoch>.<position>.
const IDPrefix = "sse1."

// MaxIDLine is how long a line with such an ID is at most: 32 digits of the epoch, and 20
// of the position.
const MaxIDLine = int64(len("id: "+IDPrefix) + 32 + len(".") + 20 + len("\n"))

// NewEpoch names one life of a stream: 128 random bits in hexadecimal, so that
// a gateway ID can be neither guessed nor mistaken for one of another life.
func NewEpoch() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// AppendID appends the event ID of the block at position.
func AppendID(dst []byte, epoch string, position uint64) []byte {
	dst = append(dst, IDPrefix...)
	dst = append(dst, epoch...)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, position, 10)
}

// ParseID splits an event ID that has the shape of the gateway's own.
func ParseID(id string) (epoch string, position uint64, ok bool) {
	rest, ok := strings.CutPrefix(id, IDPrefix)
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

// ValidID reports whether id may be looked up and sent upstream: at
// most MaxID bytes, without CR, LF and NUL (HTML 9.2.3: an ID with
// one of them cannot have come from an event stream).
func ValidID(id string) bool {
	return len(id) <= MaxID && !strings.ContainsAny(id, "\r\n\x00")
}

// Sendable reports whether an event ID can go upstream in a header field
// (RFC 9110, 5.5: no control characters but a tab).
func Sendable(id string) bool {
	return len(id) <= MaxID && !strings.ContainsFunc(id, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f })
}

// Clip shortens an event ID that is too long to be shown.
func Clip(id string) string { return id[:min(len(id), MaxShownID)] }
