package replay

import (
	"strconv"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

const (
	// maxChunkSize is how many bytes AppendChunkSize appends at most.
	maxChunkSize = 16 + len("\r\n")

	// LastChunk ends a body in the chunked transfer coding; there are no
	// trailers (RFC 9112, 7.1).
	LastChunk = "0\r\n\r\n"
)

// AppendChunkSize appends what comes before the data of a chunk of size bytes
// (RFC 9112, 7.1). After them comes CR LF.
func AppendChunkSize(dst []byte, size int) []byte {
	return append(strconv.AppendUint(dst, number.As[uint64](size), 16), "\r\n"...)
}

// AppendChunk appends data as one chunk. There is no chunk without data: it
// would be the last one.
func AppendChunk(dst []byte, data ...[]byte) []byte {
	size := 0
	for _, d := range data {
		size += len(d)
	}
	if size == 0 {
		return dst
	}
	dst = AppendChunkSize(dst, size)
	for _, d := range data {
		dst = append(dst, d...)
	}
	return append(dst, "\r\n"...)
}
