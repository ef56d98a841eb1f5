package caddysse

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

func newPassThrough(h *Handler, w http.ResponseWriter, r *http.Request, headSent bool) *passThrough {
	return &passThrough{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               h,
		request:               r,
		host:                  r.Host,
		path:                  r.URL.EscapedPath(),
		headSent:              headSent,
		unsent:                make(http.Header),
		clock:                 stream.NewAnswerClock(),
	}
}

// Header implements http.ResponseWriter.
func (p *passThrough) Header() http.Header {
	if p.headSent {
		return p.unsent
	}
	return p.ResponseWriter.Header()
}

// servePrivate gives the client an upstream connection of its own.
func (h *Handler) servePrivate(p *passThrough, next caddyhttp.Handler) (err error) {
	p.makeCancellable()
	next = h.resuming(p.request, next)
	returned := false
	defer func() {
		if returned {
			return
		}
		if p.body != nil { // next panics: nothing may be written any more
			_ = p.body.Close(false)
		}
		p.stop()
		if left, result := p.hasLeft(); left {
			if v := recover(); !isAbort(v) {
				panic(v)
			}
			err = result
		}
	}()
	err = h.runPrivate(p, next)
	returned = true
	defer p.stop()
	return p.finish(err)
}

// makeCancellable makes it possible to end the upstream connection before the
// client leaves. The request stays the same one: the placeholders know it by its
// address.
func (p *passThrough) makeCancellable() {
	ctx, cancel := context.WithCancelCause(p.request.Context())
	*p.request = *p.request.WithContext(ctx)
	// Only by drain: handlers before sse may go on with the request.
	p.cancel = func() { cancel(nil) }
	p.release = func() { cancel(io.EOF) }
}

// hasLeft reports whether leave has ended the stream, and what is to be returned
// then. At the process's stop that is an end in order, if the client has whole
// blocks. Otherwise an answer that is not complete must not look complete.
func (p *passThrough) hasLeft() (left bool, result error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hasLeftLocked()
}

// hasLeftLocked is hasLeft. The lock is held.
func (p *passThrough) hasLeftLocked() (left bool, result error) {
	if errors.Is(p.err, errLeft) && (p.end != stream.EndStopping || p.out.MidBlock) {
		result = http.ErrAbortHandler
	}
	return errors.Is(p.err, errLeft), result
}

// WriteHeader decides whether the answer is an event stream.
func (p *passThrough) WriteHeader(status int) {
	if p.wroteHeader {
		return
	}
	informational := status >= 100 && status < 200 && status != http.StatusSwitchingProtocols
	if informational {
		if !p.headSent {
			p.ResponseWriter.WriteHeader(status)
		}
		return
	}
	p.wroteHeader = true
	header := p.Header()
	p.handler.takeRevocations(header, p.host)
	if !isEventStream(status, header) {
		p.plain(status)
		return
	}
	p.findGap(header)
	body, known := newBodyWriter(header.Get("Content-Encoding"), eventWriter{p})
	if !known {
		p.countGap()
		p.why = stream.Private{Reason: stream.PrivateCoding, Detail: header.Get("Content-Encoding")}
		p.sayWhy(header)
		p.tellPrivate()
		p.plain(status)
		return
	}
	p.judge(header)
	p.sayWhy(header)
	p.body = body
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decoder.MaxBlockSize = cmp.Or(int(p.handler.MaxEventSize), stream.DefaultMaxPrivateEvent)
	if !p.headSent {
		header.Del("Content-Length")
		header.Del("Content-Encoding")
		setStreamHeaders(header)
		p.ResponseWriter.WriteHeader(status)
	}
	p.out = delivery.NewResponse(p.ResponseWriter, p.request, p.handler.settings, p.headSent)
	p.begin() // before the client has its head: from then on its access can be taken back
	if err := p.out.Flush(); err != nil {
		p.failed(err)
	}
	p.out.StartHeartbeats(&p.mu, p.failed)
	p.tellGap()
}

// cameWith takes note of the last event ID that the client came with. One that a
// gateway gave says nothing to the upstream: the client is not going to get what
// it missed, and is told. Where the ID is sent upstream all the same (it is not
// withheld), there may be another gateway, whose answer tells what became of it.
func (p *passThrough) cameWith(id string, withheld bool) {
	switch _, _, own := replay.ParseID(id); {
	case !own:
	case withheld:
		p.lostID = id
	default:
		p.askedID = id
	}
}

// findGap finds out whether the client has a gap, of the header of its event
// stream, and tells it there.
func (p *passThrough) findGap(header http.Header) {
	if p.askedID != "" && header.Get("SSE-Resume") == "" {
		p.lostID = p.askedID // no gateway knows it
	}
	switch {
	case p.headSent:
	case p.lostID != "":
		header.Set("SSE-Resume", stream.ResumeGap)
	case header.Get("SSE-Resume") == "":
		header.Set("SSE-Resume", stream.ResumePrivate)
	}
}

// countGap tells the log and the metrics, if the client has a gap, and returns it.
func (p *passThrough) countGap() (gap stream.Gap, ok bool) {
	switch {
	case p.lostID != "":
		theMetrics.resumes.WithLabelValues(stream.ResumeGap).Inc()
		gap = stream.Gap{Reason: stream.GapEpoch, After: p.lostID, Missed: -1}
	case p.missed:
		gap = stream.Gap{Reason: stream.GapUpstream, After: "", Missed: -1}
	default:
		return stream.Gap{}, false
	}
	gap.Tell(p.handler.lines, p.log)
	return gap, true
}

// TellGap tells the client in band, if it has a gap. The lock is held.
func (p *passThrough) tellGap() {
	gap, ok := p.countGap()
	event := gap.Event(p.handler.options.GapEvent)
	if !ok || p.err != nil || len(event) == 0 {
		return
	}
	if err := p.out.Send(event); err != nil {
		p.failed(err)
	}
	p.seen.sent(p.out.Sent())
}

// begin makes the stream known.
func (p *passThrough) begin() {
	p.seen = newPrivateView(p)
	p.handler.instance.Answers.Add(1)
	if repl, ok := p.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.sse.stream", p.ID())
		repl.Set("http.sse.resume", p.resume())
		repl.Set("http.sse.private", string(p.why.Reason))
	}
	subscribersBy(p.request).Inc()
	p.clock.Headed()
	if age := p.handler.options.RandomAge(); age > 0 {
		p.LeaveAfter(age, stream.EndMaxAge)
	}
	p.tellPrivate()
	stream.Process.TrackPrivate(p)
	p.who = p.handler.welcomePrivate(p)
}

// plain lets an answer pass that is not an event stream.
func (p *passThrough) plain(status int) {
	if p.headSent {
		p.discard = true
		return
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *passThrough) Write(b []byte) (int, error) {
	if !p.wroteHeader {
		p.WriteHeader(http.StatusOK)
	}
	switch {
	case p.discard:
		return 0, errNotOurStream
	case p.body == nil:
		return p.ResponseWriter.Write(b)
	}
	return p.body.Write(b)
}

// ReadFrom implements io.ReaderFrom: what is not an event stream is copied by
// the server, by sendfile where it can.
func (p *passThrough) ReadFrom(r io.Reader) (int64, error) {
	if !p.wroteHeader {
		p.WriteHeader(http.StatusOK)
	}
	if p.discard || p.body != nil {
		return io.Copy(onlyWriter{p}, r)
	}
	return p.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError does nothing for an event stream: each Write goes out at once.
func (p *passThrough) FlushError() error {
	if !p.wroteHeader {
		p.WriteHeader(http.StatusOK)
	}
	if p.discard || p.body != nil {
		return nil
	}
	return http.NewResponseController(p.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (p *passThrough) Flush() { _ = p.FlushError() }

// eventWriter writes the bytes of an event stream to the client, each at once
// and as it is: an application may say that its answer is an event stream, and
// end its lines or blocks in its own way or not at all.
type eventWriter struct{ p *passThrough }

func (w eventWriter) Write(b []byte) (int, error) {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	upstreams.Counts.Bytes.Add(len(b))
	var passing privateCount
	decodeErr := p.decoder.Write(b, func(blk eventstream.Block) error {
		passing.add(blk)
		p.seen.passing.Add(blk)
		return nil
	})
	p.noteEnd(b)
	w.send(b, passing)
	if p.err == nil && decodeErr != nil {
		p.err, p.end = decodeErr, stream.EndOversized
		p.handler.lines.Oversized.Log(func(suppressed int) {
			p.log().Error("upstream event over max_event_size", zap.NamedError("reason", decodeErr), zap.Int("suppressed", suppressed))
		})
	}
	if p.err != nil {
		return 0, p.err
	}
	return len(b), nil
}

// send sends what comes in a Write, with which blocks become whole.
func (w eventWriter) send(b []byte, passing privateCount) {
	p := w.p
	stream.Counts.Blocks.Add(passing.blocks)
	p.clock.Events(passing.events)
	p.seen.sending(passing, len(b), p.clock.First)
	if !p.out.Began() {
		p.mark.past = true // it is at the very start: the client drops it
	}
	var err error
	if b = p.mark.cut(b); len(b) > 0 {
		err = delivery.Contained(func() error { return p.out.SendBytes(b) }) // who removes a coding writes, too
	}
	if err == nil {
		delivery.Counts.Blocks.Add(passing.blocks)
	} else {
		p.failed(err)
	}
	p.seen.sent(p.out.Sent())
}

// noteEnd notes, of the newest bytes of the stream, whether a block ends with
// them, so that something else may come between. After a CR that cannot be said
// as long as an LF may follow that belongs to it: unless the line before was
// ended by a CR alone.
func (p *passThrough) noteEnd(b []byte) {
	switch n := len(b); n {
	case 0:
		return
	case 1:
		p.last = [2]byte{p.last[1], b[0]}
	default:
		p.last = [2]byte(b[n-2:])
	}
	p.out.MidBlock = len(p.decoder.Rest()) > 0 || (p.last[1] == '\r' && p.last[0] != '\r')
}

// stop ends the stream if it was one. It may be called more than once.
func (p *passThrough) stop() {
	stream.Process.ForgetPrivate(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.who != nil {
		p.who.Left()
	}
	if p.out != nil {
		p.out.Close()
		p.tell()
	}
}

// tell tells, once, what became of the stream: the metrics, the placeholders and
// the access log. The lock is held.
func (p *passThrough) tell() {
	if p.told {
		return
	}
	p.told = true
	switch {
	case p.end != "":
	case p.request.Context().Err() != nil:
		p.end = stream.EndClient
	default:
		p.end = stream.EndBroken
	}
	if p.end == stream.EndBroken || p.end == stream.EndWrite {
		p.logBroken()
	}
	p.seen.close()
	stream.AnswerEnded(p.end)
	subscribersBy(p.request).Dec()
	tellEnd(p.request, accessFields{stream: p.ID(), resume: p.resume(), events: p.seen.events.Load(), firstEvent: p.clock.First, end: p.end, private: p.why.Reason})
}

// logBroken logs that the stream broke off.
func (p *passThrough) logBroken() {
	reason := p.err
	if reason == nil {
		reason = errIncomplete
	}
	p.handler.lines.BrokeOff.Log(func(suppressed int) {
		p.log().Warn("private stream broke off", zap.NamedError("reason", reason), zap.Int("suppressed", suppressed))
	})
}

// finish ends the response after the handlers behind sse have returned err,
// and returns what is to be returned of it.
func (p *passThrough) finish(err error) error {
	if p.body == nil {
		return p.finishPlain(err)
	}
	defer p.stop()
	if bodyErr := p.body.Close(err == nil); err == nil {
		err = bodyErr
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if left, result := p.hasLeftLocked(); left {
		return result
	}
	if err == nil {
		err = p.err
	}
	if err == nil {
		p.end = stream.EndUpstream
		return nil
	}
	p.err = causeOf(err)
	return http.ErrAbortHandler
}

// finishPlain is finish for what is not an event stream. Where the status is
// sent and the rest cannot be, the server breaks the response off, so that the
// client sees that it is not complete.
func (p *passThrough) finishPlain(err error) error {
	if p.discard {
		return nil
	}
	_, panicked := delivery.PanicOf(err)
	if err != nil && (p.headSent || (panicked && p.wroteHeader)) {
		return http.ErrAbortHandler
	}
	return err
}

// Interface guards.
var (
	_ http.ResponseWriter = (*passThrough)(nil)
	_ http.Flusher        = (*passThrough)(nil)
	_ io.ReaderFrom       = (*passThrough)(nil)
)
