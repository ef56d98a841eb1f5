package caddysse

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What is known of a request whose answer may outlive its client, and its body.

// defaultMaxRequestBody bounds the request bodies that are copied: a long
// conversation with a language model, without its pictures.
const defaultMaxRequestBody = 1 << 20

// detachSettings are the settings of the option detach, defaults filled in; nil
// without it.
func (h *Handler) detachSettings() *detachSettings {
	if h.Detach == 0 {
		return nil
	}
	s := &detachSettings{
		options: h.options.Detached(time.Duration(h.Detach)),
		headers: key.Credentials(h.DetachHeaders),
		maxBody: defaultMaxRequestBody,
	}
	if h.MaxRequestBody > 0 {
		s.maxBody = h.MaxRequestBody
	}
	return s
}

// detachedParts lists what a request has to have in common with the one that
// opened a detached stream.
func (h *Handler) detachedParts(r *http.Request) []stream.Part {
	return h.policy.DetachedParts(r, h.instance.Place, h.detached.headers)
}

// copyBody makes a request own its body: the client's may be gone before the
// upstream has it. It returns false if there are more than limit bytes, or it
// cannot be read; then the request has the body that it had.
func copyBody(r *http.Request, limit int64) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.ContentLength > limit {
		return false
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(data)) <= limit {
		r.Body = newOwnBody(data)
		return true
	}
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failedReader{err}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), rest), r.Body}
	return false
}

// failedReader is the rest of a body that could not be read.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// ownBody is a request body in memory. It frees it when it was read or closed:
// the answer may take much longer.
type ownBody struct {
	mu   sync.Mutex // Close may come while Read runs
	rest []byte
}

func newOwnBody(data []byte) io.ReadCloser {
	if len(data) == 0 {
		return http.NoBody
	}
	return &ownBody{rest: data}
}

func (b *ownBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) > 0 {
		return n, nil
	}
	b.rest = nil
	return n, io.EOF
}

// Close implements io.Closer.
func (b *ownBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest = nil
	return nil
}
