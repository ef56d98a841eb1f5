package caddysse

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// A private stream as the hub and operators see it, and end it.

// newPrivateView begins the view of a stream whose head is about to be sent.
func newPrivateView(p *passThrough) *privateView {
	if original, ok := p.request.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		p.path = original.URL.EscapedPath()
	}
	return &privateView{number: stream.NextNumber(), born: time.Now(), client: clientOf(p.request)}
}

// errLeft ends a private stream from this side.
var errLeft = errors.New("the stream was ended by the gateway")

// leave ends the stream from this side, for a reason.
func (p *passThrough) leave(reason stream.EndReason) {
	at := time.Now()
	p.out.EndBy(func() time.Time { return at }) // what is being written has mu
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.end != "" {
		return
	}
	if retry := p.handler.options.LastRetry(); retry != nil && !p.out.MidBlock {
		if err := delivery.Contained(func() error { return p.out.Send(retry) }); err != nil {
			p.failed(err)
			return
		}
	}
	p.err, p.end = errLeft, reason
	p.release()
}

// failed ends the stream because something cannot be sent: the handlers behind sse need
// not look at the errors of their writes, and may have none for a long time. The lock is
// held.
func (p *passThrough) failed(err error) {
	if p.err != nil || p.end != "" {
		return
	}
	sayPanic(p.log(), err)
	p.err, p.end = err, delivery.ClientEnd(p.request, err)
	p.cancel()
}

// resume is the outcome of resuming.
func (p *passThrough) resume() string {
	if p.lostID != "" {
		return stream.ResumeGap
	}
	return stream.ResumePrivate
}

// LeaveAfter makes leave end the stream in a while, unless it has ended before.
func (p *passThrough) LeaveAfter(d time.Duration, reason stream.EndReason) {
	v := p.seen
	v.mu.Lock()
	defer v.mu.Unlock()
	at := time.Now().Add(d)
	if v.over || (v.leave != nil && v.leaveAt.Before(at)) {
		return
	}
	if v.leave != nil {
		v.leave.Stop()
	}
	v.leaveAt, v.leaveFor = at, reason
	v.leave = time.AfterFunc(d, func() { p.leave(reason) })
}

// log is where what happens to the stream is told.
func (p *passThrough) log() *zap.Logger {
	logger := p.handler.logger
	if p.seen != nil { // else its coding is not known
		logger = logger.With(zap.String("stream", p.ID()))
	}
	return logger.With(zap.String("host", stream.Clip(p.host)), zap.String("path", stream.Clip(p.path)))
}

func (p *passThrough) ID() string {
	return stream.KindPrivate + "-" + strconv.FormatUint(p.seen.number, 10)
}

func (p *passThrough) Serial() uint64 { return p.seen.number }

func (p *passThrough) Sample(now time.Time) (stream.Sample, bool) {
	v := p.seen
	events := v.events.Load()
	return stream.Sample{
		Of: p, Number: v.number, Kind: stream.KindPrivate, Place: p.handler.instance.Place, Host: p.host, Path: stream.Clip(p.path),
		Private: true, Connections: 1, Subscribers: 1, Received: events, Sent: events,
		Bytes: number.As[uint64](v.given.Load()), State: stream.StateOpen, Lag: v.lag(now),
	}, true
}

func (p *passThrough) Glance() (stream.Glance, bool) {
	events := p.seen.events.Load()
	return stream.Glance{Number: p.seen.number, Subscribers: 1, Received: events, Sent: events}, true
}

func (p *passThrough) Inspect() (stream.Info, bool) {
	v := p.seen
	events := v.events.Load()
	info := stream.Info{
		ID: p.ID(), Kind: stream.KindPrivate, Stream: p.ID(), Host: stream.Clip(p.host), Path: stream.Clip(p.path), SeparatedBy: []string{}, BeganAt: v.born, Private: p.why.Info(),
		Subscribers: 1, EventsReceived: events, BytesReceived: v.received.Load(),
		EventsSent: events, BytesSent: number.As[uint64](v.given.Load()),
		Upstream: stream.UpstreamInfo{State: stream.StateOpen, Since: v.born, Connections: 1},
	}
	info.FirstEvent = time.Duration(v.first.Load()).Seconds()
	info.Listen, info.Handler = stream.PlaceOf(p.handler.instance.Place)
	v.mu.Lock()
	defer v.mu.Unlock()
	info.Draining = v.leaveFor != "" && v.leaveFor != stream.EndMaxAge
	return info, !v.over
}

func (p *passThrough) SampleSubscribers(now time.Time) []stream.SubscriberSample {
	v := p.seen
	return []stream.SubscriberSample{{
		Client: v.client, Delivery: delivery.ByHandler, Joined: v.born, Outcome: p.resume(), Lag: v.lag(now),
		Events: v.events.Load(), Bytes: number.As[uint64](v.given.Load()),
	}}
}

func (p *passThrough) DrainTime() time.Duration { return p.handler.options.Drain }

func (p *passThrough) LetGo(window time.Duration) (subscribers int) {
	p.log().Info("drained by an operator", zap.Duration("window", window), zap.Int("subscribers", 1))
	p.LeaveAfter(window, stream.EndAdmin)
	return 1
}

func (p *passThrough) Watch() stream.TailSource { return p.seen.passing.Watch(defaultBufferAge) }

// Interface guards.
var _ stream.PrivateStream = (*passThrough)(nil)
