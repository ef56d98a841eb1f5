package caddysse

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// privateView is what operators see of a private stream. The lock of writing is
// not needed for it, because a client that is stuck holds that.
type privateView struct {
	// Fixed after construction.
	number uint64
	born   time.Time
	client stream.Client

	events   atomic.Uint64
	first    atomic.Int64 // from the request to the first event; 0: there was none
	received atomic.Int64 // bytes
	given    atomic.Int64 // bytes to the client
	waiting  atomic.Int64 // how many blocks are being written; part of one counts as one
	since    atomic.Int64 // since when, in Unix nanoseconds; 0: nothing is

	passing stream.Passing // what tails are shown

	mu       sync.Mutex  // guards what follows
	leave    *time.Timer // ends the stream from this side; nil: nothing does
	leaveAt  time.Time
	leaveFor stream.EndReason
	over     bool
}

// newPrivateView begins the view of a stream whose head is about to be sent.
func newPrivateView(p *passThrough) *privateView {
	if original, ok := p.request.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		p.path = original.URL.EscapedPath()
	}
	return &privateView{number: stream.NextNumber(), born: time.Now(), client: clientOf(p.request)}
}

// privateCount counts blocks that have become whole.
type privateCount struct{ blocks, events int }

// add counts a block.
func (c *privateCount) add(b eventstream.Block) {
	c.blocks++
	if b.Dispatches() {
		c.events++
	}
}

// sending notes that bytes are being written to the client, with which blocks
// become whole; sent that they were, and how many bytes the client was given in
// all.
func (v *privateView) sending(c privateCount, bytes int, first time.Duration) {
	v.events.Add(number.As[uint64](c.events))
	v.received.Add(int64(bytes))
	v.first.Store(int64(first))
	v.waiting.Store(int64(max(1, c.blocks)))
	v.since.Store(time.Now().UnixNano())
}

func (v *privateView) sent(bytes int) {
	v.given.Store(int64(bytes))
	v.since.Store(0)
}

// lag is how far the client is behind: there is no buffer, so it is what is
// being written.
func (v *privateView) lag(now time.Time) stream.LagInfo {
	since := v.since.Load()
	if since == 0 {
		return stream.LagInfo{}
	}
	return stream.LagInfo{
		Blocks:  number.As[uint64](v.waiting.Load()),
		Seconds: max(0, now.Sub(time.Unix(0, since)).Seconds()),
	}
}

// close ends the view: the stream is over.
func (v *privateView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	if v.leave != nil {
		v.leave.Stop()
	}
	v.passing.End()
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

// The stream as operators see it: observed.

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
