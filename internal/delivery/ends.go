package delivery

import (
	"errors"
	"net/http"
	"syscall"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// ClientEnd tells a client that left from one that was cut. The server cancels
// the request's context when a write fails, whatever it fails of.
func ClientEnd(r *http.Request, err error) stream.EndReason {
	if r.Context().Err() != nil && !errors.Is(err, http.ErrAbortHandler) && !timedOut(err) {
		return stream.EndClient
	}
	return writeEnd(err)
}

// writeEnd tells from the error of a write whether the client has left.
func writeEnd(err error) stream.EndReason {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return stream.EndClient
	}
	return stream.EndWrite
}

// timedOut reports whether a write took too long: by its deadline, or by
// the system.
func timedOut(err error) bool {
	late, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && late.Timeout()
}
