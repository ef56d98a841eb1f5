package caddysse

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// How a client of a shared or detached stream is served, from the head of its response
// to its end. handler.go and detach.go find the stream.

// served is what is left of serving a request when a subscriber's head is
// known. Its run is called by ServeHTTP: what is between ServeHTTP and the place
// where a goroutine waits is on each client's stack as long as the client is
// there, and over HTTP/2 decides whether that has 8 or 16 KB.
type served struct {
	delivery.Delivery

	h    *Handler
	next caddyhttp.Handler
	head *upstreams.Head // nil: it was sent

	// Of the request of the stream: the rest of it need not last as long as the response.
	lastEventID string
	holder      stream.Holder

	late    bool // another request has opened the stream
	left    bool // the subscriber is not the request's any more
	counted bool // it is among the subscribers, in the metrics
}

// serveSubscriber waits for the stream's head. again tells that the
// request has to look for a stream again. wait is not nil if the request opened
// the stream.
func (h *Handler) serveSubscriber(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, req *stream.Request, sub *stream.Subscriber, wait *opener) (d *served, again bool, err error) {
	attached := true
	detach := func() {
		if attached {
			attached = false
			sub.Leave()
		}
	}
	begins := false
	defer func() {
		if !begins {
			detach()
		}
	}()
	head, again, err := h.awaitHead(w, r, next, req, sub, wait, detach)
	if head == nil {
		return nil, again, err
	}
	d = &served{h: h, next: next, head: head, lastEventID: req.LastEventID, holder: req.Holder, late: wait == nil}
	d.Writer, d.Request, d.Subscriber, d.Settings = w, r, sub, h.settings
	begins = true
	return d, false, nil
}

// run sends the head and delivers the stream.
func (d *served) run() error {
	defer d.leave() // also if a handler's writer panics at the head
	d.Notice = &d.h.welcomeSubscriber(d.Subscriber, d.holder, d.Request).notice
	d.begin()
	end := d.Run()
	d.uncount()
	if end == "" {
		d.left = true
		return nil
	}
	return d.end(end)
}

// uncount tells the metrics that the subscriber is not the request's any more.
func (d *served) uncount() {
	if d.counted {
		d.counted = false
		subscribersBy(d.Request).Dec()
	}
}

// leave takes the subscriber from its stream.
func (d *served) leave() {
	d.uncount()
	if !d.left {
		d.left = true
		d.Subscriber.Leave()
	}
}

// end does what is left when the response has ended.
func (d *served) end(end stream.EndReason) error {
	tellEnd(d.Request, accessFieldsOf(d.Subscriber, end))
	missed, why := d.Subscriber.HasMissed(), d.Subscriber.WhyAlone()
	d.leave()
	s := d.Subscriber.Origin
	// Where a write fails the server gives the connection up: nothing is to be
	// broken off, and after a panic Caddy's log would not know how long it took.
	givenUp := d.Request.Context().Err() != nil
	switch {
	case (end == stream.EndWrite || end == stream.EndClient) && !givenUp, end == stream.EndBroken:
		return http.ErrAbortHandler // a write that failed may have left a part of an event
	case s.IsDetached() && end != stream.EndUpstream && end != stream.EndClient:
		return http.ErrAbortHandler // it is not whole
	case end == stream.EndPerClient:
		p := newPassThrough(d.h, d.Writer, d.Request, true)
		p.missed = missed
		return d.h.serveAlone(p, d.next, d.Subscriber.Key(), d.lastEventID, why)
	}
	return nil
}

// awaitHead waits for the head that the subscriber is to be sent. It returns
// nil if the request was served in another way, if its client has left, or if it
// has to look for a stream again.
func (h *Handler) awaitHead(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, req *stream.Request, sub *stream.Subscriber, wait *opener, detach func()) (_ *upstreams.Head, again bool, err error) {
	s := sub.Origin
	again, left := s.AwaitOpening(r.Context(), req, wait != nil)
	if again {
		return nil, true, nil
	}
	left = left && (wait == nil || wait.leave())
	if !left {
		wait, left = awaitReopening(r, sub, wait)
	}
	if left {
		tellAccessLog(r, accessFieldsOf(sub, stream.EndClient))
		return nil, false, nil
	}
	if !sub.WaitForHead(r.Context()) {
		tellAccessLog(r, accessFieldsOf(sub, stream.EndClient))
		return nil, false, nil
	}
	head, err := sub.Head()
	if err != nil {
		detach()
		if wait != nil && (errors.Is(err, stream.ErrUnshareable) || !wait.leave()) {
			<-wait.done
			if wait.again {
				err := h.serveAlone(newPassThrough(h, w, r, false), next, req.Key, req.LastEventID, wait.why)
				return nil, false, err
			}
			return nil, false, wait.err
		}
		return nil, false, h.serveUnjoined(w, r, next, req, err)
	}
	switch sub.TurnedAway() {
	case stream.EndPerClient, stream.EndRefused:
		// By the upstream, which is to tell why.
		why := sub.WhyAlone()
		detach()
		return nil, false, h.serveAlone(newPassThrough(h, w, r, false), next, req.Key, req.LastEventID, why)
	case stream.EndAskAgain:
		return nil, true, nil
	case stream.EndNoSecond:
		detach()
		return nil, false, h.turnAway(w, r, req.Key, stream.ErrNoSecond)
	}
	return head, false, nil
}

// awaitReopening waits for a stream that is being opened again. It returns the
// opener if that is given the application's answer, and whether the client has
// left.
func awaitReopening(r *http.Request, sub *stream.Subscriber, wait *opener) (_ *opener, left bool) {
	waited, left := sub.AwaitReopening(r.Context())
	if waited && wait != nil && !sub.Origin.WasRefused() && wait.leave() {
		wait = nil // what comes of its request is nothing to it
	}
	return wait, left && wait == nil
}

// begin writes the response head, and tells of the subscriber.
func (d *served) begin() {
	w, r, sub, head := d.Writer, d.Request, d.Subscriber, d.head
	d.head = nil
	s := sub.Origin
	if s.IsDetached() && d.late {
		head = head.WithoutCookies()
	}
	if !s.IsDetached() { // whose end is not always the response's
		d.By = d.h.mayTakeOver(w, r)
		d.h.settlePrivate(r)
	}
	if d.By.Closes() {
		w.Header().Set("Connection", "close") // RFC 9112, 9.6: there will be no other request on it
	}
	resume := sub.Outcome()
	writeHead(w, head, resume)
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.sse.stream", s.Key.String())
	repl.Set("http.sse.resume", resume)
	outcome, _, _ := strings.Cut(resume, ";")
	theMetrics.resumes.WithLabelValues(outcome).Inc()
	d.h.instance.Answers.Add(1)
	sub.TellGap()
	subscribersBy(r).Inc()
	d.counted = true
	delivery.Came()
}

// mayTakeOver returns how a request's connection may be taken over; nil: it may
// not.
func (h *Handler) mayTakeOver(w http.ResponseWriter, r *http.Request) *delivery.TakeOver {
	var why delivery.Cause
	var detail string
	h.settleHTTP10(r)
	switch {
	case h.Delivery == delivery.ByHandler:
		why = delivery.CauseOption
	case r.ProtoMajor > 2:
		why = delivery.CauseHTTP3
	case !bodyless(r):
		why = delivery.CauseBody
	default:
		flushed := flushedAfterwards(r)
		if by := delivery.MayTakeOver(w, r, flushed); by != nil {
			return by
		}
		why, detail = delivery.WhyNot(w, r, flushed)
	}
	delivery.Counts.ByHandler.With(string(why)).Inc()
	h.hintDelivery(r, why, detail)
	return nil
}

// writeHead sends the head of a stream to a client.
func writeHead(w http.ResponseWriter, head *upstreams.Head, outcome string) {
	header := w.Header()
	for name, values := range head.Header {
		if !head.Added[name] {
			header.Del(name)
		}
		header[name] = append(header[name], values...)
	}
	header.Set("SSE-Resume", outcome)
	if header["Date"] == nil {
		// The server would add it, at a depth at which, over HTTP/2, each
		// client's stack would have to grow for that.
		header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(http.StatusOK)
}

// serveUnjoined serves a request that cannot join a stream.
func (h *Handler) serveUnjoined(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, req *stream.Request, why error) error {
	if errors.Is(why, stream.ErrUnshareable) {
		return h.serveAlone(newPassThrough(h, w, r, false), next, req.Key, req.LastEventID, stream.WhyPrivate(why))
	}
	return h.turnAway(w, r, req.Key, why)
}

// serveAlone gives a client that asked for an event stream an upstream
// connection of its own, because the answers are not shared, and why.
func (h *Handler) serveAlone(p *passThrough, next caddyhttp.Handler, key stream.Key, lastEventID string, why stream.Private) error {
	p.why = why
	p.onShareable = func() { stream.Process.Shareable(key) }
	withheld := h.withholds(lastEventID)
	if withheld {
		h.dropID(p.request)
	}
	if !p.headSent { // else it was told with the head
		p.cameWith(lastEventID, withheld)
	}
	return h.servePrivate(p, next)
}
