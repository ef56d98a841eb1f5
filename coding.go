package caddysse

import (
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
)

// maxZstdWindow is the largest window of the coding zstd: RFC 9659, 3. The
// decoder keeps that much of each body.
const maxZstdWindow = 8 << 20

// bodyWriter takes the body of an answer as it comes.
type bodyWriter interface {
	io.Writer

	// Holds is how many bytes are kept to decode it, about.
	Holds() int64

	// Close ends the body. It returns when all of it was taken, and what was
	// wrong with it. Without complete nothing is said about a body that breaks
	// off.
	Close(complete bool) error
}

// newBodyWriter returns a writer that removes a content coding and writes the
// rest to dst, and false if it does not know the coding.
func newBodyWriter(coding string, dst io.Writer) (bodyWriter, bool) {
	switch strings.ToLower(strings.TrimSpace(coding)) {
	case "", "identity":
		return plainBody{dst}, true
	case "gzip", "x-gzip":
		return newDecodedBody(dst, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }), true
	case "deflate": // the zlib format, RFC 9110, 8.4.1.2
		return newDecodedBody(dst, zlib.NewReader), true
	case "zstd":
		return &zstdBody{decodedBody: newDecodedBody(dst, func(r io.Reader) (io.ReadCloser, error) {
			d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		})}, true
	}
	return nil, false
}

// plainBody is a body without a coding.
type plainBody struct{ io.Writer }

func (plainBody) Close(bool) error { return nil }

func (plainBody) Holds() int64 { return 0 }

// decodedBody decodes a body in a goroutine of its own, because decoders read.
// All of what can be decoded from one Write has been written to dst, or is
// about to be, when it returns.
type decodedBody struct {
	pipe *io.PipeWriter
	done chan error
}

func newDecodedBody(dst io.Writer, open func(io.Reader) (io.ReadCloser, error)) *decodedBody {
	r, w := io.Pipe()
	b := &decodedBody{pipe: w, done: make(chan error, 1)}
	go func() {
		err := delivery.Contained(func() error { return decodeBody(dst, r, open) })
		_ = r.CloseWithError(err) // of nil: io.ErrClosedPipe for later writes
		b.done <- err
	}()
	return b
}

func decodeBody(dst io.Writer, r io.Reader, open func(io.Reader) (io.ReadCloser, error)) error {
	d, err := open(r)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // what was wrong, reading has told
	_, err = io.Copy(onlyWriter{dst}, d)
	return err
}

// onlyWriter hides io.ReaderFrom: what was decoded is written at once.
type onlyWriter struct{ io.Writer }

func (b *decodedBody) Write(p []byte) (int, error) { return b.pipe.Write(p) }

// flateHolds is what gzip and deflate need: a window of 32 KiB, as much to read into,
// and tables.
const flateHolds = 80 << 10

func (b *decodedBody) Holds() int64 { return flateHolds }

// zstdBody is a body in the coding zstd, which says how large its window is.
type zstdBody struct {
	*decodedBody
	window int64
}

func (b *zstdBody) Write(p []byte) (int, error) {
	if b.window == 0 {
		b.window = maxZstdWindow
		var header zstd.Header
		if header.Decode(p) == nil && header.WindowSize > 0 {
			b.window = int64(min(header.WindowSize, maxZstdWindow))
		}
	}
	return b.decodedBody.Write(p)
}

func (b *zstdBody) Holds() int64 { return flateHolds + b.window }

func (b *decodedBody) Close(complete bool) error {
	if complete {
		_ = b.pipe.Close() // never fails
	} else {
		_ = b.pipe.CloseWithError(io.ErrUnexpectedEOF) // never fails
	}
	err := <-b.done
	if !complete {
		return nil
	}
	return err
}

// limitCodings removes from a request's Accept-Encoding what the gateway cannot
// decode: when the client has a head, nothing can be said of a coding any more.
func limitCodings(header http.Header) {
	lines, ok := header["Accept-Encoding"]
	if !ok {
		return
	}
	var kept []string
	for element := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		coding, _, _ := strings.Cut(element, ";")
		body, known := newBodyWriter(coding, io.Discard)
		if !known || strings.TrimSpace(coding) == "" {
			continue
		}
		_ = body.Close(false)
		kept = append(kept, strings.TrimSpace(element))
	}
	if len(kept) == 0 {
		kept = []string{"identity"}
	}
	header["Accept-Encoding"] = []string{strings.Join(kept, ", ")}
}
