package caddysse

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Why streams are private, told to operators, the metrics and the log. That an
// answer is not shared whose request could be is news, and has a remedy: a hint.
// Where the request says so itself it is as it was asked for.

// judge looks whether the event stream could have been shared, if its request
// could: then the next one is asked for in the usual way. What its own head says
// is the better reason.
func (p *passThrough) judge(header http.Header) {
	if p.onShareable == nil {
		return
	}
	switch why := p.handler.policy.WhyPrivate(header, p.request); {
	case why.Reason == "":
		p.onShareable()
	case p.why.Reason != stream.PrivateEndpoint && p.why.Reason != stream.PrivatePerConnection:
		why.Until = p.why.Until
		p.why = why
	}
}

// tellPrivate tells why the stream is private.
func (p *passThrough) tellPrivate() {
	stream.Counts.Private.With(string(p.why.Reason)).Inc()
	if c := p.handler.logger.Check(zap.DebugLevel, "stream is private"); c != nil {
		c.Write(zap.String("host", stream.Clip(p.host)), zap.String("path", stream.Clip(p.path)),
			zap.String("reason", string(p.why.Reason)), zap.String("detail", stream.Clip(p.why.Detail)))
	}
	switch p.why.Reason {
	case stream.PrivateAccept, stream.PrivateSetCookie, stream.PrivateVary, stream.PrivateControl, stream.PrivateCoding:
		p.handler.hints.Notice(hints.NotShared, p.place(), func() (text, remedy string) {
			return "event stream is not shared: " + p.why.Text(), p.why.Remedy()
		})
	}
}

// place names the path of the stream in hints.
func (p *passThrough) place() string { return stream.Clip(p.host + p.path) }
