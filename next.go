package caddysse

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
)

// The handlers behind sse, how they are run, and what it means if they fail.

// runNext runs the handlers behind sse. A panic of theirs becomes an error;
// that of reverse_proxy when an answer breaks off is http.ErrAbortHandler.
func runNext(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) error {
	return delivery.Contained(func() error { return next.ServeHTTP(w, r) })
}

// sayPanic logs what somebody else's code has panicked with, if that is what an error is.
func sayPanic(log *zap.Logger, err error) {
	if p, ok := delivery.PanicOf(err); ok {
		log.Error("panic in a handler", zap.Any("panic", p.Value), zap.ByteString("stack", p.Stack))
	}
}

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
