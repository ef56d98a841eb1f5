package stream

import "github.com/caddy-sse/caddy-sse/internal/logs"

// streamLines are the throttled log lines of a stream: those that its upstream
// can cause.
type streamLines struct {
	final     logs.Throttle // the upstream connection is not opened again
	lost      logs.Throttle
	recovered logs.Throttle
	possible  logs.Throttle // gaps
	anew      logs.Throttle
	repeated  logs.Throttle
}

// HandlerLines are the throttled log lines of a handler: those that clients can
// cause, who choose which stream they come to.
type HandlerLines struct {
	splices     streamLines
	gap         logs.Throttle
	skipped     logs.Throttle
	ended       logs.Throttle
	perClient   logs.Throttle
	notMerged   logs.Throttle
	TurnedAway  logs.Throttle
	NoFiles     logs.Throttle
	BrokeOff    logs.Throttle
	Oversized   logs.Throttle
	NotDetached logs.Throttle
	Late        logs.Throttle
	Resumed     logs.Throttle
	NotResumed  logs.Throttle
	Revoked     logs.Throttle
	Unanswered  logs.Throttle
	Withdrawn   logs.Throttle
}
