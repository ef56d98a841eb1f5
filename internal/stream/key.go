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

// hashParts hashes the parts of a key, parameters of the query one by one.
func hashParts(parts []Part) []partHash {
	hashes := make([]partHash, 0, len(parts))
	for _, part := range parts {
		if part.Name == "header Cookie" {
			hashes = append(hashes, hashCookies(part.Value)...)
		}
		if part.Name != "query" {
			hashes = append(hashes, partHash{part.Name, maphash.String(partSeed, part.Value)})
			continue
		}
		for pair := range strings.SplitSeq(part.Value, "&") {
			switch name, value, named := strings.Cut(pair, "="); {
			case named && name != "" && strings.Trim(value, "=") != "":
				hashes = append(hashes, partHash{"query " + name, maphash.String(partSeed, value)})
			case pair != "": // a value, which may be a secret: it is not to be told
				hashes = append(hashes, partHash{"query", maphash.String(partSeed, pair)})
			}
		}
	}
	return hashes
}

// hashCookies hashes the cookies of a line one by one.
func hashCookies(line string) (hashes []partHash) {
	for pair := range strings.SplitSeq(line, ";") {
		if name, value, named := strings.Cut(strings.TrimSpace(pair), "="); named && name != "" {
			hashes = append(hashes, partHash{"cookie " + name, maphash.String(partSeed, value)})
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
