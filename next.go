package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The handlers behind sse, how they are run, and what it means if they fail.

// runNext runs the handlers behind sse. A panic of theirs becomes an error;
// that of reverse_proxy when an answer breaks off is http.ErrAbortHandler.
func runNext(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = http.ErrAbortHandler
		default:
			err = panicError{value: p, stack: debug.Stack()}
		}
	}()
	return next.ServeHTTP(w, r)
}

// panicError is what a panicking handler ends its upstream connection with.
type panicError struct {
	value any
	stack []byte
}

func (e panicError) Error() string { return fmt.Sprintf("panic in a handler: %v", e.value) }

// isAbort reports whether what a handler panicked with only breaks its response
// off.
func isAbort(v any) bool { return v == any(http.ErrAbortHandler) }

// errIncomplete is why a stream broke off whose handlers do not say.
var errIncomplete = errors.New("the upstream connection ended before the response was complete")

// errNotOurStream ends a later connection of a stream whose answer does not go
// on with it.
var errNotOurStream = errors.New("the upstream's answer does not go on with the stream")

// causeOf is what went wrong, less where in Caddy it was noticed.
func causeOf(err error) error {
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && handlerErr.Err != nil {
		return handlerErr.Err
	}
	if errors.Is(err, http.ErrAbortHandler) {
		return errIncomplete // what reverse_proxy says of a body that broke off
	}
	return err
}
