package stream

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"net"
	"strings"
	"sync/atomic"
)

// What makes two requests the same stream: the parts of a key, and what operators are
// told of them.

// Key is a keyed hash of what makes two requests the same stream.
type Key [sha256.Size]byte

// String names the key in logs; it tells nothing about the request.
func (k Key) String() string { return hex.EncodeToString(k[:8]) }

// Part is one part of a key: what it is called, for the operator, and its
// value.
type Part struct{ Name, Value string }

// partHash is a part of a stream's key. It tells the value from others, and
// nothing about it.
type partHash struct {
	name string
	sum  uint64
}

var partSeed = maphash.MakeSeed()

const (
	// maxPieces is how many parameters of a query, and how many cookies, are told
	// apart; what follows them is one. maxPartHashes bounds all parts of a key. A
	// request of 16 KB may have thousands: they are compared with those of other
	// streams, under the hub's lock.
	maxPieces     = 32
	maxPartHashes = 128

	// maxPieceName is the longest name that is kept of a parameter or a cookie.
	maxPieceName = 64

	// maxPath is the longest path that is kept as it is; of others it is a hash.
	maxPath = 256
)

// hashParts hashes the parts of a key, parameters of the query one by one.
func hashParts(parts []Part) []partHash {
	hashes := make([]partHash, 0, min(len(parts), maxPartHashes))
	for i, part := range parts {
		if len(hashes) >= maxPartHashes-1 && i < len(parts)-1 {
			return append(hashes, hashRest(parts[i:]))
		}
		switch part.Name {
		case "query":
			hashes = append(hashes, hashPieces("query", part.Value, "&")...)
			continue
		case "header Cookie":
			hashes = append(hashes, hashPieces("cookie", part.Value, ";")...)
		}
		hashes = append(hashes, partHash{part.Name, maphash.String(partSeed, part.Value)})
	}
	return hashes
}

// hashRest hashes all of what is too much to be told apart.
func hashRest(parts []Part) partHash {
	var h maphash.Hash
	h.SetSeed(partSeed)
	for _, part := range parts {
		_, _ = h.WriteString(part.Name + "\x00" + part.Value + "\x00") // never fails
	}
	return partHash{"request", h.Sum64()}
}

// hashPieces hashes the parameters of a query, or the cookies of a line, one by one.
func hashPieces(kind, text, separator string) (hashes []partHash) {
	for n := 0; text != ""; n++ {
		piece, rest, _ := strings.Cut(text, separator)
		if n == maxPieces {
			piece, rest = text, ""
		}
		text, piece = rest, strings.TrimSpace(piece)
		name, value, named := strings.Cut(piece, "=")
		switch named = named && name != "" && len(name) <= maxPieceName && n < maxPieces; {
		case named && (kind == "cookie" || strings.Trim(value, "=") != ""):
			hashes = append(hashes, partHash{kind + " " + name, maphash.String(partSeed, value)})
		case piece != "" && kind == "query": // a value, which may be a secret: it is not to be told
			hashes = append(hashes, partHash{kind, maphash.String(partSeed, piece)})
		}
	}
	return hashes
}

// pathOf names the path of a request, for counting: what is in the key and
// neither query, header nor user.
func pathOf(parts []Part) string {
	var path strings.Builder
	for _, part := range parts {
		switch part.Name {
		case "place", "host", "path":
			path.WriteString(part.Value)
			path.WriteByte(0)
		}
	}
	if path.Len() > maxPath { // it is remembered, of thousands
		sum := sha256.Sum256([]byte(path.String()))
		return string(sum[:])
	}
	return path.String()
}

// maxTold bounds what is told of a text that comes from outside, in bytes.
const maxTold = 256

// Clip shortens a text that comes from outside.
func Clip(text string) string {
	if len(text) <= maxTold {
		return text
	}
	return strings.ToValidUTF8(text[:maxTold], "") + "…"
}

// maxNames bounds how many parts of a key are named.
const maxNames = 32

// shownOf returns the parts of a request that are told: its host, and its path as
// it was received.
func shownOf(parts []Part) (host, path string) {
	for _, part := range parts {
		switch part.Name {
		case "host":
			host = Clip(part.Value)
		case "path", "original path": // the latter comes after
			path = Clip(part.Value)
		}
	}
	return host, path
}

// PlaceOf returns the listen addresses and the handler's name of a place.
func PlaceOf(place string) (listen, handler string) {
	listen, handler, _ = strings.Cut(place, "\x00")
	return listen, handler
}

// Client is what is told of a client.
type Client struct {
	Remote   string // the address of its connection
	IP       string // its own, if a proxy that is trusted has told another one than remote
	Protocol string // of HTTP
}

// Address is that of the client, if a proxy has not told another one that of its
// connection.
func (c Client) Address() string { return cmp.Or(c.IP, hostOf(c.Remote)) }

// hostOf is the host of an address.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// Holder is whose request it is, as far as access is taken back by that: a hash.
type Holder [16]byte

// streamNumbers is how many streams the process has had.
var streamNumbers atomic.Uint64

// NextNumber numbers a stream.
func NextNumber() uint64 { return streamNumbers.Add(1) }
