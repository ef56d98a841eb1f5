package caddysse

import (
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/access"
)

// insideVar tells, in Caddy's variables, whether a request is inside an sse
// handler (*passage): a nested one steps aside.
const insideVar = "http.handlers.sse.inside"

// passage is a request's way through an sse handler.
type passage struct {
	atomic.Bool // it is inside: a nested one steps aside

	came  access.Clock // when it came, in the order of revocations
	place *clientPlace // that it has taken; nil: it was not counted
}

// insideForGood marks a detached request for a nested sse.
var insideForGood = func() *passage {
	inside := new(passage)
	inside.Store(true)
	return inside
}()

// cameAt is when a request came, in the order of revocations.
func cameAt(r *http.Request) access.Clock {
	if v, ok := caddyhttp.GetVar(r.Context(), insideVar).(*passage); ok {
		return v.came
	}
	return 0
}

// placeOf is the place that a request has taken.
func placeOf(r *http.Request) *clientPlace {
	if inside, ok := caddyhttp.GetVar(r.Context(), insideVar).(*passage); ok {
		return inside.place
	}
	return nil
}
