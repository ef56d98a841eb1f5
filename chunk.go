package caddysse

import "strconv"

const (
	// maxChunkSize is how many bytes appendChunkSize appends at most.
	maxChunkSize = 16 + len("\r\n")

	// lastChunk ends a body in the chunked transfer coding; there are no
	// trailers (RFC 9112, 7.1).
	lastChunk = "0\r\n\r\n"
)

// appendChunkSize appends what comes before the data of a chunk of size bytes
// (RFC 9112, 7.1). After them comes CR LF.
func appendChunkSize(dst []byte, size int) []byte {
	return append(strconv.AppendUint(dst, uint64(size), 16), "\r\n"...) //nolint:gosec // G115: a length
}

// appendChunk appends data as one chunk. There is no chunk without data: it
// would be the last one.
func appendChunk(dst []byte, data ...[]byte) []byte {
	size := 0
	for _, d := range data {
		size += len(d)
	}
	if size == 0 {
		return dst
	}
	dst = appendChunkSize(dst, size)
	for _, d := range data {
		dst = append(dst, d...)
	}
	return append(dst, "\r\n"...)
}
