package caddysse

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Response heads before the upstream's.
//
// A language model may think for minutes before its server sends a head, and
// proxies on the way cut a connection that is quiet for so long. With the option
// early a client that has asked for an event stream is sent the head of one, and
// heartbeats, when the upstream has said nothing for a while. What this gives up
// is the status: an error that comes afterwards can only be told in the stream;
// see early_error.go.
//
// All ways in which a request is served write to one ResponseWriter. So this is
// one, and they know nothing of it.

// earlyWriter is the ResponseWriter of a request whose client may be sent a head
// before there is an answer. Until then it passes on what it is given.
type earlyWriter struct {
	*caddyhttp.ResponseWriterWrapper

	// Fixed after construction.
	handler    *Handler
	original   *http.Request
	request    *http.Request // a copy: handlers may write to the original
	host, path string
	cancel     context.CancelFunc // of the request's context

	header http.Header // of the answer. The client's own is written under mu only.

	mu       sync.Mutex // guards what follows, and writing until there is an answer
	timer    *time.Timer
	begun    bool               // the client was sent a head before there was an answer
	answered bool               // the upstream's head has come, or none will
	out      *delivery.Response // with begun; until there is an answer
	late     *lateAnswer        // with begun: an answer that is no event stream
	err      error              // the client cannot be written to
	end      stream.EndReason   // because of that
}

// newEarlyWriter returns the writer for a request, which is served with it by
// serve; nil if the client is to have no head before the upstream's.
func (h *Handler) newEarlyWriter(w http.ResponseWriter, r *http.Request) *earlyWriter {
	if h.Early == 0 || isMCP(r) || len(offers(r.Header)) > 0 {
		return nil
	}
	accepts := acceptsEventStream(r.Header)
	hasBody := r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 // perhaps an empty one, of HTTP/3
	if !accepts && (!hasBody || !isJSON(r.Header)) {
		return nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	*r = *r.WithContext(ctx) // in place: the placeholders know the request by its address
	e := &earlyWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               h,
		original:              r,
		request:               r.WithContext(ctx),
		host:                  r.Host,
		path:                  r.URL.EscapedPath(),
		cancel:                cancel, // only by fail: handlers before sse may go on with the request
		header:                w.Header().Clone(),
	}
	if e.header == nil {
		e.header = make(http.Header)
	}
	limitCodings(r.Header)
	if hasBody {
		r.Body = newAskingBody(r, accepts, e.await)
	} else {
		e.await()
	}
	return e
}

// await begins to wait for the answer: the upstream has the whole request. Before
// that no head can be sent: the server would read the rest of the body itself.
func (e *earlyWriter) await() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.answered && e.timer == nil {
		e.timer = time.AfterFunc(time.Duration(e.handler.Early), e.begin)
	}
}

// begin sends the client a head and a heartbeat, and others from then on.
func (e *earlyWriter) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answered || e.request.Context().Err() != nil {
		return
	}
	e.begun = true
	e.out = delivery.NewResponse(e.ResponseWriter, e.request, e.handler.settings, false)
	delivery.Counts.Heartbeats.Add(1)
	if err := delivery.Contained(e.sendBegin); err != nil {
		e.fail(err)
		return
	}
	e.out.StartHeartbeats(&e.mu, e.fail)
}

// sendBegin sends that head and heartbeat. The lock is held.
func (e *earlyWriter) sendBegin() error {
	header := e.ResponseWriter.Header()
	header.Set("Content-Type", eventStreamType)
	setStreamHeaders(header)
	e.ResponseWriter.WriteHeader(http.StatusOK)
	return e.out.Send(e.handler.settings.Beat)
}

// fail gives the request up: its client cannot be written to. The lock is held.
func (e *earlyWriter) fail(err error) {
	sayPanic(e.log(), err)
	e.err, e.end = err, delivery.ClientEnd(e.original, err)
	e.cancel()
}

// HasBegun implements delivery.Early.
func (e *earlyWriter) HasBegun() (last time.Time, begun bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		return time.Time{}, false
	}
	return e.out.Last(), true
}

// stop ends the waiting for an answer. It reports whether the client was sent a
// head that is not followed by the upstream's event stream.
func (e *earlyWriter) stop() (owes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
	owes = e.begun && (!e.answered || e.late != nil)
	e.answered = true
	if owes && e.late == nil {
		e.late = newLateAnswer(0, e.header)
	}
	return owes
}

// Header implements http.ResponseWriter.
func (e *earlyWriter) Header() http.Header { return e.header }

// WriteHeader takes the upstream's head.
func (e *earlyWriter) WriteHeader(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.answered:
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		e.inform(status)
	case !e.begun:
		e.answered = true
		e.setHeader(e.header)
		e.ResponseWriter.WriteHeader(status)
	case isEventStream(status, e.header) && e.header.Get("Content-Encoding") == "":
		e.answered = true
		e.out.Close() // its writer has another
	default:
		e.answered = true
		e.late = newLateAnswer(status, e.header)
	}
}

// setHeader makes the client's header another one.
func (e *earlyWriter) setHeader(header http.Header) {
	own := e.ResponseWriter.Header()
	clear(own)
	maps.Copy(own, header)
}

// inform passes an informational answer on. The lock is held.
func (e *earlyWriter) inform(status int) {
	if e.begun {
		return
	}
	before := maps.Clone(e.ResponseWriter.Header())
	e.setHeader(e.header)
	e.ResponseWriter.WriteHeader(status)
	e.setHeader(before)
}

// answer returns where the body of the upstream's answer goes; nil: to the
// client.
func (e *earlyWriter) answer() *lateAnswer {
	e.mu.Lock()
	answered := e.answered
	e.mu.Unlock()
	if !answered {
		e.WriteHeader(http.StatusOK)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.late
}

func (e *earlyWriter) Write(b []byte) (int, error) {
	if late := e.answer(); late != nil {
		return late.Write(b)
	}
	return e.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom: what is passed on is copied by the server,
// by sendfile where it can.
func (e *earlyWriter) ReadFrom(r io.Reader) (int64, error) {
	if late := e.answer(); late != nil {
		return io.Copy(late, r)
	}
	return e.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError flushes what is passed on.
func (e *earlyWriter) FlushError() error {
	if e.answer() != nil {
		return nil
	}
	return http.NewResponseController(e.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (e *earlyWriter) Flush() { _ = e.FlushError() }

// finish ends the response after the handlers have returned err, and returns
// what is to be returned of it.
func (e *earlyWriter) finish(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		e.setHeader(e.header) // trailers, or what goes with err
		return err
	}
	defer e.out.Close()
	if e.late == nil {
		return err
	}
	e.late.close()
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && e.late.status == 0 {
		e.late.status = handlerErr.StatusCode
	}
	if e.err != nil || e.request.Context().Err() != nil {
		tellAccessLog(e.original, accessFields{resume: stream.ResumePrivate, end: cmp.Or(e.end, stream.EndClient)})
		return http.ErrAbortHandler
	}
	return e.tell()
}

// tell tells the client, in the stream, the log and the access log, what the
// upstream's answer was.
func (e *earlyWriter) tell() error {
	form := e.handler.EarlyError
	if form == "" {
		form = earlyErrorOf(e.path)
	}
	e.logLate()
	err := e.out.Send(e.late.event(form))
	end := stream.EndRefused
	if err != nil {
		end = delivery.ClientEnd(e.original, err)
	}
	tellAccessLog(e.original, accessFields{resume: stream.ResumePrivate, end: end})
	if err != nil || !earlyErrorEnds(form) {
		return http.ErrAbortHandler
	}
	return nil
}

// isJSON reports whether a request says that its body is JSON, or does not say
// what it is.
func isJSON(header http.Header) bool {
	if header.Get("Content-Encoding") != "" {
		return false
	}
	value, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	value = strings.ToLower(strings.TrimSpace(value))
	return value == "" || value == "application/json" || strings.HasSuffix(value, "+json")
}

// log is where what happens to the response is told.
func (e *earlyWriter) log() *zap.Logger {
	return e.handler.logger.With(zap.String("host", stream.Clip(e.host)), zap.String("path", stream.Clip(e.path)))
}

// logLate logs the answer that came too late.
func (e *earlyWriter) logLate() {
	stream.Answers.Ended.With(upstreams.ResultRefused).Inc()
	status, contentType, fields := e.late.status, stream.Clip(e.late.contentType), e.late.fields
	e.handler.lines.Late.Log(func(suppressed int) {
		e.log().Warn("late answer is not an event stream: client was told in its stream",
			zap.Int("status", status), zap.String("content_type", contentType), zap.Any("headers", fields), zap.Int("suppressed", suppressed))
	})
}

// Interface guards.
var (
	_ http.ResponseWriter = (*earlyWriter)(nil)
	_ http.Flusher        = (*earlyWriter)(nil)
	_ io.ReaderFrom       = (*earlyWriter)(nil)
	_ delivery.Early      = (*earlyWriter)(nil)
)
