package caddysse

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Why streams are private, told to operators, the metrics and the log. That an
// answer is not shared whose request could be is news, and has a remedy: a hint.
// Where the request says so itself it is as it was asked for.

// mayJoin reports whether a request may share a stream with others.
func (h *Handler) mayJoin(r *http.Request) bool { return h.whyAlone(r) == "" }

// whyAlone tells why a request shares no stream with others, whatever it is
// answered with; empty: it may.
func (h *Handler) whyAlone(r *http.Request) stream.PrivateReason {
	switch {
	case h.Share == shareOff:
		return stream.PrivateShareOff
	case isMCP(r):
		return stream.PrivateMCP
	case r.Method != http.MethodGet:
		return stream.PrivateMethod
	case !acceptsEventStream(r.Header):
		return stream.PrivateAccept
	case r.URL.Opaque != "", !bodyless(r):
		return stream.PrivateRequest
	}
	return ""
}

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
		p.why = why
	}
}

// sayWhy tells the client why its stream is private, by a word of a closed set:
// the doctor can say then what to do about it.
func (p *passThrough) sayWhy(header http.Header) {
	if p.why.Reason != "" && !p.headSent && header.Get("SSE-Resume") == stream.ResumePrivate {
		header.Set("SSE-Resume", stream.ResumePrivate+"; reason="+string(p.why.Reason))
	}
}

// tellPrivate tells why the stream is private.
func (p *passThrough) tellPrivate() {
	if p.why.Reason == "" {
		return // each way here sets one; a stream is not to break where one was forgotten
	}
	stream.Counts.Private.With(string(p.why.Reason)).Inc()
	if c := p.handler.logger.Check(zap.DebugLevel, "stream is private"); c != nil {
		c.Write(zap.String("host", stream.Clip(p.host)), zap.String("path", stream.Clip(p.path)),
			zap.String("reason", string(p.why.Reason)), zap.String("detail", stream.Clip(p.why.Detail)))
	}
	if !p.why.Until.IsZero() {
		return // it was told when it was learnt
	}
	switch p.why.Reason {
	case stream.PrivateAccept, stream.PrivateSetCookie, stream.PrivateVary, stream.PrivateControl, stream.PrivateCoding:
		p.handler.hints.Notice(hints.NotShared, p.place(), func() (text, remedy string) {
			return "event stream is not shared: " + p.why.Text(), p.why.Remedy()
		})
	case stream.PrivateWithheld:
		p.handler.hints.Notice(hints.Withheld, p.place(), p.sayWithheld)
	}
}

// settledAfter is how long an answer that cannot be shared was not seen when one that
// is shared settles the matter: users of a path may be answered differently.
const settledAfter = time.Minute

// settlePrivate takes the hints back that answers at the path of a request cannot be
// shared: its own is.
func (h *Handler) settlePrivate(r *http.Request) {
	if !h.hints.Any() {
		return
	}
	place := stream.Clip(r.Host + r.URL.EscapedPath())
	h.hints.Settled(hints.NotShared, place, settledAfter)
	h.hints.Settled(hints.Withheld, place, settledAfter)
}

// sayWithheld tells what the application may have missed in the shared request.
func (p *passThrough) sayWithheld() (text, remedy string) {
	text, remedy = "event stream is not shared: "+p.why.Text(), p.why.Remedy()
	if names := p.handler.policy.Withholds(p.request); len(names) > 0 {
		text += "; withheld was " + strings.Join(names, ", ")
		remedy = "key_add " + strings.Join(names, " ")
	}
	return text, remedy
}

// hintQuery tells if a key of the operator's leaves out what the request has in its
// query.
func (h *Handler) hintQuery(r *http.Request) {
	names := h.policy.LeavesOut(r.URL.RawQuery)
	if len(names) == 0 {
		return
	}
	h.hints.Notice(hints.Query, stream.Clip(r.Host+r.URL.EscapedPath()), func() (text, remedy string) {
		list := strings.Join(names, " ")
		return "key leaves the query out, and requests have one: whatever is in it, they are given the same stream, and it is not sent to the application (" + list + ")",
			"key " + h.Key + "{query}, if it matters; key_ignore query " + list + ", if it does not"
	})
}

// hintCrowd tells of a path whose streams have one client each.
func (h *Handler) hintCrowd(c stream.Crowd) {
	h.hints.Notice(hints.FewShare, c.Place, func() (text, remedy string) {
		text = fmt.Sprintf("%d streams of this path have one client each. They are kept apart by %s", c.Streams, strings.Join(c.Apart, ", "))
		if len(c.Unique) > 0 {
			text += "; another value in each has " + strings.Join(c.Unique, ", ")
		}
		return text, c.Remedy
	})
}

// place names the path of the stream in hints.
func (p *passThrough) place() string { return stream.Clip(p.host + p.path) }

// slowTexts tell why clients are written to in the slower way, and what to do,
// where that is not as it is meant.
var slowTexts = map[delivery.Cause]struct{ text, remedy string }{
	delivery.CauseHTTP10: {
		"clients come with HTTP/1.0, as from a proxy with its defaults: their connections are not taken over, and a response that is cut looks like one that is complete",
		"have the proxy in front speak HTTP/1.1: proxy_http_version 1.1; proxy_buffering off; with nginx",
	},
	delivery.CauseWriter: {
		"a handler before sse may change the body, so connections are not taken over",
		"move it behind sse, or give it a matcher that leaves event streams out",
	},
	delivery.CauseFlush: {
		"the server has both an access log and timeouts write, so connections are not taken over",
		"leave timeouts write out: write_timeout of sse bounds writes that make no progress",
	},
	delivery.CauseConnection: {
		"connections of this server are wrapped by something, so they are not taken over",
		"leave out listener wrappers that are not needed; protocols h1 h2 h3, without TLS, if only h1 is stated",
	},
}

// hintDelivery tells why clients are written to in the slower way.
func (h *Handler) hintDelivery(r *http.Request, why delivery.Cause, detail string) {
	if why == delivery.CauseHTTP2 && h.wrapped {
		h.hints.Notice(hints.Wrapper, string(why), func() (text, remedy string) {
			return "the listener wrapper sse is on, and clients come over HTTP/2 on connections that it has not seen: their streams are not taken over",
				"listener_wrappers { sse }, with sse last, and TLS at this server"
		})
		return
	}
	slow, told := slowTexts[why]
	if !told {
		return
	}
	place := strings.TrimSpace(string(why) + " " + detail)
	if why == delivery.CauseHTTP10 {
		h.http10.Store(&oldFront{peerOf(r), place})
	}
	h.hints.Notice(hints.Delivery, place, func() (text, remedy string) {
		if detail != "" {
			return slow.text + ": " + detail, slow.remedy
		}
		return slow.text, slow.remedy
	})
}

// settleHTTP10 takes the hint back that clients come with HTTP/1.0 when the proxy
// that they came through speaks more than that: nobody loads the gateway's
// configuration after the remedy, which is in the proxy's.
func (h *Handler) settleHTTP10(r *http.Request) {
	if !h.hints.Any() {
		return
	}
	front := h.http10.Load()
	if front == nil || !r.ProtoAtLeast(1, 1) || peerOf(r) != front.peer {
		return
	}
	h.http10.CompareAndSwap(front, nil)
	h.hints.Settled(hints.Delivery, front.place, 0)
}
