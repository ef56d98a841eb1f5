package caddysse

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/access"
)

// minReauthorize is the shortest interval: a typing error is not to be an attack on the
// authentication service.
const minReauthorize = time.Second

// reauthorizeInterval is how often a client's request is run again; 0: after a reload
// only.
func (h *Handler) reauthorizeInterval() time.Duration {
	if h.Reauthorize == nil {
		return 0
	}
	return time.Duration(h.Reauthorize.Interval)
}

// applicationAnswer is the ResponseWriter of a client's request that the application is
// asked with again. Its body is not wanted.
//
// It is a GET and not a HEAD: what a framework makes of HEAD for a handler that never
// ends is no answer to whether the client may have the stream, and may leave the handler
// running. That of a GET is cancelled as that of a client which leaves.
type applicationAnswer struct {
	header http.Header
	cancel context.CancelFunc
	status int // 0: there was none
	err    error
}

// askApplication runs the handlers behind sse up to the head of their answer.
func askApplication(r *http.Request, next caddyhttp.Handler) *applicationAnswer {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	a := &applicationAnswer{header: make(http.Header), cancel: cancel}
	caddyhttp.SetVar(ctx, insideVar, insideForGood)
	// In place: the placeholders know the request by its address.
	*r = *r.WithContext(ctx)
	a.err = runNext(next, a, r)
	if a.status == 0 {
		_, a.status = judge(0, a.err)
	}
	return a
}

func (a *applicationAnswer) Header() http.Header { return a.header }

// WriteHeader ends the request at its head: the handlers behind sse are unwound, as
// reverse_proxy does when an answer breaks off. If they read on, they would log that it
// did.
func (a *applicationAnswer) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	if a.status == 0 {
		a.status = status
	}
	a.cancel()
	panic(http.ErrAbortHandler)
}

func (a *applicationAnswer) Write([]byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return 0, http.ErrAbortHandler
}

// verdict is what the answer says of the client.
func (a *applicationAnswer) verdict() access.Verdict {
	switch {
	case isEventStream(a.status, a.header):
		return access.Stays
	case a.status == 0, isNoVerdict(a.status):
		return access.Unknown
	}
	return access.Refused
}

// judge finds the verdict of the handlers before sse, none of which has let the
// request through. status is that of their answer, 0: there is none.
func judge(status int, err error) (access.Verdict, int) {
	if status == 0 && err != nil {
		status = http.StatusInternalServerError
		if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
			status = handlerErr.StatusCode
		}
	}
	if isNoVerdict(status) {
		return access.Unknown, status
	}
	return access.Refused, status // also by an answer of another kind: it does not lead to sse any more
}

// isNoVerdict reports whether a status says something of who answers, or of how often
// or when it was asked, and not of the client.
func isNoVerdict(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests,
		statusCancelled:
		return true
	}
	return status >= http.StatusInternalServerError
}

// statusCancelled is what reverse_proxy says of a request that was cancelled, by its
// timeout here.
const statusCancelled = 499
